"""What a running cluster leaves open: every socket of every process of it is found and tried.

The sockets come from the kernel's tables, not from what Shoal says of itself. What strangers with
certificates of their own get is tested next to the transports.
"""

import os
import pathlib
import re
import socket
import ssl
import stat
import subprocess
import sys

import pytest
from conftest import RUN_VARIABLE, processes_of_this_run

from harness import PATIENCE_SECONDS, api, run_driver, submodule

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.shoal_only(reason="Ray's ports take anybody in"),
]

LISTENING_TCP = "0A"
LISTENING_UNIX = 0x10000
GREETINGS = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "a frame that claims 4 GiB": b"\xff\xff\xff\xff" + bytes(64),
    "noise": os.urandom(4096),
}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a worker each, an object on both, and a driver (this process)."""
    api.shutdown()
    cluster = submodule("cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1, resources={"far": 1})
    cluster.connect()
    cluster.wait_for_nodes()
    assert still_works()
    yield cluster
    api.shutdown()
    cluster.shutdown()


@api.remote
def measure(data):
    return len(data)


def still_works():
    data = api.put(bytes(1 << 20))
    there = measure.options(resources={"far": 0.1}).remote(data)
    return api.get([measure.remote(data), there], timeout=PATIENCE_SECONDS) == [1 << 20, 1 << 20]


def sockets_of(pids):
    """The inodes of all sockets that these processes hold."""
    inodes = set()
    for pid in pids:
        for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            inodes.update(re.findall(r"^socket:\[(\d+)\]$", target))
    return inodes


def rows(table):
    return [line.split() for line in pathlib.Path("/proc/net", table).read_text().splitlines()[1:]]


def internet_ports(table, pids):
    """(address in hexadecimal, port) of what listens in `table`, which is tcp, tcp6, udp or udp6."""
    mine = sockets_of(pids)
    found = []
    for row in rows(table):
        local, remote, state, inode = row[1], row[2], row[3], row[9]
        # A UDP socket that is connected takes nothing from others.
        open_to_all = state == LISTENING_TCP if table.startswith("tcp") else int(remote.split(":")[1], 16) == 0
        if inode in mine and open_to_all:
            address, port = local.split(":")
            found.append((address, int(port, 16)))
    return found


def unix_listeners(pids):
    mine = sockets_of(pids)
    return [
        row[7] if len(row) > 7 else "" for row in rows("unix") if row[6] in mine and int(row[3], 16) & LISTENING_UNIX
    ]


def cluster_processes():
    """The process ids of the daemons, of the workers and of this driver."""
    return [*(int(described.split()[0]) for described in processes_of_this_run()), os.getpid()]


def test_each_node_has_one_port_on_loopback_and_nobody_else_has_any(cluster):
    ports = sorted(int(node.address.rpartition(":")[2]) for node in [cluster.head_node, *cluster.worker_nodes])
    pids = cluster_processes()
    assert len(pids) >= 5, "two daemons, two workers, this driver"
    tcp = internet_ports("tcp", pids)
    assert sorted(port for _, port in tcp) == ports
    assert internet_ports("tcp6", pids) == []
    udp = internet_ports("udp", pids)
    assert set(ports) <= {port for _, port in udp}
    assert internet_ports("udp6", pids) == []
    assert {address for address, _ in tcp + udp} == {"0100007F"}, "127.0.0.1, as nothing else was asked for"


def test_a_cluster_of_one_program_has_no_port(tmp_path):
    program = """
        import os
        import sys

        @api.remote
        def answer():
            return 42

        api.init(num_cpus=1)
        assert api.get(answer.remote()) == 42
        mark = os.environ["SHOAL_TEST_RUN"]
        sys.path.insert(0, sys.argv[1])
        import test_security
        os.environ["SHOAL_TEST_RUN"] = mark
        pids = test_security.cluster_processes()
        assert len(pids) >= 3, "a daemon, a worker, this driver"
        print([test_security.internet_ports(table, pids) for table in ("tcp", "tcp6", "udp", "udp6")])
    """
    tests = pathlib.Path(__file__).parent
    done = run_driver(program, tmp_path, environment={RUN_VARIABLE: f"alone-{os.getpid()}"}, arguments=[tests])
    assert done.stdout == "[[], [], [], []]\n", done


def test_unix_sockets_are_in_the_file_system_and_only_their_users(cluster):
    paths = unix_listeners(cluster_processes())
    assert len(paths) >= 2, "each daemon has one for its drivers"
    for path in paths:
        assert path.startswith("/"), f"{path!r} has no file, so no permissions"
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
def test_another_user_of_the_machine_reaches_no_unix_socket(cluster):
    attempt = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        continue
    print("reached", path)
"""
    paths = unix_listeners(cluster_processes())
    done = subprocess.run(
        [sys.executable, "-c", attempt, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""


def answers(connection):
    """All that comes until the other side closes, or for ten seconds."""
    connection.settimeout(10)
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except (OSError, ssl.SSLError):
        pass
    return received


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_port_says_nothing_in_the_clear(cluster, greeting):
    for address, port in internet_ports("tcp", cluster_processes()):
        with socket.create_connection((socket.inet_ntoa(bytes.fromhex(address)[::-1]), port), timeout=10) as stranger:
            stranger.sendall(GREETINGS[greeting])
            stranger.shutdown(socket.SHUT_WR)
            answer = answers(stranger)
        # An alert of TLS is seven bytes: record header, level, reason.
        assert len(answer) <= 7, answer
    assert still_works()


@pytest.mark.parametrize("protocol", [None, "h2", "http/1.1"])
def test_a_port_says_nothing_to_who_has_no_certificate(cluster, protocol):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    for _, port in internet_ports("tcp", cluster_processes()):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            try:
                with context.wrap_socket(raw) as stranger:
                    stranger.sendall(GREETINGS["HTTP"])
                    assert answers(stranger) == b""
            except (ssl.SSLError, ConnectionError):
                pass
    assert still_works()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_versions_of_tls_are_refused(cluster, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    for _, port in internet_ports("tcp", cluster_processes()):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(raw)


def test_datagrams_of_strangers_get_no_answer_that_helps(cluster):
    version_negotiation_max = 64
    for _, port in internet_ports("udp", cluster_processes()):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(0.3)
            for datagram in (b"", b"\0", os.urandom(40), bytes([0xC0]) + os.urandom(1399), b"\x40" + os.urandom(1199)):
                stranger.sendto(datagram, ("127.0.0.1", port))
                try:
                    answer = stranger.recv(65536)
                except TimeoutError:
                    continue
                # QUIC lists its versions to who speaks another one: that is in the clear for everybody (RFC 8999),
                # and a stateless reset looks like noise. Neither is longer than what caused it.
                assert len(answer) <= min(len(datagram), version_negotiation_max), (port, datagram[:8], answer)
    assert still_works()


def test_secrets_are_files_of_their_user_alone(cluster):
    directory = pathlib.Path(cluster.temp_directory)
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    (secret,) = directory.rglob("join-secret")
    for path in [secret, secret.with_name("authority.pem"), secret.with_name("head.redb")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for pid in cluster_processes():
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        assert secret.read_bytes().strip() not in command, "every user of the machine can read command lines"

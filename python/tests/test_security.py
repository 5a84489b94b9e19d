"""What a running cluster leaves open: every socket of every process of it is found and tried.

The sockets come from the kernel's tables, not from what Shoal says of itself. What strangers with
certificates of their own get is tested next to the transports.
"""

import contextlib
import os
import pathlib
import re
import socket
import ssl
import stat
import struct
import subprocess
import sys

import pytest
from conftest import RUN_VARIABLE, processes_of_this_run

from harness import PATIENCE_SECONDS, api, daemon_log, run_driver, submodule, wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.shoal_only(reason="Ray's ports take anybody in"),
]

LISTENING_TCP = "0A"
LISTENING_UNIX = 0x10000
NO_CERTIFICATE = "by gRPC was refused: no certificate was shown"
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


def context_of_a_stranger(protocol=None):
    """TLS without a certificate, which trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    return context


@contextlib.contextmanager
def stranger_at(node, protocol):
    """A TLS connection to a node, without a certificate, for one of the protocols that it speaks."""
    host, _, port = node.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context_of_a_stranger(protocol).wrap_socket(raw) as stranger,
    ):
        # In TLS 1.3 the client is done before the server knows that no certificate comes.
        assert (stranger.version(), stranger.selected_alpn_protocol()) == ("TLSv1.3", protocol)
        yield stranger


@pytest.mark.parametrize("protocol", [None, "h2", "http/1.1"])
def test_a_port_says_nothing_to_who_speaks_no_protocol_of_nodes(cluster, protocol):
    context = context_of_a_stranger(protocol)
    for _, port in internet_ports("tcp", cluster_processes()):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            try:
                with context.wrap_socket(raw) as stranger:
                    stranger.sendall(GREETINGS["HTTP"])
                    assert answers(stranger) == b""
            except (ssl.SSLError, ConnectionError):
                pass
    assert still_works()


@pytest.mark.parametrize("greeting", ["nothing", "HTTP/2"])
@pytest.mark.parametrize("protocol", ["shoal/1", "shoal-bulk/1"])
def test_a_port_says_nothing_to_who_has_no_certificate(cluster, protocol, greeting):
    for node in cluster.list_all_nodes():
        refusals = daemon_log(node).count(NO_CERTIFICATE)
        with stranger_at(node, protocol) as stranger:
            with contextlib.suppress(OSError):
                stranger.sendall(GREETINGS[greeting])
            assert answers(stranger) == b""
        wait_until(
            lambda node=node, before=refusals: daemon_log(node).count(NO_CERTIFICATE) > before,
            what="a line that says why",
        )
    assert still_works()


def message(content):
    """A message of the join protocol."""
    return struct.pack(">I", len(content)) + content


def join_request(renewal):
    return message(os.urandom(32) + os.urandom(32) + bytes([renewal]) + b"stranger")


WRONG_SECRET, NO_SHOWN_CERTIFICATE, NO_AUTHORITY, MALFORMED = (message(bytes([code])) for code in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (GREETINGS["HTTP"], MALFORMED),
        (message(b""), MALFORMED),
        (message(os.urandom(64)), MALFORMED),
        # For a new certificate the old one is shown in the handshake.
        (join_request(renewal=True), NO_SHOWN_CERTIFICATE),
    ],
    ids=["HTTP", "nothing", "noise", "renewal"],
)
def test_who_joins_is_told_nothing_but_a_reason(cluster, said, answer):
    with stranger_at(cluster.head_node, "shoal-join/1") as stranger:
        stranger.sendall(said)
        assert answers(stranger) == answer
    assert still_works()


def test_who_joins_gets_a_random_number_and_nothing_more_before_a_proof(cluster):
    numbers = []
    for _ in range(2):
        with stranger_at(cluster.head_node, "shoal-join/1") as stranger:
            stranger.sendall(join_request(renewal=False))
            # What it has to prove the secret for: granted, a random number, and the cluster's, which the
            # node's certificate says, too.
            challenge = message(bytes(1 + 32 + 16))
            answer = stranger.recv(65536)
            assert answer[:5] == challenge[:5]
            assert len(answer) == len(challenge)
            numbers.append(answer[5:37])
            stranger.sendall(message(os.urandom(32)))
            assert answers(stranger) == WRONG_SECRET, "no certificate, and no proof of the other side"
    assert numbers[0] != numbers[1]
    assert still_works()


def test_who_joins_and_says_nothing_hears_nothing(cluster):
    for node in cluster.list_all_nodes():
        with stranger_at(node, "shoal-join/1") as stranger:
            stranger.settimeout(0.3)
            with pytest.raises(TimeoutError):
                stranger.recv(1)
    assert still_works()


def test_a_node_without_the_authority_lets_nobody_join(cluster):
    with stranger_at(cluster.worker_nodes[0], "shoal-join/1") as stranger:
        stranger.sendall(join_request(renewal=False))
        assert answers(stranger) == NO_AUTHORITY
    assert still_works()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_versions_of_tls_are_refused(cluster, version):
    context = context_of_a_stranger()
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

"""``shoal symmetric-run``: the same command on every host of a network, as launchers of clusters start programs."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap

import pytest
from chaos.hosts import Hosts

from harness import ON_SHOAL, PATIENCE_SECONDS, wait_until

pytestmark = [
    pytest.mark.skipif(not ON_SHOAL, reason="Shoal's command"),
    pytest.mark.timeout(240),
]

PORT = 7464

PROGRAM = textwrap.dedent("""
    import os, sys
    import shoal

    shoal.init()

    @shoal.remote(num_cpus=1)
    class Guest:
        def host(self):
            return shoal.get_runtime_context().get_node_id()

    # Each takes all of a node.
    guests = [Guest.remote() for _ in range(int(shoal.cluster_resources()["CPU"]))]
    with open(sys.argv[1] + ".unfinished", "w") as out:
        print(len(set(shoal.get([guest.host.remote() for guest in guests]))), file=out)
    os.rename(sys.argv[1] + ".unfinished", sys.argv[1])
    if len(sys.argv) > 2:
        import time
        time.sleep(600)
    sys.exit(7)
""")


@pytest.fixture
def hosts():
    made = Hosts()
    if made.why_loopback:
        pytest.skip(f"hosts of their own cannot be made here: {made.why_loopback}")
    try:
        yield [made.add() for _ in range(3)]
    finally:
        made.close()


@pytest.fixture
def launch(tmp_path):
    """A function that starts the command as a launcher does on one host; all of them are ended."""
    from shoal import _daemon

    started = []
    (tmp_path / "program.py").write_text(PROGRAM)

    def start(head, host, *more, min_nodes=3, wait=60):
        # The path of a socket may have 107 bytes.
        temp = tempfile.mkdtemp(prefix="shoal-run-")
        inside = ["ip", "netns", "exec", host.namespace] if host.namespace else []
        command = [
            *inside,
            *_daemon.command(),
            "symmetric-run",
            f"--address={head.address}:{PORT}",
            f"--min-nodes={min_nodes}",
            f"--wait={wait}",
            f"--secret-file={tmp_path / 'secret'}",
            f"--temp-dir={temp}",
            "--num-cpus=1",
            "--object-store-memory=67108864",
            "--",
            sys.executable,
            str(tmp_path / "program.py"),
            str(tmp_path / "out"),
            *more,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append((process, temp))
        return process

    yield start
    for process, temp in started:
        process.kill()
        process.communicate()
        wait_until(lambda temp=temp: not daemons_of(temp), what="end of the daemons")
        shutil.rmtree(temp, ignore_errors=True)


def daemons_of(temp):
    """The process ids of daemons whose sessions are below `temp`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if b"daemon" in arguments and f"--temp-dir={temp}".encode() in arguments:
            found.append(int(name))
    return found


def output_of(process):
    text, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return text


def test_the_program_runs_once_on_all_hosts_and_its_code_is_returned(hosts, launch, tmp_path):
    head = hosts[0]
    # Launchers start tasks in no order: here the head comes last.
    others = [launch(head, host) for host in hosts[1:]]
    leader = launch(head, head)
    text = output_of(leader)
    assert leader.returncode == 7, text
    assert (tmp_path / "out").read_text() == "3\n", text
    for other in others:
        text = output_of(other)
        assert other.returncode == 0, text


def test_a_launcher_that_kills_the_head_leaves_nothing(hosts, launch, tmp_path):
    head = hosts[0]
    leader, other = launch(head, head, "stay", min_nodes=2), launch(head, hosts[1], min_nodes=2)
    wait_until((tmp_path / "out").exists, what="the program")
    leader.send_signal(signal.SIGKILL)
    text = output_of(other)
    assert other.returncode == 0, text


def test_a_node_that_is_missing_is_named(hosts, launch, tmp_path):
    leader = launch(hosts[0], hosts[0], min_nodes=2, wait=1)
    text = output_of(leader)
    assert leader.returncode == 1, text
    assert "1 of 2 nodes" in text and "same command" in text
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_missing_is_named(hosts, launch):
    other = launch(hosts[0], hosts[1], wait=1)
    text = output_of(other)
    assert other.returncode == 1, text
    assert f"no head is at {hosts[0].address}:{PORT}" in text


def test_a_guessable_secret_is_refused(hosts, launch, tmp_path):
    (tmp_path / "secret").write_text("sesame")
    leader = launch(hosts[0], hosts[0], min_nodes=1)
    text = output_of(leader)
    assert leader.returncode == 2, text
    assert "no join secret" in text

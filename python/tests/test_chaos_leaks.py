"""`python -m chaos` looks for what is left when all has ended; here something is, and it must say what."""

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest
from chaos import leaks

import shoal
from shoal.util import placement_group, remove_placement_group

from harness import PATIENCE_SECONDS, start_driver, wait_until

pytestmark = pytest.mark.shoal_only(reason="the check looks inside Shoal")


@shoal.remote
class Actor:
    def ready(self):
        return True


@shoal.remote
def wait_for(path):
    wait_until(pathlib.Path(path).exists)


# --- While the driver is there ---------------------------------------------------------------------------------


@contextlib.contextmanager
def an_object(path):
    reference = shoal.put(bytes(1 << 20))
    yield
    del reference


@contextlib.contextmanager
def an_actor(path):
    actor = Actor.remote()
    assert shoal.get(actor.ready.remote(), timeout=PATIENCE_SECONDS)
    yield
    shoal.kill(actor)


@contextlib.contextmanager
def an_idle_group(path):
    group = placement_group([{"CPU": 1}])
    shoal.get(group.ready(), timeout=PATIENCE_SECONDS)
    yield
    remove_placement_group(group)


@contextlib.contextmanager
def a_waiting_group(path):
    group = placement_group([{"CPU": 1000}])
    yield
    remove_placement_group(group)


@contextlib.contextmanager
def a_task(path):
    reference = wait_for.remote(str(path))
    yield
    path.touch()
    shoal.get(reference, timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("leftover", "said"),
    [
        (an_object, "objects in the store: 1"),
        (an_actor, "an actor lives: "),
        (an_idle_group, "resources of placement groups on node "),
        (a_waiting_group, "a placement group: "),
        (a_task, "a worker is busy: "),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_work_left_is_named(start_nodes, tmp_path, leftover, said):
    cluster, _ = start_nodes({"num_cpus": 1})
    nodes = cluster.list_all_nodes()
    with leftover(tmp_path / "gate"):
        wait_until(lambda: any(said in what for what in leaks.of_work(nodes, patience=0)), what=said)
    assert leaks.of_work(nodes, PATIENCE_SECONDS) == []


def test_a_node_that_does_not_answer_is_named(start_nodes):
    cluster, (node,) = start_nodes({"num_cpus": 1})
    nodes = cluster.list_all_nodes()
    node.kill()
    assert any(f"node {node.node_id} does not answer" in what for what in leaks.of_work(nodes, patience=0))


# --- When the driver has left ----------------------------------------------------------------------------------


def test_workers_and_drivers_that_are_left_are_named(start_nodes, tmp_path):
    cluster, _ = start_nodes({"num_cpus": 1})
    nodes = cluster.list_all_nodes()
    script = f"""
import sys
api.init(address={nodes[0].socket!r})
api.get(api.remote(lambda: 1).remote())
print("ready", flush=True)
sys.stdin.read()
"""
    shoal.shutdown()
    driver = start_driver(script, tmp_path)
    try:
        assert driver.stdout.readline() == "ready\n"
        found = leaks.of_driver(nodes, patience=0)
        for said in ("node 1: drivers: 1", "a worker of a job that has ended: ", "a worker that its node "):
            assert any(said in what for what in found), (said, found)
    finally:
        driver.communicate(timeout=PATIENCE_SECONDS)
    assert leaks.of_driver(nodes, PATIENCE_SECONDS) == []


def test_a_process_of_a_node_that_has_gone_is_named(start_nodes):
    cluster, _ = start_nodes()
    nodes = cluster.list_all_nodes()
    gone = os.path.join(os.path.dirname(nodes[0].session), "session-1-gone")
    with a_process({leaks.SESSION_VARIABLE: gone}) as pid:
        assert any(f"of a node that has gone: {pid} " in what for what in leaks.of_driver(nodes, patience=0))


# --- When the cluster was stopped ------------------------------------------------------------------------------


@contextlib.contextmanager
def a_process(environment):
    command = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **environment})
    try:
        yield process.pid
    finally:
        process.communicate(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("name", ["session-7-0123abcd", "head", "current"])
def test_what_a_stopped_node_left_is_named(tmp_path, name):
    (tmp_path / "shoal-0").mkdir()
    (tmp_path / "shoal-0" / "lock").touch()
    assert leaks.of_sessions(tmp_path) == []
    (tmp_path / "shoal-0" / name).mkdir()
    assert leaks.of_sessions(tmp_path) == [f"left by a node: {tmp_path / 'shoal-0' / name}"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """What `Machine` takes for the machine's root: one bridge and one file, and nothing of ours."""
    monkeypatch.setenv(leaks.RUN_VARIABLE, "")
    for directory in ("dev/shm", "run/netns", "sys/class/net", "proc/self"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "dev/shm/shoal-old").touch()
    (tmp_path / "sys/class/net/s12x0").touch()
    (tmp_path / "proc/self/mountinfo").write_text("22 1 0:21 / / rw - ext4 /dev/vda rw\n")
    return tmp_path


def test_nothing_was_left(root):
    assert leaks.Machine("s12x0", root).leaks(patience=0) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("dev/shm/shoal-store", "a file in shared memory: shoal-store"),
        ("run/netns/s12x0n1", "a network namespace: s12x0n1"),
        ("sys/class/net/s12x0v1", "a network link: s12x0v1"),
    ],
)
def test_what_the_machine_has_more_is_named(root, path, said):
    machine = leaks.Machine("s12x0", root)
    (root / path).touch()
    assert machine.leaks(patience=0) == [said]


@pytest.mark.parametrize("line", ["90 22 0:50 / /tmp/shoal-0/x rw - tmpfs shoal rw", "91 22 0:4 / /run/netns/s12x0n1"])
def test_a_mount_is_named(root, line):
    machine = leaks.Machine("s12x0", root)
    with (root / "proc/self/mountinfo").open("a") as file:
        file.write(line + "\n")
    assert machine.leaks(patience=0) == [f"a mount: {line}"]


def test_what_others_do_on_the_machine_is_no_leak(root):
    machine = leaks.Machine("s12x0", root)
    for path in ("dev/shm/sem.other", "run/netns/other", "sys/class/net/veth9"):
        (root / path).touch()
    with a_process({leaks.RUN_VARIABLE: "another run"}):
        assert machine.leaks(patience=0) == []


def test_a_process_is_named(root):
    machine = leaks.Machine("s12x0", root)
    with a_process({}) as pid:
        (said,) = machine.leaks(patience=0)
        assert said.startswith(f"a process lives: {pid} {sys.executable}")
    assert machine.leaks(PATIENCE_SECONDS) == []

"""Clusters of several nodes on one machine: work on other nodes, their deaths, the head's death, strangers.

Every node is a real daemon, and all that goes between two of them goes over an encrypted connection.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest

import harness
from harness import (
    ON_SHOAL,
    PATIENCE_SECONDS,
    Gate,
    Tally,
    api,
    exceptions,
    number_of,
    on,
    process_alive,
    run_driver,
    submodule,
    wait_until,
)

pytestmark = pytest.mark.timeout(120 if ON_SHOAL else 400)


@pytest.fixture
def nodes(start_nodes):
    """A head with one CPU, and a node for each dictionary of arguments."""
    return start_nodes


@api.remote(num_cpus=0)
def where(value=None):
    return number_of(api.get_runtime_context().get_node_id()), value


@api.remote(num_cpus=0)
def wait_at(gate):
    gate.wait()


@api.remote(num_cpus=0)
class Counter(harness.Counter):
    def where(self):
        return number_of(api.get_runtime_context().get_node_id())

    def keep(self, refs):
        self.refs = refs

    def read(self):
        return api.get(self.refs[0])


def test_resources_of_all_nodes_are_those_of_the_cluster(nodes):
    nodes({"num_cpus": 2, "resources": {"a": 1}}, {"num_cpus": 3, "resources": {"a": 2, "b": 5}})
    total = api.cluster_resources()
    assert (total["CPU"], total["a"], total["b"]) == (6, 3, 5)
    assert sorted(node["NodeID"] for node in api.nodes() if node["Alive"]) == sorted({n["NodeID"] for n in api.nodes()})


def test_tasks_run_where_their_resources_are(nodes):
    _, (a, b) = nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1, "resources": {"b": 1}})
    refs = [where.options(**on("ab"[index % 2])).remote(index) for index in range(40)]
    expected = [((a, b)[index % 2].node_id, index) for index in range(40)]
    assert api.get(refs, timeout=PATIENCE_SECONDS) == expected


def test_work_that_finds_no_room_at_home_goes_elsewhere(nodes, tmp_path):
    nodes({"num_cpus": 2})
    gate = Gate(tmp_path / "gate")
    running = Tally(tmp_path / "running")

    @api.remote
    def hold():
        running.mark()
        gate.wait()
        return number_of(api.get_runtime_context().get_node_id())

    refs = [hold.remote() for _ in range(3)]
    wait_until(lambda: running.count() == 3, what="three tasks at once on one and two CPUs")
    gate.open()
    assert sorted(api.get(refs, timeout=PATIENCE_SECONDS)) == [1, 2, 2]


def test_work_that_no_node_can_do_is_refused_with_the_reason(nodes):
    nodes({"num_cpus": 1})
    with pytest.raises(exceptions.TaskUnschedulableError, match="nowhere"):
        api.get(where.options(**on("nowhere")).remote(), timeout=PATIENCE_SECONDS)


def test_tasks_on_other_nodes_submit_tasks_that_need_this_one(nodes):
    _, (a,) = nodes({"num_cpus": 1, "resources": {"a": 1}})

    @api.remote(**on("a"))
    def outer():
        home = where.options(num_cpus=1).remote()
        return number_of(api.get_runtime_context().get_node_id()), api.get([home, where.options(**on("a")).remote(2)])

    node, inner = api.get(outer.remote(), timeout=PATIENCE_SECONDS)
    assert node == a.node_id
    assert inner[1] == (a.node_id, 2)


def test_actors_live_on_other_nodes(nodes):
    _, (a,) = nodes({"num_cpus": 1, "resources": {"a": 1}})
    counter = Counter.options(name="counter", **on("a")).remote(10)
    assert api.get(counter.where.remote(), timeout=PATIENCE_SECONDS) == a.node_id
    assert api.get([counter.add.remote() for _ in range(100)]) == list(range(11, 111))
    assert api.get(api.get_actor("counter").add.remote(5)) == 115
    api.kill(counter)
    # The call and the news of the death go different ways.
    with pytest.raises(exceptions.ActorDiedError):
        wait_until(lambda: api.get(counter.add.remote(), timeout=PATIENCE_SECONDS) < 0)


def test_exceptions_and_output_come_from_other_nodes(nodes, capfd):
    nodes({"num_cpus": 1, "resources": {"a": 1}})

    @api.remote(**on("a"))
    def fails():
        print("a line from afar")
        raise KeyError("from afar")

    with pytest.raises(KeyError, match="from afar"):
        api.get(fails.remote(), timeout=PATIENCE_SECONDS)
    seen = []

    def has_come():
        out, err = capfd.readouterr()
        seen.append(out + err)
        return "a line from afar" in "".join(seen)

    wait_until(has_come, what="the worker's line at the driver")


def test_a_generator_is_consumed_from_another_node(nodes):
    nodes({"num_cpus": 1, "resources": {"a": 1}})

    @api.remote(num_returns="streaming", **on("a"))
    def count(n):
        yield from range(n)

    assert [api.get(ref) for ref in count.remote(50)] == list(range(50))


def test_references_are_kept_by_actors_on_other_nodes(nodes):
    nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1, "resources": {"b": 1}})
    first, second = Counter.options(**on("a")).remote(), Counter.options(**on("b")).remote()
    ref = api.put("kept")
    api.get([first.keep.remote([ref]), second.keep.remote([ref])], timeout=PATIENCE_SECONDS)
    del ref
    assert api.get([first.read.remote(), second.read.remote()], timeout=PATIENCE_SECONDS) == ["kept", "kept"]


def test_cancelling_reaches_other_nodes(nodes, tmp_path):
    nodes({"num_cpus": 1, "resources": {"a": 1}})
    started = Tally(tmp_path / "started")

    @api.remote(**on("a"))
    def endless():
        started.mark()
        Gate(tmp_path / "never").wait(600)

    ref = endless.remote()
    wait_until(lambda: started.count() == 1)
    api.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        api.get(ref, timeout=PATIENCE_SECONDS)


def test_tasks_and_actors_of_a_node_that_dies_go_on_elsewhere(nodes, tmp_path):
    cluster, (a, b) = nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1})
    gate = Gate(tmp_path / "gate")
    started = Tally(tmp_path / "started")

    @api.remote(num_cpus=0, max_retries=2, **on("a"))
    def survivor():
        started.mark()
        gate.wait()
        return number_of(api.get_runtime_context().get_node_id())

    actor = Counter.options(max_restarts=1, max_task_retries=1, **on("a")).remote()
    mortal = Counter.options(**on("a")).remote()
    assert api.get([actor.where.remote(), mortal.where.remote()], timeout=PATIENCE_SECONDS) == [a.node_id] * 2
    refs = [survivor.remote() for _ in range(4)]
    wait_until(lambda: started.count() == 4)
    cluster.remove_node(a, allow_graceful=False)
    replacement = cluster.add_node(num_cpus=1, resources={"a": 1})
    gate.open()
    assert api.get(refs, timeout=60) == [replacement.node_id] * 4
    assert api.get(actor.where.remote(), timeout=60) == replacement.node_id
    with pytest.raises(exceptions.ActorDiedError, match="node"):
        api.get(mortal.where.remote(), timeout=60)
    alive = {number_of(node["NodeID"]): node["Alive"] for node in api.nodes()}
    assert alive == {1: True, a.node_id: False, b.node_id: True, replacement.node_id: True}


@pytest.mark.shoal_only(reason="it looks at the processes of Shoal's nodes")
def test_a_node_that_was_believed_dead_ends_when_it_hears_of_it(nodes):
    cluster, (paused,) = nodes({"num_cpus": 1, "resources": {"a": 1}})
    actor = Counter.options(**on("a")).remote()
    pid = api.get(actor.pid.remote(), timeout=PATIENCE_SECONDS)
    os.kill(paused.pid, signal.SIGSTOP)
    wait_until(lambda: not any(n["Alive"] for n in api.nodes() if number_of(n["NodeID"]) == paused.node_id), timeout=60)
    with pytest.raises(exceptions.RayActorError):
        api.get(actor.add.remote(), timeout=PATIENCE_SECONDS)
    os.kill(paused.pid, signal.SIGCONT)
    wait_until(paused.has_ended, what="end of a node that is dead to the others")
    wait_until(lambda: not process_alive(pid), what="end of its workers")
    cluster.remove_node(paused)
    cluster.wait_for_nodes()


def test_a_driver_finds_a_node_beside_it_by_the_address_of_the_head(nodes, tmp_path):
    cluster, _ = nodes({"num_cpus": 1})
    source = f"""
import os
os.environ["TMPDIR"] = "/tmp"
api.init(address={cluster.address!r}, _temp_dir={cluster.temp_directory!r})
print(int(api.cluster_resources()["CPU"]))
"""
    done = run_driver(source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]


@pytest.mark.shoal_only(reason="a head of Ray that dies without Redis takes the cluster with it")
def test_a_head_that_is_killed_and_started_again_has_lost_nothing(nodes):
    cluster, (a,) = nodes({"num_cpus": 2, "resources": {"a": 1}}, connect_to=0)
    detached = Counter.options(name="kept", namespace="n", lifetime="detached", **on("a")).remote(5)
    restarting = Counter.options(name="other", namespace="n", max_restarts=-1, max_task_retries=-1, **on("a")).remote(1)
    assert api.get([detached.add.remote(), restarting.add.remote()], timeout=PATIENCE_SECONDS) == [6, 2]
    port = int(cluster.address.rpartition(":")[2])
    cluster.remove_node(cluster.head_node, allow_graceful=False)

    # Without a head: tasks, calls of actors and objects go on.
    assert api.get(where.options(**on("a")).remote(3), timeout=PATIENCE_SECONDS) == (a.node_id, 3)
    assert api.get(detached.add.remote(), timeout=PATIENCE_SECONDS) == 7

    head = cluster.add_node(num_cpus=1, port=port)
    assert head.node_id > a.node_id, "numbers of nodes are never used again"
    assert api.get(api.get_actor("kept", namespace="n").add.remote(), timeout=PATIENCE_SECONDS) == 8
    fresh = Counter.options(**on("a")).remote(100)
    assert api.get(fresh.add.remote(), timeout=PATIENCE_SECONDS) == 101
    # Restarts are the new head's business.
    os.kill(api.get(restarting.pid.remote()), signal.SIGKILL)
    assert api.get(restarting.add.remote(), timeout=PATIENCE_SECONDS) == 2
    wait_until(lambda: {number_of(n["NodeID"]) for n in api.nodes() if n["Alive"]} == {a.node_id, head.node_id})


@pytest.mark.shoal_only(reason="a head of Ray without Redis has no log")
def test_a_program_of_which_an_older_log_knows_nothing_is_told_so(nodes, tmp_path):
    cluster, (a,) = nodes({"num_cpus": 1, "resources": {"a": 1}}, connect_to=0)
    api.shutdown()
    port = int(cluster.address.rpartition(":")[2])
    [log], copy = pathlib.Path(cluster.temp_directory).rglob("head.redb"), tmp_path / "copy"

    def begin_again():
        if cluster.head_node is not None:
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        cluster.add_node(num_cpus=1, port=port, wait=False)

    cluster.remove_node(cluster.head_node, allow_graceful=False)
    shutil.copyfile(log, copy)
    begin_again()
    api.init(address=a.socket)
    gate = Gate(tmp_path / "gate")
    waiting = where.options(**on("a")).remote()
    held = wait_at.options(**on("a")).remote(gate)
    assert api.get(waiting, timeout=PATIENCE_SECONDS)[0] == a.node_id
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    shutil.copyfile(copy, log)
    # The nodes follow only a head that is later than the last one they have heard of.
    begin_again()
    begin_again()

    with pytest.raises(exceptions.ShoalSystemError, match="does not know of its job"):
        api.get(held, timeout=PATIENCE_SECONDS)
    with pytest.raises(exceptions.ShoalSystemError, match="does not know of its job"):
        api.get(where.remote(), timeout=PATIENCE_SECONDS)
    api.shutdown()
    api.init(address=a.socket)
    assert api.get(where.options(**on("a")).remote(1), timeout=PATIENCE_SECONDS) == (a.node_id, 1)


@pytest.mark.shoal_only(reason="Ray's ports take anybody in")
def test_strangers_are_turned_away(nodes, tmp_path):
    cluster, _ = nodes({"num_cpus": 1})
    host, _, port = cluster.address.rpartition(":")
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", os.urandom(4096), b""):
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(greeting)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(20)
            answer = stranger.recv(4096)
            # At most an alert of TLS; nothing of HTTP, nothing of ours.
            assert len(answer) < 100
            assert b"HTTP" not in answer
            assert b"shoal" not in answer
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(os.urandom(1200), (host, int(port)))

    wrong = tmp_path / "secret"
    wrong.write_text("shoal-join-" + "0" * 64)
    daemon = submodule("_daemon").command()
    command = [*daemon, "start", f"--address={cluster.address}", f"--secret-file={wrong}", f"--temp-dir={tmp_path}"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "secret" in refused.stderr
    assert api.get(where.remote(1), timeout=PATIENCE_SECONDS)[1] == 1


# --- objects --------------------------------------------------------------------------------------------


@api.remote(num_cpus=0)
def make(size, value=1):
    return bytes([value]) * size


@api.remote(num_cpus=0)
def measure(data):
    return len(data), data[:1], data[-1:]


BIG = 5 << 20


def test_large_objects_are_read_on_other_nodes(nodes):
    nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1, "resources": {"b": 1}})
    there = make.options(**on("a")).remote(BIG, 7)
    assert api.get(there, timeout=PATIENCE_SECONDS) == b"\x07" * BIG
    here = api.put(b"\x08" * BIG)
    refs = [measure.options(**on(name)).remote(ref) for name in "ab" for ref in (there, here)]
    expected = [(BIG, bytes([value]), bytes([value])) for value in (7, 8)]
    assert api.get(refs, timeout=PATIENCE_SECONDS) == expected * 2


def test_an_object_is_broadcast(nodes):
    _, added = nodes(*({"num_cpus": 1, "resources": {f"n{index}": 1}} for index in range(4)))
    ref = api.put(os.urandom(BIG))
    sizes = [measure.options(**on(f"n{index}")).remote(ref) for index in range(len(added)) for _ in range(3)]
    assert {size for size, _, _ in api.get(sizes, timeout=PATIENCE_SECONDS)} == {BIG}


def test_objects_of_a_node_that_dies_are_made_again(nodes):
    cluster, (a,) = nodes({"num_cpus": 1, "resources": {"a": 1}})
    first = make.options(max_retries=3, **on("a")).remote(BIG, 3)
    second = measure.options(max_retries=3, **on("a")).remote(first)
    assert api.get(second, timeout=PATIENCE_SECONDS)[0] == BIG
    cluster.remove_node(a, allow_graceful=False)
    cluster.add_node(num_cpus=1, resources={"a": 1})
    assert api.get(first, timeout=60) == b"\x03" * BIG

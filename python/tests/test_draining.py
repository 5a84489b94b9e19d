"""Nodes that are to be taken away: new work goes elsewhere, what runs goes on, and what they keep others keep."""

import subprocess

import pytest

import harness
from harness import PATIENCE_SECONDS, Gate, Tally, api, number_of, on, submodule, wait_until

pytestmark = [pytest.mark.shoal_only(reason="the command is Shoal's"), pytest.mark.timeout(120)]


SIZE = 1 << 20
COUNT = 40


@api.remote(num_cpus=0)
def where(value=None):
    return number_of(api.get_runtime_context().get_node_id()), value


@api.remote(num_cpus=0)
class Counter(harness.Counter):
    def where(self):
        return number_of(api.get_runtime_context().get_node_id())

    def put(self, size, value):
        return [api.put(bytes([value]) * size)]


def command(cluster, *arguments):
    """What the `shoal` command did."""
    line = [*submodule("_daemon").command(), *arguments, f"--temp-dir={cluster.temp_directory}"]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_a_node_that_drains_takes_nothing_new_and_is_ended_in_time(start_nodes, tmp_path):
    cluster, (a,) = start_nodes({"num_cpus": 1, "resources": {"a": 1}})
    gate = Gate(tmp_path / "gate")
    started = Tally(tmp_path / "started")

    @api.remote(num_cpus=0, max_retries=0, **on("a"))
    def hold():
        started.mark()
        gate.wait()
        return number_of(api.get_runtime_context().get_node_id())

    actor = Counter.options(max_restarts=1, max_task_retries=-1, **on("a")).remote(5)
    assert api.get(actor.where.remote(), timeout=PATIENCE_SECONDS) == a.node_id
    running = hold.remote()
    wait_until(lambda: started.count() == 1)
    b = cluster.add_node(num_cpus=1, resources={"a": 1})

    drained = command(cluster, "drain-node", str(a.node_id), "--deadline=600", "--reason=new disks")
    assert drained.returncode == 0, drained.stderr
    status = command(cluster, "status").stdout
    assert "(alive, draining within 600 s: new disks)" in status

    # What is new goes to the other node, what is there goes on.
    refs = [where.options(**on("a")).remote(index) for index in range(10)]
    assert api.get(refs, timeout=PATIENCE_SECONDS) == [(b.node_id, index) for index in range(10)]
    fresh = Counter.options(**on("a")).remote()
    assert api.get(fresh.where.remote(), timeout=PATIENCE_SECONDS) == b.node_id
    assert api.get(actor.add.remote(), timeout=PATIENCE_SECONDS) == 6
    gate.open()
    assert api.get(running, timeout=PATIENCE_SECONDS) == a.node_id

    # Its time is up at once: the node ends, and the actor starts again elsewhere.
    assert command(cluster, "drain-node", str(a.node_id), "--deadline=0").returncode == 0
    wait_until(lambda: {number_of(n["NodeID"]) for n in api.nodes() if n["Alive"]} == {1, b.node_id})
    assert api.get(actor.where.remote(), timeout=PATIENCE_SECONDS) == b.node_id
    again = command(cluster, "drain-node", str(a.node_id))
    assert again.returncode == 1
    assert "not in the cluster" in again.stderr


def test_a_node_that_has_nothing_left_does_not_wait_for_its_time(start_nodes):
    cluster, (a, b) = start_nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1, "resources": {"b": 1}})
    actor = Counter.options(**on("a")).remote(0)
    kept = api.get(actor.put.remote(SIZE, 7), timeout=PATIENCE_SECONDS)[0]
    assert command(cluster, "drain-node", str(a.node_id), "--deadline=3600").returncode == 0
    wait_until(lambda: a.status()["store"]["kept"] == 0, what="another node to keep the object")
    # The actor is of use for as long as there is a handle.
    assert api.get(actor.add.remote(), timeout=PATIENCE_SECONDS) == 1
    del actor
    wait_until(a.has_ended, what="the empty node to end by itself")
    assert {number_of(n["NodeID"]) for n in api.nodes() if n["Alive"]} == {1, b.node_id}
    assert api.get(kept, timeout=PATIENCE_SECONDS) == bytes([7]) * SIZE


def test_a_drain_can_be_called_off(start_nodes):
    cluster, (a,) = start_nodes({"num_cpus": 1, "resources": {"a": 1}})
    assert command(cluster, "drain-node", str(a.node_id)).returncode == 0
    assert "draining" in command(cluster, "status").stdout
    waits = where.options(**on("a")).remote(1)
    assert command(cluster, "drain-node", str(a.node_id), "--cancel").returncode == 0
    assert "draining" not in command(cluster, "status").stdout
    assert api.get(waits, timeout=PATIENCE_SECONDS) == (a.node_id, 1)


def test_what_a_drained_node_keeps_outlives_it(start_nodes):
    """Nothing can make again what an actor has put, and no other node has a copy."""
    cluster, (a, b) = start_nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1, "resources": {"b": 1}})
    actor = Counter.options(**on("a")).remote(0)
    put = actor.put.remote
    values = [api.get(put(SIZE, index), timeout=PATIENCE_SECONDS)[0] for index in range(COUNT)]
    assert a.status()["store"]["kept"] == COUNT
    assert command(cluster, "drain-node", str(a.node_id)).returncode == 0
    wait_until(lambda: a.status()["store"]["kept"] == 0, what="other nodes to keep all objects")
    # What is put there from now on, too.
    values.append(api.get(put(SIZE, COUNT), timeout=PATIENCE_SECONDS)[0])
    wait_until(lambda: a.status()["store"]["kept"] == 0, what="other nodes to keep the last object")
    assert b.status()["store"]["kept"] > 0
    assert "0 objects are kept by no other node" in command(cluster, "status", f"--pid={a.pid}").stdout

    cluster.remove_node(a, allow_graceful=False)
    for index, value in enumerate(values):
        assert api.get(value, timeout=PATIENCE_SECONDS) == bytes([index]) * SIZE
    del value, values
    wait_until(lambda: b.status()["store"]["kept"] == 0, what="what nobody refers to any more to go")

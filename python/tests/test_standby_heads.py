"""A head whose log is in etcd is killed, and a standby goes on: nothing that was acknowledged is lost.

Every node is a real daemon, and the etcd is a real one, too; without one the tests are skipped.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

import harness
from harness import PATIENCE_SECONDS, Tally, api, on, submodule, wait_until

util = submodule("util.placement_group")

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.shoal_only(reason="Ray keeps the log of its head in Redis, and has no standbys"),
]


@pytest.fixture
def clusters_with_standbys(no_cluster, etcd, tmp_path):
    """A function that starts a head, a standby and a node for each dictionary; this process is at the last node."""
    started = []

    def start(*arguments):
        state = {"state": etcd.location, "state_dir": str(tmp_path / "first")}
        cluster = submodule("cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **state})
        started.append(cluster)
        # Each head has a directory of its own with a copy of the authority, as on a machine of its own.
        (tmp_path / "second").mkdir(mode=0o700)
        shutil.copy(tmp_path / "first" / "authority.pem", tmp_path / "second")
        state["state_dir"] = str(tmp_path / "second")
        standby = cluster.add_node(standby=True, num_cpus=1, **state)
        added = [cluster.add_node(**given) for given in arguments]
        api.init(address=added[-1].socket, namespace="n")
        cluster.wait_for_nodes()
        return cluster, standby, added

    yield start
    api.shutdown()
    for cluster in started:
        cluster.shutdown()


Counter = api.remote(num_cpus=0)(harness.Counter)


@api.remote(num_cpus=0)
def mark(path, text):
    return Tally(path).mark(text)


def alive():
    return {int(node["NodeID"][:8], 16) for node in api.nodes() if node["Alive"]}


def kill_head(cluster, standby):
    """Kill the daemon of the head; gives the moment of it."""
    head = cluster.head_node
    killed = time.monotonic()
    os.kill(head.pid, signal.SIGKILL)
    cluster.succeed_head(standby)
    head.kill()
    return killed


def test_a_standby_goes_on_when_the_head_is_killed(clusters_with_standbys, tmp_path):
    a, b = {"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 2, "resources": {"b": 1}}
    cluster, standby, (first, second) = clusters_with_standbys(a, b)
    head = cluster.head_node
    kept = Counter.options(name="kept", lifetime="detached", **on("a")).remote(5)
    restarting = Counter.options(name="other", max_restarts=-1, max_task_retries=-1, **on("b")).remote(1)
    group = util.placement_group([{"CPU": 1}], name="group")
    assert api.get([kept.add.remote(), restarting.add.remote(), group.ready()], timeout=PATIENCE_SECONDS)[:2] == [6, 2]
    killed = kill_head(cluster, standby)

    # Without a head: tasks, calls of actors and objects go on.
    assert api.get(mark.options(**on("a")).remote(tmp_path / "tally", "x"), timeout=PATIENCE_SECONDS) == 1
    assert api.get(kept.add.remote(), timeout=PATIENCE_SECONDS) == 7

    # New actors are the head's business.
    fresh = Counter.options(**on("a")).remote(100)
    assert api.get(fresh.add.remote(), timeout=60) == 101
    print(f"new work placed {time.monotonic() - killed:.2f} s after the kill of the head")
    assert api.get(api.get_actor("kept").add.remote(), timeout=PATIENCE_SECONDS) == 8
    os.kill(api.get(restarting.pid.remote()), signal.SIGKILL)
    assert api.get(restarting.add.remote(), timeout=PATIENCE_SECONDS) == 2
    assert util.get_placement_group("group").id == group.id
    wait_until(lambda: alive() == {standby.node_id, first.node_id, second.node_id}, timeout=60)
    assert standby.node_id > head.node_id, "the standby keeps its number"

    # Programs find the cluster by the address of the head that acts, and nodes join it there.
    description = json.loads((pathlib.Path(second.session) / "node.json").read_text())
    assert description["cluster"] == standby.address
    third = cluster.add_node(num_cpus=1, resources={"c": 1})
    assert api.get(Counter.options(**on("c")).remote().add.remote(), timeout=PATIENCE_SECONDS) == 1
    assert third.node_id > second.node_id


def test_a_head_that_stops_in_order_hands_over(clusters_with_standbys):
    cluster, standby, (node,) = clusters_with_standbys({"num_cpus": 1, "resources": {"a": 1}})
    kept = Counter.options(name="kept", lifetime="detached", **on("a")).remote(5)
    assert api.get(kept.add.remote(), timeout=PATIENCE_SECONDS) == 6
    head = cluster.head_node
    cluster.succeed_head(standby)
    head.stop()
    assert api.get(Counter.options(**on("a")).remote(7).add.remote(), timeout=60) == 8
    assert api.get(kept.add.remote(), timeout=PATIENCE_SECONDS) == 7
    wait_until(lambda: alive() == {standby.node_id, node.node_id}, timeout=60)


@api.remote(num_cpus=0)
def squares_for(seconds):
    """What a task sees that runs across the outage: it submits tasks all the time."""
    end, found = time.monotonic() + seconds, []
    while time.monotonic() < end:
        number = len(found)
        found.append(api.get(square.remote(number), timeout=PATIENCE_SECONDS))
        time.sleep(0.05)
    return found


@api.remote(num_cpus=0)
def square(number):
    return number * number


def daemons(cluster):
    """Process ids of the daemons, by the number of their node; none has ended."""
    nodes = cluster.list_all_nodes()
    assert not any(node.has_ended() for node in nodes)
    return {node.node_id: node.pid for node in nodes}


@pytest.mark.parametrize("standbys", [0, 1])
def test_an_etcd_that_is_gone_for_a_while_costs_nothing_but_time(no_cluster, etcd, tmp_path, standbys):
    """The head has no office without etcd, but its node goes on, and so does whatever runs there."""
    state = {"state": etcd.location, "state_dir": str(tmp_path / "state")}
    head_arguments = {"num_cpus": 1, "resources": {"home": 4}, **state}
    cluster = submodule("cluster_utils").Cluster(initialize_head=True, head_node_args=head_arguments)
    try:
        for _ in range(standbys):
            cluster.add_node(standby=True, num_cpus=1, **state)
        cluster.add_node(num_cpus=1, resources={"away": 4})
        # This program is at the head's node.
        api.init(address=cluster.head_node.socket, namespace="n")
        cluster.wait_for_nodes()
        before = daemons(cluster)
        kept = {
            place: Counter.options(name=place, lifetime="detached", max_restarts=0, **on(place)).remote(5)
            for place in ("home", "away")
        }
        assert api.get([actor.add.remote() for actor in kept.values()], timeout=PATIENCE_SECONDS) == [6, 6]
        pids = api.get([actor.pid.remote() for actor in kept.values()])
        running = [squares_for.options(max_retries=0, **on(place)).remote(14) for place in kept]

        os.kill(etcd.pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            # These wait: new actors are a head's business.
            fresh = [Counter.options(**on(place)).remote(100) for place in kept]
            asked = [actor.add.remote() for actor in fresh]
            while time.monotonic() < stopped + 10:
                assert api.get(square.options(**on("home")).remote(3), timeout=PATIENCE_SECONDS) == 9
                assert api.get(square.options(**on("away")).remote(3), timeout=PATIENCE_SECONDS) == 9
                time.sleep(0.1)
            assert api.wait(asked, num_returns=1, timeout=0)[0] == [], "no head was there to place them"
        finally:
            os.kill(etcd.pid, signal.SIGCONT)

        assert api.get(asked, timeout=60) == [101, 101]
        for found in api.get(running, timeout=PATIENCE_SECONDS):
            assert found == [number * number for number in range(len(found))]
        assert api.get([actor.add.remote() for actor in kept.values()], timeout=PATIENCE_SECONDS) == [7, 7]
        assert api.get([api.get_actor(place).pid.remote() for place in kept], timeout=PATIENCE_SECONDS) == pids
        assert daemons(cluster) == before
        wait_until(lambda: alive() == set(before), timeout=60)
        cluster.add_node(num_cpus=1, resources={"late": 1}, wait=False)
        assert api.get(Counter.options(**on("late")).remote(1).add.remote(), timeout=60) == 2
    finally:
        api.shutdown()
        cluster.shutdown()


def test_nodes_join_by_the_address_of_a_standby_and_by_several(clusters_with_standbys, tmp_path):
    cluster, standby, _ = clusters_with_standbys({"num_cpus": 1})
    secret = tmp_path / "first" / "join-secret"
    for address in (standby.address, f"127.0.0.1:1,{standby.address}"):
        before = len(alive())
        arguments = [f"--address={address}", f"--secret-file={secret}", f"--temp-dir={cluster.temp_directory}"]
        node = submodule("_daemon").Daemon([*arguments, "--num-cpus=0"])
        try:
            wait_until(lambda: len(alive()) == before + 1, what="a node more")  # noqa: B023
        finally:
            node.stop()
        wait_until(lambda: len(alive()) == before, timeout=60, what="its end")  # noqa: B023


def test_a_standby_without_the_authority_is_refused(clusters_with_standbys, etcd, tmp_path):
    cluster, _, _ = clusters_with_standbys({"num_cpus": 1})
    command = [*submodule("_daemon").command(), "start", "--head", "--port=0", f"--state={etcd.location}"]

    def refusal(state_dir):
        # The path of a socket must be short.
        with tempfile.TemporaryDirectory() as sessions:
            arguments = [f"--state-dir={state_dir}", f"--temp-dir={sessions}"]
            ended = subprocess.run(command + arguments, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode != 0
        return ended.stderr

    assert "authority.pem" in refusal(tmp_path / "stranger")
    # One with an authority of its own is a head of another cluster.
    alone = submodule("cluster_utils").Cluster(
        initialize_head=True, head_node_args={"state_dir": str(tmp_path / "other")}
    )
    alone.shutdown()
    assert "another cluster" in refusal(tmp_path / "other")
    assert len(alive()) == len(cluster.list_all_nodes())

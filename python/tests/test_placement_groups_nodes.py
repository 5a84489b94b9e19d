"""Placement groups over several nodes, each a real daemon: strategies, all or nothing, deaths of nodes and heads."""

import collections
import functools

import pytest

from harness import ON_SHOAL, PATIENCE_SECONDS, Gate, Tally, api, exceptions, submodule, wait_until

pytestmark = pytest.mark.timeout(120 if ON_SHOAL else 400)

util = submodule("util.placement_group")
InGroup = submodule("util.scheduling_strategies").PlacementGroupSchedulingStrategy


@pytest.fixture
def start(start_nodes):
    """A head without CPUs, and a node for each dictionary of arguments."""
    return functools.partial(start_nodes, head_cpus=0)


def in_group(group, bundle=-1):
    return {"scheduling_strategy": InGroup(group, bundle)}


def nodes_of(group):
    """How many bundles lie on each node."""
    assert group.wait(PATIENCE_SECONDS), util.placement_group_table(group)
    return collections.Counter(util.placement_group_table(group)["bundles_to_node_id"].values())


def state_of(group):
    return util.placement_group_table(group)["state"]


@api.remote(num_cpus=1)
def where():
    return api.get_runtime_context().get_node_id()


@api.remote(num_cpus=1)
class Resident:
    def where(self):
        return api.get_runtime_context().get_node_id()


def test_strategies_do_as_their_names_say(start):
    start({"num_cpus": 4}, {"num_cpus": 4}, {"num_cpus": 4})
    bundles = [{"CPU": 1}] * 3
    for strategy, nodes in [("PACK", 1), ("STRICT_PACK", 1), ("SPREAD", 3), ("STRICT_SPREAD", 3)]:
        group = util.placement_group(bundles, strategy=strategy)
        assert len(nodes_of(group)) == nodes, strategy
        placed = util.placement_group_table(group)["bundles_to_node_id"]
        refs = [where.options(**in_group(group, index)).remote() for index in range(3)]
        assert api.get(refs, timeout=PATIENCE_SECONDS) == [placed[index] for index in range(3)]
        util.remove_placement_group(group)
    wait_until(lambda: api.available_resources().get("CPU") == 12)
    # What the strict strategies forbid, the others do.
    four = [{"CPU": 2}] * 4
    assert not util.placement_group(four, strategy="STRICT_SPREAD").wait(0.5)
    assert not util.placement_group([{"CPU": 3}] * 2, strategy="STRICT_PACK").wait(0.5)
    assert len(nodes_of(util.placement_group(four, strategy="PACK"))) == 2


@pytest.mark.shoal_only(reason="what it waits for is in the table")
def test_a_group_that_waits_says_for_what(start):
    start({"num_cpus": 2})
    group = util.placement_group([{"CPU": 1}, {"CPU": 5}])
    assert not group.wait(0.2)
    assert "bundle 1 needs 5 of CPU" in util.placement_group_table(group)["stats"]["detail"]


def test_labels_choose_the_nodes_of_bundles(start):
    start({"num_cpus": 2, "labels": {"zone": "a"}}, {"num_cpus": 2, "labels": {"zone": "b"}})
    group = util.placement_group([{"CPU": 1}] * 2, bundle_label_selector=[{"zone": "b"}, {"zone": "!in(b,c)"}])
    assert group.wait(PATIENCE_SECONDS)
    found = api.get([where.options(**in_group(group, index)).remote() for index in range(2)], timeout=PATIENCE_SECONDS)
    labels = {node["NodeID"]: node["Labels"]["zone"] for node in api.nodes() if "zone" in node["Labels"]}
    assert [labels[node] for node in found] == ["b", "a"]


def test_groups_are_made_whole_or_not_at_all(start):
    start({"num_cpus": 2}, {"num_cpus": 2})
    # Any two of them want more than there is: made bundle by bundle, they could all get stuck.
    groups = [util.placement_group([{"CPU": 2}, {"CPU": 1}], strategy="STRICT_SPREAD") for _ in range(5)]
    for _ in range(5):
        there = wait_until(lambda: [group for group in groups if state_of(group) == "CREATED"])
        assert len(there) == 1
        refs = [where.options(**in_group(there[0], index)).remote() for index in range(2)]
        assert len(set(api.get(refs, timeout=PATIENCE_SECONDS))) == 2
        util.remove_placement_group(there[0])
        groups.remove(there[0])


def test_what_a_dead_node_had_is_set_aside_elsewhere_and_actors_follow(start, tmp_path):
    cluster, (lost, _) = start({"num_cpus": 2}, {"num_cpus": 2})
    group = util.placement_group([{"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    assert group.wait(PATIENCE_SECONDS)
    actors = [
        Resident.options(max_restarts=1, max_task_retries=3, **in_group(group, bundle)).remote() for bundle in (0, 1)
    ]
    before = api.get([actor.where.remote() for actor in actors], timeout=PATIENCE_SECONDS)
    assert len(set(before)) == 2
    cluster.remove_node(lost, allow_graceful=False)
    wait_until(lambda: state_of(group) == "RESCHEDULING", timeout=60)
    waiting = where.options(**in_group(group)).remote()
    assert not group.wait(0.2)
    cluster.add_node(num_cpus=2)
    assert group.wait(60)
    after = api.get([actor.where.remote() for actor in actors], timeout=60)
    assert len(set(after)) == 2
    assert sum(one == other for one, other in zip(before, after, strict=True)) == 1, "the survivor stays"
    assert sorted(util.placement_group_table(group)["bundles_to_node_id"].values()) == sorted(after)
    assert api.get(waiting, timeout=60) in after


def test_groups_under_repair_do_not_wait_for_each_other(start):
    """Each of two groups loses one of its two nodes, and holds what the other one needs."""
    cluster, nodes = start(*[{"num_cpus": 2}] * 4)
    bundles = [{"CPU": 2}] * 2
    groups = [util.placement_group(bundles, strategy="STRICT_SPREAD") for _ in range(2)]
    placed = []
    for group in groups:
        assert group.wait(PATIENCE_SECONDS)
        placed.append(set(util.placement_group_table(group)["bundles_to_node_id"].values()))
    of_number = {node.node_id: node for node in nodes}
    victims = [of_number[int(min(found)[:8], 16)] for found in placed]
    for victim in victims:
        cluster.remove_node(victim, allow_graceful=False)
    wait_until(lambda: sum(node["Alive"] for node in api.nodes()) == 3, timeout=60, what="news of both deaths")
    # Two nodes are left for two groups of two: one of them must give way.
    wait_until(lambda: state_of(groups[0]) == "CREATED", timeout=60)
    assert state_of(groups[1]) == "RESCHEDULING"
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    assert groups[1].wait(60)


def test_removal_reaches_all_nodes(start, tmp_path):
    start({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1})
    gate, started = Gate(tmp_path / "gate"), Tally(tmp_path / "started")

    @api.remote(num_cpus=1, max_retries=-1)
    def hold():
        started.mark()
        gate.wait()

    @api.remote(num_cpus=0)
    def ask(group):
        # Another process than the one that has made the group.
        try:
            api.get(hold.options(**in_group(group)).remote())
        except exceptions.TaskPlacementGroupRemoved:
            return "removed"

    group = util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
    refs = [hold.options(**in_group(group, index)).remote() for index in (0, 1)]
    started.wait_for(2)
    others = [ask.remote(group) for _ in range(2)]
    assert api.wait(others, timeout=0.3)[0] == []
    util.remove_placement_group(group)
    for ref in refs:
        with pytest.raises(exceptions.TaskPlacementGroupRemoved):
            api.get(ref, timeout=PATIENCE_SECONDS)
    assert api.get(others, timeout=PATIENCE_SECONDS) == ["removed"] * 2
    wait_until(lambda: api.available_resources().get("CPU") == 3)


@pytest.mark.shoal_only(reason="a head of Ray that dies without Redis takes the cluster with it")
def test_groups_outlive_the_head(start):
    cluster, (_, lost) = start({"num_cpus": 2}, {"num_cpus": 2}, connect_to=0)
    group = util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD", name="whole")
    assert group.wait(PATIENCE_SECONDS)
    actors = [
        Resident.options(max_restarts=1, max_task_retries=3, **in_group(group, bundle)).remote() for bundle in (0, 1)
    ]
    before = api.get([actor.where.remote() for actor in actors], timeout=PATIENCE_SECONDS)
    waiting = util.placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD")
    assert not waiting.wait(0.2)
    port = int(cluster.address.rpartition(":")[2])
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    # Without a head the group works on, and one of its nodes dies unnoticed.
    assert api.get([actor.where.remote() for actor in actors], timeout=PATIENCE_SECONDS) == before
    cluster.remove_node(lost, allow_graceful=False)

    cluster.add_node(num_cpus=0, port=port)
    assert util.get_placement_group("whole") == group
    wait_until(lambda: state_of(group) == "RESCHEDULING", timeout=60)
    assert state_of(waiting) == "PENDING"
    cluster.add_node(num_cpus=1)
    wait_until(lambda: state_of(group) == "CREATED", timeout=60)
    after = api.get([actor.where.remote() for actor in actors], timeout=60)
    assert sum(one == other for one, other in zip(before, after, strict=True)) == 1
    util.remove_placement_group(group)
    cluster.add_node(num_cpus=2)
    assert waiting.wait(60)

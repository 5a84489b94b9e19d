"""Which node runs what, of several real ones: spread, affinity, labels, locality, and what no node can run."""

import os
import subprocess

import pytest

from harness import ON_SHOAL, PATIENCE_SECONDS, Gate, Tally, api, exceptions, on, submodule, wait_until

pytestmark = pytest.mark.timeout(120 if ON_SHOAL else 400)

util = submodule("util.placement_group")
strategies = submodule("util.scheduling_strategies")

NODE_ID = "ray.io/node-id"


def id_of(node):
    """The id of a node of a `Cluster`, as programs see it."""
    if isinstance(node.node_id, str):
        return node.node_id
    return submodule("ids").NodeID.from_number(node.node_id).hex()


def here():
    return api.get_runtime_context().get_node_id()


@api.remote(num_cpus=1)
def where(value=None):
    return here()


@api.remote(num_cpus=1)
def hold(tally, gate):
    tally.mark(here())
    gate.wait()
    return here()


@api.remote(num_cpus=1)
class Resident:
    def where(self):
        return here()


def nodes_of_tasks(*options):
    """Where tasks with these options run, each after the one before, so that none is in another's way."""
    return [api.get(where.options(**given).remote(), timeout=PATIENCE_SECONDS) for given in options]


def nodes_of_actors(*options):
    """The same of actors."""
    found = []
    for given in options:
        actor = Resident.options(**given).remote()
        found.append(api.get(actor.where.remote(), timeout=PATIENCE_SECONDS))
        api.kill(actor)
    return found


def reasons(tasks=(), actors=()):
    """Why no node can run tasks and actors with these options. They are all tried at once."""
    handles = [Resident.options(**given).remote() for given in actors]
    refs = [where.options(**given).remote() for given in tasks], [handle.where.remote() for handle in handles]
    found = []
    for kind, these in zip((exceptions.TaskUnschedulableError, exceptions.ActorUnschedulableError), refs, strict=True):
        for ref in these:
            with pytest.raises(kind) as refusal:
                api.get(ref, timeout=60)
            found.append(str(refusal.value))
    return found


# --- spread ---------------------------------------------------------------------------------------------


@pytest.fixture
def three(start_nodes):
    """A head without CPUs and three nodes with four."""
    _, nodes = start_nodes(*({"num_cpus": 4} for _ in range(3)), head_cpus=0)
    return {id_of(node) for node in nodes}


def running_at(strategy, count, tmp_path):
    """The nodes of that many tasks that run at the same time."""
    gate, tally = Gate(tmp_path / "gate"), Tally(tmp_path / "tally")
    refs = [hold.options(scheduling_strategy=strategy).remote(tally, gate) for _ in range(count)]
    tally.wait_for(count)
    gate.open()
    found = api.get(refs, timeout=PATIENCE_SECONDS)
    assert sorted(found) == sorted(tally.marks())
    return found


def test_spread_tasks_run_on_all_nodes(three, tmp_path):
    assert set(running_at("SPREAD", 3, tmp_path)) == three


def test_others_fill_a_node_to_the_half_first(three, tmp_path):
    assert len(set(running_at("DEFAULT", 2, tmp_path))) == 1


def test_spread_actors_live_on_all_nodes(three):
    actors = [Resident.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    found = api.get([actor.where.remote() for actor in actors], timeout=PATIENCE_SECONDS)
    assert sorted(found) == sorted([*three, *three])


# --- affinity -------------------------------------------------------------------------------------------


def at(node, soft):
    return {"scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(node, soft=soft)}


def test_work_bound_to_a_node_runs_there_and_waits_for_it(start_nodes, tmp_path):
    _, nodes = start_nodes({"num_cpus": 1}, {"num_cpus": 1})
    a, b = map(id_of, nodes)
    for soft in (False, True):
        bound = [at(node, soft) for node in (a, b, a)]
        assert nodes_of_tasks(*bound) == [a, b, a]
        assert nodes_of_actors(*bound) == [a, b, a]
    # Head and other node have room: who is bound waits all the same.
    gate, tally = Gate(tmp_path / "gate"), Tally(tmp_path / "tally")
    holds = hold.options(**at(a, False)).remote(tally, gate)
    tally.wait_for(1)
    waiting = [where.options(**at(a, soft)).remote() for soft in (False, True)]
    assert nodes_of_tasks(at(b, False)) == [b]
    assert api.wait(waiting, timeout=0.2)[0] == []
    gate.open()
    assert api.get([holds, *waiting], timeout=PATIENCE_SECONDS) == [a, a, a]


def test_work_that_does_not_wait_for_its_node_goes_elsewhere_or_fails(start_nodes, tmp_path):
    _, nodes = start_nodes({"num_cpus": 1}, {"num_cpus": 1})
    a = id_of(nodes[0])
    affinity = strategies.NodeAffinitySchedulingStrategy
    spills = {"scheduling_strategy": affinity(a, soft=True, _spill_on_unavailable=True)}
    fails = {"scheduling_strategy": affinity(a, soft=False, _fail_on_unavailable=True)}
    for nodes_of in (nodes_of_tasks, nodes_of_actors):
        for given in (spills, fails):
            # What was there before has left: nobody waits for that here.
            wait_until(lambda: api.available_resources().get("CPU") == api.cluster_resources()["CPU"])
            assert nodes_of(given) == [a]
    wait_until(lambda: api.available_resources().get("CPU") == api.cluster_resources()["CPU"])
    gate, tally = Gate(tmp_path / "gate"), Tally(tmp_path / "tally")
    holds = hold.options(**at(a, False)).remote(tally, gate)
    tally.wait_for(1)
    assert a not in nodes_of_tasks(spills) + nodes_of_actors(spills)
    for text in reasons([fails], [fails]):
        assert not ON_SHOAL or f"node {nodes[0].node_id} has only" in text
    gate.open()
    assert api.get(holds, timeout=PATIENCE_SECONDS) == a
    for wrong in ({"soft": False, "_spill_on_unavailable": True}, {"soft": True, "_fail_on_unavailable": True}):
        with pytest.raises(ValueError, match="needs soft" if ON_SHOAL else ""):
            affinity(a, **wrong)


def test_a_node_that_is_gone_or_never_was(start_nodes):
    cluster, nodes = start_nodes({"num_cpus": 1}, {"num_cpus": 1})
    dead, small = map(id_of, nodes)
    unknown = "0000ffff" + dead[8:]
    cluster.remove_node(nodes[0], allow_graceful=False)
    wait_until(lambda: not any(n["Alive"] for n in api.nodes() if n["NodeID"] == dead))
    soft = [at(dead, True), at(unknown, True)]
    assert dead not in nodes_of_tasks(*soft) + nodes_of_actors(*soft)
    # A node that is there and can never run it is no better than one that is gone.
    hard = [at(dead, False), at(unknown, False), {**at(small, False), "num_cpus": 2}]
    if ON_SHOAL:
        told = ["is not in the cluster", "is not in the cluster", f"node {nodes[1].node_id} does not have more than 1"]
        for text, expected in zip(reasons(hard, hard), told * 2, strict=True):
            assert expected in text
    else:
        reasons(hard, hard)


# --- labels ---------------------------------------------------------------------------------------------


@pytest.fixture
def zones(start_nodes):
    """The ids of a head without labels, a node in zone a, and one in zone b with a disk."""
    cluster, (a, b) = start_nodes(
        {"num_cpus": 1, "labels": {"zone": "a"}}, {"num_cpus": 1, "labels": {"zone": "b", "example.com/disk": "ssd"}}
    )
    return cluster, id_of(cluster.head_node), id_of(a), id_of(b)


def test_label_selectors_choose_the_node_of_tasks_and_actors(zones):
    _, head, a, b = zones
    cases = [
        ({"zone": "a"}, a),
        ({"zone": "b"}, b),
        ({"zone": "in(c,b)"}, b),
        ({"zone": "!in(a, b)"}, head),
        ({"zone": "!a", "example.com/disk": "ssd"}, b),
        ({"zone": "in(a,b)", "example.com/disk": "!ssd"}, a),
        ({NODE_ID: b}, b),
        ({NODE_ID: f"!in({head},{b})"}, a),
    ]
    options = [{"label_selector": selector} for selector, _ in cases]
    expected = [node for _, node in cases]
    assert nodes_of_tasks(*options) == expected
    assert nodes_of_actors(*options) == expected


def test_conditions_of_the_older_strategy_choose_alike(zones):
    _, head, a, b = zones
    cases = [
        ({"zone": strategies.In("b", "c")}, b),
        ({"zone": strategies.Exists(), "example.com/disk": strategies.DoesNotExist()}, a),
        ({"zone": strategies.NotIn("a", "b")}, head),
        ({"zone": strategies.DoesNotExist()}, head),
    ]
    options = [{"scheduling_strategy": strategies.NodeLabelSchedulingStrategy(hard)} for hard, _ in cases]
    expected = [node for _, node in cases]
    assert nodes_of_tasks(*options) == expected
    assert nodes_of_actors(*options) == expected


def test_a_selector_belongs_to_the_definition_or_to_the_call(zones):
    _, _, a, b = zones

    @api.remote(label_selector={"zone": "a"})
    def defined():
        return here()

    assert api.get(defined.remote(), timeout=PATIENCE_SECONDS) == a
    assert api.get(defined.options(label_selector={"zone": "b"}).remote(), timeout=PATIENCE_SECONDS) == b
    assert api.get(defined.options(name="again").remote(), timeout=PATIENCE_SECONDS) == a


def test_a_selector_chooses_among_the_bundles_of_a_group(zones):
    _, _, a, b = zones
    group = util.placement_group(
        [{"CPU": 1}] * 2, strategy="STRICT_SPREAD", bundle_label_selector=[{"zone": "a"}, {"zone": "b"}]
    )
    in_group = strategies.PlacementGroupSchedulingStrategy(group)
    options = [{"scheduling_strategy": in_group, "label_selector": {"zone": zone}} for zone in "bab"]
    assert nodes_of_tasks(*options) == [b, a, b]
    assert nodes_of_actors(*options) == [b, a, b]


@pytest.mark.shoal_only(reason="Ray leaves them waiting")
def test_selectors_that_no_node_matches_are_refused_with_the_reason(zones):
    options = [
        {"label_selector": {"zone": "c", "example.com/disk": "!ssd"}},
        {"label_selector": {"zone": "a"}, "num_cpus": 3},
        {"scheduling_strategy": strategies.NodeLabelSchedulingStrategy({"zone": strategies.In("d", "e")})},
    ]
    told = [
        "no node has the labels that it needs (example.com/disk=!ssd, zone=c)",
        "it needs 3 of CPU, and no node with the labels that it needs (zone=a) has more than 1",
        "no node has the labels that it needs (zone=in(d, e))",
    ]
    for text, expected in zip(reasons(options, options), told * 2, strict=True):
        assert expected in text


def test_work_that_waits_for_a_label_goes_to_the_node_that_comes_with_it(zones):
    cluster = zones[0]
    task = where.options(label_selector={"zone": "c"}).remote()
    actor = Resident.options(num_cpus=0, label_selector={"zone": "c"}).remote()
    comes = cluster.add_node(num_cpus=1, labels={"zone": "c"})
    assert api.get([task, actor.where.remote()], timeout=PATIENCE_SECONDS) == [id_of(comes)] * 2


# --- locality -------------------------------------------------------------------------------------------


def test_work_goes_to_its_data(start_nodes):
    _, (a, b) = start_nodes({"num_cpus": 1, "resources": {"a": 1}}, {"num_cpus": 1, "resources": {"b": 1}})

    @api.remote(num_cpus=0)
    def make(size):
        return os.urandom(size)

    def of(size, name):
        ref = make.options(**on(name)).remote(size)
        assert api.wait([ref], timeout=PATIENCE_SECONDS, fetch_local=False)[0] == [ref]
        return ref

    # Small values travel in messages: nothing draws their readers away from home.
    cases = [(8 << 20, "a", id_of(a)), (8 << 20, "b", id_of(b)), (8, "b", here())]
    for number, (size, name, node) in enumerate(cases):
        # Different amounts: work like that of the case before could be given its worker, which is there already.
        reads = where.options(num_cpus=0.5 + number / 10)
        assert api.get(reads.remote(of(size, name)), timeout=PATIENCE_SECONDS) == node


# --- resources ------------------------------------------------------------------------------------------


@pytest.mark.shoal_only(reason="Ray leaves it waiting")
def test_an_actor_that_no_node_can_run_ends_with_what_is_missing(start_nodes):
    start_nodes({"num_cpus": 2, "resources": {"licence": 1}})
    options = [on("unobtainium"), on("licence", 1.5), {"num_cpus": 2, "resources": {"licence": 1, "tape": 1}}]
    told = [
        "it needs 0.01 of unobtainium, and no node has more than 0",
        "it needs 1.5 of licence, and no node has more than 1",
        "it needs 1 of tape, and no node has more than 0",
    ]
    for text, expected in zip(reasons((), options), told, strict=True):
        assert expected in text


def test_fractions_of_a_resource_limit_how_many_run_at_once(start_nodes, tmp_path):
    start_nodes({"num_cpus": 8, "resources": {"licence": 1}})
    gate, tally = Gate(tmp_path / "gate"), Tally(tmp_path / "tally")

    @api.remote(num_cpus=0.1, resources={"licence": 0.3})
    def use():
        tally.mark("begins")
        gate.wait()
        tally.mark("ends")

    refs = [use.remote() for _ in range(8)]
    tally.wait_for(3)
    wait_until(lambda: api.available_resources().get("licence", 0) == pytest.approx(0.1))
    assert tally.count() == 3
    gate.open()
    api.get(refs, timeout=PATIENCE_SECONDS)
    running = peak = 0
    for mark in tally.marks():
        running += 1 if mark == "begins" else -1
        peak = max(peak, running)
    assert (running, peak) == (0, 3)
    wait_until(lambda: api.available_resources().get("licence") == 1)


# --- names ----------------------------------------------------------------------------------------------


def test_nodes_have_the_names_that_they_were_given(start_nodes):
    cluster, (named, plain) = start_nodes({"num_cpus": 1, "node_name": "left rack"}, {"num_cpus": 1})
    host = os.uname().nodename
    names = {node["NodeID"]: node["NodeName"] for node in api.nodes()}
    assert names[id_of(named)] == "left rack"
    if ON_SHOAL:
        assert [names[id_of(node)] for node in (plain, cluster.head_node)] == [host, host]
        line = [*submodule("_daemon").command(), "status", f"--temp-dir={cluster.temp_directory}"]
        status = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
        assert f"  {named.node_id} left rack on {host} (alive)" in status
        assert f"  {plain.node_id} {host} (alive)" in status


def test_init_names_the_node_that_it_starts(start_cluster):
    start_cluster(num_cpus=1, _node_name="alone")
    assert [node["NodeName"] for node in api.nodes()] == ["alone"]

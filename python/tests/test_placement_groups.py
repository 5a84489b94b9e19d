"""Placement groups on one node: made, used, waited for and removed."""

import os
import time

import pytest

from harness import PATIENCE_SECONDS, Gate, Tally, api, exceptions, run_driver, submodule, wait_until

pytestmark = pytest.mark.usefixtures("cluster")

util = submodule("util.placement_group")
InGroup = submodule("util.scheduling_strategies").PlacementGroupSchedulingStrategy


@pytest.fixture
def make():
    """`placement_group`, with the removal of what it has made."""
    made = []

    def make(*args, **kwargs):
        made.append(util.placement_group(*args, **kwargs))
        return made[-1]

    yield make
    for group in made:
        util.remove_placement_group(group)
    # The next test finds all CPUs free.
    wait_until(lambda: api.available_resources().get("CPU") == 4, what="return of all CPUs")


def in_group(group, bundle=-1, captures=None):
    return {"scheduling_strategy": InGroup(group, bundle, placement_group_capture_child_tasks=captures)}


def state_of(group):
    return util.placement_group_table(group)["state"]


@api.remote(num_cpus=1)
def current():
    group = util.get_current_placement_group()
    return None if group is None else group.id.hex()


@api.remote(num_cpus=1)
class Counter:
    def __init__(self):
        self.value = 0

    def add(self):
        self.value += 1
        return self.value

    def group(self):
        return api.get_runtime_context().get_placement_group_id()

    def spawn(self, strategy=None):
        task = current if strategy is None else current.options(scheduling_strategy=strategy)
        return api.get(task.remote())


def test_a_group_is_ready_and_tells_about_itself(make):
    group = make([{"CPU": 1}, {"CPU": 2}], strategy="PACK", name="first")
    assert group.wait(PATIENCE_SECONDS)
    assert api.get(group.ready(), timeout=PATIENCE_SECONDS) == group
    assert (group.bundle_count, group.bundle_specs) == (2, [{"CPU": 1}, {"CPU": 2}])
    assert not group.is_empty
    assert util.PlacementGroup.empty().is_empty
    table = util.placement_group_table(group)
    here = api.get_runtime_context().get_node_id()
    assert table["placement_group_id"] == group.id.hex()
    assert (table["name"], table["strategy"], table["state"]) == ("first", "PACK", "CREATED")
    assert table["bundles"] == {0: {"CPU": 1}, 1: {"CPU": 2}}
    assert table["bundles_to_node_id"] == {0: here, 1: here}
    assert util.placement_group_table()[group.id.hex()] == table


def test_what_is_set_aside_is_not_there_for_others_and_comes_back(make):
    group = make([{"CPU": 3}])
    assert group.wait(PATIENCE_SECONDS)
    wait_until(lambda: api.available_resources().get("CPU", 0) == 1)
    util.remove_placement_group(group)
    wait_until(lambda: api.available_resources().get("CPU", 0) == 4)
    assert state_of(group) == "REMOVED"
    util.remove_placement_group(group)


def test_tasks_and_actors_run_in_the_group(make):
    group = make([{"CPU": 1}, {"CPU": 1}])
    refs = [current.options(**in_group(group, index % 2)).remote() for index in range(10)]
    refs += [current.options(**in_group(group)).remote() for _ in range(10)]
    assert api.get(refs, timeout=PATIENCE_SECONDS) == [group.id.hex()] * 20
    actor = Counter.options(**in_group(group, 0)).remote()
    assert api.get(actor.group.remote(), timeout=PATIENCE_SECONDS) == group.id.hex()
    assert api.get(actor.add.remote()) == 1
    assert api.get(current.remote(), timeout=PATIENCE_SECONDS) is None
    assert util.get_current_placement_group() is None


def test_a_bundle_holds_no_more_than_it_has(make, tmp_path):
    gate, running = Gate(tmp_path / "gate"), Tally(tmp_path / "running")

    @api.remote(num_cpus=1)
    def hold():
        running.mark()
        gate.wait()

    group = make([{"CPU": 1}, {"CPU": 1}])
    refs = [hold.options(**in_group(group, 0)).remote() for _ in range(2)]
    running.wait_for(1)
    # The second waits for the first, though bundle 1 and two CPUs of the node are free.
    assert api.get(current.options(**in_group(group, 1)).remote(), timeout=PATIENCE_SECONDS) == group.id.hex()
    assert running.count() == 1
    gate.open()
    api.get(refs, timeout=PATIENCE_SECONDS)


def test_parts_of_a_cpu(make):
    group = make([{"CPU": 0.5}, {"CPU": 0.25}])
    half = current.options(num_cpus=0.5, **in_group(group))
    quarter = current.options(num_cpus=0.25, **in_group(group, 1))
    assert api.get([half.remote(), quarter.remote()], timeout=PATIENCE_SECONDS) == [group.id.hex()] * 2
    wait_until(lambda: api.available_resources().get("CPU", 0) == 3.25)


def test_a_group_without_room_waits_for_it_and_so_does_its_work(make):
    first = make([{"CPU": 3}])
    assert first.wait(PATIENCE_SECONDS)
    second = make([{"CPU": 2}])
    ref = current.options(**in_group(second)).remote()
    actor = Counter.options(**in_group(second)).remote()
    value = actor.add.remote()
    assert not second.wait(0.2)
    assert state_of(second) == "PENDING"
    assert api.wait([ref, value], num_returns=2, timeout=0.2)[0] == []
    util.remove_placement_group(first)
    assert second.wait(PATIENCE_SECONDS)
    assert api.get([ref, value], timeout=PATIENCE_SECONDS) == [second.id.hex(), 1]


def test_two_groups_that_cannot_both_be_get_their_turn(make):
    groups = [make([{"CPU": 2}, {"CPU": 1}]) for _ in range(6)]
    for _ in range(6):
        there = wait_until(lambda: [group for group in groups if state_of(group) == "CREATED"])
        assert len(there) == 1
        util.remove_placement_group(there[0])
        groups.remove(there[0])


def test_a_group_gets_its_turn_beside_a_flood_of_small_tasks(make):
    @api.remote(num_cpus=1)
    def small(seconds):
        time.sleep(seconds)
        return seconds

    tasks = [small.remote(0.02) for _ in range(4_000)]
    api.get(tasks[0], timeout=PATIENCE_SECONDS)
    group = make([{"CPU": 2}, {"CPU": 1}])
    assert group.wait(PATIENCE_SECONDS)
    _, waiting = api.wait(tasks, num_returns=len(tasks), timeout=0)
    assert waiting, "the group has not waited for the end of the flood"
    for task in waiting:
        api.cancel(task)


@pytest.mark.shoal_only(reason="Ray tries the task that ran again, and that waits for ever")
def test_removal_ends_the_work_of_the_group(make, tmp_path):
    started = Tally(tmp_path / "started")
    gate = Gate(tmp_path / "gate")

    @api.remote(num_cpus=1, max_retries=5)
    def hold():
        started.mark()
        gate.wait()

    group = make([{"CPU": 1}, {"CPU": 1}])
    actor = Counter.options(max_restarts=5, **in_group(group, 1)).remote()
    assert api.get(actor.add.remote(), timeout=PATIENCE_SECONDS) == 1
    runs = hold.options(**in_group(group, 0)).remote()
    waits = hold.options(**in_group(group, 0)).remote()
    started.wait_for(1)
    util.remove_placement_group(group)
    for ref in (runs, waits, hold.options(**in_group(group)).remote()):
        with pytest.raises(exceptions.TaskPlacementGroupRemoved):
            api.get(ref, timeout=PATIENCE_SECONDS)
    with pytest.raises(exceptions.ActorPlacementGroupRemoved):
        api.get(actor.add.remote(), timeout=PATIENCE_SECONDS)
    late = Counter.options(**in_group(group)).remote()
    with pytest.raises(exceptions.ActorPlacementGroupRemoved):
        api.get(late.add.remote(), timeout=PATIENCE_SECONDS)
    assert started.count() == 1, "nothing of it runs again"


def test_what_waits_for_a_group_learns_that_it_is_removed(make):
    group = make([{"CPU": 1000}])
    ready = group.ready()
    assert not group.wait(0.1)
    util.remove_placement_group(group)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        api.get(ready, timeout=PATIENCE_SECONDS)


def test_children_are_captured_if_that_is_asked_for(make):
    group = make([{"CPU": 1}, {"CPU": 1}])
    there = group.id.hex()

    @api.remote(num_cpus=1)
    def parent(strategy=None):
        context = api.get_runtime_context()
        task = current if strategy is None else current.options(scheduling_strategy=strategy)
        return context.should_capture_child_tasks_in_placement_group, api.get(task.remote())

    def run(captures, strategy=None):
        return api.get(parent.options(**in_group(group, 0, captures)).remote(strategy), timeout=PATIENCE_SECONDS)

    assert run(captures=True) == (True, there)
    assert run(captures=False) == (False, None)
    assert run(captures=None) == (False, None)
    assert run(captures=True, strategy="DEFAULT") == (True, None)
    actor = Counter.options(**in_group(group, 0, captures=True)).remote()
    assert api.get(actor.spawn.remote(), timeout=PATIENCE_SECONDS) == there
    assert api.get(actor.spawn.remote("DEFAULT"), timeout=PATIENCE_SECONDS) is None


def test_children_of_children_are_captured_too(make):
    group = make([{"CPU": 3}])

    @api.remote(num_cpus=1)
    def nested(depth):
        return api.get(nested.remote(depth - 1)) if depth else api.get_runtime_context().get_placement_group_id()

    ref = nested.options(**in_group(group, captures=True)).remote(2)
    assert api.get(ref, timeout=PATIENCE_SECONDS) == group.id.hex()


def test_a_task_that_waits_in_its_bundle_lends_it_out(make):
    group = make([{"CPU": 1}])

    @api.remote(num_cpus=1)
    def nested(depth):
        return api.get(nested.remote(depth - 1)) if depth else api.get_runtime_context().get_placement_group_id()

    ref = nested.options(**in_group(group, 0, captures=True)).remote(3)
    assert api.get(ref, timeout=PATIENCE_SECONDS) == group.id.hex()


def test_handles_travel(make):
    group = make([{"CPU": 1}])

    @api.remote(num_cpus=0)
    def use(group):
        return group, group.bundle_count, api.get(current.options(**in_group(group)).remote())

    assert api.get(use.remote(group), timeout=PATIENCE_SECONDS) == (group, 1, group.id.hex())


def test_named_groups_are_found(make):
    group = make([{"CPU": 1}], name="by name")
    found = util.get_placement_group("by name")
    assert found == group
    assert found.bundle_specs == [{"CPU": 1}]
    util.remove_placement_group(group)
    with pytest.raises(ValueError, match="by name"):
        wait_until(lambda: not util.get_placement_group("by name"))
    with pytest.raises(ValueError, match="empty"):
        util.get_placement_group("")


@pytest.mark.shoal_only(reason="Ray gives the second group the name, too")
def test_a_name_is_given_once(make):
    make([{"CPU": 1}], name="taken")
    with pytest.raises(ValueError, match="taken"):
        make([{"CPU": 1}], name="taken")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"bundles": []}, "empty"),
        ({"bundles": {"CPU": 1}}, "list"),
        ({"bundles": [{}]}, "empty"),
        ({"bundles": [{"CPU": 0}]}, "0"),
        ({"bundles": [{"CPU": 1}], "strategy": "HEAP"}, "HEAP"),
        ({"bundles": [{"CPU": 1}], "lifetime": "long"}, "detached"),
        ({"bundles": [{"CPU": 1}], "bundle_label_selector": [{}, {}]}, "selector"),
        ({"bundles": [{"CPU": 1}], "bundle_label_selector": [{"a": "b c"}]}, "selector"),
    ],
)
def test_impossible_groups_are_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        util.placement_group(**arguments)


def test_impossible_work_is_refused(make):
    group = make([{"CPU": 1}, {"CPU": 2}])
    with pytest.raises(ValueError, match="cannot fit"):
        current.options(num_cpus=3, **in_group(group)).remote()
    with pytest.raises(ValueError, match="cannot fit"):
        current.options(resources={"special": 1}, **in_group(group)).remote()
    with pytest.raises(ValueError, match="index"):
        current.options(**in_group(group, 2)).remote()
    with pytest.raises(ValueError, match="index"):
        current.options(**in_group(group, -2)).remote()
    with pytest.raises(ValueError, match="index"):
        current.options(scheduling_strategy=InGroup(None, 0)).remote()
    small = make([{"CPU": 0.5}])
    with pytest.raises(ValueError, match="cannot fit"):
        Counter.options(**in_group(small)).remote()
    nowhere = current.options(num_cpus=0, scheduling_strategy=InGroup(None)).remote()
    assert api.get(nowhere, timeout=PATIENCE_SECONDS) is None


@pytest.mark.shoal_only(reason="Ray lets it wait for ever")
def test_work_that_its_bundle_cannot_hold_is_refused(make):
    group = make([{"CPU": 1}, {"CPU": 2}])
    with pytest.raises(ValueError, match="cannot fit"):
        current.options(num_cpus=2, **in_group(group, 0)).remote()


def test_a_group_ends_with_its_driver_unless_it_is_detached(tmp_path):
    address = api.get_runtime_context().gcs_address
    source = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from harness import submodule
        util = submodule("util.placement_group")
        api.init(address={address!r}, namespace="groups")
        group = util.placement_group([{{"CPU": 1}}], name="mortal")
        detached = util.placement_group([{{"CPU": 1}}], name="lasting", lifetime="detached")
        assert group.wait(30) and detached.wait(30)
        print(group.id.hex(), detached.id.hex())
    """
    process = run_driver(source, tmp_path)
    assert process.returncode == 0, process.stderr
    mortal, lasting = process.stdout.split()[-2:]
    wait_until(lambda: util.placement_group_table()[mortal]["state"] == "REMOVED")
    assert util.placement_group_table()[lasting]["state"] == "CREATED"
    util.remove_placement_group(util.PlacementGroup(api.PlacementGroupID.from_hex(lasting)))
    wait_until(lambda: api.available_resources().get("CPU") == 4)


@pytest.mark.shoal_only(reason="Ray's outlives its actor until the driver ends, against its documentation")
def test_a_group_ends_with_the_actor_that_made_it():
    @api.remote(num_cpus=0)
    class Maker:
        def make(self):
            self.group = util.placement_group([{"CPU": 1}])
            return self.group.wait(PATIENCE_SECONDS), self.group.id.hex()

    maker = Maker.remote()
    made, text = api.get(maker.make.remote(), timeout=PATIENCE_SECONDS)
    assert made
    api.kill(maker)
    wait_until(lambda: util.placement_group_table()[text]["state"] == "REMOVED")
    wait_until(lambda: api.available_resources().get("CPU") == 4)

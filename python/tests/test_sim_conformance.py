"""Programs that must do the same on a real cluster and in a simulated one.

Each program returns something comparable; what it returns on a real cluster is compared with what is expected,
and with what it returns in simulations of one and of three nodes.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

import shoal
import shoal.sim
from shoal.util.placement_group import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PROGRAMS = {}


def program(expected):
    """A program of the set, and what it returns."""

    def add(function):
        PROGRAMS[function.__name__] = (function, expected)
        return function

    return add


def error_of(function, *args, **kwargs):
    """The names of the classes of what a call raises, up to Exception, the user's own class first."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        cause = getattr(error, "cause", None)
        return [cls.__name__ for cls in (type(error), type(cause)) if cls is not type(None)]
    return None


@shoal.remote
def square(x):
    return x * x


@shoal.remote
def add(*numbers):
    return sum(numbers)


@shoal.remote
class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, number=1):
        self.count += number
        return self.count

    def get(self):
        return self.count

    def pid(self):
        return os.getpid()

    def die(self):
        os._exit(1)


# --- tasks --------------------------------------------------------------------------------------------


@program([0, 1, 4, 9])
def results_come_in_order():
    return shoal.get([square.remote(x) for x in range(4)])


@program(30)
def references_are_arguments():
    return shoal.get(add.remote(square.remote(1), square.remote(2), add.remote(square.remote(3), square.remote(4))))


@program(285)
def tasks_call_tasks():
    @shoal.remote
    def outer(count):
        return sum(shoal.get([square.remote(x) for x in range(count)]))

    return shoal.get(outer.remote(10))


@program(8)
def nesting_deeper_than_there_are_cpus():
    @shoal.remote
    def fall(depth):
        return 0 if depth == 0 else 1 + shoal.get(fall.remote(depth - 1))

    return shoal.get(fall.remote(8))


@program([1, 2, 3])
def several_results():
    @shoal.remote(num_returns=3)
    def three():
        return 1, 2, 3

    return shoal.get(three.remote())


@program({"a": 1, "b": [2, 3]})
def keywords_and_defaults():
    @shoal.remote
    def collect(a, *, b=None, **rest):
        return {"a": a, "b": b, **rest}

    return shoal.get(collect.remote(1, b=[2, 3]))


@program((1, 2))
def wait_splits():
    @shoal.remote
    def slow():
        time.sleep(2)

    ready, others = shoal.wait([slow.remote(), square.remote(1), slow.remote()], num_returns=1, timeout=60)
    return len(ready), len(others)


@program(["GetTimeoutError"])
def a_deadline_passes():
    @shoal.remote
    def slow():
        time.sleep(3)

    return error_of(shoal.get, slow.remote(), timeout=0.2)


# --- errors and retries ---------------------------------------------------------------------------------


@program((["TaskError(ValueError)", "ValueError"], True))
def exceptions_arrive():
    @shoal.remote
    def fail():
        raise ValueError("no")

    try:
        shoal.get(fail.remote())
    except ValueError as error:
        caught = "no" in str(error)
    return error_of(shoal.get, fail.remote()), caught


@program(["TaskError(ZeroDivisionError)", "ZeroDivisionError"])
def errors_of_arguments_arrive():
    @shoal.remote
    def divide(x):
        return 1 // x

    return error_of(shoal.get, add.remote(divide.remote(0), 1))


@program(3)
def exceptions_are_retried():
    attempts = Counter.remote()

    @shoal.remote(max_retries=5, retry_exceptions=[ValueError])
    def flaky(attempts):
        if shoal.get(attempts.add.remote()) < 3:
            raise ValueError("again")
        return shoal.get(attempts.get.remote())

    return shoal.get(flaky.remote(attempts))


@program((2, ["WorkerCrashedError"]))
def crashes_are_retried():
    attempts = Counter.remote()

    @shoal.remote(max_retries=1)
    def crash(attempts, times):
        if shoal.get(attempts.add.remote()) <= times:
            os._exit(1)
        return shoal.get(attempts.get.remote())

    first = shoal.get(crash.remote(attempts, 1))
    return first, error_of(shoal.get, crash.remote(attempts, 100))


@program(["WorkerCrashedError"])
def system_exit_ends_the_worker():
    @shoal.remote(max_retries=0)
    def leave():
        raise SystemExit(3)

    return error_of(shoal.get, leave.remote())


# --- cancellation ---------------------------------------------------------------------------------------


@program(["TaskCancelledError"])
def a_running_task_is_cancelled():
    @shoal.remote
    def sleep(counter):
        shoal.get(counter.add.remote())
        time.sleep(1000)

    counter = Counter.remote()
    ref = sleep.remote(counter)
    while shoal.get(counter.get.remote()) == 0:
        time.sleep(0.01)
    shoal.cancel(ref)
    return error_of(shoal.get, ref)


@program(["TaskCancelledError"])
def a_forced_cancellation():
    @shoal.remote
    def stubborn(counter):
        shoal.get(counter.add.remote())
        while True:
            try:
                time.sleep(1000)
            except KeyboardInterrupt:
                continue

    counter = Counter.remote()
    ref = stubborn.remote(counter)
    while shoal.get(counter.get.remote()) == 0:
        time.sleep(0.01)
    shoal.cancel(ref, force=True)
    return error_of(shoal.get, ref)


@program((["TaskCancelledError"], 0))
def a_task_that_waits_is_cancelled():
    counter = Counter.remote()

    @shoal.remote
    def slow():
        time.sleep(1)
        return 1

    @shoal.remote
    def after(number, counter):
        shoal.get(counter.add.remote(number))

    ref = after.remote(slow.remote(), counter)
    shoal.cancel(ref)
    return error_of(shoal.get, ref), shoal.get(counter.get.remote())


# --- actors -----------------------------------------------------------------------------------------------


@program(list(range(1, 21)))
def calls_of_an_actor_keep_their_order():
    counter = Counter.remote()
    return shoal.get([counter.add.remote() for _ in range(20)])


@program((10, 10))
def an_actor_is_shared():
    counter = Counter.remote(5)

    @shoal.remote
    def use(counter):
        return shoal.get(counter.add.remote(5))

    return shoal.get(use.remote(counter)), shoal.get(counter.get.remote())


@program((6, ["ActorDiedError"]))
def actors_have_names():
    counter = Counter.options(name="the counter").remote(5)
    found = shoal.get_actor("the counter")
    value = shoal.get(found.add.remote())
    shoal.kill(counter)
    return value, error_of(shoal.get, found.get.remote())


@program(["ValueError"])
def an_unknown_name():
    return error_of(shoal.get_actor, "nobody")


@program((1, 1))
def an_actor_starts_again():
    counter = Counter.options(max_restarts=1, max_task_retries=-1).remote()
    first, pid = shoal.get([counter.add.remote(), counter.pid.remote()])
    shoal.kill(counter, no_restart=False)
    # The word of it takes its time; until then the actor goes on.
    while shoal.get(counter.pid.remote()) == pid:
        time.sleep(0.01)
    return first, shoal.get(counter.add.remote())


@program(["ActorDiedError"])
def an_actor_that_crashes():
    counter = Counter.remote()
    return error_of(shoal.get, counter.die.remote())


@program(["ActorDiedError"])
def a_constructor_that_fails():
    @shoal.remote
    class Broken:
        def __init__(self):
            raise ValueError("no")

        def get(self):
            return 1

    return error_of(shoal.get, Broken.remote().get.remote())


@program((["ActorDiedError"], ["ActorDiedError"]))
def an_actor_ends_itself():
    @shoal.remote
    class Once:
        def stop(self):
            shoal.actor.exit_actor()

        def get(self):
            return 1

    once = Once.remote()
    return error_of(shoal.get, once.stop.remote()), error_of(shoal.get, once.get.remote())


@program("both")
def threads_of_an_actor():
    @shoal.remote(max_concurrency=2)
    class Meeting:
        def __init__(self):
            self.event = threading.Event()

        def wait(self):
            return "both" if self.event.wait(30) else "alone"

        def come(self):
            self.event.set()

    meeting = Meeting.remote()
    waits = meeting.wait.remote()
    shoal.get(meeting.come.remote())
    return shoal.get(waits)


# --- asynchronous actors ------------------------------------------------------------------------------------


@program((["first", "second"], 9))
def an_asynchronous_actor():
    @shoal.remote
    class Async:
        def __init__(self):
            self.order = []
            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            self.order.append("second")
            return self.order

        async def go(self):
            self.order.append("first")
            self.event.set()

        async def call(self, ref):
            return await ref[0]

    actor = Async.remote()
    waits = actor.wait.remote()
    shoal.get(actor.go.remote())
    return shoal.get(waits), shoal.get(actor.call.remote([square.remote(3)]))


@program(["TaskCancelledError"])
def an_asynchronous_call_is_cancelled():
    @shoal.remote
    class Async:
        def __init__(self):
            self.began = False

        async def sleep(self):
            self.began = True
            await asyncio.sleep(1000)

        async def has_begun(self):
            return self.began

    actor = Async.remote()
    ref = actor.sleep.remote()
    while not shoal.get(actor.has_begun.remote()):
        time.sleep(0.01)
    shoal.cancel(ref)
    return error_of(shoal.get, ref)


@program([1, 4, 9])
def the_driver_awaits():
    async def main():
        return await asyncio.gather(*(square.remote(x) for x in (1, 2, 3)))

    return asyncio.run(main())


@program([0, 1, 2])
def an_asynchronous_generator():
    @shoal.remote
    class Async:
        async def count(self, limit):
            for x in range(limit):
                await asyncio.sleep(0.01)
                yield x

    return [shoal.get(ref) for ref in Async.remote().count.options(num_returns="streaming").remote(3)]


# --- generators -------------------------------------------------------------------------------------------


@program([0, 1, 4])
def a_generator_streams():
    @shoal.remote(num_returns="streaming")
    def squares(count):
        for x in range(count):
            yield x * x

    return [shoal.get(ref) for ref in squares.remote(3)]


@program(([0, 1], ["TaskError(ValueError)", "ValueError"]))
def a_generator_fails():
    @shoal.remote(num_returns="streaming", max_retries=0)
    def count():
        yield 0
        yield 1
        raise ValueError("no more")

    refs = list(count.remote())
    return [shoal.get(ref) for ref in refs[:2]], error_of(shoal.get, refs[2])


@program(list(range(6)))
def a_generator_waits_for_its_consumer():
    @shoal.remote(num_returns="streaming", _generator_backpressure_num_objects=2)
    def count():
        yield from range(6)

    values = []
    for ref in count.remote():
        time.sleep(0.01)
        values.append(shoal.get(ref))
    return values


# --- objects and references -----------------------------------------------------------------------------------


@program(([1, 2, 3], 1000000))
def objects_are_put():
    small, large = shoal.put([1, 2, 3]), shoal.put(bytes(1_000_000))

    @shoal.remote
    def length(data):
        return len(data)

    return shoal.get(small), shoal.get(length.remote(large))


@program(4)
def references_in_containers_stay_references():
    @shoal.remote
    def look(refs):
        assert all(isinstance(ref, shoal.ObjectRef) for ref in refs["refs"])
        return sum(shoal.get(refs["refs"]))

    return shoal.get(look.remote({"refs": [shoal.put(1), shoal.put(3)]}))


@program(16)
def results_contain_references():
    @shoal.remote
    def make():
        return [square.remote(4)]

    return shoal.get(shoal.get(make.remote())[0])


@program(7)
def a_borrowed_reference_outlives_its_first_holder():
    @shoal.remote
    class Keeper:
        def keep(self, refs):
            self.refs = refs

        def get(self):
            return shoal.get(self.refs[0])

    keeper = Keeper.remote()
    ref = shoal.put(7)
    shoal.get(keeper.keep.remote([ref]))
    del ref
    return shoal.get(keeper.get.remote())


@program(True)
def arrays_are_read_in_place():
    numpy = pytest.importorskip("numpy")

    @shoal.remote
    def double(array):
        return array * 2

    array = shoal.get(double.remote(numpy.arange(100_000)))
    return bool((array == numpy.arange(100_000) * 2).all())


@program(("task", None))
def the_runtime_context():
    @shoal.remote
    def name():
        return shoal.get_runtime_context().get_task_name()

    return shoal.get(name.options(name="task").remote()), shoal.get_runtime_context().get_task_id()


@program(["TaskUnschedulableError"])
def what_cannot_be_scheduled():
    @shoal.remote(resources={"unobtainium": 1})
    def work():
        return 1

    return error_of(shoal.get, work.remote(), timeout=120)


@program(([1, 4], True))
def a_placement_group():
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    placed = group.wait(60)
    strategy = PlacementGroupSchedulingStrategy(group)
    values = shoal.get([square.options(scheduling_strategy=strategy).remote(x) for x in (1, 2)])
    remove_placement_group(group)
    return values, placed


def outcome(function):
    """What a program returns, or the class of what it raises."""
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def real(clusters):
    """What the programs return on a real cluster."""
    clusters.start(num_cpus=4)
    found = {name: outcome(function) for name, (function, _) in PROGRAMS.items()}
    clusters.stop()
    return found


pytestmark = [pytest.mark.shoal_only("simulates Shoal"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_real_cluster_does_what_is_expected(name, real):
    assert real[name] == PROGRAMS[name][1]


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_simulated_cluster_does_the_same(name, nodes, no_cluster):
    for seed in range(3):
        with shoal.sim.cluster(nodes=nodes, seed=seed):
            assert outcome(PROGRAMS[name][0]) == PROGRAMS[name][1], f"seed {seed}"


def test_there_are_enough_programs():
    assert len(PROGRAMS) >= 25

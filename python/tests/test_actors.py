"""Actors: state, order, restarts and the end of their lives."""

import gc
import os
import signal

import pytest

from harness import (
    NAME,
    ON_SHOAL,
    Gate,
    Tally,
    api,
    exceptions,
    process_alive,
    run_driver,
    submodule,
    wait_until,
    wait_until_gone,
)

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
class Counter:
    """Counts, and tells in which process."""

    def __init__(self, start=0, *, step=1):
        self.value = start
        self.step = step

    def add(self):
        self.value += self.step
        return self.value

    def pid(self):
        return os.getpid()

    def crash(self):
        os._exit(1)


def dead(actor):
    """Whether calls of the actor fail for good."""
    try:
        api.get(actor.pid.remote())
    except exceptions.ActorDiedError:
        return True
    except exceptions.RayActorError:
        return False
    return False


# Calls


def test_an_actor_keeps_its_state():
    counter = Counter.remote()
    assert api.get([counter.add.remote() for _ in range(5)]) == [1, 2, 3, 4, 5]


def test_arguments_of_the_constructor():
    assert api.get(Counter.remote(10).add.remote()) == 11
    assert api.get(Counter.remote(start=10, step=5).add.remote()) == 15
    assert api.get(Counter.remote(api.put(7)).add.remote()) == 8


def test_wrong_arguments_are_refused_at_the_call():
    with pytest.raises(TypeError):
        Counter.remote(1, 2)
    with pytest.raises(TypeError):
        Counter.remote(stop=1)
    counter = Counter.remote()
    with pytest.raises(TypeError):
        counter.add.remote(1)
    with pytest.raises(TypeError):
        counter.add.remote(by=1)


def test_arguments_of_methods():
    @api.remote
    class Echo:
        def echo(self, a, b=2, *rest, c=3, **others):
            return a, b, rest, c, others

        def kinds(self, value, nested):
            return value, type(nested[0]).__name__

    echo = Echo.remote()
    assert api.get(echo.echo.remote(1)) == (1, 2, (), 3, {})
    assert api.get(echo.echo.remote(1, 5, 6, c=7, d=8)) == (1, 5, (6,), 7, {"d": 8})
    assert api.get(echo.kinds.remote(api.put("value"), [api.put("nested")])) == ("value", "ObjectRef")


def test_several_actors_have_separate_states():
    one, other = Counter.remote(), Counter.remote(100)
    assert api.get([one.add.remote(), other.add.remote(), one.add.remote()]) == [1, 101, 2]
    assert api.get(one.pid.remote()) != api.get(other.pid.remote())


def test_calls_run_in_the_order_of_submission():
    @api.remote
    class Recorder:
        def __init__(self):
            self.seen = []

        def record(self, value):
            self.seen.append(value)

        def report(self):
            return self.seen

    recorder = Recorder.remote()
    for i in range(500):
        recorder.record.remote(i)
    assert api.get(recorder.report.remote()) == list(range(500))


def test_a_call_that_waits_for_an_argument_holds_back_the_next(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def late():
        gate.wait()
        return "late"

    @api.remote
    class Recorder:
        def __init__(self):
            self.seen = []

        def record(self, value):
            self.seen.append(value)
            return list(self.seen)

    recorder = Recorder.remote()
    first = recorder.record.remote(late.remote())
    second = recorder.record.remote("early")
    gate.open()
    assert api.get([first, second]) == [["late"], ["late", "early"]]


def test_num_returns_of_methods():
    @api.remote
    class Pair:
        @api.method(num_returns=2)
        def pair(self):
            return 1, 2

        def triple(self):
            return 1, 2, 3

        @api.method(num_returns=0)
        def nothing(self):
            return None

    pair = Pair.remote()
    assert api.get(pair.pair.remote()) == [1, 2]
    assert api.get(pair.pair.options(num_returns=1).remote()) == (1, 2)
    assert api.get(pair.triple.options(num_returns=3).remote()) == [1, 2, 3]
    assert pair.nothing.remote() is None


def test_a_method_calls_other_tasks_and_actors():
    @api.remote
    def double(x):
        return 2 * x

    @api.remote
    class Caller:
        def __init__(self):
            self.counter = Counter.remote()

        def call(self, x):
            return api.get(double.remote(x)) + api.get(self.counter.add.remote())

    assert api.get(Caller.remote().call.remote(5)) == 11


def test_more_waiting_actors_than_cpus():
    @api.remote
    class Link:
        def __init__(self, depth):
            self.next = Link.remote(depth - 1) if depth else None

        def length(self):
            return 1 + (api.get(self.next.length.remote()) if self.next else 0)

    assert api.get(Link.remote(5).length.remote()) == 6


def test_an_exception_leaves_the_actor_alive():
    @api.remote
    class Fails:
        def fail(self):
            raise KeyError("method")

        def works(self):
            return 1

    fails = Fails.remote()
    with pytest.raises(KeyError, match="method"):
        api.get(fails.fail.remote())
    assert api.get(fails.works.remote()) == 1


def test_large_arguments_and_results():
    @api.remote
    class Echo:
        def echo(self, data):
            return data

    data = os.urandom(1_000_000)
    echo = Echo.remote()
    assert api.get([echo.echo.remote(data), echo.echo.remote(api.put(data))]) == [data, data]


# Definition


def test_an_actor_class_is_not_called_directly():
    with pytest.raises(TypeError, match="remote"):
        Counter()


def test_a_method_is_not_called_directly():
    with pytest.raises(TypeError, match="remote"):
        Counter.remote().add()


def test_unknown_methods_are_refused():
    with pytest.raises(AttributeError):
        Counter.remote().no_such_method  # noqa: B018


def test_handles_list_their_methods():
    assert {"add", "pid", "crash"} <= set(dir(Counter.remote()))


def test_methods_of_base_classes():
    class Base:
        def greet(self):
            return f"{self.name()} greets"

        def name(self):
            return "base"

    @api.remote
    class Derived(Base):
        def name(self):
            return super().name() + " derived"

    assert api.get(Derived.remote().greet.remote()) == "base derived greets"


def test_actor_classes_are_not_inherited():
    with pytest.raises(submodule("actor").ActorClassInheritanceException):

        class Derived(Counter):
            pass


def test_class_and_static_methods():
    @api.remote
    class Mixed:
        shared = "class attribute"

        @classmethod
        def of_class(cls):
            return cls.shared

        @staticmethod
        def of_nobody(x):
            return x + 1

    mixed = Mixed.remote()
    assert api.get(mixed.of_class.remote()) == "class attribute"
    assert api.get(mixed.of_nobody.remote(1)) == 2


def test_a_class_without_constructor():
    @api.remote
    class Empty:
        def one(self):
            return 1

    assert api.get(Empty.remote().one.remote()) == 1


def test_the_decorator_may_be_called_as_a_function():
    class Plain:
        def one(self):
            return 1

    assert api.get(api.remote(Plain).remote().one.remote()) == 1
    assert api.get(api.remote(num_cpus=1)(Plain).remote().one.remote()) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"num_cpus": -1},
        {"max_restarts": -2},
        {"max_task_retries": -2},
        pytest.param({"max_concurrency": 0}, marks=pytest.mark.shoal_only(reason="Ray takes 0")),
        {"max_concurrency": -1},
        {"lifetime": "for ever"},
        {"max_calls": 1},
        {"num_returns": 2},
        {"name": ""},
        {"get_if_exists": True},
        {"resources": {"CPU": 1}},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options):
    with pytest.raises((ValueError, TypeError)):
        Counter.options(**options).remote()


def test_options_leave_the_class_as_it_was():
    Renamed = Counter.options(name="renamed")
    one = Renamed.remote()
    with pytest.raises(ValueError, match="renamed"):
        Renamed.remote()
    assert api.get([one.add.remote(), Counter.remote().add.remote()]) == [1, 1]


# Special methods


def test_ready_waits_for_the_constructor(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    class Slow:
        def __init__(self):
            gate.wait()

    ready = Slow.remote().__ray_ready__.remote()
    assert api.wait([ready], timeout=0)[0] == []
    gate.open()
    assert api.get(ready) is True


def test_any_function_runs_inside_an_actor():
    counter = Counter.remote(5)

    def read(self, plus, *, times):
        return (self.value + plus) * times

    assert api.get(counter.__ray_call__.remote(read, 1, times=2)) == 12


def test_terminate_ends_the_actor_after_its_calls(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote
    class Polite:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def pid(self):
            return os.getpid()

    polite = Polite.remote()
    pids = [polite.pid.remote() for _ in range(10)]
    polite.__ray_terminate__.remote()
    pid = api.get(pids)[-1]
    wait_until_gone(pid)
    assert exited.is_open()
    assert dead(polite)


# Handles


def test_handles_are_equal_when_they_mean_the_same_actor():
    one, other = Counter.remote(), Counter.remote()

    @api.remote
    def echo(handle):
        return handle[0]

    assert api.get(echo.remote([one])) == one
    assert one != other
    assert len({one, other, api.get(api.put(one))}) == 2


def test_tasks_use_handles():
    @api.remote
    def use(counter, nested):
        return api.get([counter.add.remote(), nested["counter"].add.remote()])

    counter = Counter.remote()
    assert sorted(api.get(use.remote(counter, {"counter": counter}))) == [1, 2]
    assert api.get(counter.add.remote()) == 3


def test_actors_use_handles_of_each_other():
    @api.remote
    class Player:
        def meet(self, other):
            self.other = other

        def play(self, rounds):
            return rounds if rounds == 0 else api.get(self.other.reply.remote(rounds))

    @api.remote
    class Partner:
        def reply(self, rounds):
            return rounds * 10

    player = Player.remote()
    player.meet.remote(Partner.remote())
    assert api.get(player.play.remote(3)) == 30


def test_calls_of_a_task_and_of_the_driver_mix():
    @api.remote
    def add_many(counter):
        return api.get([counter.add.remote() for _ in range(50)])

    counter = Counter.remote()
    tasks = [add_many.remote(counter) for _ in range(3)]
    own = api.get([counter.add.remote() for _ in range(50)])
    seen = own + [value for values in api.get(tasks) for value in values]
    assert sorted(seen) == list(range(1, 201))
    for values in [own, *api.get(tasks)]:
        assert values == sorted(values)


def test_a_handle_says_what_it_is():
    assert "Counter" in repr(Counter.remote())


# Restarts


def test_an_actor_dies_with_its_process():
    counter = Counter.remote()
    assert api.get(counter.add.remote()) == 1
    with pytest.raises(exceptions.RayActorError):
        api.get(counter.crash.remote())
    with pytest.raises(exceptions.ActorDiedError):
        api.get(counter.add.remote())


def test_calls_in_flight_fail_when_the_actor_dies():
    counter = Counter.remote()
    crash = counter.crash.remote()
    references = [counter.add.remote() for _ in range(20)]
    for reference in [crash, *references]:
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)


def test_an_actor_is_restarted_as_often_as_allowed():
    counter = Counter.options(max_restarts=2).remote(10)
    for _ in range(2):
        assert api.get(counter.add.remote()) == 11
        with pytest.raises(exceptions.RayActorError):
            api.get(counter.crash.remote())
        wait_until(lambda: not unavailable(counter), what="the restart")
    with pytest.raises(exceptions.RayActorError):
        api.get(counter.crash.remote())
    wait_until(lambda: dead(counter))


def unavailable(actor):
    try:
        api.get(actor.pid.remote())
    except exceptions.RayActorError:
        return True
    return False


def test_minus_one_restarts_for_ever():
    counter = Counter.options(max_restarts=-1, max_task_retries=-1).remote()
    pids = set()
    for _ in range(4):
        pid = api.get(counter.pid.remote())
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        pids.add(pid)
    assert len(pids) == 4
    assert api.get(counter.add.remote()) == 1


def test_calls_are_retried_over_a_restart(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=1, max_task_retries=1)
    class CrashesOnce:
        def work(self):
            if attempts.mark() == 1:
                os._exit(1)
            return "done"

    assert api.get(CrashesOnce.remote().work.remote()) == "done"
    assert attempts.count() == 2


def test_calls_are_not_retried_by_default(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=-1)
    class Crashes:
        def work(self):
            attempts.mark()
            os._exit(1)

    with pytest.raises(exceptions.RayActorError):
        api.get(Crashes.remote().work.remote())
    assert attempts.count() == 1


def test_retries_of_a_call_are_counted(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=-1)
    class Crashes:
        @api.method(max_task_retries=2)
        def work(self):
            attempts.mark()
            os._exit(1)

    with pytest.raises(exceptions.RayActorError):
        api.get(Crashes.remote().work.remote())
    # Ray counts a try that finds the actor restarting, though nothing runs.
    assert attempts.count() == 3 if ON_SHOAL else attempts.count() in (2, 3)


def test_exceptions_of_a_call_may_be_retried(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_task_retries=5)
    class Fails:
        @api.method(retry_exceptions=[ConnectionError])
        def work(self):
            if attempts.mark() <= 2:
                raise ConnectionError
            return "done"

        def work_once(self):
            attempts.mark()
            raise ConnectionError

    fails = Fails.remote()
    assert api.get(fails.work.remote()) == "done"
    assert attempts.count() == 3
    with pytest.raises(ConnectionError):
        api.get(fails.work_once.remote())
    assert attempts.count() == 4
    with pytest.raises(ConnectionError):
        api.get(fails.work_once.options(retry_exceptions=True, max_task_retries=1).remote())
    assert attempts.count() == 6


def test_the_constructor_runs_again_with_its_arguments(tmp_path):
    started = Tally(tmp_path / "started")

    @api.remote(max_restarts=1, max_task_retries=1)
    class Holder:
        def __init__(self, data):
            started.mark()
            self.size = len(data)

        def read(self):
            return self.size, api.get_runtime_context().was_current_actor_reconstructed

        def pid(self):
            return os.getpid()

    holder = Holder.remote(api.put(bytes(400_000)))
    gc.collect()
    assert api.get(holder.read.remote()) == (400_000, False)
    pid = api.get(holder.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert api.get(holder.read.remote()) == (400_000, True)
    assert started.count() == 2


def test_every_holder_sees_the_restart():
    @api.remote
    class Holder:
        def __init__(self, counter):
            self.counter = counter

        def add(self):
            return api.get(self.counter.add.remote())

    counter = Counter.options(max_restarts=1, max_task_retries=1).remote()
    holder = Holder.remote(counter)
    assert api.get(holder.add.remote()) == 1
    pid = api.get(counter.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert api.get(holder.add.remote()) == 1
    assert api.get(counter.add.remote()) == 2


# The constructor fails


def test_a_failed_constructor_is_told_by_every_call():
    @api.remote
    class Fails:
        def __init__(self):
            raise ValueError("no start")

        def work(self):
            return 1

    fails = Fails.remote()
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError, match="no start") as caught:
            api.get(fails.work.remote())
        assert caught.value.actor_init_failed


def test_an_argument_of_the_constructor_fails():
    @api.remote
    def fail():
        raise ValueError("argument")

    with pytest.raises(exceptions.ActorDiedError):
        api.get(Counter.remote(fail.remote()).add.remote())


def test_a_crash_in_the_constructor():
    @api.remote
    class Crashes:
        def __init__(self):
            os._exit(1)

        def work(self):
            return 1

    with pytest.raises(exceptions.ActorDiedError):
        api.get(Crashes.remote().work.remote())


# kill and exit_actor


def test_kill():
    counter = Counter.remote()
    pid = api.get(counter.pid.remote())
    api.kill(counter)
    wait_until_gone(pid)
    with pytest.raises(exceptions.ActorDiedError):
        api.get(counter.add.remote())
    api.kill(counter)


def test_kill_fails_the_running_call(tmp_path):
    started = Gate(tmp_path / "started")

    @api.remote
    class Busy:
        def work(self):
            started.open()
            Gate(tmp_path / "never").wait()

    busy = Busy.remote()
    running, waiting = busy.work.remote(), busy.work.remote()
    started.wait()
    api.kill(busy)
    for reference in (running, waiting):
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)


def test_kill_skips_the_exit_handlers(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote
    class Polite:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def pid(self):
            return os.getpid()

    polite = Polite.remote()
    pid = api.get(polite.pid.remote())
    api.kill(polite)
    wait_until_gone(pid)
    assert not exited.is_open()


def test_kill_does_not_restart_unless_asked():
    counter = Counter.options(max_restarts=5, max_task_retries=5).remote()
    pid = api.get(counter.pid.remote())
    api.kill(counter, no_restart=False)
    wait_until_gone(pid)
    assert api.get(counter.pid.remote()) != pid
    api.kill(counter)
    wait_until(lambda: dead(counter))


def test_kill_before_the_actor_lives(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    class Slow:
        def __init__(self):
            gate.wait()

        def work(self):
            return 1

    slow = Slow.remote()
    reference = slow.work.remote()
    api.kill(slow)
    with pytest.raises(exceptions.RayActorError):
        api.get(reference)


@pytest.mark.parametrize("wrong", [1, "actor", None], ids=str)
def test_only_actors_are_killed(wrong):
    with pytest.raises(ValueError):
        api.kill(wrong)
    with pytest.raises(ValueError):
        api.kill(api.put(1))


def test_an_actor_ends_itself(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote(max_restarts=-1)
    class Leaves:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def pid(self):
            return os.getpid()

        def leave(self):
            submodule("actor").exit_actor()

    leaves = Leaves.remote()
    pid = api.get(leaves.pid.remote())
    leave, after = leaves.leave.remote(), leaves.pid.remote()
    for reference in (leave, after):
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)
    wait_until_gone(pid)
    exited.wait()
    assert dead(leaves)


def test_only_actors_end_themselves():
    exit_actor = submodule("actor").exit_actor
    with pytest.raises(TypeError):
        exit_actor()

    @api.remote
    def leave():
        exit_actor()

    with pytest.raises(TypeError):
        api.get(leave.remote())


def test_exit_of_the_interpreter_ends_an_actor():
    @api.remote
    class Leaves:
        def leave(self):
            raise SystemExit(0)

        def pid(self):
            return os.getpid()

    leaves = Leaves.remote()
    with pytest.raises(exceptions.RayActorError):
        api.get(leaves.leave.remote())
    assert dead(leaves)


# Out of scope


def test_an_actor_ends_with_its_last_handle():
    counter = Counter.remote()
    pid = api.get(counter.pid.remote())
    copy = api.get(api.put(counter))
    del counter
    gc.collect()
    assert api.get(copy.add.remote()) == 1
    assert process_alive(pid)
    del copy
    gc.collect()
    wait_until_gone(pid)


def test_calls_submitted_before_the_last_handle_went_are_done(tmp_path):
    gate, done = Gate(tmp_path / "gate"), Tally(tmp_path / "done")

    @api.remote
    class Worker:
        def work(self):
            gate.wait()
            return done.mark()

    references = [Worker.remote().work.remote()]
    worker = Worker.remote()
    references += [worker.work.remote(), worker.work.remote()]
    del worker
    gc.collect()
    gate.open()
    assert sorted(api.get(references)) == [1, 2, 3]


def test_a_task_holds_the_actor_it_uses(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def use(counter):
        gate.wait()
        return api.get([counter.add.remote(), counter.pid.remote()])

    counter = Counter.remote()
    used = use.remote(counter)
    del counter
    gc.collect()
    gate.open()
    value, pid = api.get(used)
    assert value == 1
    wait_until_gone(pid)


def test_an_actor_ends_with_the_task_that_made_it():
    @api.remote
    def make():
        counter = Counter.remote()
        return api.get(counter.pid.remote())

    wait_until_gone(api.get(make.remote()))


def test_a_returned_handle_outlives_the_task():
    @api.remote
    def make():
        counter = Counter.remote()
        assert api.get(counter.add.remote()) == 1
        return counter

    counter = api.get(make.remote())
    assert api.get(counter.add.remote()) == 2


def test_an_actor_ends_with_the_actor_that_made_it():
    @api.remote
    class Parent:
        def __init__(self):
            self.child = Counter.remote()

        def child_pid(self):
            return api.get(self.child.pid.remote())

    parent = Parent.remote()
    pid = api.get(parent.child_pid.remote())
    api.kill(parent)
    wait_until_gone(pid)


def test_exit_handlers_run_when_the_last_handle_goes(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote
    class Polite:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def ready(self):
            return True

    polite = Polite.remote()
    assert api.get(polite.ready.remote())
    del polite
    gc.collect()
    exited.wait()


def test_a_method_holds_its_actor():
    method = Counter.remote().add
    gc.collect()
    assert api.get(method.remote()) == 1


def test_classes_of_the_main_script(tmp_path):
    done = run_driver(
        f"""
        class Shape:
            def sides(self):
                return 4

        @api.remote
        class Holder:
            def __init__(self, shape):
                self.shape = shape

            def sides(self):
                return self.shape.sides(), isinstance(self.shape, Shape)

        api.init(num_cpus=1, include_dashboard=False)
        print({NAME!r}, api.get(Holder.remote(Shape()).sides.remote()))
        """,
        tmp_path,
    )
    assert f"{NAME} (4, True)" in done.stdout, done.stderr

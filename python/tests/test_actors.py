"""Actors: calls, definitions and handles."""

import os

import pytest

from harness import (
    NAME,
    Gate,
    api,
    run_driver,
    submodule,
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

"""Tasks: arguments, returns, options and nesting."""

import os

import pytest

from harness import Gate, Tally, api, exceptions, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


# Arguments


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), ((1, 2), {}), ((1,), {"c": 5}), ((1, 2, 7, 8), {"c": 5, "more": 9}), ((), {"a": 1})],
    ids=["positional", "default given", "keyword only", "starred", "keywords alone"],
)
def test_arguments_bind_as_in_a_plain_call(args, kwargs):
    def plain(a, b=2, *rest, c=3, **others):
        return a, b, rest, c, others

    assert api.get(api.remote(plain).remote(*args, **kwargs)) == plain(*args, **kwargs)


def test_positional_only_arguments():
    @api.remote
    def f(a, /, b):
        return a, b

    assert api.get(f.remote(1, b=2)) == (1, 2)
    with pytest.raises(TypeError):
        f.remote(a=1, b=2)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2), {}), ((1,), {"a": 1}), ((1,), {"b": 2})],
    ids=["missing", "too many", "given twice", "unknown keyword"],
)
def test_wrong_arguments_are_refused_at_the_call(args, kwargs):
    @api.remote
    def f(a):
        return a

    with pytest.raises(TypeError):
        f.remote(*args, **kwargs)


def test_references_as_arguments_become_their_values():
    @api.remote
    def add(a, b, *, c):
        return a + b + c

    assert api.get(add.remote(api.put(1), add.remote(2, 3, c=4), c=api.put(5))) == 15


def test_references_inside_arguments_stay_references():
    @api.remote
    def look(values, mapping):
        (reference,) = values
        assert isinstance(reference, api.ObjectRef)
        assert isinstance(mapping["key"], api.ObjectRef)
        return api.get(reference) + api.get(mapping["key"])

    @api.remote
    def three():
        return 3

    assert api.get(look.remote([api.put(1)], {"key": three.remote()})) == 4


def test_the_same_reference_may_be_given_twice():
    @api.remote
    def pair(a, b):
        return a, b

    reference = api.put("x")
    assert api.get(pair.remote(reference, b=reference)) == ("x", "x")


def test_a_task_waits_for_its_arguments(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def behind_the_gate():
        gate.wait()
        return 1

    @api.remote
    def add_one(x):
        return x + 1

    last = add_one.remote(add_one.remote(behind_the_gate.remote()))
    assert api.wait([last], timeout=0)[0] == []
    gate.open()
    assert api.get(last) == 3


@pytest.mark.parametrize("size", [0, 1, 99_000, 101_000, 5_000_000])
def test_arguments_and_results_of_any_size(size):
    @api.remote
    def echo(data):
        return data

    data = os.urandom(size)
    assert api.get(echo.remote(data)) == data


def test_many_medium_arguments_together():
    @api.remote
    def total(*parts):
        return sum(len(part) for part in parts)

    # Each is small enough to travel in the message, all together are not.
    assert api.get(total.remote(*[bytes(90_000) for _ in range(150)])) == 150 * 90_000


def test_arguments_are_copies():
    @api.remote
    def change(values):
        values.append(4)
        return values

    values = [1, 2, 3]
    assert api.get(change.remote(values)) == [1, 2, 3, 4]
    assert values == [1, 2, 3]


def test_arguments_are_taken_at_the_call(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def later(values):
        gate.wait()
        return values

    values = [1]
    result = later.remote(values)
    values.append(2)
    gate.open()
    assert api.get(result) == [1]


# Returns


def test_nothing_returned_is_none():
    @api.remote
    def f():
        pass

    assert api.get(f.remote()) is None


def test_several_returns():
    @api.remote(num_returns=3)
    def f(n):
        return tuple(range(n))

    references = f.remote(3)
    assert isinstance(references, list)
    assert api.get(references) == [0, 1, 2]
    assert len(set(references)) == 3
    assert api.get(references[1]) == 1


def test_several_returns_from_a_list_or_a_generator():
    @api.remote(num_returns=2)
    def from_list():
        return [1, 2]

    @api.remote(num_returns=2)
    def from_generator():
        yield 1
        yield 2

    assert api.get(from_list.remote()) == [1, 2]
    assert api.get(from_generator.remote()) == [1, 2]


def test_the_number_of_returns_may_be_set_at_the_call():
    @api.remote
    def f(n):
        return list(range(n))

    assert api.get(f.remote(2)) == [0, 1]
    assert api.get(f.options(num_returns=2).remote(2)) == [0, 1]
    assert f.options(num_returns=0).remote(0) is None


def test_no_returns(tmp_path):
    ran = Gate(tmp_path / "ran")

    @api.remote(num_returns=0)
    def f():
        ran.open()

    assert f.remote() is None
    ran.wait()


@pytest.mark.parametrize("returned", [(1,), (1, 2, 3), 7], ids=["too few", "too many", "not a sequence"])
def test_the_wrong_number_of_returned_values_is_an_error(returned):
    @api.remote(num_returns=2)
    def f():
        return returned

    for reference in f.remote():
        with pytest.raises((ValueError, TypeError)):
            api.get(reference)


def test_an_error_reaches_every_return():
    @api.remote(num_returns=2)
    def f():
        raise KeyError("lost")

    for reference in f.remote():
        with pytest.raises(KeyError):
            api.get(reference)


# Definition


def test_the_decorator_may_be_called_as_a_function():
    assert api.get(api.remote(lambda x: x + 1).remote(1)) == 2
    assert api.get(api.remote(num_cpus=2)(lambda x: x + 1).remote(1)) == 2


def test_a_remote_function_is_not_called_directly():
    @api.remote
    def f():
        pass

    with pytest.raises(TypeError, match="remote"):
        f()


def test_the_plain_function_stays_reachable():
    def f(x):
        return x

    assert api.remote(f)._function is f


@pytest.mark.parametrize("bad", [lambda: api.remote(), lambda: api.remote(3), lambda: api.remote("f")])
def test_the_decorator_takes_a_function_or_options(bad):
    with pytest.raises((AssertionError, TypeError)):
        bad()


def test_a_coroutine_function_is_no_task():
    with pytest.raises(ValueError, match="async"):

        @api.remote
        async def f():
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"num_cpus": -1},
        {"num_gpus": -1},
        {"num_gpus": 1.5},
        {"num_cpus": 0.00001},
        {"memory": -1},
        {"object_store_memory": 100},
        {"resources": {"CPU": 1}},
        {"resources": {"GPU": 1}},
        {"resources": {"memory": 1}},
        {"resources": {"wheel": -1}},
        {"num_returns": -1},
        {"max_retries": -2},
        {"retry_exceptions": [3]},
        {"_generator_backpressure_num_objects": 0},
        {"max_calls": -1},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options):
    def define_and_call():
        @api.remote(**options)
        def f():
            pass

        f.remote()

    with pytest.raises(ValueError):
        define_and_call()


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": "1"},
        {"resources": ["wheel"]},
        {"num_returns": 1.5},
        {"num_returns": "many"},
        {"max_retries": 1.5},
        {"retry_exceptions": ValueError},
        {"retry_exceptions": 3},
        {"name": 3},
        {"runtime_env": 3},
    ],
    ids=str,
)
def test_options_of_the_wrong_type_are_refused(options):
    @api.remote
    def f():
        pass

    with pytest.raises((TypeError, ValueError)):
        f.options(**options)


def test_streaming_needs_a_generator():
    @api.remote
    def f():
        return 1

    with pytest.raises(ValueError, match="generator"):
        f.options(num_returns="streaming").remote()


def test_max_calls_belongs_to_the_definition():
    @api.remote(max_calls=2)
    def f():
        pass

    with pytest.raises(ValueError, match="max_calls"):
        f.options(max_calls=1)


def test_options_leave_the_function_as_it_was():
    @api.remote
    def cpus():
        return api.get_runtime_context().get_assigned_resources().get("CPU")

    assert api.get(cpus.options(num_cpus=2).remote()) == 2
    assert api.get(cpus.remote()) == 1


def test_none_options_mean_the_default():
    @api.remote(num_cpus=None, num_gpus=None, resources=None, num_returns=None, name=None)
    def f():
        return 1

    assert api.get(f.remote()) == 1


# Nesting


def test_a_task_starts_tasks():
    @api.remote
    def fibonacci(n):
        return n if n < 2 else sum(api.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    assert api.get(fibonacci.remote(5)) == 5


def test_a_task_returns_references():
    @api.remote
    def inner(x):
        return x + 1

    @api.remote
    def outer(x):
        return [inner.remote(x), inner.remote(x + 1)]

    references = api.get(outer.remote(1))
    assert api.get(references) == [2, 3]


@pytest.mark.parametrize("wait_by", ["get", "wait", "wait for an argument"])
def test_nesting_deeper_than_the_cpus(wait_by):
    # The cluster has 4 CPUs: a task that waits gives its own back.
    @api.remote
    def descend(depth):
        if depth == 0:
            return 0
        child = descend.remote(depth - 1)
        if wait_by == "wait":
            assert api.wait([child])[0] == [child]
        if wait_by == "wait for an argument":
            return 1 + api.get(identity.remote(child))
        return 1 + api.get(child)

    @api.remote
    def identity(x):
        return x

    assert api.get(descend.remote(8)) == 8


def test_many_waiting_parents():
    @api.remote
    def child(x):
        return x

    @api.remote
    def parent(x):
        return sum(api.get([child.remote(x), child.remote(x)]))

    assert api.get([parent.remote(i) for i in range(12)]) == [2 * i for i in range(12)]


def test_a_waiting_task_may_ask_for_every_cpu():
    @api.remote(num_cpus=4)
    def everything(depth):
        return 0 if depth == 0 else 1 + api.get(everything.remote(depth - 1))

    assert api.get(everything.remote(3)) == 3


# Errors


def test_an_error_in_a_dependency_comes_through(tmp_path):
    ran = Tally(tmp_path / "ran")

    @api.remote
    def fail():
        raise ZeroDivisionError("early")

    @api.remote
    def follow(x):
        ran.mark()

    last = follow.remote(follow.remote(fail.remote()))
    with pytest.raises(ZeroDivisionError, match="early"):
        api.get(last)
    assert ran.count() == 0


def test_a_child_error_reaches_the_driver():
    @api.remote
    def child():
        raise LookupError("deep down")

    @api.remote
    def parent():
        return api.get(child.remote())

    with pytest.raises(LookupError, match="deep down") as caught:
        api.get(parent.remote())
    assert isinstance(caught.value, exceptions.RayTaskError)


def test_a_parent_may_handle_the_error_of_a_child():
    @api.remote
    def child():
        raise LookupError("deep down")

    @api.remote
    def parent():
        try:
            api.get(child.remote())
        except LookupError:
            return "handled"

    assert api.get(parent.remote()) == "handled"


def test_results_of_an_ended_parent_stay_readable():
    @api.remote
    def child(x):
        return bytes([x]) * 200_000

    @api.remote
    def parent():
        return [child.remote(i) for i in range(3)]

    children = api.get(parent.remote())
    wait_until(lambda: len(api.wait(children, num_returns=3, timeout=1)[0]) == 3)
    assert [value[0] for value in api.get(children)] == [0, 1, 2]

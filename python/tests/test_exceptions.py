"""Errors: what a user catches and what the text says."""

import pickle
import threading
import traceback

import pytest

from harness import NAME, api, exceptions

pytestmark = pytest.mark.usefixtures("cluster")


def caught(call, *expected):
    """The error that `call` raises, which must be of all the types `expected`."""
    with pytest.raises(expected[0]) as info:
        call()
    for kind in expected[1:]:
        assert isinstance(info.value, kind)
    return info.value


# What is raised


@pytest.mark.parametrize("kind", [ValueError, KeyError, ZeroDivisionError, OSError, AssertionError, RuntimeError])
def test_an_error_is_the_users_and_ours(kind):
    @api.remote
    def fail():
        raise kind("why")

    error = caught(lambda: api.get(fail.remote()), kind, exceptions.RayTaskError, exceptions.RayError)
    assert "why" in str(error)
    assert isinstance(error.cause, kind)
    assert error.cause.args == ("why",)


def test_an_exception_of_the_users_own():
    class Overflow(Exception):
        def __init__(self, level, limit):
            super().__init__(f"{level} over {limit}")
            self.level = level
            self.limit = limit

        def __reduce__(self):
            return Overflow, (self.level, self.limit)

    @api.remote
    def fail():
        raise Overflow(7, limit=5)

    error = caught(lambda: api.get(fail.remote()), Overflow, exceptions.RayTaskError)
    assert (error.cause.level, error.cause.limit) == (7, 5)
    assert (error.level, error.limit) == (7, 5)
    assert "7 over 5" in str(error)


def test_an_exception_with_arguments_that_pickle_loses():
    # Such a class cannot be rebuilt from its arguments, which happens in many libraries.
    class Awkward(Exception):
        def __init__(self, code, *, detail):
            super().__init__(f"{code}: {detail}")

    @api.remote
    def fail():
        raise Awkward(3, detail="lost on the way")

    error = caught(lambda: api.get(fail.remote()), exceptions.RayError)
    assert "lost on the way" in str(error)


def test_an_exception_that_cannot_be_pickled():
    class Holding(Exception):
        def __init__(self):
            super().__init__("holds a lock")
            self.lock = threading.Lock()

    @api.remote
    def fail():
        raise Holding

    error = caught(lambda: api.get(fail.remote()), exceptions.RayError)
    assert "holds a lock" in str(error)
    assert api.get(api.remote(lambda: "goes on").remote()) == "goes on"


def test_a_group_of_exceptions():
    @api.remote
    def fail():
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    with pytest.raises(ExceptionGroup) as info:
        api.get(fail.remote())
    assert [type(error) for error in info.value.exceptions] == [ValueError, KeyError]


def test_the_cause_of_an_exception_is_in_the_text():
    @api.remote
    def fail():
        try:
            raise KeyError("the root")
        except KeyError as error:
            raise ValueError("the consequence") from error

    text = str(caught(lambda: api.get(fail.remote()), ValueError))
    assert "the root" in text
    assert "the consequence" in text


def test_interrupts_and_base_exceptions_are_errors_of_the_task():
    class Unusual(BaseException):
        pass

    @api.remote(max_retries=0)
    def fail():
        raise Unusual("not an Exception")

    caught(lambda: api.get(fail.remote()), exceptions.RayError)
    assert api.get(api.remote(lambda: 1).remote()) == 1


def test_stop_iteration_is_an_error_like_any_other():
    @api.remote
    def fail():
        raise StopIteration("inside")

    caught(lambda: api.get(fail.remote()), StopIteration, exceptions.RayTaskError)


# The text


def test_the_traceback_names_the_users_function():
    @api.remote
    def outer_function():
        inner_function()

    def inner_function():
        raise ValueError("deep")

    text = str(caught(lambda: api.get(outer_function.remote()), ValueError))
    assert "outer_function" in text
    assert "inner_function" in text
    assert "test_exceptions.py" in text
    assert "ValueError: deep" in text


def test_the_traceback_names_process_and_task():
    import os

    @api.remote
    def process():
        return os.getpid()

    @api.remote
    def fail():
        raise ValueError(os.getpid())

    text = str(caught(lambda: api.get(fail.remote()), ValueError))
    assert "fail()" in text
    assert "pid=" in text


def test_the_traceback_of_a_method_names_the_class():
    @api.remote
    class Machine:
        def fail(self):
            raise ValueError("method")

    text = str(caught(lambda: api.get(Machine.remote().fail.remote()), ValueError))
    assert "Machine.fail" in text


def test_tracebacks_of_nested_tasks_are_chained():
    @api.remote
    def the_child():
        raise ValueError("at the bottom")

    @api.remote
    def the_parent():
        return api.get(the_child.remote())

    text = str(caught(lambda: api.get(the_parent.remote()), ValueError))
    assert text.index("the_parent") < text.index("the_child")
    assert "at the bottom" in text


def test_an_uncaught_error_prints_the_users_traceback():
    @api.remote
    def fails_in_a_task():
        raise ValueError("for the terminal")

    try:
        api.get(fails_in_a_task.remote())
    except ValueError as error:
        text = "".join(traceback.format_exception(error))
    assert "fails_in_a_task" in text
    assert "for the terminal" in text


@pytest.mark.shoal_only(reason="Ray shows its own frames between the user's")
def test_the_traceback_is_free_of_our_frames():
    @api.remote
    def fail():
        raise ValueError("user")

    text = str(caught(lambda: api.get(fail.remote()), ValueError))
    assert f"/{NAME}/" not in text


def test_errors_can_be_pickled_by_the_user():
    @api.remote
    def fail():
        raise ValueError("saved")

    error = caught(lambda: api.get(fail.remote()), ValueError)
    again = pickle.loads(pickle.dumps(error.cause))
    assert isinstance(again, ValueError)
    assert again.args == ("saved",)


def test_an_error_passes_through_a_task_as_a_value():
    @api.remote
    def fail():
        raise KeyError("as a value")

    @api.remote
    def collect(nested):
        try:
            api.get(nested[0])
        except KeyError as error:
            return error.cause

    error = api.get(collect.remote([fail.remote()]))
    assert isinstance(error, KeyError)


# Pickling


def test_an_argument_that_cannot_be_pickled():
    @api.remote
    def f(x):
        pass

    with pytest.raises(TypeError, match="pickle"):
        f.remote(threading.Lock())
    with pytest.raises(TypeError, match="pickle"):
        f.remote([{"deep": threading.Lock()}])


def test_a_put_value_that_cannot_be_pickled():
    with pytest.raises(TypeError, match="pickle"):
        api.put(threading.Lock())


def test_a_function_that_cannot_be_pickled():
    lock = threading.Lock()

    @api.remote
    def f():
        return lock

    with pytest.raises(TypeError, match=r"pickle|serialize"):
        f.remote()


def test_an_actor_class_that_cannot_be_pickled():
    lock = threading.Lock()

    @api.remote
    class Holder:
        def read(self):
            return lock

    with pytest.raises(TypeError, match=r"pickle|serialize"):
        Holder.remote()


def test_a_result_that_cannot_be_pickled():
    @api.remote
    def f():
        return threading.Lock()

    error = caught(lambda: api.get(f.remote()), TypeError, exceptions.RayTaskError)
    assert "pickle" in str(error)


def test_a_result_that_fails_to_unpickle():
    class Fragile:
        def __reduce__(self):
            return fall_apart, ("in the driver",)

    def fall_apart(where):
        raise RuntimeError(f"fell apart {where}")

    @api.remote
    def f():
        return Fragile()

    with pytest.raises(Exception, match="fell apart"):
        api.get(f.remote())
    assert api.get(api.put(1)) == 1


def test_an_argument_that_fails_to_unpickle():
    class Fragile:
        def __reduce__(self):
            return fall_apart, ("in the worker",)

    def fall_apart(where):
        raise RuntimeError(f"fell apart {where}")

    @api.remote
    def f(x):
        pass

    with pytest.raises(exceptions.RayError, match="fell apart"):
        api.get(f.remote(Fragile()))


# The tree


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("RayTaskError", ["RayError"]),
        ("RayActorError", ["RayError"]),
        ("ActorDiedError", ["RayActorError"]),
        ("ActorUnavailableError", ["RayActorError"]),
        ("TaskCancelledError", ["RayError"]),
        ("WorkerCrashedError", ["RayError"]),
        ("NodeDiedError", ["RayError"]),
        ("OutOfMemoryError", ["RayError"]),
        ("RaySystemError", ["RayError"]),
        ("ObjectStoreFullError", ["RayError"]),
        ("OutOfDiskError", ["RayError"]),
        ("GetTimeoutError", ["RayError", TimeoutError]),
        ("ObjectLostError", ["RayError"]),
        ("ObjectFetchTimedOutError", ["ObjectLostError"]),
        ("ObjectFreedError", ["ObjectLostError"]),
        ("OwnerDiedError", ["ObjectLostError"]),
        ("ObjectReconstructionFailedError", ["ObjectLostError"]),
        ("ReferenceCountingAssertionError", ["ObjectLostError", AssertionError]),
        ("AsyncioActorExit", ["RayError"]),
        ("RuntimeEnvSetupError", ["RayError"]),
        ("TaskUnschedulableError", ["RayError"]),
        ("ActorUnschedulableError", ["RayError"]),
        ("PendingCallsLimitExceeded", ["RayError"]),
        ("ActorAlreadyExistsError", ["RayError", ValueError]),
        ("ActorHandleNotFoundError", ["RayError", ValueError]),
        ("UnserializableException", ["RayError"]),
        ("StreamingGeneratorReplayInconsistentError", ["RaySystemError"]),
    ],
)
def test_the_tree_of_errors(name, bases):
    kind = getattr(exceptions, name)
    for base in bases:
        assert issubclass(kind, getattr(exceptions, base) if isinstance(base, str) else base)


@pytest.mark.shoal_only(reason="Ray has only its own names")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ShoalError", "RayError"),
        ("TaskError", "RayTaskError"),
        ("ActorError", "RayActorError"),
        ("ShoalSystemError", "RaySystemError"),
    ],
)
def test_errors_have_names_without_ray(ours, theirs):
    assert getattr(exceptions, ours) is getattr(exceptions, theirs)

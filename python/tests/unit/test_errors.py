"""Errors on their way between processes."""

import pickle
import threading

import pytest

from shoal import _errors, _serialization, exceptions
from shoal.exceptions import TaskError


def arrive(exception, retry=False, **more):
    """What the asking process raises for what a task has raised."""
    data, buffers, _ = _errors.serialize_task_exception(exception, "f", retry, **more)
    return _errors.to_exception(_serialization.loads(data, buffers))


def raised(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class NeedsTwo(ValueError):
    """Python's own pickling of exceptions fails for this class: it calls it with `args`."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.second = second


class WithSlots(Exception):
    __slots__ = ("code",)


class WithProperty(Exception):
    default = "of the class"

    @property
    def doubled(self):
        return 2 * self.base


class Holding(KeyError):
    """Cannot be pickled by any means."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class Final(type):
    def __new__(cls, name, bases, body):
        if any(isinstance(base, Final) for base in bases):
            raise TypeError("no subclasses")
        return super().__new__(cls, name, bases, body)


class NoSubclass(Exception, metaclass=Final):
    pass


def test_it_is_both():
    error = arrive(raised(int, "x"))
    assert isinstance(error, TaskError)
    assert isinstance(error, ValueError)
    assert type(error).__name__ == "TaskError(ValueError)"
    assert isinstance(error.cause, ValueError)
    assert error.args == error.cause.args
    assert error.function_name == "f"


def test_system_calls_keep_their_fields():
    error = arrive(raised(open, "/no/such/file"))
    assert isinstance(error, FileNotFoundError)
    assert error.errno == 2
    assert error.filename == "/no/such/file"


@pytest.mark.parametrize(
    "exception",
    [
        StopIteration(3),
        KeyError("k"),
        UnicodeDecodeError("utf-8", b"abc", 1, 2, "why"),
        ImportError("gone", name="module"),
        SystemError(),
        AttributeError("a", name="b"),
        SyntaxError("bad", ("file", 3, 4, "text")),
        AssertionError(),
        NotImplementedError("later"),
        RecursionError("deep"),
        TimeoutError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_exceptions_of_the_interpreter_keep_their_state(exception):
    error = arrive(exception)
    assert isinstance(error, type(exception))
    assert error.args == exception.args
    for name in ("value", "name", "start", "reason", "lineno", "text"):
        if hasattr(exception, name):
            assert getattr(error, name) == getattr(exception, name), name


def test_exceptions_whose_constructor_takes_something_else():
    error = arrive(NeedsTwo(1, 2))
    assert isinstance(error, NeedsTwo)
    assert error.second == 2
    assert error.cause.args == ("1 and 2",)


def test_slots_properties_and_class_attributes():
    slotted = WithSlots("x")
    slotted.code = 7
    assert arrive(slotted).code == 7
    computed = WithProperty("x")
    computed.base, computed.default = 4, "of the instance"
    error = arrive(computed)
    assert error.doubled == 8
    assert error.default == "of the instance"
    with pytest.raises(AttributeError):
        error.missing  # noqa: B018


def test_what_cannot_be_pickled_degrades_to_its_nearest_plain_class():
    error = arrive(raised(lambda: (_ for _ in ()).throw(Holding("held"))))
    assert isinstance(error, KeyError)
    assert isinstance(error, TaskError)
    assert "Holding" in str(error)
    assert "held" in str(error)


def test_classes_that_cannot_be_derived_from():
    error = arrive(NoSubclass("x"))
    assert type(error) is TaskError
    assert isinstance(error.cause, NoSubclass)


def test_groups_can_be_split():
    group = ExceptionGroup("several", [ValueError(1), TypeError(2)])
    error = arrive(group)
    assert isinstance(error, ExceptionGroup)
    caught = []
    try:
        raise error
    except* ValueError as part:
        caught.append(part)
    except* TypeError as part:
        caught.append(part)
    assert len(caught) == 2


def test_an_error_that_is_passed_on_keeps_its_class():
    inner = arrive(raised(int, "x"))
    outer = arrive(inner)
    assert isinstance(outer, ValueError)
    assert isinstance(outer.cause, ValueError)
    assert not isinstance(outer.cause, TaskError)
    assert str(outer).count("ValueError") >= 2


def test_failures_of_the_system_in_a_task():
    error = arrive(exceptions.WorkerCrashedError("gone"))
    assert isinstance(error, exceptions.WorkerCrashedError)
    assert isinstance(error, TaskError)


def test_the_traceback_has_the_users_frames_alone():
    def inner():
        raise ValueError("deep")

    def through_ours():
        # A frame of the package between two of the user's.
        from shoal._serialization import dumps

        class Bad:
            def __reduce__(self):
                return inner()

        dumps(Bad())

    text = str(arrive(raised(through_ours)))
    assert "in inner" in text
    assert "through_ours" in text
    assert "_serialization.py" not in text
    assert f"pid={__import__('os').getpid()}" in text


def test_causes_and_notes_are_shown():
    def fail():
        try:
            int("x")
        except ValueError as error:
            error.add_note("a note")
            raise KeyError("second") from error

    text = str(arrive(raised(fail)))
    assert "a note" in text
    assert "direct cause" in text


def test_errors_can_be_pickled_again():
    error = arrive(NeedsTwo(1, 2))
    # A program may send what it has caught on by itself.
    again = pickle.loads(pickle.dumps(arrive(raised(int, "x"))))
    assert isinstance(again, ValueError)
    assert isinstance(again, TaskError)
    assert str(error)


def test_an_actors_error_says_which_one():
    text = str(arrive(ValueError("x"), actor=b"\x01" * 16, actor_repr="Counter(3)"))
    assert "Counter(3)" in text
    assert "01010101" in text


@pytest.mark.parametrize(
    ("retry", "exception", "expected"),
    [
        (False, ValueError(), False),
        (True, ValueError(), True),
        (True, KeyboardInterrupt(), False),
        ((LookupError,), KeyError(), True),
        ((LookupError, OSError), ValueError(), False),
    ],
)
def test_which_exceptions_are_retried(retry, exception, expected):
    given = retry if isinstance(retry, bool) else pickle.dumps(retry)
    assert _errors.serialize_task_exception(exception, "f", given)[2] is expected


def test_a_child_tasks_error_is_retried_by_its_class():
    given = pickle.dumps((ValueError,))
    assert _errors.serialize_task_exception(arrive(ValueError()), "f", given)[2] is True


# Failures of the core

DEATHS = [
    ({"kind": "Exited", "code": 3}, "exited with code 3"),
    ({"kind": "Signalled", "signal": 9}, "SIGKILL"),
    ({"kind": "OutOfMemory", "detail": "95 %"}, "95 %"),
    ({"kind": "Killed", "reason": "shutdown"}, "shutdown"),
    ({"kind": "NotStarted", "reason": "no fork"}, "no fork"),
    ({"kind": "NodeDied", "node": 2}, "2"),
]


@pytest.mark.parametrize(("death", "words"), DEATHS)
def test_how_a_worker_died(death, words):
    error = _errors.from_failure("WorkerCrashed", {"worker": 5, "death": death})
    assert words in str(error)
    expected = {"OutOfMemory": exceptions.OutOfMemoryError, "NodeDied": exceptions.NodeDiedError}
    assert type(error) is expected.get(death["kind"], exceptions.WorkerCrashedError)


FAILURES = [
    ("Cancelled", {}, exceptions.TaskCancelledError, "cancelled"),
    ("ActorUnavailable", {"actor": b"\1" * 16, "detail": "link"}, exceptions.ActorUnavailableError, "link"),
    ("Unschedulable", {"detail": "3 wheels"}, exceptions.TaskUnschedulableError, "3 wheels"),
    ("ObjectLost", {"object": b"\2" * 20, "detail": "evicted"}, exceptions.ObjectLostError, "evicted"),
    ("OwnerDied", {"object": b"\2" * 20, "death": DEATHS[1][0]}, exceptions.OwnerDiedError, "SIGKILL"),
    ("StoreFull", {"detail": "10 of 10"}, exceptions.ObjectStoreFullError, "10 of 10"),
    ("OutOfDisk", {"detail": "/tmp"}, exceptions.OutOfDiskError, "/tmp"),
    ("EnvironmentSetup", {"detail": "no module"}, exceptions.RuntimeEnvSetupError, "no module"),
    ("EndOfStream", {}, exceptions.ObjectRefStreamEndOfStreamError, "ended"),
    ("Freed", {"object": b"\2" * 20}, exceptions.ObjectFreedError, "0202"),
    ("SomethingNew", {"a": 1}, exceptions.ShoalSystemError, "SomethingNew"),
]


@pytest.mark.parametrize(("kind", "fields", "cls", "words"), FAILURES, ids=[f[0] for f in FAILURES])
def test_failures(kind, fields, cls, words):
    error = _errors.from_failure(kind, fields)
    assert type(error) is cls
    assert words in str(error)
    assert isinstance(error, exceptions.ShoalError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ({"kind": "Process", "death": DEATHS[1][0]}, "SIGKILL"),
        ({"kind": "Exited"}, "exit_actor"),
        ({"kind": "Killed"}, "kill"),
        ({"kind": "OutOfScope"}, "handle"),
        ({"kind": "CreatorDied"}, "detached"),
        ({"kind": "Unknown"}, "know"),
        ({"kind": "ArgumentFailed", "failure": {"kind": "StoreFull", "detail": "full"}}, "full"),
        (
            {"kind": "ArgumentFailed", "failure": {"kind": "ActorDied", "actor": b"\2" * 16, "cause": None}},
            "02" * 16,
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else value,
)
def test_why_an_actor_died(cause, words):
    error = _errors.from_failure("ActorDied", {"actor": b"\1" * 16, "cause": cause})
    assert type(error) is exceptions.ActorDiedError
    assert words in str(error)
    assert error.actor_id == "01" * 16
    assert not error.actor_init_failed
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.actor_id) == (str(error), error.actor_id)


def test_an_actor_whose_constructor_raised():
    cause = {"kind": "Constructor", "error": arrive(raised(int, "x"))}
    error = _errors.from_failure("ActorDied", {"actor": b"\1" * 16, "cause": cause})
    assert error.actor_init_failed
    assert "invalid literal" in str(error)
    assert pickle.loads(pickle.dumps(error)).actor_init_failed


def test_an_actor_that_fits_nowhere():
    cause = {"kind": "Unschedulable", "detail": "3 wheels"}
    error = _errors.from_failure("ActorDied", {"actor": b"\1" * 16, "cause": cause})
    assert type(error) is exceptions.ActorUnschedulableError


def test_names_of_ray():
    for ours, theirs in (
        ("ShoalError", "RayError"),
        ("TaskError", "RayTaskError"),
        ("ActorError", "RayActorError"),
        ("ShoalSystemError", "RaySystemError"),
        ("ChannelError", "RayChannelError"),
    ):
        assert getattr(exceptions, ours) is getattr(exceptions, theirs)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_error_can_be_pickled(name):
    cls = getattr(exceptions, name)
    assert issubclass(cls, exceptions.ShoalError)
    if issubclass(cls, TaskError):
        error = cls("f", "Traceback ...", ValueError("x"))
    elif cls in (exceptions.RpcError, exceptions.ActorUnavailableError):
        error = cls("text")
    else:
        error = cls()
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)


def test_builtin_classes_are_kept():
    assert issubclass(exceptions.GetTimeoutError, TimeoutError)
    assert issubclass(exceptions.ActorAlreadyExistsError, ValueError)
    assert issubclass(exceptions.ActorHandleNotFoundError, ValueError)
    assert issubclass(exceptions.ChannelTimeoutError, TimeoutError)

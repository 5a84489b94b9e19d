"""Where errors cross process borders: exceptions of the user's code on their way out of a worker,
and failures that the core reports on their way into an exception.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from shoal import _serialization, exceptions
from shoal._task_error import TaskError, set_slots, slots_of

_OUR_FRAMES = os.path.dirname(os.path.abspath(__file__)) + os.sep


# --- out of a worker ----------------------------------------------------------------------------


def serialize_task_exception(
    exception: BaseException,
    label: str,
    retry: bool | bytes,
    *,
    actor: bytes | None = None,
    actor_repr: str | None = None,
) -> tuple[bytes, list[pickle.PickleBuffer], bool]:
    """Serialise what a task raised, as a `TaskError`.

    `retry` is the task's `retry_exceptions`: a bool, or the pickled classes worth another attempt.
    Returns the pickle, its out-of-band buffers, and whether the exception is worth another attempt.
    Never raises: what cannot be pickled is carried as text.
    """
    retryable = _is_retryable(exception, retry)
    text = format_traceback(exception)
    # An error that came from a task of this task is not wrapped twice: the handler wants its class.
    cause = exception.cause if isinstance(exception, TaskError) else exception

    def wrap(cause: BaseException) -> TaskError:
        return TaskError(
            label,
            text,
            cause,
            pid=os.getpid(),
            ip="127.0.0.1",
            actor_repr=actor_repr,
            actor_id=None if actor is None else actor.hex(),
        )

    by_state = (lambda: wrap(_ByState(cause)), lambda: wrap(cause))
    data, buffers = _dump_first(
        [
            *(reversed(by_state) if _pickles_itself(type(cause)) else by_state),
            lambda: wrap(_as_builtin(cause, text)),
            lambda: wrap(exceptions.UnserializableException(text)),
        ]
    )
    return data, buffers, retryable


def _dump_first(
    candidates: Sequence[Callable[[], TaskError]],
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle the first candidate that can be pickled and read back."""
    for make in candidates:
        try:
            data, buffers = _serialization.dumps(make())
            _serialization.loads(data, buffers)
        except Exception:
            continue
        return data, buffers
    raise AssertionError("an error made of text alone can always be pickled")


class _ByState(Exception):
    """Pickles as an exception's class and state, and unpickles as that exception.

    Python pickles an exception as a call of its class with `args`: that fails for every class whose
    constructor takes something else, and loses what is in slots.
    """

    def __init__(self, exception: BaseException) -> None:
        super().__init__()
        self.exception = exception

    def __reduce__(self) -> tuple[Any, ...]:
        exception = self.exception
        state = dict(getattr(exception, "__dict__", {}))
        return _rebuild_exception, (type(exception), exception.args, state, slots_of(exception))


def _rebuild_exception(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], slots: dict[str, Any]
) -> BaseException:
    try:
        exception = cls.__new__(cls, *args)
    except TypeError:
        exception = cls.__new__(cls)
    exception.args = args
    exception.__dict__.update(state)
    set_slots(exception, slots)
    return exception


def _pickles_itself(cls: type) -> bool:
    """Whether a class of the program says how it is pickled."""
    ways = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__")
    return any(way in vars(base) for base in cls.__mro__ if base.__module__ != "builtins" for way in ways)


def _as_builtin(exception: BaseException, text: str) -> BaseException:
    """The nearest exception class of the interpreter with the text of `exception`.

    ``except ValueError`` then still catches an unpicklable class derived from `ValueError`.
    """
    for cls in type(exception).__mro__:
        if cls.__module__ == "builtins" and issubclass(cls, BaseException):
            plain = cls(f"{type(exception).__qualname__}: {exception}")
            plain.__notes__ = [f"{type(exception).__qualname__} could not be pickled:\n{text}"]
            return plain
    raise TypeError("not an exception")


def _is_retryable(exception: BaseException, retry: bool | bytes) -> bool:
    if isinstance(retry, bool):
        return retry and isinstance(exception, Exception)
    classes: tuple[type[BaseException], ...] = pickle.loads(retry)
    cause = exception
    while isinstance(cause, exceptions.UserCodeException) and cause.__cause__ is not None:
        cause = cause.__cause__
    return isinstance(cause, classes)


def format_traceback(exception: BaseException) -> str:
    """The traceback as Python prints it, with the frames of the user alone."""
    trace = traceback.TracebackException.from_exception(exception, capture_locals=False)
    _drop_our_frames(trace, set())
    return "".join(trace.format())


def _drop_our_frames(trace: traceback.TracebackException, seen: set[int]) -> None:
    if id(trace) in seen:
        return
    seen.add(id(trace))
    trace.stack[:] = [frame for frame in trace.stack if not frame.filename.startswith(_OUR_FRAMES)]
    for inner in (trace.__cause__, trace.__context__, *(trace.exceptions or ())):
        if inner is not None:
            _drop_our_frames(inner, seen)


# --- into the process that asks -------------------------------------------------------------------


def raise_task_exception(value: Any) -> NoReturn:
    """Raise the exception that a task ended with, as an instance of the user's class, too."""
    raise to_exception(value)


def to_exception(value: Any) -> BaseException:
    """The exception to raise for a deserialised error value."""
    if isinstance(value, TaskError):
        return value.as_instanceof_cause()
    if isinstance(value, BaseException):
        return value
    return exceptions.ShoalSystemError(f"a task ended with an error that is none: {value!r}")


def from_failure(kind: str, fields: Mapping[str, Any]) -> Exception:
    """The exception for a failure that the core reports.

    `kind` is the name of the core's variant, `fields` its fields: ids as bytes or numbers, a death
    as a mapping with `kind` and its fields, or as text.
    """
    try:
        make = _FAILURES[kind]
    except KeyError:
        return exceptions.ShoalSystemError(f"{kind} {dict(fields)}")
    return make(fields)


def _hex(identifier: Any) -> str:
    return identifier.hex() if isinstance(identifier, bytes) else str(identifier)


def describe_death(death: Any) -> str:
    """How a process ended, as the end of a sentence."""
    if not isinstance(death, Mapping):
        return str(death)
    kind = death.get("kind")
    if kind == "Exited":
        return f"exited with code {death.get('code')}"
    if kind == "Signalled":
        return f"was killed by signal {_signal_name(int(death.get('signal', 0)))}"
    if kind == "OutOfMemory":
        return f"was killed to relieve memory pressure: {death.get('detail')}"
    if kind == "Killed":
        return f"was killed: {death.get('reason')}"
    if kind == "NotStarted":
        return f"could not be started: {death.get('reason')}"
    if kind == "NodeDied":
        return f"was lost with its node {death.get('node')}"
    if kind == "GroupRemoved":
        return f"was killed, for its placement group {_hex(death.get('group', ''))} was removed"
    return str(dict(death))


def _signal_name(number: int) -> str:
    import signal

    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _worker_crashed(fields: Mapping[str, Any]) -> Exception:
    death = fields.get("death")
    kind = death.get("kind") if isinstance(death, Mapping) else None
    text = f"The worker that ran this task {describe_death(death)}."
    if kind == "OutOfMemory":
        return exceptions.OutOfMemoryError(
            f"{text} Ask for more memory per task with the `memory` option, or run fewer at once."
        )
    if kind == "NodeDied":
        return exceptions.NodeDiedError(text)
    return exceptions.WorkerCrashedError(
        f"{text} No retry was left; `max_retries` sets how often a task is tried again. Its "
        "output is in the session's logs directory."
    )


def _cancelled(fields: Mapping[str, Any]) -> Exception:
    task = fields.get("task")
    if isinstance(task, bytes):
        from shoal.ids import TaskID

        return exceptions.TaskCancelledError(TaskID(task))
    return exceptions.TaskCancelledError()


_ACTOR_DEATHS = {
    "Exited": "it ended itself with exit_actor",
    "Killed": "it was killed with shoal.kill",
    "OutOfScope": "its last handle went; keep one for as long as the actor is needed",
    "CreatorDied": "the process that created it ended, and it is not detached",
    "Unknown": "the cluster does not know it",
}


def _actor_died(fields: Mapping[str, Any]) -> Exception:
    actor = _hex(fields.get("actor", ""))
    label = fields.get("label") or "actor"
    cause = fields.get("cause")
    if cause is None:
        return exceptions.ActorDiedError(f"The {label} {actor} is dead.", actor)
    if not isinstance(cause, Mapping):
        return exceptions.ActorDiedError(f"The {label} {actor} is dead: {cause}.", actor)
    kind = str(cause.get("kind"))
    if kind == "Constructor":
        error = cause.get("error")
        if isinstance(error, TaskError):
            return exceptions.ActorDiedError(error, actor)
        why = f"its constructor raised {error}"
    elif kind == "ArgumentFailed":
        failure = cause.get("failure") or {}
        inner = from_failure(str(failure.get("kind")), failure)
        why = f"an argument of its constructor has no value: {inner}"
    elif kind == "Process":
        why = f"its process {describe_death(cause.get('death'))}, and no restart was left"
    elif kind == "Unschedulable":
        return exceptions.ActorUnschedulableError(str(cause.get("detail", "")))
    elif kind == "GroupRemoved":
        why = "its placement group was removed"
        return exceptions.ActorPlacementGroupRemoved(f"The {label} {actor} is dead: {why}.", actor)
    else:
        why = _ACTOR_DEATHS.get(kind, kind)
    return exceptions.ActorDiedError(f"The {label} {actor} is dead: {why}.", actor)


def _group_removed(fields: Mapping[str, Any]) -> Exception:
    group = _hex(fields.get("group", ""))
    return exceptions.TaskPlacementGroupRemoved(f"The placement group {group} of this task was removed.")


def _lost(kind: type[exceptions.ObjectLostError], fields: Mapping[str, Any]) -> Exception:
    error = kind(_hex(fields.get("object", "")))
    detail = fields.get("detail")
    if detail:
        error.__dict__["detail"] = str(detail)
    return error


def _owner_died(fields: Mapping[str, Any]) -> Exception:
    text = f"The process that owned it {describe_death(fields.get('death'))}."
    detail = f"{text} {exceptions.OwnerDiedError.reason}"
    return _lost(exceptions.OwnerDiedError, {**fields, "detail": detail})


def _store_full(fields: Mapping[str, Any]) -> Exception:
    return exceptions.ObjectStoreFullError(_with_detail(fields, exceptions.ObjectStoreFullError.default))


def _out_of_disk(fields: Mapping[str, Any]) -> Exception:
    return exceptions.OutOfDiskError(_with_detail(fields, exceptions.OutOfDiskError.default))


def _with_detail(fields: Mapping[str, Any], text: str) -> str:
    detail = fields.get("detail")
    return f"{text} ({detail})" if detail else text


_FAILURES: dict[str, Callable[[Mapping[str, Any]], Exception]] = {
    "WorkerCrashed": _worker_crashed,
    "Cancelled": _cancelled,
    "ActorDied": _actor_died,
    "ActorUnavailable": lambda f: exceptions.ActorUnavailableError(str(f.get("detail", "")), _hex(f.get("actor", ""))),
    "Unschedulable": lambda f: exceptions.TaskUnschedulableError(str(f.get("detail", ""))),
    "ObjectLost": lambda f: _lost(exceptions.ObjectLostError, f),
    "OwnerDied": _owner_died,
    "StoreFull": _store_full,
    "OutOfDisk": _out_of_disk,
    "EnvironmentSetup": lambda f: exceptions.RuntimeEnvSetupError(str(f.get("detail", ""))),
    "GroupRemoved": _group_removed,
    "EndOfStream": lambda f: exceptions.ObjectRefStreamEndOfStreamError(),
    "Freed": lambda f: _lost(exceptions.ObjectFreedError, f),
}

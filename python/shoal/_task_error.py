"""`TaskError`: an exception of the user's code, carried to the processes that asked for the result.

It is raised as an instance of two classes: `TaskError`, and the class of the user's exception with
its arguments and attributes, so that handlers written for the local case work unchanged.
"""

from __future__ import annotations

import sys
import types
from typing import Any

# Descriptors that hold nothing of what went wrong, or that are looked after separately.
_NO_STATE = frozenset({"__dict__", "__weakref__", "args"})


class ShoalError(Exception):
    """Base of all errors that Shoal raises on its own account."""


class TaskError(ShoalError):
    """A task or an actor's method raised.

    Attributes:
        function_name: The function or ``Class.method`` that raised.
        traceback_str: The traceback as text, without the frames of Shoal.
        cause: The user's exception.
        pid: The process it was raised in.
        ip: The host it was raised on.
        actor_repr: How the actor prints, or None for a task.
    """

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(function_name, traceback_str, cause)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or f"shoal::{function_name}"
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self._actor_id = actor_id

    def _fields(self) -> tuple[Any, ...]:
        return (
            self.function_name,
            self.traceback_str,
            self.cause,
            self.proctitle,
            self.pid,
            self.ip,
            self.actor_repr,
            self._actor_id,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskError, self._fields()

    def __str__(self) -> str:
        place = ", ".join(
            f"{name}={value}"
            for name, value in (
                ("pid", self.pid),
                ("ip", self.ip),
                ("actor_id", self._actor_id),
                ("repr", self.actor_repr),
            )
            if value is not None
        )
        lines = self.traceback_str.strip().split("\n")
        if lines[0].startswith("Traceback "):
            del lines[0]
        return "\n".join([f"{self.proctitle}() ({place})", *lines])

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of its cause's class, too; itself where that is impossible."""
        cause_class = type(self.cause)
        if issubclass(TaskError, cause_class):
            return self
        try:
            instance: TaskError = _dual_class(cause_class)(self)
            str(instance)
        except Exception as error:
            sys.stderr.write(
                f"shoal: {cause_class.__qualname__} cannot be combined with TaskError ({error}); "
                "it is raised as TaskError alone, with the user's exception as its `cause`.\n"
            )
            return self
        return instance


def _rebuild_dual(*fields: Any) -> TaskError:
    return TaskError(*fields).as_instanceof_cause()


_dual_classes: dict[type, Any] = {}


def _dual_class(cause_class: type) -> Any:
    """The class that derives from `TaskError` and `cause_class`; made once per class."""
    known = _dual_classes.get(cause_class)
    if known is not None:
        return known

    def __new__(cls: type, error: TaskError) -> Any:
        cause: Any = error.cause
        new: Any = cause_class.__new__
        if isinstance(cause, BaseExceptionGroup):
            return new(cls, cause.message, cause.exceptions)
        try:
            # Some classes of the interpreter take their fields here (`OSError`).
            return new(cls, *cause.args)
        except TypeError:
            return Exception.__new__(cls)

    def __init__(self: Any, error: TaskError) -> None:
        cause = error.cause
        _copy_state(cause, self)
        BaseException.__setattr__(self, "args", cause.args)
        # Last, so that the fields of TaskError win over attributes of the same name.
        self.__dict__.update(error.__dict__)

    def __getattr__(self: Any, name: str) -> Any:
        # What neither class nor copied state has may be computed by the user's exception.
        if name.startswith("__") or name == "cause":
            raise AttributeError(name)
        return getattr(self.cause, name)

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return _rebuild_dual, TaskError._fields(self)

    name = f"TaskError({cause_class.__name__})"
    members = {
        "__new__": __new__,
        "__init__": __init__,
        "__getattr__": __getattr__,
        "__reduce__": __reduce__,
        "__reduce_ex__": lambda self, protocol: __reduce__(self),
        "__str__": TaskError.__str__,
        "__doc__": TaskError.__doc__,
        "__module__": "shoal.exceptions",
        "__qualname__": name,
    }
    dual = types.new_class(name, (TaskError, cause_class), {}, lambda body: body.update(members))
    _dual_classes[cause_class] = dual
    return dual


def _copy_state(source: BaseException, target: BaseException) -> None:
    """Give `target` the attributes of `source`."""
    set_slots(target, slots_of(source))
    target.__dict__.update(getattr(source, "__dict__", {}))


def slots_of(exception: BaseException) -> dict[str, Any]:
    """The attributes that `exception` keeps outside of its dictionary, such as `OSError.errno`."""
    found: dict[str, Any] = {}
    for cls in type(exception).__mro__:
        if cls is BaseException or cls is object:
            continue
        for name, member in vars(cls).items():
            if not isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
                continue
            if name in _NO_STATE or name in found:
                continue
            try:
                found[name] = getattr(exception, name)
            except (AttributeError, TypeError):
                continue
    return found


def set_slots(exception: BaseException, slots: dict[str, Any]) -> None:
    """Set what `slots_of` has found, as far as it can be set."""
    for name, value in slots.items():
        try:
            setattr(exception, name, value)
        except (AttributeError, TypeError):
            continue

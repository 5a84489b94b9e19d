"""`put`, `get`, `wait` and `cancel`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar, overload

from shoal import _session, _shoal
from shoal._shoal import ObjectRef
from shoal.object_ref_generator import ObjectRefGenerator

__all__ = ["cancel", "get", "put", "wait"]

T = TypeVar("T")
Waitable = TypeVar("Waitable", bound=ObjectRef[Any] | ObjectRefGenerator[Any])


def put(value: T, *, _tensor_transport: str | None = None, _owner: Any = None) -> ObjectRef[T]:
    """Store a value in the object store; it lives as long as a reference to it.

    Arrays and Arrow tables are copied once, into shared memory, and read from there in place.

    Args:
        value: Anything that can be pickled, but no reference: put it into a list if it must be.

    Raises:
        TypeError: `value` is a reference, or cannot be pickled.
        ObjectStoreFullError: there is no room, and nothing can be moved to disk.

    Example:
        >>> import shoal
        >>> ref = shoal.put([1, 2, 3])
        >>> shoal.get(ref)
        [1, 2, 3]
    """
    if _session.current is None:
        _session.require()
    if isinstance(value, ObjectRef | ObjectRefGenerator):
        raise TypeError("put() takes a value, not a reference: get() the value first, or put the reference into a list")
    if _owner is not None:
        raise ValueError("put() has no _owner: the process that puts a value owns it")
    if _tensor_transport is not None:
        raise NotImplementedError("_tensor_transport is not supported yet")
    return _shoal.put(value)


@overload
def get(object_refs: ObjectRef[T], *, timeout: float | None = None, _use_object_store: bool = False) -> T: ...
@overload
def get(
    object_refs: Sequence[ObjectRef[T]],
    *,
    timeout: float | None = None,
    _use_object_store: bool = False,
) -> list[T]: ...
@overload
def get(
    object_refs: ObjectRefGenerator[T],
    *,
    timeout: float | None = None,
    _use_object_store: bool = False,
) -> ObjectRefGenerator[T]: ...
def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """The value of a reference, or a list of the values of a list of references, in its order.

    Waits until the values are there. Arrays are views of shared memory and read-only; copy what
    is to be changed.

    Args:
        object_refs: A reference or a list of references.
        timeout: Seconds to wait at most; 0 takes only what is there. None waits for ever.

    Raises:
        GetTimeoutError: a value was not there in time. It is also a TimeoutError.
        TaskError: the task raised; the error is also an instance of the exception's own class.
            Of several errors, the first one to be found.
        ShoalError: another of `shoal.exceptions`, if the runtime could not produce a value.
        ValueError: `object_refs` is neither a reference nor a list of them.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... def square(x):
        ...     return x * x
        >>> shoal.get([square.remote(2), square.remote(3)])
        [4, 9]
    """
    if timeout is not None and timeout < 0:
        if timeout != -1:
            raise ValueError(f"a timeout is a number of seconds from 0 on, not {timeout}")
        timeout = None
    if _runs_event_loop:
        _warn_of_blocking()
    if isinstance(object_refs, ObjectRef):
        return _get_one(object_refs, timeout)
    if isinstance(object_refs, list):
        if _session.current is None:
            _session.require()
        if set(map(type, object_refs)) - {ObjectRef}:
            wrong = next(thing for thing in object_refs if not isinstance(thing, ObjectRef))
            raise ValueError(f"get() takes a reference or a list of references, but the list has {wrong!r}")
        return _shoal.get(object_refs, timeout)
    if isinstance(object_refs, ObjectRefGenerator):
        return object_refs
    raise ValueError(
        f"get() takes a reference or a list of references, not {type(object_refs).__name__} {object_refs!r}"
    )


# Looked up once: `get` of a small value is a matter of a microsecond.
_get_one = _shoal.get_one

_runs_event_loop = False
"""Whether this process is an asynchronous actor that has not been warned yet."""


def warn_of_blocking() -> None:
    """Have the first `get` that holds up the event loop of this process warn. For its executor."""
    global _runs_event_loop
    _runs_event_loop = True


def _warn_of_blocking() -> None:
    global _runs_event_loop
    if sys.modules["asyncio"]._get_running_loop() is None:
        return
    _runs_event_loop = False
    warnings.warn(
        "get() blocks the event loop of this asynchronous actor, and with it all its calls; use "
        "`await ref`, or `await asyncio.gather(*refs)`",
        stacklevel=3,
    )


def wait(
    object_refs: list[Waitable],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[Waitable], list[Waitable]]:
    """Wait until some of the references are ready, and split them into ready ones and others.

    An error counts as ready. A generator is ready when its next item is.

    Args:
        object_refs: References and generators, each once.
        num_returns: Return when this many are ready; at most this many are returned as ready.
        timeout: Seconds to wait at most; 0 only looks. None waits for ever.
        fetch_local: Whether ready means that the value is in this node's memory.

    Returns:
        The ready ones and the others, both in the order of `object_refs`.

    Raises:
        TypeError: `object_refs` is no list, or has something else in it.
        ValueError: something is in it twice, or a number is out of range.

    Example:
        >>> import shoal
        >>> refs = [shoal.put(i) for i in range(3)]
        >>> ready, others = shoal.wait(refs, num_returns=2)
        >>> len(ready), len(others)
        (2, 1)
    """
    if isinstance(object_refs, ObjectRef | ObjectRefGenerator) or not isinstance(object_refs, list):
        raise TypeError(f"wait() takes a list of references, not {type(object_refs).__name__}")
    if not isinstance(num_returns, int):
        raise TypeError(f"num_returns is a whole number, not {num_returns!r}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"a timeout is a number of seconds from 0 on, not {timeout}")
    if not object_refs:
        return [], []
    if num_returns < 1:
        raise ValueError(f"num_returns is {num_returns}, but must be at least 1")
    if _session.current is None:
        _session.require()
    split = _shoal.wait_refs(object_refs, num_returns, timeout, fetch_local)
    if split is not None:
        return split
    waited_for = [_to_core(thing) for thing in object_refs]
    if len(set(object_refs)) != len(object_refs):
        raise ValueError("wait() takes a list of references that are all different")
    if not 1 <= num_returns <= len(object_refs):
        raise ValueError(
            f"num_returns is {num_returns}, but must be from 1 to the number of references, {len(object_refs)}"
        )
    ready, others = _shoal.wait(waited_for, num_returns, timeout, fetch_local)
    return [object_refs[index] for index in ready], [object_refs[index] for index in others]


def _to_core(thing: Any) -> Any:
    if isinstance(thing, ObjectRef):
        return thing
    if isinstance(thing, ObjectRefGenerator):
        return thing._stream
    raise TypeError(f"wait() takes a list of references, but the list has {thing!r}")


def cancel(ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that makes a value. Nothing happens if it has ended.

    A task that has not started never will. In one that runs, KeyboardInterrupt is raised; an
    asynchronous method of an actor gets asyncio.CancelledError, and another method can only ask
    `get_runtime_context().is_canceled()`. Whoever gets the value, gets `TaskCancelledError`.

    Args:
        ref: A reference that the task's submission returned.
        force: End the worker process instead; not possible for methods of actors.
        recursive: Cancel the tasks that the task has submitted, too.

    Raises:
        TypeError: `ref` is no reference.
        ValueError: `force` was given for a method of an actor.

    Example:
        >>> import shoal, time
        >>> @shoal.remote
        ... def sleep():
        ...     time.sleep(1000)
        >>> ref = sleep.remote()
        >>> shoal.cancel(ref)
        >>> try:
        ...     shoal.get(ref)
        ... except shoal.exceptions.TaskCancelledError:
        ...     print("cancelled")
        cancelled
    """
    if _session.current is None:
        _session.require()
    if isinstance(ref, ObjectRefGenerator):
        _shoal.cancel(ref._stream, force, recursive)
    elif isinstance(ref, ObjectRef):
        _shoal.cancel(ref, force, recursive)
    else:
        raise TypeError(f"cancel() takes a reference, not {ref!r}")

"""The consumer's end of a task that yields."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from shoal import _async

if TYPE_CHECKING:
    from shoal._shoal import ObjectRef, Stream

__all__ = ["DynamicObjectRefGenerator", "ObjectRefGenerator"]

T_co = TypeVar("T_co", covariant=True)


class ObjectRefGenerator(Generic[T_co]):
    """Yields a reference for each item that a remote generator yields, as soon as it is there.

    Works with ``for`` and ``async for``. An exception of the generator arrives as the last
    reference, whose `get` raises it. Not to be used by two threads at once, and not to be sent to
    another process: send the references.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... def count(n):
        ...     for i in range(n):
        ...         yield i
        >>> [shoal.get(ref) for ref in count.remote(3)]
        [0, 1, 2]
    """

    __slots__ = ("__weakref__", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        ref = self._stream.next()
        if ref is None:
            raise StopIteration
        return ref

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        if not self._stream.is_next_ready():
            await _async.wait_for(self._stream.on_next_ready)
        ref = self._stream.next()
        if ref is None:
            raise StopAsyncIteration
        return ref

    def completed(self) -> ObjectRef[Any]:
        """A reference that is ready when the generator has ended; its `get` raises if it failed."""
        return self._stream.completed()

    def next_ready(self) -> bool:
        """Whether the next item, or the end, is there."""
        return self._stream.is_next_ready()

    def is_finished(self) -> bool:
        """Whether the generator has ended and all its items were taken."""
        return self._stream.is_finished()

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T_co]:
        """Like `next`, but gives up after `timeout_s` seconds with GetTimeoutError."""
        ref = self._stream.next(timeout_s)
        if ref is None:
            raise StopIteration
        return ref

    def send(self, value: Any) -> NoReturn:
        """Not possible: the generator runs in another process."""
        raise NotImplementedError("nothing can be sent into a remote generator")

    def throw(self, error: Any, *rest: Any) -> NoReturn:
        """Not possible: the generator runs in another process."""
        raise NotImplementedError("nothing can be thrown into a remote generator; cancel it instead")

    def close(self) -> NoReturn:
        """Not possible: the generator runs in another process."""
        raise NotImplementedError("a remote generator cannot be closed; cancel it instead")

    async def asend(self, value: Any) -> NoReturn:
        """Not possible: the generator runs in another process."""
        self.send(value)

    async def athrow(self, error: Any, *rest: Any) -> NoReturn:
        """Not possible: the generator runs in another process."""
        self.throw(error)

    async def aclose(self) -> NoReturn:
        """Not possible: the generator runs in another process."""
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator cannot be pickled or passed to a task; pass the references that it yields"
        )

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.completed().hex()})"


DynamicObjectRefGenerator = ObjectRefGenerator


class Submitter(Protocol):
    """What `_shoal.Function` is to `RemoteFunction`."""

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any: ...


class StreamingSubmitter:
    """Wraps the stream that a submission returns, so that other submissions need not ask."""

    __slots__ = ("_submit",)

    def __init__(self, submit: Callable[..., Stream]) -> None:
        self._submit = submit

    def submit(self, *arguments: Any) -> ObjectRefGenerator[Any]:
        """Submit, and return the generator."""
        return ObjectRefGenerator(self._submit(*arguments))

"""Go through results in the order in which they are ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from shoal import _objects

if TYPE_CHECKING:
    from shoal._shoal import ObjectRef
    from shoal.actor import ActorMethod
    from shoal.remote_function import RemoteFunction

__all__ = ["as_completed", "map_unordered"]

T = TypeVar("T")


@overload
def as_completed(
    refs: Sequence[ObjectRef[T]], *, chunk_size: int = 10, yield_obj_refs: Literal[False] = False
) -> Iterator[T]: ...
@overload
def as_completed(
    refs: Sequence[ObjectRef[T]], *, chunk_size: int = 10, yield_obj_refs: Literal[True]
) -> Iterator[ObjectRef[T]]: ...
def as_completed(
    refs: Sequence[ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """Yield values as they become ready.

    Args:
        refs: References, each once.
        chunk_size: How many values are fetched together once the first is ready.
        yield_obj_refs: Yield the references of ready values instead.

    Example:
        >>> import shoal
        >>> refs = [shoal.put(i) for i in range(4)]
        >>> sorted(shoal.util.as_completed(refs))
        [0, 1, 2, 3]
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is a whole number from 1 on, not {chunk_size}")
    pending = list(refs)
    while pending:
        # Whatever else is ready comes along for the price of one wait.
        ready, pending = _objects.wait(pending, num_returns=1)
        more = min(chunk_size - 1, len(pending))
        if more:
            others, pending = _objects.wait(pending, num_returns=more, timeout=0)
            ready += others
        yield from ready if yield_obj_refs else _objects.get(ready)


def map_unordered(
    fn: RemoteFunction[Any, Any] | ActorMethod[Any, Any],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """Call a remote function with each item and yield results as they become ready.

    Args:
        fn: A remote function, or a method of an actor.
        items: Its arguments, taken as they are needed.
        backpressure_size: How many calls may be unfinished; None is no limit.
        chunk_size: How many values are fetched together once the first is ready.
        yield_obj_refs: Yield references instead of values.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... def square(x):
        ...     return x * x
        >>> sorted(shoal.util.map_unordered(square, range(4)))
        [0, 1, 4, 9]
    """
    limit = float("inf") if backpressure_size is None else backpressure_size
    if limit < chunk_size:
        raise ValueError(f"backpressure_size must be at least chunk_size, {chunk_size}")
    pending: list[ObjectRef[Any]] = []
    for item in items:
        pending.append(fn.remote(item))
        if len(pending) >= limit:
            ready, pending = _objects.wait(pending, num_returns=min(chunk_size, len(pending)))
            yield from ready if yield_obj_refs else _objects.get(ready)
    if yield_obj_refs:
        yield from as_completed(pending, chunk_size=chunk_size, yield_obj_refs=True)
    else:
        yield from as_completed(pending, chunk_size=chunk_size)

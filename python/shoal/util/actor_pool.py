"""Spread work over a fixed set of actors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shoal import _objects
from shoal.exceptions import GetTimeoutError

if TYPE_CHECKING:
    from shoal._shoal import ObjectRef
    from shoal.actor import ActorHandle

__all__ = ["ActorPool"]

Call = Callable[["ActorHandle[Any]", Any], "ObjectRef[Any]"]


class ActorPool:
    """Gives each piece of work to an actor that is free. Not to be used by several threads.

    Args:
        actors: Handles; none may belong to another pool at the same time.

    Example:
        >>> import shoal
        >>> from shoal.util import ActorPool
        >>> @shoal.remote(num_cpus=0)
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ActorPool([Doubler.remote(), Doubler.remote()])
        >>> list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3, 4]))
        [2, 4, 6, 8]
    """

    def __init__(self, actors: Iterable[ActorHandle[Any]]) -> None:
        self._idle = list(actors)
        # Work that runs: its index in the order of submission, and the actor.
        self._running: dict[ObjectRef[Any], tuple[int, ActorHandle[Any]]] = {}
        self._refs: dict[int, ObjectRef[Any]] = {}
        self._queued: list[tuple[Call, Any]] = []
        self._next_submitted = 0
        self._next_returned = 0

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Call ``fn(actor, value)`` for each value and yield results in the order of the values.

        Unfinished work that was submitted before is waited for and dropped.
        """
        self._drop_unfinished()
        for value in values:
            self.submit(fn, value)
        while self.has_next():
            yield self.get_next()

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Like `map`, but yields results as they become ready."""
        self._drop_unfinished()
        for value in values:
            self.submit(fn, value)
        while self.has_next():
            yield self.get_next_unordered()

    def submit(self, fn: Call, value: Any) -> None:
        """Have ``fn(actor, value)`` called once an actor is free; `fn` returns a reference."""
        if not self._idle:
            self._queued.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        if isinstance(ref, list):
            raise ValueError("the function must return one reference, not a list of them")
        self._running[ref] = (self._next_submitted, actor)
        self._refs[self._next_submitted] = ref
        self._next_submitted += 1

    def has_next(self) -> bool:
        """Whether there is work whose result was not taken."""
        return bool(self._running)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of the oldest work whose result was not taken.

        Args:
            timeout: Seconds to wait at most.
            ignore_if_timedout: Drop the work when the time is up, so that its actor is free.

        Raises:
            StopIteration: there is none.
            TimeoutError: it was not ready in time.
            ValueError: `get_next_unordered` has taken it.
        """
        if not self.has_next():
            raise StopIteration("there are no more results")
        if self._next_returned >= self._next_submitted or self._next_returned not in self._refs:
            raise ValueError("get_next() cannot be used after get_next_unordered()")
        ref = self._refs[self._next_returned]
        timed_out = not _objects.wait([ref], timeout=timeout)[0]
        if timed_out and not ignore_if_timedout:
            raise GetTimeoutError("the next result was not ready in time")
        del self._refs[self._next_returned]
        self._next_returned += 1
        self._free(ref)
        if timed_out:
            raise GetTimeoutError("the next result was not ready in time and was dropped")
        return _objects.get(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of whatever work is ready first. See `get_next`."""
        if not self.has_next():
            raise StopIteration("there are no more results")
        ready, _ = _objects.wait(list(self._running), timeout=timeout)
        if not ready:
            if ignore_if_timedout:
                ref = next(iter(self._running))
                del self._refs[self._running[ref][0]]
                self._free(ref)
            raise GetTimeoutError("no result was ready in time")
        (ref,) = ready
        index = self._running[ref][0]
        del self._refs[index]
        self._next_returned = max(self._next_returned, index + 1)
        self._free(ref)
        return _objects.get(ref)

    def has_free(self) -> bool:
        """Whether an actor is free and no work waits for one."""
        return bool(self._idle) and not self._queued

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Take a free actor out of the pool; None if there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Add an actor; ValueError if it is in the pool."""
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError("the actor is in this pool already")
        self._idle.append(actor)
        self._submit_queued()

    def _free(self, ref: ObjectRef[Any]) -> None:
        _, actor = self._running.pop(ref)
        self._idle.append(actor)
        self._submit_queued()

    def _submit_queued(self) -> None:
        if self._queued and self._idle:
            self.submit(*self._queued.pop(0))

    def _drop_unfinished(self) -> None:
        while self.has_next():
            ready, _ = _objects.wait(list(self._running))
            (ref,) = ready
            del self._refs[self._running[ref][0]]
            self._free(ref)
        self._next_returned = self._next_submitted

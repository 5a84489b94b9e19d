"""A queue that any number of tasks and actors share."""

from __future__ import annotations

import queue as _queue
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from shoal.actor import ActorHandle

__all__ = ["Empty", "Full", "Queue"]

T = TypeVar("T")


class Empty(_queue.Empty):
    """The queue had nothing to give."""


class Full(_queue.Full):
    """The queue had no room."""


class Queue(Generic[T]):
    """First in, first out; lives in an actor and can be passed to tasks.

    Args:
        maxsize: How many items fit; 0 is no limit.
        actor_options: Options of the actor, see `shoal.remote`.

    Example:
        >>> import shoal
        >>> from shoal.util.queue import Queue
        >>> queue = Queue(maxsize=10)
        >>> @shoal.remote
        ... def fill(queue):
        ...     for i in range(3):
        ...         queue.put(i)
        >>> shoal.get(fill.remote(queue))
        >>> [queue.get() for _ in range(3)]
        [0, 1, 2]
        >>> queue.shutdown()
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        from shoal._decorator import remote

        self.maxsize = maxsize
        options = {"num_cpus": 0, **(actor_options or {})}
        self.actor: ActorHandle[Any] = remote(_QueueActor).options(**options).remote(maxsize)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.maxsize, self.actor)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items there are now."""
        return int(_get(self.actor.qsize.remote()))

    def qsize(self) -> int:
        """How many items there are now."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item now."""
        return bool(_get(self.actor.empty.remote()))

    def full(self) -> bool:
        """Whether there is no room now."""
        return bool(_get(self.actor.full.remote()))

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Add an item.

        Args:
            item: Anything that can be pickled.
            block: Wait for room.
            timeout: Seconds to wait at most.

        Raises:
            Full: there was no room in time, or at once without `block`.
            ValueError: `timeout` is negative.
        """
        _get(self.actor.put.remote(item, _patience(block, timeout)))

    async def put_async(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Like `put`, for ``async def``."""
        try:
            await self.actor.put.remote(item, _patience(block, timeout))
        except Full:
            raise Full from None

    def put_nowait(self, item: T) -> None:
        """Add an item at once; Full if there is no room."""
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[T]) -> None:
        """Add all items at once; Full, and none is added, if there is no room for all."""
        if isinstance(items, str | bytes) or not isinstance(items, Iterable):
            raise TypeError(f"put_nowait_batch takes a list of items, not {items!r}")
        _get(self.actor.put_batch.remote(list(items)))

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item.

        Args:
            block: Wait for one.
            timeout: Seconds to wait at most.

        Raises:
            Empty: there was none in time, or at once without `block`.
            ValueError: `timeout` is negative.
        """
        item: T = _get(self.actor.get.remote(_patience(block, timeout)))
        return item

    async def get_async(self, block: bool = True, timeout: float | None = None) -> T:
        """Like `get`, for ``async def``."""
        try:
            item: T = await self.actor.get.remote(_patience(block, timeout))
        except Empty:
            raise Empty from None
        return item

    def get_nowait(self) -> T:
        """Take the oldest item at once; Empty if there is none."""
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[T]:
        """Take this many items at once; Empty, and none is taken, if there are fewer."""
        if not isinstance(num_items, int):
            raise TypeError(f"num_items is a whole number, not {num_items!r}")
        if num_items < 0:
            raise ValueError(f"num_items is a whole number from 0 on, not {num_items}")
        items: list[T] = _get(self.actor.get_batch.remote(num_items))
        return items

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the queue's actor.

        Args:
            force: At once, instead of after the calls that it has got.
            grace_period_s: Seconds to wait for those calls.
        """
        from shoal import _objects
        from shoal.actor import kill

        if self.actor is None:
            return
        if not force:
            ended = self.actor.__shoal_terminate__.remote()
            _objects.wait([ended], timeout=grace_period_s)
        kill(self.actor)
        self.actor = None  # type: ignore[assignment]


def _rebuild(maxsize: int, actor: ActorHandle[Any]) -> Queue[Any]:
    queue: Queue[Any] = Queue.__new__(Queue)
    queue.maxsize, queue.actor = maxsize, actor
    return queue


def _patience(block: bool, timeout: float | None) -> float | None:
    """How long the actor waits: None is for ever."""
    if not block:
        return 0
    if timeout is not None and timeout < 0:
        raise ValueError(f"a timeout is a number of seconds from 0 on, not {timeout}")
    return timeout


def _get(ref: Any) -> Any:
    from shoal import _objects

    try:
        return _objects.get(ref)
    except Empty:
        # What the actor raised is no news to the caller: the plain exception says it all.
        raise Empty from None
    except Full as error:
        raise Full(*error.args) from None


class _QueueActor:
    """Waiting callers cost nothing here: each is a coroutine."""

    def __init__(self, maxsize: int) -> None:
        import asyncio

        self.maxsize = maxsize
        self.queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self.queue.qsize()

    async def empty(self) -> bool:
        return self.queue.empty()

    async def full(self) -> bool:
        return self.queue.full()

    async def put(self, item: Any, patience: float | None) -> None:
        import asyncio

        if patience == 0:
            if self.queue.full():
                raise Full
            self.queue.put_nowait(item)
            return
        try:
            await asyncio.wait_for(self.queue.put(item), patience)
        except TimeoutError:
            raise Full from None

    async def get(self, patience: float | None) -> Any:
        import asyncio

        if patience == 0:
            if self.queue.empty():
                raise Empty
            return self.queue.get_nowait()
        try:
            return await asyncio.wait_for(self.queue.get(), patience)
        except TimeoutError:
            raise Empty from None

    async def put_batch(self, items: list[Any]) -> None:
        if self.maxsize > 0 and self.queue.qsize() + len(items) > self.maxsize:
            raise Full(f"there is no room for {len(items)} items beside {self.queue.qsize()}")
        for item in items:
            self.queue.put_nowait(item)

    async def get_batch(self, count: int) -> list[Any]:
        if count > self.queue.qsize():
            raise Empty(f"there are {self.queue.qsize()} items, not {count}")
        return [self.queue.get_nowait() for _ in range(count)]

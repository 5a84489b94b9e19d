"""Waiting for references without blocking a thread: futures and ``await``.

Everything here is built on ``on_ready(callback)``, which calls back once, at once or later, on any
thread. The callback holds no reference to the value; who waits for it asks for it then, which is
immediate.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from shoal._shoal import ObjectRef

T = TypeVar("T")


def await_ref(ref: ObjectRef[T]) -> Generator[Any, None, T]:
    """What ``await ref`` runs."""
    return _value_of(ref).__await__()


async def _value_of(ref: ObjectRef[T]) -> T:
    from shoal import _shoal

    await wait_for(ref.on_ready)
    return _shoal.get_one(ref, None)


async def wait_for(on_ready: Callable[[Callable[[], None]], None]) -> None:
    """Suspend until `on_ready` calls back. Cancelling the waiting task leaves the value alone."""
    if "asyncio" not in sys.modules or not _in_asyncio():
        await _wait_in_other_loop(on_ready)
        return
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        # A task that was cancelled has finished it before.
        if not future.done():
            future.set_result(None)

    def called_back() -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:
            # The loop was closed while the value was on its way: nobody waits any more.
            return

    on_ready(called_back)
    await future


def _in_asyncio() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _wait_in_other_loop(on_ready: Callable[[Callable[[], None]], None]) -> None:
    """Trio, or an event loop that has trio's interface for threads."""
    trio: Any = sys.modules.get("trio")
    if trio is None:
        raise RuntimeError("await needs a running event loop of asyncio or trio")
    event = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def called_back() -> None:
        try:
            token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            return

    on_ready(called_back)
    await event.wait()


def concurrent_future(ref: ObjectRef[T]) -> concurrent.futures.Future[T]:
    """A future of `concurrent.futures` for the value. Cancelling it leaves the task alone."""
    import concurrent.futures

    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def called_back() -> None:
        from shoal import _shoal

        if not result.set_running_or_notify_cancel():
            return
        try:
            value = _shoal.get_one(ref, None)
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    ref.on_ready(called_back)
    return result


def as_future(ref: ObjectRef[T]) -> Awaitable[T]:
    """A future of the running asyncio loop for the value. Cancelling it leaves the task alone."""
    import asyncio

    return asyncio.ensure_future(_value_of(ref))

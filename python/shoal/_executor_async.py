"""An async actor: its event loop reads the process's sockets itself.

The loop's selector first looks whether calls have come, for a bounded time, and only then sleeps; so
a call that follows another closely costs no wake-up of a thread, and no second thread reads.
"""

from __future__ import annotations

import asyncio
import inspect
import selectors
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from shoal import _executor, _objects, _shoal

_current: ContextVar[_shoal.Assigned | None] = ContextVar("shoal_call", default=None)


class _Selector(selectors.EpollSelector):
    """Waits for the loop's descriptors, and for the process's calls."""

    def __init__(self, start: Callable[[Any], None]) -> None:
        super().__init__()
        self._start = start
        self._pollable = _shoal.pollable()
        self.register(self._pollable, selectors.EVENT_READ, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        idle = timeout is None or timeout > 0
        if self._take(idle):
            timeout = 0
        found = super().select(timeout)
        others = [event for event in found if event[0].fd != self._pollable]
        if len(others) != len(found):
            self._take(False)
        return others

    def _take(self, spin: bool) -> bool:
        tasks = _shoal.poll_tasks(spin)
        for task in tasks:
            self._start(task)
        return bool(tasks)


class _Server:
    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._ended = False

    def start(self, assigned: _shoal.Assigned | None) -> None:
        """A call has come, or the process is to end. Called by the selector, on the loop's thread."""
        if assigned is None:
            if not self._ended:
                self._ended = True
                self.loop.call_soon(self.loop.stop)
            return
        task = self.loop.create_task(self._run(assigned))
        self._tasks[assigned.task_id] = task

    def cancel(self, task_id: bytes) -> None:
        """Cancel a running call; on any thread."""

        def cancel() -> None:
            task = self._tasks.get(task_id)
            if task is not None:
                task.cancel()

        self.loop.call_soon_threadsafe(cancel)

    async def _run(self, assigned: _shoal.Assigned) -> None:
        _current.set(assigned)
        try:
            function, args, kwargs = assigned.prepare()
            result = function(*args, **kwargs)
            if assigned.is_stream:
                await _stream(assigned, result)
                return
            if inspect.isawaitable(result):
                result = await result
        except SystemExit as request:
            self._leave(assigned, request)
        except BaseException as error:
            from shoal.exceptions import AsyncioActorExit

            if isinstance(error, AsyncioActorExit):
                assigned.abandon()
            else:
                assigned.fail(error)
        else:
            assigned.complete(result)
        finally:
            self._tasks.pop(assigned.task_id, None)

    def _leave(self, assigned: _shoal.Assigned, request: SystemExit) -> None:
        from shoal.actor import _ActorExit

        assigned.abandon()
        if not isinstance(request, _ActorExit):
            _shoal.flush()
            sys.exit(request.code)


async def _stream(assigned: _shoal.Assigned, result: Any) -> None:
    if hasattr(result, "__aiter__"):
        async for item in result:
            await _send(assigned, item)
    else:
        for item in result:
            await _send(assigned, item)
    assigned.end_stream()


async def _send(assigned: _shoal.Assigned, item: Any) -> None:
    if assigned.must_wait_after(item):
        # The wait blocks a thread, and must not be the loop's.
        await asyncio.get_running_loop().run_in_executor(None, assigned.wait_for_consumer)


def _make_loop(start: Callable[[Any], None]) -> asyncio.AbstractEventLoop:
    if _shoal.simulated_process() is None:
        return asyncio.SelectorEventLoop(_Selector(start))
    from shoal.sim import _loop

    return _loop.Loop(start)


def serve(construction: _shoal.Construction) -> None:
    """Construct the actor and run its calls until the process is to end."""
    server = _Server()
    loop = _make_loop(server.start)
    server.loop = loop
    asyncio.set_event_loop(loop)
    _shoal.set_asynchronous(_current.get)
    _shoal.on_cancel(server.cancel)
    if _shoal.simulated_process() is None:
        _objects.warn_of_blocking()

    async def construct() -> bool:
        # In the loop, so that the constructor can use it.
        return _executor.construct(construction)

    loop.run_until_complete(construct())
    loop.run_forever()
    _shoal.flush()

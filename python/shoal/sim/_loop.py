"""Event loops whose time is virtual."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import Any

from shoal import _shoal


class _Selector(selectors.DefaultSelector):
    """Waits in the simulation, and for nothing else: descriptors are only looked at."""

    def __init__(self, start: Callable[[Any], None] | None) -> None:
        super().__init__()
        self._start = start

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if self._take() or found or (timeout is not None and timeout <= 0):
            return found
        _shoal.simulated_park(id(self), timeout, self._start is not None)
        self._take()
        return super().select(0)

    def _take(self) -> bool:
        if self._start is None:
            return False
        tasks = _shoal.poll_tasks(False)
        for task in tasks:
            self._start(task)
        return bool(tasks)


class Loop(asyncio.SelectorEventLoop):
    """An event loop of a simulated process. `start` is given the calls of an asynchronous actor."""

    def __init__(self, start: Callable[[Any], None] | None = None) -> None:
        self._waits = _Selector(start)
        super().__init__(self._waits)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As any event loop's."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        _shoal.simulated_unpark(id(self._waits))
        return handle


class Policy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops for simulated threads, and for others what was made before."""

    def __init__(self, before: asyncio.AbstractEventLoopPolicy) -> None:
        super().__init__()
        self._before = before

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop for this thread."""
        return self._before.new_event_loop() if _shoal.simulated_process() is None else Loop()

"""What the simulation puts in the place of the interpreter's clocks, threads, locks and chance.

Everything is put in its place when a simulation begins and taken away when it ends. On a thread that is not
part of a simulation the replacements do what they replace.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from shoal import _executor, _shoal, options
from shoal.sim._errors import ProcessKilled
from shoal.sim._loop import Policy

_allocate_lock = _thread.allocate_lock
_real_sleep = time.sleep
_real_urandom = os.urandom
_real_exit = os._exit
_real_getpid = os.getpid
_real_kill = os.kill
_real_start = threading.Thread.start
_real_join = threading.Thread.join
_real_is_alive = threading.Thread.is_alive

FIRST_PID = 10_000
"""Process ids of simulated workers begin here."""


# --- time -------------------------------------------------------------------------------------------


def _sleep(seconds: float, /) -> None:
    if _shoal.simulated_process() is None:
        _real_sleep(seconds)
        return
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    _shoal.simulated_sleep(float(seconds))


def _clock(name: str, index: int, nanoseconds: bool) -> Callable[[], Any]:
    real: Callable[[], Any] = getattr(time, name)

    def read() -> Any:
        now = _shoal.simulated_time()
        if now is None:
            return real()
        return now[index] if nanoseconds else now[index] / 1e9

    read.__name__ = name
    return read


# --- threads ----------------------------------------------------------------------------------------


class Lock:
    """A lock that lets the simulation go on while a simulated thread waits for it."""

    __slots__ = ("__weakref__", "_real")

    def __init__(self) -> None:
        self._real = _allocate_lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As a lock of the interpreter."""
        if self._real.acquire(False):
            return True
        if not blocking:
            return False
        if _shoal.simulated_process() is None:
            return self._real.acquire(True, timeout)
        if timeout < 0:
            while not self._real.acquire(False):
                _shoal.simulated_park(id(self), None, False)
            return True
        end = time.monotonic() + timeout
        while not self._real.acquire(False):
            left = end - time.monotonic()
            if left <= 0 or not _shoal.simulated_park(id(self), left, False):
                return self._real.acquire(False)
        return True

    def release(self) -> None:
        """As a lock of the interpreter."""
        self._real.release()
        _shoal.simulated_unpark(id(self))

    def locked(self) -> bool:
        """As a lock of the interpreter."""
        return self._real.locked()

    def _at_fork_reinit(self) -> None:
        self._real = _allocate_lock()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *raised: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} simulated lock>"


def _new_lock() -> Any:
    return _allocate_lock() if _shoal.simulated_process() is None else Lock()


def _new_recursive_lock() -> Any:
    if _shoal.simulated_process() is None:
        return _real_recursive_lock()
    lock = threading._PyRLock()  # type: ignore[attr-defined]
    lock._block = Lock()
    return lock


class _Started:
    """An event that is set once, and is waited for in real time."""

    def __init__(self) -> None:
        self._unset = _allocate_lock()
        self._unset.acquire()

    def set(self) -> None:
        self._unset.release()

    def is_set(self) -> bool:
        return not self._unset.locked()

    def wait(self) -> None:
        with self._unset:
            return


def _start(self: threading.Thread) -> None:
    """Start a thread of a simulated process: it runs only when it is its turn."""
    if _shoal.simulated_process() is None:
        _real_start(self)
        return
    member = _shoal.SimulatedThread(self.name)
    run = self.run
    self._shoal_ended = False  # type: ignore[attr-defined]

    def simulated_run() -> None:
        try:
            member.begin()
            run()
        except ProcessKilled:
            pass
        finally:
            self._shoal_ended = True  # type: ignore[attr-defined]
            _shoal.simulated_unpark(id(self))
            member.end()

    self.run = simulated_run  # type: ignore[method-assign]
    # The interpreter does not wait for it at its end: it is the simulation that ends its threads.
    self._daemonic = True  # type: ignore[attr-defined]
    # How a thread comes up is a matter of the interpreter, and takes no turn.
    self._started = _Started()  # type: ignore[attr-defined]
    _real_start(self)


def _is_alive(self: threading.Thread) -> bool:
    ended = getattr(self, "_shoal_ended", None)
    return _real_is_alive(self) if ended is None else not ended


def _join(self: threading.Thread, timeout: float | None = None) -> None:
    if getattr(self, "_shoal_ended", None) is None or _shoal.simulated_process() is None:
        _real_join(self, timeout)
        return
    end = None if timeout is None else time.monotonic() + timeout
    while not self._shoal_ended:  # type: ignore[attr-defined]
        left = None if end is None else max(0.0, end - time.monotonic())
        if not _shoal.simulated_park(id(self), left, False):
            return


# --- processes --------------------------------------------------------------------------------------


def pid_of(process: int) -> int:
    """The process id that a simulated worker has."""
    # Node and number; the first 16 bits of either are enough for any simulation.
    return FIRST_PID + ((process >> 32) << 16) + (process & 0xFFFF)


def _getpid() -> int:
    process = _shoal.simulated_process()
    return _real_getpid() if process is None or process == driver else pid_of(process)


def _exit(status: int) -> None:
    process = _shoal.simulated_process()
    if process is None or process == driver:
        _real_exit(status)
    _shoal.simulated_exit(status)


def _kill(pid: int, number: int, /) -> None:
    process = _shoal.simulated_process()
    if process is None or process == driver or pid != _getpid():
        _real_kill(pid, number)
        return
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT):
        simulation.kill_process(process)
        _shoal.simulated_sleep(0.0)


# --- chance -----------------------------------------------------------------------------------------

_states: dict[int, Any] = {}
_shown: int | None = None
_bytes: dict[int, random.Random] = {}
seed = 0
driver = 0
simulation: Any = None


def switch(process: int) -> None:
    """Give a process what it has of the interpreter: its own chance, and where what it submits runs."""
    global _shown
    if _shown is not None:
        _states[_shown] = (random.getstate(), options.captured_group)
    _shown = process
    group = None
    if process in _states:
        state, group = _states[process]
        random.setstate(state)
    else:
        random.seed(f"{seed} {process}")
    _executor.use_group(group)


def _urandom(size: int, /) -> bytes:
    process = _shoal.simulated_process()
    if process is None:
        return _real_urandom(size)
    source = _bytes.get(process)
    if source is None:
        source = _bytes[process] = random.Random(f"urandom {seed} {process}")
    return source.randbytes(size)


# --- putting it there -------------------------------------------------------------------------------

_real_recursive_lock = threading.RLock
_before: list[tuple[Any, str, Any]] = []
_policy: Any = None
_random: Any = None


def begin(of: int) -> None:
    """Note the state that is to be there again at the end."""
    global seed, _random, _shown
    seed = of
    _random = random.getstate()
    _states.clear()
    _bytes.clear()
    _shown = None


def install() -> None:
    """Put everything in its place."""
    global _policy
    _put(time, "sleep", _sleep)
    for name, index in (("time", 1), ("monotonic", 0), ("perf_counter", 0)):
        _put(time, name, _clock(name, index, False))
        _put(time, f"{name}_ns", _clock(f"{name}_ns", index, True))
    _put(threading, "_time", time.monotonic)
    _put(threading, "Lock", _new_lock)
    _put(threading, "RLock", _new_recursive_lock)
    _put(threading, "_allocate_lock", _new_lock)
    _put(threading.Thread, "start", _start)
    _put(threading.Thread, "join", _join)
    _put(threading.Thread, "is_alive", _is_alive)
    _put(queue, "SimpleQueue", queue._PySimpleQueue)  # type: ignore[attr-defined]
    _put(queue, "time", time.monotonic)
    _put(os, "urandom", _urandom)
    _put(os, "_exit", _exit)
    _put(os, "getpid", _getpid)
    _put(os, "kill", _kill)
    _policy = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy(_policy))


def remove() -> None:
    """Take everything away again."""
    while _before:
        thing, name, value = _before.pop()
        setattr(thing, name, value)
    if _policy is not None:
        asyncio.set_event_loop_policy(_policy)
    random.setstate(_random)
    _executor.use_group(None)
    _states.clear()
    _bytes.clear()


def _put(thing: Any, name: str, value: Any) -> None:
    _before.append((thing, name, getattr(thing, name)))
    setattr(thing, name, value)

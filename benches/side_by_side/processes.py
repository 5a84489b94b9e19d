"""Processes of a system under measurement, seen from outside through /proc (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Memory:
    """Memory of one process in megabytes (1e6 bytes)."""

    pid: int
    command: str
    pss: float
    rss: float


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent has gone.

    A daemon that detaches itself, or outlives the process that started it, thus stays visible as a
    descendant: this is what makes "nothing was left behind" a checkable claim.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_orphans(except_pid: int | None) -> None:
    """Collect the exit status of adopted processes that have ended, but not that of `except_pid`."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == except_pid:
            return
        os.waitpid(ended.si_pid, 0)


def descendants(root: int) -> list[int]:
    """Every living process below `root`, without `root` itself."""
    children: dict[int, list[int]] = {}
    for pid, (parent, state) in _table().items():
        if state not in "ZX":
            children.setdefault(parent, []).append(pid)
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _table() -> dict[int, tuple[int, str]]:
    """Parent and state of every process."""
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                # The command in parentheses may itself contain spaces and parentheses.
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            table[int(entry.name)] = (int(parent), state)
    return table


def command(pid: int) -> str:
    """The command line of a process, or its short name where there is none; empty if it has gone."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return line or Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory(pids: Iterable[int]) -> list[Memory]:
    """Proportional and resident set size of each process that still lives."""
    found = []
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = {line.split(":")[0]: line.split()[1] for line in rollup.splitlines()[1:]}
        found.append(
            Memory(pid, command(pid), int(sizes["Pss"]) * 1024 / _MEGABYTE, int(sizes["Rss"]) * 1024 / _MEGABYTE)
        )
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """Processor time that the threads of these processes have used so far, to the nanosecond."""
    nanoseconds = 0
    for pid in pids:
        try:
            for thread in os.scandir(f"/proc/{pid}/task"):
                nanoseconds += int(Path(thread.path, "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return nanoseconds / 1e9


def wait_until_gone(at_most: float) -> tuple[float, list[str]]:
    """Wait until no descendant lives.

    Returns the seconds that took and the commands of those that still live after `at_most` seconds.
    """
    begin = time.monotonic()
    while (left := descendants(os.getpid())) and time.monotonic() - begin < at_most:
        time.sleep(0.05)
        reap_orphans(except_pid=None)
    return time.monotonic() - begin, [command(pid) for pid in left]


def kill_descendants() -> None:
    """End every descendant, those that appear meanwhile included."""
    while left := descendants(os.getpid()):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
        reap_orphans(except_pid=None)
    reap_orphans(except_pid=None)

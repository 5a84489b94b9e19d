"""The same work on Shoal: a task for each file, an actor that merges, and a worker that dies on the way."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from identifiers import identifiers
from progress import Progress

import shoal

KILL_AT = 0.05
"""The fraction of the files after which a worker is killed. The large ones come first."""


@dataclass(frozen=True)
class Attempt:
    """A task as it started on a worker; its end is not known yet."""

    path: Path
    pid: int
    started: float


@dataclass(frozen=True)
class Part:
    """What a task found in its file. Times are in seconds since the epoch."""

    attempt: Attempt
    ended: float
    counts: Counter[str]


@dataclass(frozen=True)
class Kill:
    """The end of a worker that had work to do."""

    pid: int
    at: float


@dataclass
class Record:
    """All that the actor has seen."""

    counts: Counter[str] = field(default_factory=Counter)
    started: list[Attempt] = field(default_factory=list)
    parsed: list[tuple[Attempt, float]] = field(default_factory=list)
    merged: list[tuple[Path, float, float]] = field(default_factory=list)
    pid: int = 0

    def lost(self, kill: Kill | None) -> Attempt | None:
        """What the killed worker had begun and did not finish."""
        if kill is None:
            return None
        finished = {attempt for attempt, _ in self.parsed}
        begun = [attempt for attempt in self.started if attempt.pid == kill.pid]
        return begun[-1] if begun and begun[-1] not in finished else None

    def counted(self, path: Path) -> Attempt:
        """The attempt at a file whose result counted."""
        return next(attempt for attempt, _ in self.parsed if attempt.path == path)


class Index:
    """An actor: merges what the tasks find, and knows which worker does what."""

    def __init__(self) -> None:
        self.record = Record(pid=os.getpid())

    @shoal.method
    def start(self, attempt: Attempt) -> None:
        """Note that a worker has begun with a file."""
        self.record.started.append(attempt)

    @shoal.method
    def merge(self, part: Part) -> None:
        """Add what a task has found."""
        started = time.time()
        self.record.counts.update(part.counts)
        self.record.parsed.append((part.attempt, part.ended))
        self.record.merged.append((part.attempt.path, started, time.time()))

    @shoal.method
    def at_work(self) -> list[Attempt]:
        """What each worker has begun and not finished, as far as is known."""
        finished = {attempt for attempt, _ in self.record.parsed}
        latest = {attempt.pid: attempt for attempt in self.record.started}
        # This very process may have run tasks before it became the actor.
        return [attempt for attempt in latest.values() if attempt not in finished and attempt.pid != self.record.pid]

    @shoal.method
    def result(self) -> Record:
        """Everything seen so far."""
        return self.record


@shoal.remote
def parse(path: Path, index: Index) -> Part:
    """A task: count the identifiers of one file."""
    attempt = Attempt(path, os.getpid(), time.time())
    index.start.remote(attempt)
    counts = identifiers(path)
    return Part(attempt, time.time(), counts)


def run(files: list[Path], progress: Progress) -> tuple[Record, Kill | None]:
    """Index the files on the cluster this process has joined, and kill a random worker on the way."""
    index = shoal.actor.typed(shoal.remote(Index).remote())
    pending = [parse.remote(path, index) for path in files]
    merged = []
    kill: Kill | None = None
    while pending:
        ready, pending = shoal.wait(pending, num_returns=len(pending), timeout=0.05)
        # The reference goes to the actor, not the value: that travels from worker to actor directly.
        merged += [index.merge.remote(part) for part in ready]
        progress.show(len(merged))
        if kill is None and len(merged) >= KILL_AT * len(files):
            kill = kill_one(shoal.get(index.at_work.remote()), progress)
    shoal.get(merged)
    return shoal.get(index.result.remote()), kill


def kill_one(at_work: list[Attempt], progress: Progress) -> Kill | None:
    """Kill one of the workers without a word of warning, if one is at work."""
    if not at_work:
        return None
    victim = random.choice(at_work)
    os.kill(victim.pid, signal.SIGKILL)
    progress.say(f"kill -9 {victim.pid}, a worker at work on {victim.path.name}; its tasks are retried")
    return Kill(victim.pid, time.time())

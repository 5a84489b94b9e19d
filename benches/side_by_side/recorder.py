"""How a measured process takes samples and hands them to the process that started it.

Each record is one line of JSON, flushed at once, so that a measurement that hangs or crashes
its process loses nothing that was measured before it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

LOAD = "load average at the start"


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds of warm-up, seconds of one run, and number of runs."""

    warm_up: float = 1.0
    seconds: float = 2.0
    runs: int = 2


class Recorder:
    """Takes the samples of those lines that were asked for and appends them to a file."""

    def __init__(self, output: Path, wanted: Collection[str], effort: Effort) -> None:
        self._file = output.open("a")
        self._wanted = set(wanted)
        self.effort = effort

    def wants(self, name: str) -> bool:
        return name in self._wanted

    def rate(self, name: str, function: Callable[[], object], operations: float = 1, at_least_runs: int = 1) -> None:
        """Measure how often `function` runs in a second, times the `operations` in one call."""
        if not self.wants(name):
            return
        self._write(started=name)
        try:
            self._write(
                name=name, samples=_rates(function, operations, self.effort, max(self.effort.runs, at_least_runs))
            )
        except Exception as error:
            self.failed(name, error)

    def sample(self, name: str, *values: float) -> None:
        """Record values that were measured elsewhere."""
        if self.wants(name):
            self._write(name=name, samples=list(values))

    def started(self, name: str) -> None:
        """Say what is being measured, so that a hang is blamed on the right line."""
        self._write(started=name)

    def failed(self, name: str, error: BaseException) -> None:
        """Record why a line has no value."""
        reason = str(error).strip().splitlines()
        self._write(name=name, error=f"{type(error).__name__}: {reason[0] if reason else ''}")

    def detail(self, name: str, value: object) -> None:
        """Record what explains a value, for the JSON only."""
        self._write(detail=name, value=value)

    def _write(self, **record: object) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def _rates(function: Callable[[], object], operations: float, effort: Effort, runs: int) -> list[float]:
    """One rate per run, by the method of Ray's microbenchmark.

    The warm-up also tells how many calls make up a tenth of a second or so; the clock is read only
    between such steps, because reading it would show in the fastest lines.
    """
    calls = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < effort.warm_up:
        function()
        calls += 1
    step = calls // 10 + 1
    rates = []
    for _ in range(runs):
        calls = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < effort.seconds:
            for _ in range(step):
                function()
            calls += step
        rates.append(operations * calls / (time.perf_counter() - begin))
    return rates


def settle(at_most: float = 8.0, busy_below: float = 0.15) -> float:
    """Wait until the processors are nearly idle, as a cluster that has just started keeps them busy.

    Returns the busy share (0 to 1) of the last half second, whether or not it fell below the mark.
    """
    deadline = time.monotonic() + at_most
    while True:
        busy, total = _processor_ticks()
        time.sleep(0.5)
        busy_now, total_now = _processor_ticks()
        share = (busy_now - busy) / max(1, total_now - total)
        if share < busy_below or time.monotonic() >= deadline:
            return round(share, 3)


def _processor_ticks() -> tuple[int, int]:
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)

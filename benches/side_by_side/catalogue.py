"""Every line of the comparison: its group, unit, target, and the machine's limit beside it.

The names of the call-rate lines are those of Ray's own microbenchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE, BANDWIDTH, SECONDS, MEGABYTES, PERCENT = "1/s", "GB/s", "s", "MB", "%"


@dataclass(frozen=True)
class Target:
    """What Shoal must show on a line; exactly one field is set."""

    times_ray: float | None = None
    of_limit: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        if self.times_ray is not None:
            return f">= {self.times_ray:g}x Ray"
        if self.of_limit is not None:
            return f">= {self.of_limit:g} of limit"
        return f"< {self.below:g}"


@dataclass(frozen=True)
class Line:
    """One measurement, run on both systems."""

    name: str
    group: str
    unit: str
    target: Target | None = None
    limit: str | None = None

    @property
    def more_is_better(self) -> bool:
        return self.unit in (RATE, BANDWIDTH)


CALLS, ASYNC_CALLS, SMALL_VALUES = Target(times_ray=15), Target(times_ray=10), Target(times_ray=50)
COPY = Target(of_limit=0.8)

ROUND_TRIP = "socket round trip, spinning reader"
PIPELINE = "socket, 1000 calls in flight"
COPY_LARGE = "copy 839 MB into a warm shared mapping"
COPY_SMALL = "copy 84 MB into a warm shared mapping, written source"
COPY_WRITTEN = "copy 839 MB into a warm shared mapping, written source"
COPY_MULTI = "copy 84 MB into warm shared mappings, all processors"

LINES = [
    Line("single client get calls", "objects", RATE, SMALL_VALUES),
    Line("single client put calls", "objects", RATE, SMALL_VALUES),
    Line("multi client put calls", "objects", RATE, SMALL_VALUES),
    Line("single client put gigabytes", "objects", BANDWIDTH, COPY, COPY_LARGE),
    Line("single client put gigabytes, written source", "objects", BANDWIDTH, COPY, COPY_WRITTEN),
    Line("multi client put gigabytes", "objects", BANDWIDTH, COPY, COPY_MULTI),
    Line("single client get object containing 10k refs", "objects", RATE, CALLS),
    Line("first puts of a driver", "first puts", BANDWIDTH, COPY, COPY_SMALL),
    Line("first puts of a worker", "first puts", BANDWIDTH, COPY, COPY_SMALL),
    Line("single client tasks and get batch", "tasks", RATE, CALLS),
    Line("single client wait 1k refs", "tasks", RATE, CALLS),
    Line("single client tasks sync", "tasks", RATE, CALLS, ROUND_TRIP),
    Line("single client tasks async", "tasks", RATE, CALLS, PIPELINE),
    Line("multi client tasks async", "tasks", RATE, CALLS, PIPELINE),
    Line("1:1 actor calls sync", "actors", RATE, CALLS, ROUND_TRIP),
    Line("1:1 actor calls async", "actors", RATE, CALLS, PIPELINE),
    Line("1:1 actor calls concurrent", "actors", RATE, CALLS, PIPELINE),
    Line("1:n actor calls async", "actors", RATE, CALLS, PIPELINE),
    Line("n:n actor calls async", "actors", RATE, CALLS, PIPELINE),
    Line("n:n actor calls with arg async", "actors", RATE, CALLS, PIPELINE),
    Line("1:1 async-actor calls sync", "async actors", RATE, ASYNC_CALLS, ROUND_TRIP),
    Line("1:1 async-actor calls async", "async actors", RATE, ASYNC_CALLS, PIPELINE),
    Line("1:1 async-actor calls with args async", "async actors", RATE, ASYNC_CALLS, PIPELINE),
    Line("1:n async-actor calls async", "async actors", RATE, ASYNC_CALLS, PIPELINE),
    Line("n:n async-actor calls async", "async actors", RATE, ASYNC_CALLS, PIPELINE),
    Line("placement group create/removal", "placement groups", RATE, CALLS),
    Line("import", "startup", SECONDS, Target(below=0.1)),
    Line("init", "startup", SECONDS),
    Line("init to first result", "startup", SECONDS, Target(below=0.5)),
    Line("import to first result", "startup", SECONDS),
    Line("20 actors ready", "startup", SECONDS, Target(below=0.5)),
    Line("shutdown", "startup", SECONDS),
    Line("init to first result, default options", "startup with defaults", SECONDS, Target(below=0.5)),
    Line("idle: daemons, PSS", "memory", MEGABYTES, Target(below=60)),
    Line("idle: daemons, RSS", "memory", MEGABYTES),
    Line("idle: daemons, CPU", "memory", PERCENT, Target(below=0.1)),
    Line("idle: one worker, PSS", "memory", MEGABYTES, Target(below=30)),
    Line("idle: one worker, RSS", "memory", MEGABYTES),
    Line("daemons + 20 actors + idle workers, PSS", "memory", MEGABYTES),
    Line("daemons + 20 actors + idle workers, RSS", "memory", MEGABYTES),
    Line("driver, PSS", "memory", MEGABYTES),
    Line("default options, idle: daemons, PSS", "memory with defaults", MEGABYTES, Target(below=60)),
    Line("default options, idle: daemons, RSS", "memory with defaults", MEGABYTES),
    Line("default options, idle: daemons, CPU", "memory with defaults", PERCENT, Target(below=0.1)),
    Line("default options, idle: one worker, PSS", "memory with defaults", MEGABYTES, Target(below=30)),
    Line("default options, idle: one worker, RSS", "memory with defaults", MEGABYTES),
    Line("default options, daemons + 20 actors + idle workers, PSS", "memory with defaults", MEGABYTES),
    Line("default options, daemons + 20 actors + idle workers, RSS", "memory with defaults", MEGABYTES),
    Line("default options, driver, PSS", "memory with defaults", MEGABYTES),
    Line("10,000 refs as arguments of one task", "scale", SECONDS),
    Line("3,000 returns of one task", "scale", SECONDS),
    Line("get of 10,000 objects", "scale", SECONDS),
    Line("queued tasks: submitted", "scale", RATE),
    Line("queued tasks: all done", "scale", RATE),
]

# One sample per process, and a start of a cluster for each: the comparison takes it once per round,
# or once per run where the value hardly varies.
ONCE_PER_RUN = {"memory", "memory with defaults", "scale"}

QUICK = {
    "single client get calls",
    "single client put calls",
    "single client put gigabytes",
    "single client tasks sync",
    "single client tasks async",
    "1:1 actor calls sync",
    "1:1 actor calls async",
    "1:1 async-actor calls sync",
    "1:1 async-actor calls async",
    "import",
    "init",
    "init to first result",
    "import to first result",
    "20 actors ready",
    "shutdown",
}

LIMITS = [
    Line("socket round trip, blocking", "machine limits", RATE),
    Line(ROUND_TRIP, "machine limits", RATE),
    Line(PIPELINE, "machine limits", RATE),
    Line("multiprocessing.Pipe echo", "machine limits", RATE),
    Line("ProcessPoolExecutor sync", "machine limits", RATE),
    Line("ProcessPoolExecutor async", "machine limits", RATE),
    Line(COPY_LARGE, "machine limits", BANDWIDTH),
    Line(COPY_SMALL, "machine limits", BANDWIDTH),
    Line(COPY_WRITTEN, "machine limits", BANDWIDTH),
    Line(COPY_MULTI, "machine limits", BANDWIDTH),
    Line("copy 84 MB into a cold shared mapping", "machine limits", BANDWIDTH),
]

QUICK_LIMITS = {"socket round trip, blocking", ROUND_TRIP, PIPELINE, COPY_LARGE}


def groups(lines: list[Line]) -> dict[str, list[str]]:
    """The names of the given lines by group, in the order of the catalogue."""
    grouped: dict[str, list[str]] = {}
    for line in lines:
        grouped.setdefault(line.group, []).append(line.name)
    return grouped

"""Runs one group of measurements on one system: a process group and a cluster of its own.

The measured process appends records to a file. When it hangs or dies, the line it was at is marked
as failed, whatever it left behind is ended, and the rest of the group runs in a new process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import processes
from adapter import System
from recorder import Effort

CHILD = Path(__file__).with_name("child.py")
SHARED_MEMORY = Path("/dev/shm")


@dataclass
class Outcome:
    """What one group on one system gave."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)
    shutdowns: list[dict[str, object]] = field(default_factory=list)

    def done(self) -> set[str]:
        return set(self.samples) | set(self.errors)


def run_group(
    system: System,
    group: str,
    lines: list[str],
    effort: Effort,
    *,
    options: dict[str, object],
    line_timeout: float,
    shutdown_timeout: float,
    restarts: int = 3,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run `lines` of `group` on `system` and return what came of it.

    `line_timeout` bounds the time without a new record, `shutdown_timeout` the time that the cluster
    may take to disappear once the measured process has ended, both in seconds.
    """
    outcome = Outcome()
    for _ in range(restarts + 1):
        remaining = [line for line in lines if line not in outcome.done()]
        if not remaining:
            return outcome
        at, reason = _run_once(system, group, remaining, effort, options, line_timeout, shutdown_timeout, outcome)
        remaining = [line for line in lines if line not in outcome.done()]
        if remaining:
            # Nothing recorded means that the cluster did not start or a set-up failed.
            failed = at if at in remaining else remaining[0]
            outcome.errors[failed] = reason or "the measured process ended without a value"
            say(f"    {system.name}: {failed}: {outcome.errors[failed]}")
    for line in lines:
        if line not in outcome.done():
            outcome.errors[line] = "not run: the group failed too often"
    return outcome


def _run_once(
    system: System,
    group: str,
    lines: list[str],
    effort: Effort,
    options: dict[str, object],
    line_timeout: float,
    shutdown_timeout: float,
    outcome: Outcome,
) -> tuple[str | None, str | None]:
    """Run one process; returns the line it was at last, and what went wrong."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    records, log = scratch / "records", scratch / "log"
    records.touch()
    shared_before = set(os.listdir(SHARED_MEMORY))
    request = {
        "system": system.name, "group": group, "lines": lines, "records": str(records), "options": options,
        "warm_up": effort.warm_up, "seconds": effort.seconds, "runs": effort.runs,
    }  # fmt: skip
    with log.open("wb") as output:
        child = subprocess.Popen(
            [system.python, CHILD, json.dumps(request)],
            env=system.environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        timed_out = _wait(child, records, line_timeout)
        at = _collect(records, outcome)
        seconds, left = processes.wait_until_gone(shutdown_timeout)
        shared_left = sorted(set(os.listdir(SHARED_MEMORY)) - shared_before)
        outcome.shutdowns.append(
            {"exit": child.returncode, "seconds": round(seconds, 2), "left": left, "shared memory left": shared_left}
        )
        if timed_out:
            return at, f"no progress for {line_timeout:g} s, killed"
        if child.returncode != 0:
            return at, f"exit status {child.returncode}: {_last_line(log)}"
        return at, None
    finally:
        processes.kill_descendants()
        shutil.rmtree(scratch, ignore_errors=True)


def _wait(child: subprocess.Popen[bytes], records: Path, line_timeout: float) -> bool:
    """Wait until the process ends; kill its process group after `line_timeout` without a record.

    Looks four times a second and touches nothing but one file, so as not to disturb what is measured.
    """
    size, progress = 0, time.monotonic()
    while True:
        try:
            child.wait(timeout=0.25)
            return False
        except subprocess.TimeoutExpired:
            processes.reap_orphans(except_pid=child.pid)
        if (now := records.stat().st_size) != size:
            size, progress = now, time.monotonic()
        elif time.monotonic() - progress > line_timeout:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True


def _collect(records: Path, outcome: Outcome) -> str | None:
    """Add the records to the outcome; returns the line that was started last."""
    at = None
    for text in records.read_text().splitlines():
        try:
            record = json.loads(text)
        except json.JSONDecodeError:
            continue  # the process was killed while it wrote its last record
        if "started" in record:
            at = record["started"]
        elif "detail" in record:
            outcome.details[record["detail"]] = record["value"]
        elif "error" in record:
            outcome.errors[record["name"]] = record["error"]
        else:
            outcome.samples.setdefault(record["name"], []).extend(record["samples"])
    return at


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no output"

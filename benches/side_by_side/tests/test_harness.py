"""The harness itself: what it does when a measured system misbehaves, and how it judges.

Run with `python -m pytest benches/side_by_side/tests`.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import catalogue
import processes
import supervisor
from adapter import System
from recorder import Effort, Recorder
from results import Results
from supervisor import Outcome, run_group

PRELUDE = """
import json, os, sys, time, subprocess
request = json.loads(sys.argv[1])
def write(**record):
    with open(request["records"], "a") as file:
        file.write(json.dumps(record) + "\\n")
"""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Runs a program in the place of the measured process; returns the outcome for lines a, b and c."""
    processes.adopt_orphans()

    def run(program: str, line_timeout: float = 30.0) -> Outcome:
        script = tmp_path / "child.py"
        script.write_text(PRELUDE + textwrap.dedent(program))
        monkeypatch.setattr(supervisor, "CHILD", script)
        return run_group(
            System("fake", Path(sys.executable)), "group", ["a", "b", "c"], Effort(), options={},
            line_timeout=line_timeout, shutdown_timeout=0.5, say=lambda _text: None,
        )  # fmt: skip

    return run


def test_a_crash_costs_only_the_line_it_happened_in(measured):
    outcome = measured("""
        for line in request["lines"]:
            write(started=line)
            if line == "b":
                os.abort()
            write(name=line, samples=[1.0])
    """)
    assert outcome.samples == {"a": [1.0], "c": [1.0]}
    assert set(outcome.errors) == {"b"}


def test_a_hang_costs_only_the_line_it_happened_in(measured):
    outcome = measured(
        """
        for line in request["lines"]:
            write(started=line)
            if line == "a":
                time.sleep(600)
            write(name=line, samples=[1.0])
        """,
        line_timeout=1.0,
    )
    assert set(outcome.samples) == {"b", "c"}
    assert "no progress" in outcome.errors["a"]


def test_a_process_that_never_records_fails_every_line(measured):
    outcome = measured("sys.exit('cannot start')")
    assert set(outcome.errors) == {"a", "b", "c"}
    assert "cannot start" in outcome.errors["a"]


def test_a_daemon_that_detached_itself_is_reported_and_ended(measured):
    outcome = measured("""
        detached = "import os, time; os.setsid(); time.sleep(600)"
        if os.fork() == 0:
            subprocess.Popen([sys.executable, "-c", detached])
            os._exit(0)
        os.wait()
        for line in request["lines"]:
            write(name=line, samples=[1.0])
    """)
    (shutdown,) = outcome.shutdowns
    assert any("time.sleep(600)" in command for command in shutdown["left"])
    assert processes.descendants(os.getpid()) == []


def test_memory_of_this_process_is_seen():
    (mine,) = processes.memory([os.getpid()])
    assert 1 < mine.pss <= mine.rss


def test_rates_count_operations(tmp_path):
    calls = []
    record = Recorder(tmp_path / "records", ["line"], Effort(warm_up=0.01, seconds=0.05, runs=3))
    record.rate("line", lambda: calls.append(1), operations=7)
    outcome = Outcome()
    supervisor._collect(tmp_path / "records", outcome)
    assert len(outcome.samples["line"]) == 3
    # Three runs of at least 0.05 s cannot have a rate above all calls, times 7, in 0.05 s.
    assert 0 < max(outcome.samples["line"]) <= 7 * len(calls) / 0.05


def judged(line: catalogue.Line, ray: float, shoal: float, limit: float | None = None) -> Results:
    results = Results(["ray", "shoal"])
    results.add("ray", line.group, 1, Outcome(samples={line.name: [ray]}))
    results.add("shoal", line.group, 1, Outcome(samples={line.name: [shoal]}))
    if line.limit and limit:
        results.add("machine", "machine limits", 1, Outcome(samples={line.limit: [limit]}))
    return results


@pytest.mark.parametrize(
    ("name", "ray", "shoal", "limit", "ratio", "reached"),
    [
        ("single client tasks sync", 500, 7_500, None, 15, True),
        ("single client tasks sync", 500, 7_499, None, 14.998, False),
        ("1:1 async-actor calls sync", 1_000, 10_000, None, 10, True),
        ("single client put gigabytes", 2, 8, 10, 4, True),
        ("single client put gigabytes", 2, 7.9, 10, 3.95, False),
        ("import", 0.6, 0.06, None, 10, True),
        ("import", 0.6, 0.1, None, 6, False),
    ],
)
def test_targets_are_judged_by_their_kind(name, ray, shoal, limit, ratio, reached):
    line = next(line for line in catalogue.LINES if line.name == name)
    results = judged(line, ray, shoal, limit)
    assert results.ratio(line) == pytest.approx(ratio)
    assert results.reached(line) is reached


def test_a_line_that_failed_on_shoal_misses_its_target():
    line = next(line for line in catalogue.LINES if line.name == "single client tasks sync")
    results = judged(line, 500, 50_000)
    assert results.reached(line) is True
    results.add("shoal", line.group, 2, Outcome(errors={line.name: "no progress"}))
    assert results.reached(line) is False


def test_every_line_is_named_once_and_every_limit_exists():
    names = [line.name for line in catalogue.LINES + catalogue.LIMITS]
    assert len(names) == len(set(names))
    limits = {line.name for line in catalogue.LIMITS}
    assert {line.limit for line in catalogue.LINES if line.limit} <= limits
    assert catalogue.QUICK.issubset(line.name for line in catalogue.LINES)
    assert catalogue.QUICK_LIMITS.issubset(limits)

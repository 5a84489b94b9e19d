"""Large counts on one node: arguments of a task, returns of a task, objects in a get, queued tasks.

The shapes are those of Ray's single-node scalability test. The number of queued tasks is set for each
system by itself, because a million take Ray many minutes on a small machine; the rates compare.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from types import ModuleType

from recorder import Recorder

ARGUMENTS, RETURNS, OBJECTS, ELEMENTS = 10_000, 3_000, 10_000, 10_000
SLICE = 10_000


def measure(api: ModuleType, record: Recorder, queued: int) -> None:
    """Take one sample of each line that is wanted; each checks its results."""
    for name, function in {
        "10,000 refs as arguments of one task": _arguments,
        "3,000 returns of one task": _returns,
        "get of 10,000 objects": _get,
    }.items():
        if record.wants(name):
            record.started(name)
            try:
                record.sample(name, function(api))
            except Exception as error:
                record.failed(name, error)
    if record.wants("queued tasks: all done"):
        record.started("queued tasks: all done")
        record.detail("queued tasks", queued)
        _queue(api, record, queued)


def _arguments(api: ModuleType) -> float:
    @api.remote
    def total(*values):
        return sum(values)

    refs = [api.put(i) for i in range(ARGUMENTS)]
    begin = time.perf_counter()
    result = api.get(total.remote(*refs))
    elapsed = time.perf_counter() - begin
    assert result == sum(range(ARGUMENTS)), result
    return elapsed


def _returns(api: ModuleType) -> float:
    @api.remote(num_returns=RETURNS)
    def many():
        return [list(range(ELEMENTS)) for _ in range(RETURNS)]

    expected = list(range(ELEMENTS))
    begin = time.perf_counter()
    refs = many.remote()
    for ref in refs:
        assert api.get(ref) == expected
    elapsed = time.perf_counter() - begin
    assert len(refs) == RETURNS, len(refs)
    return elapsed


def _get(api: ModuleType) -> float:
    expected = list(range(ELEMENTS))
    refs = [api.put(expected) for _ in range(OBJECTS)]
    begin = time.perf_counter()
    values = api.get(refs)
    elapsed = time.perf_counter() - begin
    assert len(values) == OBJECTS and all(value == expected for value in values)
    return elapsed


def _queue(api: ModuleType, record: Recorder, count: int) -> None:
    """Queue `count` tasks behind tasks that hold every processor, then let them run."""

    @api.remote
    def hold(opened):
        # Not a nested get, which would give the processor back.
        while not os.path.exists(opened):
            time.sleep(0.01)

    @api.remote
    def nothing():
        return None

    with tempfile.TemporaryDirectory() as directory:
        opened = Path(directory, "opened")
        holders = [hold.remote(str(opened)) for _ in range(int(api.cluster_resources()["CPU"]))]
        begin = time.perf_counter()
        refs = [nothing.remote() for _ in range(count)]
        submitted = time.perf_counter()
        opened.touch()
        api.get(holders)
        for first in range(0, count, SLICE):
            assert api.get(refs[first : first + SLICE]) == [None] * len(refs[first : first + SLICE])
        done = time.perf_counter()
    record.sample("queued tasks: submitted", count / (submitted - begin))
    record.sample("queued tasks: all done", count / (done - begin))

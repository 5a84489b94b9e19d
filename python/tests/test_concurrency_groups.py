"""Concurrency groups: limits for sets of methods of one actor."""

import asyncio
import threading

import pytest

from harness import Gate, Tally, api

pytestmark = pytest.mark.usefixtures("cluster")


def test_groups_do_not_hold_each_other_up(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote(concurrency_groups={"io": 1, "compute": 1})
    class Worker:
        @api.method(concurrency_group="io")
        def read(self):
            gate.wait()
            return "read"

        @api.method(concurrency_group="compute")
        def compute(self):
            return "computed"

        def plain(self):
            return "plain"

    worker = Worker.remote()
    reading = worker.read.remote()
    assert api.get([worker.compute.remote(), worker.plain.remote()]) == ["computed", "plain"]
    assert api.wait([reading], timeout=0)[0] == []
    gate.open()
    assert api.get(reading) == "read"


def test_each_group_has_its_own_limit(tmp_path):
    gate, present = Gate(tmp_path / "gate"), Tally(tmp_path / "present")

    @api.remote(concurrency_groups={"io": 2})
    class Worker:
        @api.method(concurrency_group="io")
        def read(self):
            present.mark()
            gate.wait()

    worker = Worker.remote()
    references = [worker.read.remote() for _ in range(4)]
    present.wait_for(2)
    api.wait(references, timeout=0.3)
    assert present.count() == 2
    gate.open()
    api.get(references)


def test_a_group_of_one_keeps_the_order():
    @api.remote(concurrency_groups={"serial": 1})
    class Recorder:
        def __init__(self):
            self.seen = []

        @api.method(concurrency_group="serial")
        def record(self, value):
            self.seen.append(value)
            return threading.get_ident()

        @api.method(concurrency_group="serial")
        def report(self):
            return self.seen

    recorder = Recorder.remote()
    threads = api.get([recorder.record.remote(i) for i in range(100)])
    assert len(set(threads)) == 1
    assert api.get(recorder.report.remote()) == list(range(100))


def test_a_call_may_choose_its_group(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote(concurrency_groups={"io": 1, "other": 1})
    class Worker:
        @api.method(concurrency_group="io")
        def block(self):
            gate.wait()

        @api.method(concurrency_group="io")
        def ping(self):
            return "pong"

    worker = Worker.remote()
    blocking = worker.block.remote()
    assert api.get(worker.ping.options(concurrency_group="other").remote()) == "pong"
    gate.open()
    api.get(blocking)


def test_groups_of_an_async_actor(tmp_path):
    @api.remote(concurrency_groups={"io": 2})
    class Worker:
        def __init__(self):
            self.running = {"io": 0, "default": 0}
            self.most = {"io": 0, "default": 0}

        async def run(self, group):
            self.running[group] += 1
            self.most[group] = max(self.most[group], self.running[group])
            await asyncio.sleep(0.01)
            self.running[group] -= 1

        @api.method(concurrency_group="io")
        async def read(self):
            await self.run("io")

        async def work(self):
            await self.run("default")

        async def report(self):
            return self.most

    worker = Worker.remote()
    api.get([call for _ in range(8) for call in (worker.read.remote(), worker.work.remote())])
    most = api.get(worker.report.remote())
    assert most["io"] == 2
    assert most["default"] > 2


def test_the_default_group_keeps_its_own_limit(tmp_path):
    present = Tally(tmp_path / "present")

    @api.remote(max_concurrency=3, concurrency_groups={"io": 1})
    class Worker:
        def meet(self):
            present.mark()
            present.wait_for(3)
            return "met"

    worker = Worker.remote()
    assert api.get([worker.meet.remote() for _ in range(3)]) == ["met"] * 3


def test_groups_belong_to_the_definition():
    @api.remote(concurrency_groups={"io": 1})
    class Worker:
        def work(self):
            pass

    with pytest.raises(ValueError, match="concurrency_groups"):
        Worker.options(concurrency_groups={"io": 2})


@pytest.mark.shoal_only(reason="in Ray the worker of the actor crashes")
def test_an_unknown_group_is_refused():
    @api.remote(concurrency_groups={"io": 1})
    class Worker:
        def work(self):
            return 1

    worker = Worker.remote()
    with pytest.raises(Exception, match="no_such_group"):
        api.get(worker.work.options(concurrency_group="no_such_group").remote())
    assert api.get(worker.work.remote()) == 1

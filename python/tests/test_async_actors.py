"""Actors with coroutine methods, which share one event loop."""

import asyncio
import os
import threading

import pytest

from harness import Gate, Tally, api, exceptions, submodule, wait_until_gone

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_coroutine_method_gives_its_result():
    @api.remote
    class Echo:
        async def echo(self, x, *, times=1):
            await asyncio.sleep(0)
            return x * times

    assert api.get(Echo.remote().echo.remote("a", times=3)) == "aaa"


def test_coroutines_run_side_by_side():
    @api.remote
    class Room:
        def __init__(self):
            self.event = asyncio.Event()

        async def enter(self):
            await self.event.wait()
            return "in"

        async def unlock(self):
            self.event.set()

    room = Room.remote()
    entering = [room.enter.remote() for _ in range(200)]
    api.get(room.unlock.remote())
    assert api.get(entering) == ["in"] * 200


def test_a_thousand_calls_are_the_default_limit():
    @api.remote
    class Meeting:
        def __init__(self):
            self.present = 0
            self.full = asyncio.Event()

        async def meet(self, expected):
            self.present += 1
            if self.present == expected:
                self.full.set()
            await self.full.wait()

    meeting = Meeting.remote()
    api.get([meeting.meet.remote(1000) for _ in range(1000)])


def test_the_limit_is_kept():
    @api.remote(max_concurrency=3)
    class Worker:
        def __init__(self):
            self.running = 0
            self.most = 0

        async def work(self):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.001)
            self.running -= 1
            return self.most

    worker = Worker.remote()
    assert max(api.get([worker.work.remote() for _ in range(60)])) == 3


def test_every_call_runs_once():
    @api.remote
    class Recorder:
        def __init__(self):
            self.seen = []

        async def record(self, value):
            self.seen.append(value)

        async def report(self):
            return self.seen

    recorder = Recorder.remote()
    api.get([recorder.record.remote(i) for i in range(200)])
    assert sorted(api.get(recorder.report.remote())) == list(range(200))


def test_a_method_awaits_references():
    @api.remote
    def double(x):
        return 2 * x

    @api.remote
    class Caller:
        async def call(self, x):
            one = await double.remote(x)
            two, three = await asyncio.gather(double.remote(one), double.remote(one + 1))
            return one, two, three

    assert api.get(Caller.remote().call.remote(1)) == (2, 4, 6)


def test_a_method_awaits_calls_of_its_own_actor():
    @api.remote
    class Reflective:
        async def outer(self):
            me = api.get_runtime_context().current_actor
            return await me.inner.remote() + 1

        async def inner(self):
            return 1

    assert api.get(Reflective.remote().outer.remote()) == 2


def test_arguments_are_resolved():
    @api.remote
    class Echo:
        async def echo(self, value, nested):
            return value, await nested[0]

    assert api.get(Echo.remote().echo.remote(api.put(1), [api.put(2)])) == (1, 2)


def test_plain_methods_run_on_the_loop():
    @api.remote
    class Mixed:
        async def coroutine(self):
            return threading.get_ident()

        def plain(self):
            asyncio.get_running_loop()
            return threading.get_ident()

    mixed = Mixed.remote()
    assert len(set(api.get([mixed.coroutine.remote(), mixed.plain.remote()]))) == 1


def test_the_constructor_may_use_asyncio():
    @api.remote
    class Queued:
        def __init__(self):
            self.queue = asyncio.Queue()

        async def put(self, x):
            await self.queue.put(x)

        async def take(self):
            return await self.queue.get()

    queued = Queued.remote()
    taking = [queued.take.remote() for _ in range(3)]
    for i in range(3):
        queued.put.remote(i)
    assert sorted(api.get(taking)) == [0, 1, 2]


def test_exceptions():
    @api.remote
    class Fails:
        async def fail(self):
            await asyncio.sleep(0)
            raise KeyError("coroutine")

        async def works(self):
            return 1

    fails = Fails.remote()
    with pytest.raises(KeyError, match="coroutine"):
        api.get(fails.fail.remote())
    assert api.get(fails.works.remote()) == 1


def test_an_awaited_error_is_the_users_exception():
    @api.remote
    def fail():
        raise KeyError("task")

    @api.remote
    class Catches:
        async def call(self):
            try:
                await fail.remote()
            except KeyError as error:
                return isinstance(error, exceptions.RayTaskError)

    assert api.get(Catches.remote().call.remote()) is True


def test_background_coroutines_go_on_between_calls():
    @api.remote
    class Clock:
        def __init__(self):
            self.ticks = 0

        async def start(self):
            self.task = asyncio.create_task(self.tick())

        async def tick(self):
            while True:
                self.ticks += 1
                await asyncio.sleep(0.001)

        async def reached(self, ticks):
            while self.ticks < ticks:
                await asyncio.sleep(0.001)
            return True

    clock = Clock.remote()
    api.get(clock.start.remote())
    assert api.get(clock.reached.remote(20))


def test_each_call_knows_its_own_task():
    @api.remote
    class Worker:
        async def task(self):
            before = api.get_runtime_context().get_task_id()
            await asyncio.sleep(0.001)
            assert api.get_runtime_context().get_task_id() == before
            return before

    worker = Worker.remote()
    references = [worker.task.remote() for _ in range(20)]
    assert api.get(references) == [reference.task_id().hex() for reference in references]


def test_wait_without_blocking_the_loop():
    @api.remote
    def give(x):
        return x

    @api.remote
    class Waits:
        async def first(self):
            done, pending = await asyncio.wait([asyncio.ensure_future(as_coroutine(give.remote(i))) for i in range(3)])
            return sorted(task.result() for task in done), len(pending)

    async def as_coroutine(reference):
        return await reference

    assert api.get(Waits.remote().first.remote()) == ([0, 1, 2], 0)


def test_an_async_actor_restarts(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=1, max_task_retries=1)
    class CrashesOnce:
        async def work(self):
            if attempts.mark() == 1:
                os._exit(1)
            return "done"

    assert api.get(CrashesOnce.remote().work.remote()) == "done"


def test_an_async_actor_ends_itself(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    class Leaves:
        async def pid(self):
            return os.getpid()

        async def leave(self):
            submodule("actor").exit_actor()

        async def after(self):
            return gate.is_open()

    leaves = Leaves.remote()
    pid = api.get(leaves.pid.remote())
    with pytest.raises(exceptions.RayActorError):
        api.get(leaves.leave.remote())
    wait_until_gone(pid)
    with pytest.raises(exceptions.RayActorError):
        api.get(leaves.after.remote())


def test_kill_ends_waiting_coroutines():
    @api.remote
    class Waits:
        async def wait(self):
            await asyncio.Event().wait()

        async def ready(self):
            return True

    waits = Waits.remote()
    references = [waits.wait.remote() for _ in range(5)]
    assert api.get(waits.ready.remote())
    api.kill(waits)
    for reference in references:
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)


def test_order_cannot_be_promised():
    @api.remote
    class Worker:
        async def work(self):
            return 1

    with pytest.raises(ValueError):
        Worker.options(allow_out_of_order_execution=False).remote()


def test_large_values():
    @api.remote
    class Echo:
        async def echo(self, data):
            return data

    data = os.urandom(500_000)
    echo = Echo.remote()
    assert api.get([echo.echo.remote(data) for _ in range(4)]) == [data] * 4


def test_a_slow_argument_holds_up_no_other_call(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def late():
        gate.wait()
        return "late"

    @api.remote
    class Echo:
        async def echo(self, x):
            return x

    echo = Echo.remote()
    slow = echo.echo.remote(late.remote())
    assert api.get(echo.echo.remote("early")) == "early"
    gate.open()
    assert api.get(slow) == "late"

"""Actors that run several calls at once, each in a thread."""

import threading

import pytest

from harness import Gate, Tally, api, exceptions

pytestmark = pytest.mark.usefixtures("cluster")


def test_calls_run_side_by_side(tmp_path):
    present = Tally(tmp_path / "present")

    @api.remote(max_concurrency=4)
    class Meeting:
        def meet(self):
            present.mark()
            present.wait_for(4)
            return threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(api.get([meeting.meet.remote() for _ in range(4)]))) == 4


def test_the_limit_is_kept(tmp_path):
    gate, present = Gate(tmp_path / "gate"), Tally(tmp_path / "present")

    @api.remote(max_concurrency=2)
    class Worker:
        def work(self):
            present.mark()
            gate.wait()

    worker = Worker.remote()
    references = [worker.work.remote() for _ in range(5)]
    present.wait_for(2)
    api.wait(references, timeout=0.3)
    assert present.count() == 2
    gate.open()
    api.get(references)
    assert present.count() == 5


def test_one_call_releases_another():
    @api.remote(max_concurrency=2)
    class Room:
        def __init__(self):
            self.event = threading.Event()

        def enter(self):
            assert self.event.wait(60)
            return "in"

        def unlock(self):
            self.event.set()

    room = Room.remote()
    entering = room.enter.remote()
    api.get(room.unlock.remote())
    assert api.get(entering) == "in"


def test_the_limit_may_be_set_at_the_call(tmp_path):
    present = Tally(tmp_path / "present")

    @api.remote
    class Meeting:
        def meet(self):
            present.mark()
            present.wait_for(3)

    meeting = Meeting.options(max_concurrency=3).remote()
    api.get([meeting.meet.remote() for _ in range(3)])


def test_threads_share_the_state():
    @api.remote(max_concurrency=8)
    class Counter:
        def __init__(self):
            self.lock = threading.Lock()
            self.value = 0

        def add(self):
            with self.lock:
                self.value += 1

        def read(self):
            return self.value

    counter = Counter.remote()
    api.get([counter.add.remote() for _ in range(400)])
    assert api.get(counter.read.remote()) == 400


def test_a_slow_argument_holds_up_no_other_call(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def late():
        gate.wait()
        return "late"

    @api.remote(max_concurrency=2)
    class Echo:
        def echo(self, x):
            return x

    echo = Echo.remote()
    slow = echo.echo.remote(late.remote())
    assert api.get(echo.echo.remote("early")) == "early"
    gate.open()
    assert api.get(slow) == "late"


def test_each_call_knows_its_own_task():
    @api.remote(max_concurrency=4)
    class Worker:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def task(self):
            self.barrier.wait(60)
            return api.get_runtime_context().get_task_id()

    worker = Worker.remote()
    references = [worker.task.remote() for _ in range(4)]
    assert api.get(references) == [reference.task_id().hex() for reference in references]


def test_calls_start_tasks_from_their_threads():
    @api.remote
    def double(x):
        return 2 * x

    @api.remote(max_concurrency=4)
    class Caller:
        def call(self, x):
            return sum(api.get([double.remote(x), double.remote(x)]))

    caller = Caller.remote()
    assert api.get([caller.call.remote(i) for i in range(20)]) == [4 * i for i in range(20)]


def test_an_exception_of_one_call_does_not_touch_another(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote(max_concurrency=2)
    class Worker:
        def fail(self):
            raise KeyError("one")

        def work(self):
            gate.wait()
            return "other"

    worker = Worker.remote()
    working = worker.work.remote()
    with pytest.raises(KeyError):
        api.get(worker.fail.remote())
    gate.open()
    assert api.get(working) == "other"


def test_kill_ends_all_calls(tmp_path):
    present = Tally(tmp_path / "present")

    @api.remote(max_concurrency=3)
    class Worker:
        def work(self):
            present.mark()
            Gate(tmp_path / "never").wait()

    worker = Worker.remote()
    references = [worker.work.remote() for _ in range(3)]
    present.wait_for(3)
    api.kill(worker)
    for reference in references:
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)


def test_order_cannot_be_promised():
    @api.remote
    class Worker:
        def work(self):
            return 1

    with pytest.raises(ValueError):
        Worker.options(max_concurrency=2, allow_out_of_order_execution=False).remote()
    worker = Worker.options(allow_out_of_order_execution=True).remote()
    assert api.get([worker.work.remote() for _ in range(10)]) == [1] * 10

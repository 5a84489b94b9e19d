"""`util.queue.Queue`, which tasks and actors share."""

import asyncio

import pytest

from harness import Gate, Tally, api, exceptions, in_threads, submodule

pytestmark = pytest.mark.usefixtures("cluster")


def new_queue(*args, **kwargs):
    return submodule("util.queue").Queue(*args, **kwargs)


def full():
    return submodule("util.queue").Full


def empty():
    return submodule("util.queue").Empty


def test_first_in_first_out():
    queue = new_queue()
    for i in range(5):
        queue.put(i)
    assert [queue.get() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_size():
    queue = new_queue(maxsize=2)
    assert (queue.size(), queue.qsize(), len(queue)) == (0, 0, 0)
    assert queue.empty()
    assert not queue.full()
    queue.put(1)
    queue.put(2)
    assert queue.qsize() == 2
    assert queue.full()
    assert not queue.empty()


def test_errors_without_waiting():
    queue = new_queue(maxsize=1)
    with pytest.raises(empty()):
        queue.get_nowait()
    with pytest.raises(empty()):
        queue.get(block=False)
    queue.put_nowait(1)
    with pytest.raises(full()):
        queue.put_nowait(2)
    with pytest.raises(full()):
        queue.put(2, block=False)
    assert queue.get_nowait() == 1


def test_timeouts():
    queue = new_queue(maxsize=1)
    with pytest.raises(empty()):
        queue.get(timeout=0.05)
    queue.put(1, timeout=5)
    with pytest.raises(full()):
        queue.put(2, timeout=0.05)
    for call in (lambda: queue.get(timeout=-1), lambda: queue.put(1, timeout=-1)):
        with pytest.raises(ValueError):
            call()
    assert queue.get(timeout=5) == 1


def test_the_errors_are_those_of_the_standard_queue():
    import queue

    assert issubclass(empty(), queue.Empty)
    assert issubclass(full(), queue.Full)


def test_batches():
    queue = new_queue(maxsize=4)
    queue.put_nowait_batch([1, 2, 3])
    with pytest.raises(full()):
        queue.put_nowait_batch([4, 5])
    assert queue.get_nowait_batch(2) == [1, 2]
    with pytest.raises(empty()):
        queue.get_nowait_batch(2)
    assert queue.get_nowait_batch(1) == [3]
    with pytest.raises(TypeError):
        queue.put_nowait_batch(5)
    with pytest.raises(TypeError):
        queue.get_nowait_batch("1")
    with pytest.raises(ValueError):
        queue.get_nowait_batch(-1)


def test_a_get_waits_for_a_put(tmp_path):
    queue = new_queue()
    gate = Gate(tmp_path / "gate")

    @api.remote
    def produce(queue):
        gate.wait()
        queue.put("produced")

    produce.remote(queue)
    with pytest.raises(empty()):
        queue.get_nowait()
    gate.open()
    assert queue.get() == "produced"


def test_a_put_waits_for_room(tmp_path):
    queue = new_queue(maxsize=1)
    queue.put(1)
    done = Tally(tmp_path / "done")

    @api.remote
    def produce(queue):
        queue.put(2)
        done.mark()

    reference = produce.remote(queue)
    assert api.wait([reference], timeout=0.3)[0] == []
    assert queue.get() == 1
    assert queue.get() == 2
    api.get(reference)
    assert done.count() == 1


def test_tasks_and_actors_share_a_queue():
    queue = new_queue()

    @api.remote
    def produce(queue, numbers):
        for number in numbers:
            queue.put(number)

    @api.remote
    class Consumer:
        def __init__(self, queue):
            self.queue = queue

        def take(self, count):
            return [self.queue.get() for _ in range(count)]

    consumers = [Consumer.remote(queue) for _ in range(2)]
    taken = [consumer.take.remote(10) for consumer in consumers]
    api.get([produce.remote(queue, range(10)), produce.remote(queue, range(10, 20))])
    one, other = api.get(taken)
    assert sorted(one + other) == list(range(20))


def test_threads_share_a_queue():
    queue = new_queue()
    in_threads(queue.put, 4)
    assert sorted(in_threads(lambda _: queue.get(), 4)) == [0, 1, 2, 3]


def test_coroutines_use_a_queue():
    queue = new_queue(maxsize=1)

    async def produce():
        for i in range(5):
            await queue.put_async(i)

    async def consume():
        return [await queue.get_async() for _ in range(5)]

    async def main():
        with pytest.raises(empty()):
            await queue.get_async(block=False)
        with pytest.raises(empty()):
            await queue.get_async(timeout=0.05)
        return (await asyncio.gather(consume(), produce()))[0]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_values_and_references_in_a_queue():
    queue = new_queue()
    queue.put({"reference": api.put("value"), "data": bytes(300_000)})
    item = queue.get()
    assert api.get(item["reference"]) == "value"
    assert item["data"] == bytes(300_000)


def test_options_of_the_actor():
    queue = new_queue(actor_options={"name": "the queue's actor", "num_cpus": 0})
    queue.put(1)
    assert api.get_actor("the queue's actor") == queue.actor


@pytest.mark.parametrize("force", [False, True])
def test_shutdown(force):
    queue = new_queue()
    queue.put(1)
    actor = queue.actor
    queue.shutdown(force=force)
    assert queue.actor is None
    with pytest.raises(exceptions.RayActorError):
        api.get(actor.qsize.remote())

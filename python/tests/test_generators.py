"""Streaming generators: references that arrive while the task still runs."""

import asyncio
import gc
import os
import pickle

import pytest

from harness import Gate, Tally, api, exceptions, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
def count(n):
    """Yield the numbers below `n`."""
    for i in range(n):  # noqa: UP028, Ray cannot delegate to a range
        yield i


def values(generator):
    return [api.get(reference) for reference in generator]


def test_a_generator_function_streams_references():
    generator = count.remote(5)
    assert isinstance(generator, api.ObjectRefGenerator)
    references = list(generator)
    assert all(isinstance(reference, api.ObjectRef) for reference in references)
    assert api.get(references) == [0, 1, 2, 3, 4]


def test_streaming_may_be_asked_for_by_name():
    assert values(count.options(num_returns="streaming").remote(3)) == [0, 1, 2]

    @api.remote(num_returns="streaming")
    def two():
        yield 1
        yield 2

    assert values(two.remote()) == [1, 2]


def test_an_empty_generator_ends_at_once():
    generator = count.remote(0)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(generator)


def test_the_end_stays_the_end():
    generator = count.remote(1)
    assert api.get(next(generator)) == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(generator)


def test_values_arrive_while_the_task_runs(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def slow():
        yield "early"
        gate.wait()
        yield "late"

    generator = slow.remote()
    assert api.get(next(generator)) == "early"
    assert not gate.is_open()
    gate.open()
    assert api.get(next(generator)) == "late"


@pytest.mark.parametrize("size", [0, 1_000, 200_000, 3_000_000])
def test_values_of_any_size(size):
    @api.remote
    def blocks():
        for i in range(4):
            yield bytes([i]) * size

    assert values(blocks.remote()) == [bytes([i]) * size for i in range(4)]


def test_none_is_a_value():
    @api.remote
    def nothing():
        yield None
        yield None

    assert values(nothing.remote()) == [None, None]


def test_a_long_stream_keeps_its_order():
    assert values(count.remote(2000)) == list(range(2000))


@pytest.mark.shoal_only(reason="Ray calls send on the range and fails")
def test_a_generator_may_delegate_to_any_iterable():
    @api.remote
    def delegate():
        yield from range(3)
        yield from (3, 4)

    assert values(delegate.remote()) == [0, 1, 2, 3, 4]


def test_several_streams_at_once():
    generators = [count.remote(20) for _ in range(6)]
    assert [values(generator) for generator in generators] == [list(range(20))] * 6


def test_a_reference_outlives_its_generator():
    generator = count.remote(3)
    next(generator)
    reference = next(generator)
    del generator
    gc.collect()
    assert api.get(reference) == 1


def test_references_of_a_stream_are_arguments():
    @api.remote
    def double(x):
        return 2 * x

    assert api.get([double.remote(reference) for reference in count.remote(4)]) == [0, 2, 4, 6]


def test_a_task_consumes_a_stream():
    @api.remote
    def total(n):
        return sum(api.get(reference) for reference in count.remote(n))

    assert api.get(total.remote(10)) == 45


def test_a_generator_is_not_an_argument():
    @api.remote
    def f(x):
        pass

    generator = count.remote(1)
    with pytest.raises(TypeError):
        f.remote(generator)
    with pytest.raises(TypeError):
        f.remote([generator])
    with pytest.raises(TypeError):
        pickle.dumps(generator)


def test_get_returns_a_generator_as_it_is():
    generator = count.remote(1)
    assert api.get(generator) is generator


@pytest.mark.parametrize("method", ["send", "throw", "close"])
def test_what_only_plain_generators_can_do(method):
    arguments = {"send": (1,), "throw": (ValueError(),), "close": ()}[method]
    with pytest.raises(NotImplementedError):
        getattr(count.remote(1), method)(*arguments)


# Errors


def test_an_error_is_the_last_reference():
    @api.remote
    def fail_after_two():
        yield 1
        yield 2
        raise ValueError("the third")

    generator = fail_after_two.remote()
    assert [api.get(next(generator)), api.get(next(generator))] == [1, 2]
    last = next(generator)
    with pytest.raises(ValueError, match="the third"):
        api.get(last)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(generator)


def test_an_error_before_the_first_value():
    @api.remote
    def fail_at_once():
        raise ValueError("at once")
        yield

    (only,) = list(fail_at_once.remote())
    with pytest.raises(ValueError, match="at once"):
        api.get(only)


def test_an_error_of_an_argument():
    @api.remote
    def fail():
        raise KeyError("argument")

    (only,) = list(count.remote(fail.remote()))
    with pytest.raises(KeyError):
        api.get(only)


def test_a_value_that_cannot_be_pickled():
    @api.remote
    def lock():
        import threading

        yield 1
        yield threading.Lock()

    first, *_, last = list(lock.remote())
    assert api.get(first) == 1
    with pytest.raises(TypeError, match="pickle"):
        api.get(last)


def test_a_crash_ends_the_stream_with_an_error():
    @api.remote(max_retries=0)
    def crash():
        yield 1
        os._exit(1)

    generator = crash.remote()
    seen = []
    with pytest.raises(exceptions.WorkerCrashedError):
        for reference in generator:
            seen.append(api.get(reference))
    # The first value may be lost with the worker.
    assert seen in ([], [1])


def test_a_crash_is_retried_without_repeating_values(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_retries=2)
    def crash_once():
        attempt = attempts.mark()
        for i in range(6):
            if attempt == 1 and i == 3:
                os._exit(1)
            yield i

    assert values(crash_once.remote()) == [0, 1, 2, 3, 4, 5]
    assert attempts.count() == 2


def test_listed_exceptions_are_retried_without_repeating_values(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_retries=2, retry_exceptions=[ConnectionError])
    def fail_once():
        attempt = attempts.mark()
        for i in range(4):
            if attempt == 1 and i == 2:
                raise ConnectionError
            yield i

    assert values(fail_once.remote()) == [0, 1, 2, 3]
    assert attempts.count() == 2


# Waiting


def test_wait_sees_the_next_value(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def gated():
        yield 1
        gate.wait()
        yield 2

    generator = gated.remote()
    assert api.wait([generator]) == ([generator], [])
    assert api.get(next(generator)) == 1
    assert api.wait([generator], timeout=0) == ([], [generator])
    gate.open()
    assert api.wait([generator]) == ([generator], [])
    assert api.get(next(generator)) == 2


def test_wait_mixes_generators_and_references(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def behind():
        gate.wait()
        yield 1

    generator, reference = behind.remote(), api.put(1)
    assert api.wait([generator, reference]) == ([reference], [generator])
    gate.open()
    assert api.wait([generator, reference], num_returns=2) == ([generator, reference], [])


def test_generators_tell_how_far_they_are(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def gated():
        yield 1
        gate.wait()

    generator = gated.remote()
    wait_until(generator.next_ready, what="the first value")
    assert not generator.is_finished()
    next(generator)
    assert not generator.next_ready()
    gate.open()
    with pytest.raises(StopIteration):
        next(generator)
    assert generator.is_finished()


def test_completed_is_ready_when_the_task_ends(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def gated():
        yield 1
        gate.wait()

    generator = gated.remote()
    completed = generator.completed()
    assert api.wait([completed], timeout=0)[0] == []
    gate.open()
    assert api.wait([completed])[0] == [completed]


def test_completed_carries_the_crash():
    @api.remote(max_retries=0)
    def crash():
        yield 1
        os._exit(1)

    with pytest.raises(exceptions.WorkerCrashedError):
        api.get(crash.remote().completed())


# Backpressure


@pytest.mark.parametrize("limit", [1, 3])
def test_the_producer_waits_for_the_consumer(tmp_path, limit):
    produced = Tally(tmp_path / "produced")

    @api.remote(_generator_backpressure_num_objects=limit)
    def produce(n):
        for i in range(n):
            produced.mark()
            yield i

    generator = produce.remote(10)
    produced.wait_for(limit)
    for consumed in range(10):
        # One more may be in the making while `limit` wait to be taken.
        assert produced.count() <= consumed + limit + 1
        assert api.get(next(generator)) == consumed
    with pytest.raises(StopIteration):
        next(generator)


def test_backpressure_may_be_set_at_the_call(tmp_path):
    produced = Tally(tmp_path / "produced")

    @api.remote
    def produce():
        for i in range(20):
            produced.mark()
            yield i

    generator = produce.options(_generator_backpressure_num_objects=2).remote()
    api.wait([generator])
    assert produced.count() <= 4
    assert values(generator) == list(range(20))


def test_a_held_back_producer_can_be_cancelled():
    @api.remote(_generator_backpressure_num_objects=1)
    def produce():
        i = 0
        while True:
            yield i
            i += 1

    generator = produce.remote()
    assert api.get(next(generator)) == 0
    api.cancel(generator)
    with pytest.raises(exceptions.TaskCancelledError):
        for reference in generator:
            api.get(reference)


def test_an_abandoned_stream_gives_its_memory_back(tmp_path):
    # 40 streams of 20 MB would fill several stores of the size that tests use.
    @api.remote
    def blocks():
        for _ in range(4):
            yield bytes(5_000_000)

    for _ in range(40):
        generator = blocks.remote()
        api.get(next(generator))
        del generator
    assert values(count.remote(2)) == [0, 1]


# Actors


def test_actor_methods_stream():
    @api.remote
    class Counter:
        def __init__(self):
            self.calls = 0

        def count(self, n):
            self.calls += 1
            for i in range(n):  # noqa: UP028, Ray cannot delegate to a range
                yield i

        def how_often(self):
            return self.calls

    counter = Counter.remote()
    assert values(counter.count.remote(4)) == [0, 1, 2, 3]
    assert values(counter.count.options(num_returns="streaming").remote(1)) == [0]
    assert api.get(counter.how_often.remote()) == 2


def test_async_actor_methods_stream():
    @api.remote
    class Counter:
        async def count(self, n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i

    counter = Counter.remote()
    first, second = counter.count.remote(3), counter.count.remote(2)
    assert values(second) == [0, 1]
    assert values(first) == [0, 1, 2]


def test_streams_of_an_async_actor_run_side_by_side(tmp_path):
    @api.remote
    class Pair:
        def __init__(self):
            self.event = asyncio.Event()

        async def waits(self):
            yield "waiting"
            await self.event.wait()
            yield "released"

        async def releases(self):
            self.event.set()
            yield "releasing"

    pair = Pair.remote()
    waits = pair.waits.remote()
    assert api.get(next(waits)) == "waiting"
    assert values(pair.releases.remote()) == ["releasing"]
    assert values(waits) == ["released"]


def test_actor_streams_obey_backpressure(tmp_path):
    produced = Tally(tmp_path / "produced")

    @api.remote
    class Producer:
        @api.method(_generator_backpressure_num_objects=2)
        def produce(self):
            for i in range(8):
                produced.mark()
                yield i

    producer = Producer.remote()
    generator = producer.produce.remote()
    produced.wait_for(2)
    assert api.get(next(generator)) == 0
    assert produced.count() <= 4
    assert values(generator) == [1, 2, 3, 4, 5, 6, 7]


def test_the_death_of_an_actor_ends_its_stream(tmp_path):
    gate = Gate(tmp_path / "never")

    @api.remote
    class Producer:
        def produce(self):
            yield 1
            gate.wait()

    producer = Producer.remote()
    generator = producer.produce.remote()
    assert api.get(next(generator)) == 1
    api.kill(producer)
    with pytest.raises(exceptions.RayActorError):
        for reference in generator:
            api.get(reference)


# Asyncio


def test_async_iteration_in_the_driver():
    async def main():
        return [await reference async for reference in count.remote(4)]

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_async_iteration_lets_other_coroutines_run(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def gated():
        gate.wait()
        yield "through"

    async def consume():
        return [await reference async for reference in gated.remote()]

    async def open_gate():
        gate.open()

    async def main():
        return (await asyncio.gather(consume(), open_gate()))[0]

    assert asyncio.run(main()) == ["through"]


def test_async_iteration_delivers_errors():
    @api.remote
    def fail():
        yield 1
        raise ValueError("async")

    async def main():
        seen = []
        with pytest.raises(ValueError, match="async"):
            async for reference in fail.remote():
                seen.append(await reference)
        return seen

    assert asyncio.run(main()) == [1]


def test_async_iteration_in_an_actor():
    @api.remote
    class Consumer:
        async def total(self, n):
            return sum([await reference async for reference in count.remote(n)])

    assert api.get(Consumer.remote().total.remote(5)) == 10


@pytest.mark.parametrize("method", ["asend", "athrow", "aclose"])
def test_what_only_plain_async_generators_can_do(method):
    arguments = {"asend": (1,), "athrow": (ValueError(),), "aclose": ()}[method]

    async def main():
        await getattr(count.remote(1), method)(*arguments)

    with pytest.raises(NotImplementedError):
        asyncio.run(main())

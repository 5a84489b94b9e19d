"""References and futures: `await`, asyncio and `concurrent.futures`."""

import asyncio
import concurrent.futures

import pytest

from harness import Gate, api, exceptions

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
def double(x):
    return 2 * x


@api.remote
def after(gate, value=None):
    gate.wait()
    return value


@api.remote
def fail():
    raise KeyError("awaited")


def test_await():
    async def main():
        return await double.remote(1), await api.put("put")

    assert asyncio.run(main()) == (2, "put")


def test_await_a_large_object():
    async def main():
        return await api.put(bytes(2_000_000))

    assert asyncio.run(main()) == bytes(2_000_000)


def test_await_twice():
    async def main():
        reference = double.remote(2)
        return await reference, await reference

    assert asyncio.run(main()) == (4, 4)


def test_await_raises_the_users_exception():
    async def main():
        with pytest.raises(KeyError, match="awaited") as caught:
            await fail.remote()
        assert isinstance(caught.value, exceptions.RayTaskError)

    asyncio.run(main())


def test_gather():
    async def main():
        return await asyncio.gather(*[double.remote(i) for i in range(100)])

    assert asyncio.run(main()) == [2 * i for i in range(100)]


def test_gather_collects_errors():
    async def main():
        return await asyncio.gather(double.remote(1), fail.remote(), return_exceptions=True)

    value, error = asyncio.run(main())
    assert value == 2
    assert isinstance(error, KeyError)


def test_other_coroutines_run_meanwhile(tmp_path):
    gate = Gate(tmp_path / "gate")

    async def main():
        waiting = asyncio.ensure_future(as_coroutine(after.remote(gate, "late")))
        await asyncio.sleep(0)
        assert await double.remote(3) == 6
        assert not waiting.done()
        gate.open()
        return await waiting

    async def as_coroutine(reference):
        return await reference

    assert asyncio.run(main()) == "late"


def test_wait_for_gives_up(tmp_path):
    gate = Gate(tmp_path / "gate")
    reference = after.remote(gate, "late")

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reference.as_future(), timeout=0.05)
        gate.open()
        return await reference

    assert asyncio.run(main()) == "late"


def test_as_future():
    async def main():
        future = double.remote(4).as_future()
        assert isinstance(future, asyncio.Future)
        return await future

    assert asyncio.run(main()) == 8


def test_asyncio_wait():
    async def main():
        futures = [double.remote(i).as_future() for i in range(5)]
        done, pending = await asyncio.wait(futures)
        assert not pending
        return sorted(future.result() for future in done)

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_as_completed(tmp_path):
    gate = Gate(tmp_path / "gate")

    async def main():
        slow, fast = after.remote(gate, "slow").as_future(), double.remote(1).as_future()
        order = []
        for future in asyncio.as_completed([slow, fast]):
            order.append(await future)
            gate.open()
        return order

    assert asyncio.run(main()) == [2, "slow"]


def test_several_loops_one_after_the_other():
    reference = double.remote(5)

    async def main():
        return await reference

    assert [asyncio.run(main()) for _ in range(3)] == [10, 10, 10]


def test_actor_calls_are_awaited():
    @api.remote
    class Counter:
        def __init__(self):
            self.value = 0

        def add(self):
            self.value += 1
            return self.value

    async def main():
        counter = Counter.remote()
        return await asyncio.gather(*[counter.add.remote() for _ in range(10)])

    assert asyncio.run(main()) == list(range(1, 11))


def test_a_lost_worker_is_awaited():
    @api.remote(max_retries=0)
    def crash():
        import os

        os._exit(1)

    async def main():
        with pytest.raises(exceptions.WorkerCrashedError):
            await crash.remote()

    asyncio.run(main())


def test_a_cancelled_task_is_awaited(tmp_path):
    reference = after.remote(Gate(tmp_path / "never"))

    async def main():
        api.cancel(reference)
        with pytest.raises(exceptions.TaskCancelledError):
            await reference

    asyncio.run(main())


# concurrent.futures


def test_future():
    future = double.remote(6).future()
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=60) == 12


def test_future_of_an_error():
    future = fail.remote().future()
    with pytest.raises(KeyError):
        future.result(timeout=60)
    assert isinstance(future.exception(), KeyError)


def test_futures_are_waited_for_together(tmp_path):
    gate = Gate(tmp_path / "gate")
    slow, fast = after.remote(gate, "slow").future(), double.remote(1).future()
    done, pending = concurrent.futures.wait([slow, fast], return_when="FIRST_COMPLETED", timeout=60)
    assert (done, pending) == ({fast}, {slow})
    gate.open()
    assert slow.result(timeout=60) == "slow"


def test_a_future_calls_back(tmp_path):
    import threading

    gate, called, results = Gate(tmp_path / "gate"), threading.Event(), []
    future = after.remote(gate, "called back").future()
    future.add_done_callback(lambda done: (results.append(done.result()), called.set()))
    gate.open()
    assert called.wait(60)
    assert results == ["called back"]

"""Waiting without blocking a thread, and the consumer's end of a stream."""

import asyncio
import pickle
import threading
import types

import pytest

import shoal
from shoal import _async
from shoal.object_ref_generator import ObjectRefGenerator


class Ref:
    """A reference whose value comes when a test says so."""

    def __init__(self):
        self._callbacks = []
        self._outcome = None

    def on_ready(self, callback):
        if self._outcome is None:
            self._callbacks.append(callback)
        else:
            callback()

    def resolve(self, outcome):
        self._outcome = outcome
        for callback in self._callbacks:
            callback()

    def __await__(self):
        return _async.await_ref(self)


def get_one(ref, timeout):
    assert ref._outcome is not None, "asked for before it was ready"
    if isinstance(ref._outcome, Exception):
        raise ref._outcome
    return ref._outcome


@pytest.fixture(autouse=True)
def extension(monkeypatch):
    monkeypatch.setattr(shoal, "_shoal", types.SimpleNamespace(get_one=get_one), raising=False)


def resolve_on_another_thread(ref, outcome):
    thread = threading.Thread(target=ref.resolve, args=(outcome,))
    thread.start()
    return thread


async def test_await():
    ref = Ref()
    thread = resolve_on_another_thread(ref, 3)
    assert await ref == 3
    assert await ref == 3
    thread.join()


async def test_await_raises():
    ref = Ref()
    ref.resolve(ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        await ref


async def test_many_wait_for_one():
    ref = Ref()
    waiting = asyncio.gather(*[_async.as_future(ref) for _ in range(5)])
    await asyncio.sleep(0)
    resolve_on_another_thread(ref, "value").join()
    assert await waiting == ["value"] * 5


async def test_cancelling_who_waits_leaves_the_value_alone():
    ref = Ref()
    task = asyncio.ensure_future(_async.as_future(ref))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ref.resolve(5)
    await asyncio.sleep(0)
    assert await ref == 5


async def test_timeouts_of_asyncio():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_async.as_future(Ref()), 0)


def test_a_value_that_comes_after_its_loop_was_closed():
    ref = Ref()

    async def give_up():
        asyncio.ensure_future(_async.as_future(ref)).cancel()
        task = asyncio.ensure_future(_async.as_future(ref))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(give_up())
    ref.resolve(1)


def test_without_a_loop():
    coroutine = _async._value_of(Ref())
    with pytest.raises(RuntimeError, match="event loop"):
        coroutine.send(None)


def test_futures_of_threads():
    ref = Ref()
    future = _async.concurrent_future(ref)
    assert not future.done()
    thread = resolve_on_another_thread(ref, 7)
    assert future.result(timeout=30) == 7
    thread.join()
    failing = Ref()
    failing.resolve(KeyError("k"))
    with pytest.raises(KeyError):
        _async.concurrent_future(failing).result(timeout=30)


def test_a_cancelled_future_of_threads():
    ref = Ref()
    future = _async.concurrent_future(ref)
    assert future.cancel()
    ref.resolve(1)
    assert future.cancelled()


class Stream:
    """A stream of two items."""

    def __init__(self):
        self.items = ["one", "two"]
        self.waiting = []

    def next(self, timeout=None):
        return self.items.pop(0) if self.items else None

    def is_next_ready(self):
        return len(self.items) != 1

    def on_next_ready(self, callback):
        threading.Thread(target=callback).start()

    def is_finished(self):
        return not self.items

    def completed(self):
        return "completed"


def test_a_generator_ends_and_stays_ended():
    generator = ObjectRefGenerator(Stream())
    assert list(generator) == ["one", "two"]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(generator)
    assert generator.is_finished()
    assert generator.completed() == "completed"


async def test_a_generator_in_an_event_loop():
    generator = ObjectRefGenerator(Stream())
    assert [ref async for ref in generator] == ["one", "two"]
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_what_a_generator_cannot_do():
    generator = ObjectRefGenerator(Stream())
    for call in (lambda: generator.send(1), lambda: generator.throw(ValueError()), generator.close):
        with pytest.raises(NotImplementedError):
            call()
    for coroutine in (generator.asend(1), generator.athrow(ValueError()), generator.aclose()):
        with pytest.raises(NotImplementedError):
            await coroutine
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(generator)

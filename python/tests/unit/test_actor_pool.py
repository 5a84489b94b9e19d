"""`ActorPool`, with actors that are played by the tests."""

import types

import pytest

from shoal.util import actor_pool
from shoal.util.actor_pool import ActorPool


class Ref:
    def __init__(self, value):
        self.value = value
        self.ready = True


class Cluster:
    """Stands in for `get` and `wait`; a reference is ready unless a test holds it back."""

    def wait(self, refs, *, num_returns=1, timeout=None):
        ready = [ref for ref in refs if ref.ready][:num_returns]
        if not ready and timeout is None:
            ready = refs[:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref):
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(actor_pool, "_objects", types.SimpleNamespace(wait=cluster.wait, get=cluster.get))
    return cluster


def double(actor, value):
    return Ref(2 * value)


@pytest.fixture
def pool():
    return ActorPool(["one", "two"])


def test_map_keeps_the_order(pool):
    assert list(pool.map(double, range(5))) == [0, 2, 4, 6, 8]
    assert list(pool.map(double, [])) == []


def test_map_unordered_gives_everything(pool):
    assert sorted(pool.map_unordered(double, range(5))) == [0, 2, 4, 6, 8]


def test_each_actor_has_one_piece_of_work(pool):
    busy = []
    for value in range(5):
        pool.submit(lambda actor, value: busy.append(actor) or Ref(value), value)
    assert sorted(busy) == ["one", "two"]
    assert not pool.has_free()
    assert pool.pop_idle() is None
    assert [pool.get_next() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert not pool.has_next()
    assert pool.has_free()


def test_unordered_results_come_as_they_are_ready(pool):
    slow, fast = Ref("slow"), Ref("fast")
    slow.ready = False
    pool.submit(lambda actor, ref: ref, slow)
    pool.submit(lambda actor, ref: ref, fast)
    assert pool.get_next_unordered() == "fast"
    assert pool.get_next_unordered() == "slow"
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_nothing_is_left_to_get(pool):
    with pytest.raises(StopIteration):
        pool.get_next()


def test_order_is_lost_once_a_later_result_was_taken(pool):
    slow, fast = Ref("slow"), Ref("fast")
    slow.ready = False
    pool.submit(lambda actor, ref: ref, slow)
    pool.submit(lambda actor, ref: ref, fast)
    assert pool.get_next_unordered() == "fast"
    with pytest.raises(ValueError, match="get_next_unordered"):
        pool.get_next()


def test_a_result_that_is_late(pool):
    late = Ref("late")
    late.ready = False
    pool.submit(lambda actor, ref: ref, late)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0)
    assert pool.has_next()
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0)
    late.ready = True
    assert pool.get_next(timeout=0) == "late"


def test_a_late_result_can_be_dropped(pool):
    late = Ref("late")
    late.ready = False
    pool.submit(lambda actor, ref: ref, late)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()
    assert pool.has_free()


def test_an_error_frees_its_actor(pool):
    pool.submit(lambda actor, value: Ref(ValueError("x")), 1)
    with pytest.raises(ValueError, match="x"):
        pool.get_next()
    assert pool.pop_idle() is not None
    assert pool.pop_idle() is not None
    assert pool.pop_idle() is None


def test_actors_can_be_added(pool):
    for value in range(3):
        pool.submit(double, value)
    pool.push("three")
    assert len(pool._running) == 3
    with pytest.raises(ValueError, match="already"):
        pool.push("one")


def test_unfinished_work_is_dropped_by_map(pool):
    pool.submit(double, 100)
    assert list(pool.map(double, [1, 2])) == [2, 4]

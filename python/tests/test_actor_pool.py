"""`util.ActorPool`."""

import pytest

from harness import Gate, api, submodule

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
class Worker:
    def double(self, x):
        return 2 * x

    def double_behind(self, gate, x):
        if gate is not None:
            gate.wait()
        return 2 * x

    def fail(self, x):
        raise ValueError(x)


def pool_of(count):
    return submodule("util").ActorPool([Worker.remote() for _ in range(count)])


def test_map_keeps_the_order():
    assert list(pool_of(2).map(lambda actor, x: actor.double.remote(x), range(10))) == [2 * x for x in range(10)]


def test_map_unordered_gives_everything():
    pool = pool_of(2)
    assert sorted(pool.map_unordered(lambda actor, x: actor.double.remote(x), range(10))) == [2 * x for x in range(10)]


def test_map_unordered_gives_what_is_ready(tmp_path):
    gate = Gate(tmp_path / "gate")
    results = pool_of(2).map_unordered(
        lambda actor, task: actor.double_behind.remote(*task), [(gate, 1), (None, 2), (None, 3)]
    )
    assert [next(results), next(results)] == [4, 6]
    gate.open()
    assert next(results) == 2
    with pytest.raises(StopIteration):
        next(results)


def test_a_pool_may_be_used_again():
    pool = pool_of(2)
    for _ in range(2):
        assert list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3])) == [2, 4, 6]


def test_submit_and_get_next():
    pool = pool_of(2)
    assert not pool.has_next()
    for x in range(5):
        pool.submit(lambda actor, x: actor.double.remote(x), x)
    results = []
    while pool.has_next():
        results.append(pool.get_next())
    assert results == [0, 2, 4, 6, 8]
    with pytest.raises(StopIteration):
        pool.get_next()


def test_get_next_unordered(tmp_path):
    gate = Gate(tmp_path / "gate")
    pool = pool_of(2)
    pool.submit(lambda actor, task: actor.double_behind.remote(*task), (gate, 1))
    pool.submit(lambda actor, task: actor.double_behind.remote(*task), (None, 2))
    assert pool.get_next_unordered() == 4
    gate.open()
    assert pool.get_next_unordered() == 2
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


@pytest.mark.parametrize("method", ["get_next", "get_next_unordered"])
def test_a_timeout_leaves_the_result_for_later(tmp_path, method):
    gate = Gate(tmp_path / "gate")
    pool = pool_of(1)
    pool.submit(lambda actor, x: actor.double_behind.remote(gate, x), 1)
    with pytest.raises(TimeoutError):
        getattr(pool, method)(timeout=0.05)
    gate.open()
    assert getattr(pool, method)() == 2


def test_a_timeout_may_be_ignored(tmp_path):
    gate = Gate(tmp_path / "gate")
    pool = pool_of(1)
    pool.submit(lambda actor, x: actor.double_behind.remote(gate, x), 1)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.05, ignore_if_timedout=True)
    gate.open()
    pool.submit(lambda actor, x: actor.double.remote(x), 5)
    assert pool.get_next() == 10


def test_free_and_idle_actors(tmp_path):
    gate = Gate(tmp_path / "gate")
    pool = pool_of(1)
    assert pool.has_free()
    pool.submit(lambda actor, x: actor.double_behind.remote(gate, x), 1)
    assert not pool.has_free()
    assert pool.pop_idle() is None
    gate.open()
    assert pool.get_next() == 2
    assert pool.has_free()
    actor = pool.pop_idle()
    assert actor is not None
    assert not pool.has_free()
    pool.push(actor)
    assert pool.has_free()
    with pytest.raises(ValueError):
        pool.push(actor)


def test_more_actors_help_a_waiting_pool(tmp_path):
    gate = Gate(tmp_path / "gate")
    pool = pool_of(1)
    pool.submit(lambda actor, x: actor.double_behind.remote(gate, x), 1)
    pool.submit(lambda actor, x: actor.double.remote(x), 2)
    pool.push(Worker.remote())
    assert pool.get_next_unordered() == 4
    gate.open()
    assert pool.get_next_unordered() == 2


def test_an_error_frees_the_actor():
    pool = pool_of(1)
    pool.submit(lambda actor, x: actor.fail.remote(x), 1)
    with pytest.raises(ValueError):
        pool.get_next()
    pool.submit(lambda actor, x: actor.double.remote(x), 2)
    assert pool.get_next() == 4

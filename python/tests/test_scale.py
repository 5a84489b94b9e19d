"""Many of everything, on one node."""

import pytest

from harness import ON_SHOAL, Tally, api

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(120 if ON_SHOAL else 600)]


def test_ten_thousand_references_as_arguments():
    @api.remote
    def total(*numbers):
        return sum(numbers)

    assert api.get(total.remote(*[api.put(i) for i in range(10_000)])) == sum(range(10_000))


def test_ten_thousand_references_inside_one_argument():
    @api.remote
    def total(references):
        return sum(api.get(references))

    assert api.get(total.remote([api.put(i) for i in range(10_000)])) == sum(range(10_000))


def test_three_thousand_returns():
    @api.remote(num_returns=3000)
    def numbers():
        return range(3000)

    assert api.get(numbers.remote()) == list(range(3000))


def test_get_of_ten_thousand_objects():
    references = [api.put(i) for i in range(10_000)]
    assert api.get(references) == list(range(10_000))


def test_get_of_ten_thousand_results():
    @api.remote
    def make(count):
        return [api.put(i) for i in range(count)]

    references = api.get(make.remote(10_000))
    assert api.get(references) == list(range(10_000))


def test_twenty_thousand_queued_tasks():
    @api.remote
    def echo(i):
        return i

    assert api.get([echo.remote(i) for i in range(20_000)]) == list(range(20_000))


def test_ten_thousand_calls_of_one_actor():
    @api.remote
    class Counter:
        def __init__(self):
            self.value = 0

        def add(self):
            self.value += 1
            return self.value

    counter = Counter.remote()
    assert api.get([counter.add.remote() for _ in range(10_000)]) == list(range(1, 10_001))


def test_a_long_chain_of_tasks():
    @api.remote
    def add_one(x):
        return x + 1

    reference = api.put(0)
    for _ in range(1000):
        reference = add_one.remote(reference)
    assert api.get(reference) == 1000


def test_a_tree_of_sums():
    @api.remote
    def add(a, b):
        return a + b

    level = [api.put(i) for i in range(1024)]
    while len(level) > 1:
        level = [add.remote(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    assert api.get(level[0]) == sum(range(1024))


def test_many_actors():
    @api.remote
    class Holder:
        def __init__(self, value):
            self.value = value

        def read(self):
            return self.value

    count = 40 if ON_SHOAL else 8
    holders = [Holder.remote(i) for i in range(count)]
    assert api.get([holder.read.remote() for holder in holders]) == list(range(count))


def test_wait_for_a_thousand_references_one_by_one():
    @api.remote
    def echo(i):
        return i

    waiting, seen = [echo.remote(i) for i in range(1000)], 0
    while waiting:
        done, waiting = api.wait(waiting)
        seen += len(done)
    assert seen == 1000


def test_an_object_with_ten_thousand_references(tmp_path):
    @api.remote
    def make():
        return [api.put(i) for i in range(10_000)]

    reference = make.remote()
    first = api.get(reference)
    second = api.get(reference)
    assert first == second
    assert api.get(first[::1000]) == list(range(0, 10_000, 1000))


def test_every_queued_task_runs_once(tmp_path):
    ran = Tally(tmp_path / "ran")

    @api.remote
    def mark(i):
        ran.mark(i)

    api.get([mark.remote(i) for i in range(2000)])
    assert sorted(map(int, ran.marks())) == list(range(2000))

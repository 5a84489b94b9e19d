"""A full object store: eviction of what nobody holds, spilling of the rest, and errors when nothing helps."""

import gc
import os

import pytest

from harness import ON_SHOAL, Gate, api, exceptions, wait_until

MEBIBYTE = 2**20
# The smallest store that Ray accepts is 75 MiB.
STORE = 100 * MEBIBYTE

pytestmark = pytest.mark.timeout(120 if ON_SHOAL else 300)


@pytest.fixture
def store(start_cluster):
    start_cluster(num_cpus=2, object_store_memory=STORE)


def block(i, size=10 * MEBIBYTE):
    """A block that differs from all others in every page."""
    return i.to_bytes(4, "little") * (size // 4)


@pytest.mark.usefixtures("store")
class TestStore:
    def test_the_limit_is_a_resource(self):
        assert api.cluster_resources()["object_store_memory"] == STORE

    def test_put_twice_the_store(self):
        references = [api.put(block(i)) for i in range(20)]
        for i, reference in enumerate(references):
            assert api.get(reference) == block(i)
        # And in an order that suits no cache.
        for i in (0, 19, 10, 1, 18):
            assert api.get(references[i]) == block(i)

    def test_tasks_return_twice_the_store(self):
        @api.remote
        def make(i):
            return block(i)

        @api.remote
        def check(i, data):
            return data == block(i)

        references = [make.remote(i) for i in range(20)]
        assert all(api.get([check.remote(i, reference) for i, reference in enumerate(references)]))
        for i, reference in enumerate(references):
            assert api.get(reference) == block(i)

    def test_one_task_reads_more_than_half_the_store(self):
        @api.remote
        def sizes(*blocks):
            return [len(data) for data in blocks]

        references = [api.put(block(i)) for i in range(16)]
        assert api.get(sizes.remote(*references[:6])) == [10 * MEBIBYTE] * 6
        assert api.get(sizes.remote(*references[8:14])) == [10 * MEBIBYTE] * 6

    def test_what_nobody_holds_makes_room(self):
        for i in range(100):
            assert api.get(api.put(block(i)))[:4] == i.to_bytes(4, "little")

    def test_values_in_use_stay_as_they_are(self):
        numpy = pytest.importorskip("numpy")
        held = api.get(api.put(numpy.full(10 * MEBIBYTE // 8, 7)))
        references = [api.put(block(i)) for i in range(16)]
        assert (held == 7).all()
        assert [api.get(reference)[:4] for reference in references] == [i.to_bytes(4, "little") for i in range(16)]
        assert (held == 7).all()

    def test_many_medium_objects(self):
        references = [api.put(block(i, 200_000)) for i in range(1000)]
        assert all(api.get(reference)[:4] == i.to_bytes(4, "little") for i, reference in enumerate(references))

    def test_generators_fill_the_store(self):
        @api.remote
        def produce():
            for i in range(20):
                yield block(i)

        references = list(produce.remote())
        for i, reference in enumerate(references):
            assert api.get(reference) == block(i)

    def test_actors_hold_more_than_the_store(self):
        @api.remote
        class Keeper:
            def __init__(self):
                self.references = []

            def keep(self, i):
                self.references.append(api.put(block(i)))

            def check(self):
                return all(api.get(reference) == block(i) for i, reference in enumerate(self.references))

        keeper = Keeper.remote()
        for i in range(16):
            api.get(keeper.keep.remote(i))
        assert api.get(keeper.check.remote())

    def test_readers_and_writers_at_once(self):
        @api.remote
        def make(i):
            return block(i, 4 * MEBIBYTE)

        @api.remote
        def merge(*blocks):
            return b"".join(data[:4] for data in blocks)

        made = [make.remote(i) for i in range(48)]
        merged = [merge.remote(*made[i : i + 4]) for i in range(0, 48, 4)]
        expected = [b"".join(j.to_bytes(4, "little") for j in range(i, i + 4)) for i in range(0, 48, 4)]
        assert api.get(merged) == expected

    def test_a_worker_dies_while_the_store_is_full(self, tmp_path):
        attempts = Gate(tmp_path / "attempt")

        @api.remote
        def make(i):
            if i == 7 and not attempts.is_open():
                attempts.open()
                api.put(block(99))
                os._exit(1)
            return block(i)

        references = [make.remote(i) for i in range(16)]
        for i, reference in enumerate(references):
            assert api.get(reference) == block(i)


@pytest.mark.shoal_only(reason="Ray falls back to files on disk, whatever the limit")
def test_an_object_larger_than_the_store(start_cluster):
    start_cluster(num_cpus=1, object_store_memory=STORE)
    with pytest.raises(exceptions.ObjectStoreFullError):
        api.put(bytes(2 * STORE))

    @api.remote
    def make():
        return bytes(2 * STORE)

    with pytest.raises(exceptions.ObjectStoreFullError):
        api.get(make.remote())
    # The store still works.
    assert api.get(api.put(block(1))) == block(1)


@pytest.mark.shoal_only(reason="Ray falls back to files on disk, whatever the limit")
def test_values_in_use_cannot_be_spilled(start_cluster):
    numpy = pytest.importorskip("numpy")
    start_cluster(num_cpus=1, object_store_memory=STORE)
    in_use = []
    with pytest.raises(exceptions.ObjectStoreFullError):
        for i in range(20):
            in_use.append(api.get(api.put(numpy.full(10 * MEBIBYTE // 8, i))))
    assert len(in_use) >= 5
    assert all((array == i).all() for i, array in enumerate(in_use))
    in_use.clear()
    gc.collect()

    def room():
        try:
            return api.put(block(1))
        except exceptions.ObjectStoreFullError:
            return None

    assert api.get(wait_until(room)) == block(1)


@pytest.mark.shoal_only(reason="looks for Shoal's files")
def test_spilled_files_go_with_their_objects(start_cluster):
    import pathlib

    start_cluster(num_cpus=1, object_store_memory=STORE)
    context = api.get_runtime_context()
    spill = pathlib.Path(context.get_temp_dir()) / context.get_session_name() / "spill"

    def spilled():
        return sum(path.stat().st_size for path in spill.rglob("*") if path.is_file())

    references = [api.put(block(i)) for i in range(20)]
    assert api.get(references[0]) == block(0)
    assert spilled() > 0
    references.clear()
    gc.collect()
    wait_until(lambda: spilled() == 0, what="removal of the spilled files")


def test_a_store_that_is_too_small_is_refused(no_cluster):
    with pytest.raises(ValueError, match="object store"):
        api.init(num_cpus=1, include_dashboard=False, object_store_memory=MEBIBYTE)
    assert not api.is_initialized()


def test_the_smallest_store(start_cluster):
    smallest, size = (16, 1) if ON_SHOAL else (75, 5)
    start_cluster(num_cpus=1, object_store_memory=smallest * MEBIBYTE)
    references = [api.put(block(i, size * MEBIBYTE)) for i in range(2 * smallest // size)]
    for i, reference in enumerate(references):
        assert api.get(reference) == block(i, size * MEBIBYTE)

"""Objects: `put`, `get` and `wait`, and how values come back."""

import collections
import dataclasses
import datetime
import gc
import os
import pickle
import signal
import threading

import pytest

from harness import Gate, api, exceptions, in_threads, submodule, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
def after(gate, value=None):
    """Return `value` once `gate` opens."""
    gate.wait()
    return value


@dataclasses.dataclass
class Point:
    x: float
    y: float


Pair = collections.namedtuple("Pair", "left right")


# put and get


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**100),
        1.5,
        float("inf"),
        1 + 2j,
        "text \N{SNOWMAN}",
        b"bytes",
        pytest.param(bytearray(b"array"), marks=pytest.mark.shoal_only(reason="Ray gives bytes back")),
        [],
        [1, [2, [3]]],
        (1, "two", None),
        {"a": 1, 2: {"b": (3,)}},
        {1, 2, 3},
        frozenset({1}),
        range(5),
        datetime.datetime(2026, 1, 2, 3, 4, 5),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("hello"),
        Point(1.0, 2.0),
        Pair(1, 2),
        Point,
        len,
        NotImplemented,
        Ellipsis,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_equal(value):
    result = api.get(api.put(value))
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("size", [0, 1, 1000, 99_000, 102_400, 102_401, 1_000_000, 64_000_000])
def test_values_of_any_size(size):
    data = os.urandom(1000) * (size // 1000) + bytes(size % 1000)
    assert api.get(api.put(data)) == data


def test_each_put_is_an_object_of_its_own():
    value = [1]
    assert api.put(value) != api.put(value)


def test_a_put_value_is_a_copy():
    value = [1]
    reference = api.put(value)
    value.append(2)
    assert api.get(reference) == [1]


def test_a_reference_alone_cannot_be_put():
    with pytest.raises(TypeError):
        api.put(api.put(1))


def test_a_reference_in_a_list_can_be_put():
    inner = api.put("inner")
    (reference,) = api.get(api.put([inner]))
    assert reference == inner
    assert api.get(reference) == "inner"


def test_get_takes_a_list_and_keeps_its_order():
    references = [api.put(i) for i in range(10)]
    assert api.get(references) == list(range(10))
    assert api.get(references[::-1]) == list(range(10))[::-1]
    assert api.get([references[3], references[3]]) == [3, 3]
    assert api.get([]) == []


def test_get_takes_nothing_but_references():
    reference = api.put(1)
    for not_references in [(reference,), 3, {reference}, iter([reference]), None]:
        with pytest.raises(ValueError):
            api.get(not_references)
    for wrong_list in [[3], [[reference]], [reference, None]]:
        with pytest.raises((TypeError, ValueError)):
            api.get(wrong_list)


def test_exceptions_are_values_too():
    @api.remote
    def give():
        return ValueError("given back")

    for reference in (api.put(ValueError("given back")), give.remote()):
        value = api.get(reference)
        assert isinstance(value, ValueError)
        assert value.args == ("given back",)


def test_get_raises_the_first_error_without_waiting_for_the_rest(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def fail():
        raise KeyError("first")

    waiting = after.remote(gate)
    with pytest.raises(KeyError, match="first"):
        api.get([fail.remote(), waiting])
    gate.open()


def test_an_error_is_raised_again_by_every_get():
    @api.remote
    def fail():
        raise KeyError("again")

    reference = fail.remote()
    for _ in range(3):
        with pytest.raises(KeyError):
            api.get(reference)


def test_get_gives_up_after_its_timeout(tmp_path):
    gate = Gate(tmp_path / "gate")
    reference = after.remote(gate, "late")
    for timeout in (0, 0.05):
        with pytest.raises(exceptions.GetTimeoutError):
            api.get(reference, timeout=timeout)
        with pytest.raises(TimeoutError):
            api.get([api.put(1), reference], timeout=timeout)
    gate.open()
    assert api.get(reference, timeout=60) == "late"


def test_get_without_time_returns_what_is_there():
    reference = api.put(1)
    assert api.get(reference, timeout=0) == 1
    assert api.get([reference, reference], timeout=0) == [1, 1]


def test_many_threads_get_the_same_object(tmp_path):
    gate = Gate(tmp_path / "gate")
    reference = after.remote(gate, "shared")
    timer = threading.Timer(0.05, gate.open)
    timer.start()
    assert in_threads(lambda _: api.get(reference), 10) == ["shared"] * 10


def test_threads_that_get_see_their_own_objects():
    @api.remote
    def echo(x):
        return x

    def work(thread):
        return [api.get(echo.remote((thread, i))) for i in range(30)]

    assert in_threads(work, 6) == [[(t, i) for i in range(30)] for t in range(6)]


def test_a_signal_interrupts_get(tmp_path):
    gate = Gate(tmp_path / "gate")
    reference = after.remote(gate, "after the signal")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        api.get(reference)
    timer.join()
    gate.open()
    assert api.get(reference) == "after the signal"


def test_a_signal_interrupts_wait(tmp_path):
    gate = Gate(tmp_path / "gate")
    reference = after.remote(gate)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        api.wait([reference])
    timer.join()
    gate.open()
    assert api.wait([reference])[0] == [reference]


def test_a_task_gets_and_puts():
    @api.remote
    def work():
        reference = api.put([1, 2])
        return api.get(reference), reference

    value, reference = api.get(work.remote())
    assert value == api.get(reference) == [1, 2]


# wait


def test_wait_splits_into_ready_and_not_ready(tmp_path):
    gates = [Gate(tmp_path / str(i)) for i in range(3)]
    references = [after.remote(gate) for gate in gates]
    gates[1].open()
    assert api.wait(references) == ([references[1]], [references[0], references[2]])
    gates[2].open()
    gates[0].open()
    assert api.wait(references, num_returns=3) == (references, [])


def test_wait_keeps_the_order_of_its_input(tmp_path):
    gate = Gate(tmp_path / "gate")
    pending = after.remote(gate)
    ready = [api.put(i) for i in range(4)]
    mixed = [ready[3], pending, ready[0], ready[2], ready[1]]
    assert api.wait(mixed, num_returns=4) == ([ready[3], ready[0], ready[2], ready[1]], [pending])
    gate.open()


def test_wait_returns_no_more_than_asked_for():
    references = [api.put(i) for i in range(5)]
    done, rest = api.wait(references, num_returns=2)
    assert len(done) == 2
    assert set(done) | set(rest) == set(references)
    assert len(rest) == 3


def test_wait_with_a_timeout_returns_what_is_ready(tmp_path):
    gate = Gate(tmp_path / "gate")
    pending, ready = after.remote(gate), api.put(1)
    for timeout in (0, 0.05):
        assert api.wait([pending, ready], num_returns=2, timeout=timeout) == ([ready], [pending])
        assert api.wait([pending], timeout=timeout) == ([], [pending])
    gate.open()


def test_wait_for_nothing():
    assert api.wait([]) == ([], [])


def test_wait_counts_a_failed_object_as_ready():
    @api.remote
    def fail():
        raise ValueError

    reference = fail.remote()
    assert api.wait([reference]) == ([reference], [])


@pytest.mark.parametrize("fetch_local", [True, False])
def test_wait_for_large_objects(fetch_local):
    @api.remote
    def large():
        return bytes(1_000_000)

    references = [large.remote() for _ in range(3)]
    done, rest = api.wait(references, num_returns=3, fetch_local=fetch_local)
    assert (done, rest) == (references, [])


@pytest.mark.parametrize(
    "options", [{"num_returns": 0}, {"num_returns": -1}, {"num_returns": 3}, {"timeout": -1}], ids=str
)
def test_wait_refuses_impossible_numbers(options):
    with pytest.raises(ValueError):
        api.wait([api.put(1), api.put(2)], **options)


def test_wait_refuses_a_reference_given_twice():
    reference = api.put(1)
    with pytest.raises(ValueError):
        api.wait([reference, reference])


def test_wait_takes_a_list_of_references():
    reference = api.put(1)
    for wrong in [reference, (reference,), [1], [reference, None], {reference}]:
        with pytest.raises(TypeError):
            api.wait(wrong)


def test_wait_in_a_loop_sees_every_object_once():
    @api.remote
    def number(i):
        return i

    waiting, seen = [number.remote(i) for i in range(100)], []
    while waiting:
        done, waiting = api.wait(waiting, num_returns=min(7, len(waiting)))
        seen += api.get(done)
    assert sorted(seen) == list(range(100))


# References


def test_references_are_hashable_and_comparable():
    one, other = api.put(1), api.put(1)
    assert one == one
    assert one != other
    assert one != "something else"
    assert {one: "found"}[one] == "found"
    assert len({one, other, one}) == 2


def test_references_have_an_identity_of_28_bytes():
    reference = api.put(1)
    assert len(reference.binary()) == api.ObjectRef.size() == 28
    assert reference.hex() == reference.binary().hex()
    assert not reference.is_nil()
    assert reference.hex() in repr(reference)


def test_references_name_their_task_and_job():
    @api.remote(num_returns=2)
    def two():
        return 1, 2

    one, other = two.remote()
    assert one.task_id() == other.task_id()
    assert one.task_id() != two.remote()[0].task_id()
    assert one.job_id().hex() == api.get_runtime_context().get_job_id()


@pytest.mark.parametrize(
    "module",
    [
        "api",
        pytest.param("standard", marks=pytest.mark.shoal_only(reason="Ray loses the object and get waits for ever")),
    ],
)
def test_a_reference_pickled_by_the_user_stays_valid(module):
    # Once a reference has left as bytes nobody knows who holds it, so the object stays.
    pickler = submodule("cloudpickle") if module == "api" else pickle
    reference = api.put("kept")
    data = pickler.dumps(reference)
    del reference
    gc.collect()
    assert api.get(pickle.loads(data)) == "kept"


# Zero copy


def test_numpy_arrays_are_read_in_place():
    numpy = pytest.importorskip("numpy")
    reference = api.put(numpy.arange(1_000_000))
    one, other = api.get(reference), api.get(reference)
    assert numpy.shares_memory(one, other)
    assert one.sum() == 499_999_500_000


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_numpy_arrays_are_read_only(length):
    numpy = pytest.importorskip("numpy")

    @api.remote
    def check(array, nested):
        return array.flags.writeable, nested["array"].flags.writeable

    array = numpy.zeros(length)
    result = api.get(api.put(array))
    assert not result.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        result[0] = 1
    assert array.flags.writeable
    assert api.get(check.remote(api.put(array), api.put({"array": array}))) == (False, False)
    copy = result.copy()
    copy[0] = 1
    assert api.get(api.put(copy))[0] == 1


def test_numpy_arrays_inside_other_values_are_read_in_place():
    numpy = pytest.importorskip("numpy")
    reference = api.put({"point": Point(numpy.zeros(200_000), [numpy.ones(200_000)])})
    one, other = api.get(reference)["point"], api.get(reference)["point"]
    assert numpy.shares_memory(one.x, other.x)
    assert numpy.shares_memory(one.y[0], other.y[0])
    assert not one.x.flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays_keep_shape_type_and_order(order):
    numpy = pytest.importorskip("numpy")
    array = numpy.array(numpy.arange(240_000).reshape(200, 300, 4), dtype="<i4", order=order)
    for value in (array, array[::2, ::3], array[:0], numpy.array(5), numpy.array(["a", None], dtype=object)):
        result = api.get(api.put(value))
        assert result.shape == value.shape
        assert result.dtype == value.dtype
        assert numpy.array_equal(result, value)


def test_a_view_is_stored_without_what_it_does_not_show():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(2_000_000)
    assert numpy.array_equal(api.get(api.put(array[1000:300_000])), array[1000:300_000])
    assert numpy.array_equal(api.get(api.put(array[::-7])), array[::-7])


def test_an_array_outlives_its_reference():
    numpy = pytest.importorskip("numpy")
    array = api.get(api.put(numpy.full(1_000_000, 7)))
    gc.collect()
    # New objects must not take the memory that the array still shows.
    for _ in range(20):
        api.put(numpy.zeros(1_000_000))
    assert (array == 7).all()


def test_a_part_of_an_array_keeps_the_whole_alive():
    numpy = pytest.importorskip("numpy")
    part = api.get(api.put(numpy.full(1_000_000, 7)))[500_000:500_010]
    gc.collect()
    for _ in range(20):
        api.put(numpy.zeros(1_000_000))
    assert (part == 7).all()


def test_a_task_reads_arrays_in_place_and_returns_them():
    numpy = pytest.importorskip("numpy")

    @api.remote
    def add_one(array):
        assert not array.flags.writeable
        return array + 1

    array = numpy.zeros(500_000)
    for _ in range(3):
        array = add_one.remote(array)
    assert (api.get(array) == 3).all()


def test_arrow_tables_are_read_in_place():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"number": range(200_000), "text": [str(i) for i in range(200_000)]})
    reference = api.put(table)
    one, other = api.get(reference), api.get(reference)
    assert one.equals(table)

    def addresses(table):
        return [b.address for column in table.columns for chunk in column.chunks for b in chunk.buffers() if b]

    assert addresses(one) == addresses(other)


def test_arrow_slices_carry_only_their_part():
    pyarrow = pytest.importorskip("pyarrow")

    @api.remote
    def sums(table):
        return table.num_rows, sum(table["number"].to_pylist())

    table = pyarrow.table({"number": list(range(100_000))}).slice(99_000, 10)
    assert api.get(sums.remote(table)) == (10, sum(range(99_000, 99_010)))


def test_large_results_of_many_tasks():
    numpy = pytest.importorskip("numpy")

    @api.remote
    def block(i):
        return numpy.full(250_000, i)

    references = [block.remote(i) for i in range(20)]
    wait_until(lambda: len(api.wait(references, num_returns=20, timeout=1)[0]) == 20)
    assert [int(array[-1]) for array in api.get(references)] == list(range(20))

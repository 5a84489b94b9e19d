"""Distributed reference counting, observed from outside.

An actor lives as long as a handle to it does, wherever the handle is. So an actor whose handle lies in an
object shows when that object is freed: its process ends.
"""

import gc
import os
import signal

import pytest

from harness import ON_SHOAL, Gate, Tally, api, exceptions, process_alive, wait_until_gone

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
class Witness:
    """Its process lives as long as someone holds a handle."""

    def pid(self):
        return os.getpid()


@api.remote
class Keeper:
    """Keeps what it is given until it is told to drop it."""

    def keep(self, value):
        self.value = value

    def read(self):
        return api.get(self.value[0])

    def drop(self):
        del self.value
        gc.collect()


def witnessed(size=0):
    """A reference to an object that dies with its last reference, and the process that shows it."""
    witness = Witness.remote()
    pid = api.get(witness.pid.remote())
    return api.put((witness, bytes(size))), pid


def assert_alive(pid):
    gc.collect()
    # Something must go through the whole cluster before the absence of an end means anything.
    api.get(api.remote(lambda: None).remote())
    assert process_alive(pid)


def assert_freed(pid):
    gc.collect()
    wait_until_gone(pid)


small_and_large = pytest.mark.parametrize("size", [0, 500_000], ids=["small", "large"])


@small_and_large
def test_an_object_is_freed_with_its_last_reference(size):
    reference, pid = witnessed(size)
    other = reference
    del reference
    assert_alive(pid)
    del other
    assert_freed(pid)


def test_a_release_does_not_wait_for_the_next_call():
    # After the release this process makes no call that could carry the news along.
    for _ in range(40 if ON_SHOAL else 8):
        witness = Witness.remote()
        pid = api.get(witness.pid.remote())
        del witness
        wait_until_gone(pid)


@small_and_large
def test_a_result_that_nobody_holds_is_freed(size):
    @api.remote
    def make():
        witness = Witness.remote()
        return api.get(witness.pid.remote()), witness, bytes(size)

    reference = make.remote()
    pid = api.get(reference)[0]
    assert_alive(pid)
    del reference
    assert_freed(pid)


@small_and_large
def test_an_object_keeps_the_references_inside(size):
    inner, pid = witnessed(size)
    outer = api.put([inner, bytes(size)])
    del inner
    assert_alive(pid)
    outermost = api.put({"outer": outer})
    del outer
    assert_alive(pid)
    del outermost
    assert_freed(pid)


@small_and_large
def test_an_inner_reference_outlives_the_outer(size):
    inner, pid = witnessed(size)
    outer = api.put([inner])
    del inner
    gc.collect()
    (inner,) = api.get(outer)
    del outer
    assert_alive(pid)
    assert len(api.get(inner)[1]) == size
    del inner
    assert_freed(pid)


@small_and_large
def test_a_waiting_task_keeps_its_arguments(tmp_path, size):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def use(argument, nested):
        gate.wait()
        return len(argument[1]) + len(api.get(nested[0])[1])

    (top, top_pid), (inner, inner_pid) = witnessed(size), witnessed(size)
    used = use.remote(top, [inner])
    del top, inner
    assert_alive(top_pid)
    assert_alive(inner_pid)
    gate.open()
    assert api.get(used) == 2 * size
    assert_freed(top_pid)
    assert_freed(inner_pid)


def test_a_task_that_has_not_started_keeps_its_arguments(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def block():
        gate.wait()

    @api.remote
    def use(nested, _):
        return len(api.get(nested[0]))

    reference, pid = witnessed()
    used = use.remote([reference], block.remote())
    del reference
    assert_alive(pid)
    gate.open()
    assert api.get(used) == 2
    assert_freed(pid)


@small_and_large
def test_an_actor_borrows_a_reference(size):
    keeper = Keeper.remote()
    reference, pid = witnessed(size)
    api.get(keeper.keep.remote([reference]))
    del reference
    assert_alive(pid)
    assert len(api.get(keeper.read.remote())[1]) == size
    api.get(keeper.drop.remote())
    assert_freed(pid)


def test_a_borrower_passes_the_reference_on():
    one, other = Keeper.remote(), Keeper.remote()

    @api.remote
    def pass_on(nested, keeper):
        api.get(keeper.keep.remote(nested))

    reference, pid = witnessed()
    api.get(one.keep.remote([reference]))
    api.get(pass_on.remote([reference], other))
    del reference
    api.get(one.drop.remote())
    assert_alive(pid)
    api.get(other.read.remote())
    api.get(other.drop.remote())
    assert_freed(pid)


def test_the_death_of_a_borrower_gives_its_references_back():
    keeper = Keeper.remote()
    reference, pid = witnessed()
    api.get(keeper.keep.remote([reference]))
    del reference
    assert_alive(pid)
    api.kill(keeper)
    assert_freed(pid)


def test_a_crash_of_a_borrower_gives_its_references_back(tmp_path):
    pids = Tally(tmp_path / "pids")

    @api.remote(max_retries=0)
    def hold(nested):
        pids.mark(os.getpid())
        Gate(tmp_path / "never").wait()

    reference, pid = witnessed()
    held = hold.remote([reference])
    del reference
    pids.wait_for(1)
    assert_alive(pid)
    os.kill(int(pids.marks()[0]), signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError):
        api.get(held)
    assert_freed(pid)


@small_and_large
def test_a_task_returns_a_reference_to_what_it_put(size):
    @api.remote
    def make():
        witness = Witness.remote()
        return api.get(witness.pid.remote()), [api.put((witness, bytes(size)))]

    made = make.remote()
    pid, (inner,) = api.get(made)
    del made
    assert_alive(pid)
    assert len(api.get(inner)[1]) == size
    del inner
    assert_freed(pid)


def test_references_inside_a_result_that_nobody_gets():
    pids = []

    @api.remote
    def make():
        witness = Witness.remote()
        return api.get(witness.pid.remote()), [api.put(witness)]

    @api.remote
    def first(pair):
        return pair[0]

    made = make.remote()
    pids.append(api.get(first.remote(made)))
    assert_alive(pids[0])
    del made
    assert_freed(pids[0])


def test_a_reference_given_back_to_its_owner():
    @api.remote
    def echo(nested):
        return nested

    reference, pid = witnessed()
    (again,) = api.get(echo.remote([reference]))
    assert again == reference
    del reference
    assert_alive(pid)
    del again
    assert_freed(pid)


def test_references_in_a_cycle_of_python_objects():
    reference, pid = witnessed()
    cycle = [reference]
    cycle.append(cycle)
    del reference, cycle
    assert_freed(pid)


def test_references_in_the_closure_of_a_task():
    reference, pid = witnessed()

    @api.remote
    def use():
        return len(api.get(reference)[1])

    assert api.get(use.remote()) == 0
    assert_alive(pid)


def test_many_references_to_one_object():
    reference, pid = witnessed()

    @api.remote
    def use(nested):
        return len(nested)

    assert api.get([use.remote([reference] * 10) for _ in range(20)]) == [10] * 20
    assert_alive(pid)
    del reference
    assert_freed(pid)


def test_a_generator_frees_what_was_read():
    @api.remote
    def produce():
        for _ in range(2):
            witness = Witness.remote()
            yield api.get(witness.pid.remote()), witness

    generator = produce.remote()
    first, second = next(generator), next(generator)
    one, other = api.get(first)[0], api.get(second)[0]
    del first
    assert_freed(one)
    assert_alive(other)
    del second, generator
    assert_freed(other)


def test_an_actor_handle_inside_an_object():
    witness = Witness.remote()
    pid = api.get(witness.pid.remote())
    reference = api.put({"handle": witness})
    del witness
    assert_alive(pid)
    assert api.get(api.get(reference)["handle"].pid.remote()) == pid
    del reference
    assert_freed(pid)


def test_an_error_does_not_hold_the_arguments_for_ever():
    @api.remote
    def fail(nested):
        raise ValueError("with a reference at hand")

    reference, pid = witnessed()
    failed = fail.remote([reference])
    with pytest.raises(ValueError):
        api.get(failed)
    del reference, failed
    assert_freed(pid)


def test_the_state_of_a_dead_actor_is_freed():
    reference, pid = witnessed()
    keeper = Keeper.remote()
    api.get(keeper.keep.remote([reference]))
    del reference, keeper
    assert_freed(pid)


@pytest.mark.shoal_only(reason="in Ray an object dies with the process that made it (OwnerDiedError)")
@small_and_large
def test_an_object_outlives_its_owner(size):
    @api.remote
    class Maker:
        def make(self):
            return os.getpid(), api.put(bytes(size) + b"end")

    maker = Maker.remote()
    pid, reference = api.get(maker.make.remote())
    api.kill(maker)
    wait_until_gone(pid)
    assert api.get(reference) == bytes(size) + b"end"

"""Retries: what happens when a worker dies and when a task raises."""

import gc
import os
import signal
import sys

import pytest

from harness import Gate, Tally, api, exceptions, process_alive, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


def exit_hard():
    os._exit(1)


def exit_without_error():
    os._exit(0)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def abort():
    os.abort()


def read_address_zero():
    import ctypes

    ctypes.string_at(0)


deaths = pytest.mark.parametrize(
    "die",
    [exit_hard, exit_without_error, kill_itself, abort, read_address_zero],
    ids=lambda f: f.__name__,
)


@deaths
def test_a_task_is_run_again_when_its_worker_dies(tmp_path, die):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def die_once():
        if attempts.mark() == 1:
            die()
        return "survived"

    assert api.get(die_once.remote()) == "survived"
    assert attempts.count() == 2


@deaths
def test_without_retries_the_death_is_an_error(tmp_path, die):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_retries=0)
    def always_die():
        attempts.mark()
        die()

    with pytest.raises(exceptions.WorkerCrashedError):
        api.get(always_die.remote())
    assert attempts.count() == 1


def test_a_worker_killed_from_outside(tmp_path):
    pids = Tally(tmp_path / "pids")
    gate = Gate(tmp_path / "gate")

    @api.remote
    def wait():
        if pids.mark(os.getpid()) == 1:
            gate.wait()
        return os.getpid()

    reference = wait.remote()
    pids.wait_for(1)
    os.kill(int(pids.marks()[0]), signal.SIGKILL)
    survivor = api.get(reference)
    assert [str(survivor)] == pids.marks()[1:]


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_attempts_are_counted(tmp_path, max_retries):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def always_die():
        attempts.mark()
        os._exit(1)

    with pytest.raises(exceptions.WorkerCrashedError):
        api.get(always_die.options(max_retries=max_retries).remote())
    assert attempts.count() == 1 + max_retries


def test_three_retries_are_the_default(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def always_die():
        attempts.mark()
        os._exit(1)

    with pytest.raises(exceptions.WorkerCrashedError):
        api.get(always_die.remote())
    assert attempts.count() == 4


def test_minus_one_retries_for_ever(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_retries=-1)
    def die_often():
        if attempts.mark() <= 6:
            os._exit(1)
        return attempts.count()

    assert api.get(die_often.remote()) == 7


def test_every_return_gets_the_error():
    @api.remote(num_returns=2, max_retries=0)
    def always_die():
        os._exit(1)

    for reference in always_die.remote():
        with pytest.raises(exceptions.WorkerCrashedError):
            api.get(reference)


def test_a_crash_does_not_disturb_other_tasks(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def step(i):
        if i % 25 == 7 and attempts.mark() <= 4:
            os._exit(1)
        return i

    assert api.get([step.remote(i) for i in range(100)]) == list(range(100))


def test_a_task_that_has_not_started_keeps_its_retries(tmp_path):
    # What waits behind a dying task in the same worker must not pay for the death.
    gate = Gate(tmp_path / "gate")
    runs = Tally(tmp_path / "runs")

    @api.remote(max_retries=0)
    def step(i):
        if i == 0:
            gate.wait()
            os._exit(1)
        runs.mark(i)
        return i

    api.get([step.remote(i) for i in range(1, 200)])
    references = [step.remote(i) for i in range(100)]
    gate.open()
    assert api.get(references[1:]) == list(range(1, 100))
    with pytest.raises(exceptions.WorkerCrashedError):
        api.get(references[0])
    assert runs.count() == 199 + 99


def test_a_dependent_task_sees_the_crash(tmp_path):
    ran = Tally(tmp_path / "ran")

    @api.remote(max_retries=0)
    def always_die():
        os._exit(1)

    @api.remote
    def follow(x):
        ran.mark()

    with pytest.raises(exceptions.RayError) as caught:
        api.get(follow.remote(always_die.remote()))
    cause = caught.value if not isinstance(caught.value, exceptions.RayTaskError) else caught.value.cause
    assert isinstance(cause, exceptions.WorkerCrashedError)
    assert ran.count() == 0


def test_a_dependent_task_waits_for_the_retry(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def die_once():
        if attempts.mark() == 1:
            os._exit(1)
        return bytes(300_000)

    @api.remote
    def size(data):
        return len(data)

    assert api.get(size.remote(die_once.remote())) == 300_000


def test_a_child_of_a_task_is_run_again(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def child():
        if attempts.mark() <= 2:
            os._exit(1)
        return "child"

    @api.remote
    def parent():
        return api.get(child.remote())

    assert api.get(parent.remote()) == "child"
    assert attempts.count() == 3


def test_a_parent_dies_while_its_child_runs(tmp_path):
    pids = Tally(tmp_path / "parents")
    children = Tally(tmp_path / "children")
    gate = Gate(tmp_path / "gate")

    @api.remote
    def child():
        children.mark()
        gate.wait()
        return "child"

    @api.remote
    def parent():
        pids.mark(os.getpid())
        return api.get(child.remote())

    reference = parent.remote()
    children.wait_for(1)
    os.kill(int(pids.marks()[0]), signal.SIGKILL)
    pids.wait_for(2)
    gate.open()
    assert api.get(reference) == "child"


def test_arguments_live_until_the_last_attempt(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def die_twice(data, nested):
        if attempts.mark() <= 2:
            os._exit(1)
        return len(data) + len(api.get(nested[0]))

    reference = die_twice.remote(api.put(bytes(500_000)), [api.put(bytes(300_000))])
    gc.collect()
    assert api.get(reference) == 800_000


def test_the_dead_worker_is_gone(tmp_path):
    pids = Tally(tmp_path / "pids")

    @api.remote
    def die_once():
        if pids.mark(os.getpid()) == 1:
            os._exit(1)

    api.get(die_once.remote())
    wait_until(lambda: not process_alive(int(pids.marks()[0])))


# Exceptions


def test_exceptions_are_not_retried_by_default(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def fail():
        attempts.mark()
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        api.get(fail.remote())
    assert attempts.count() == 1


def test_every_exception_may_be_retried(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(retry_exceptions=True, max_retries=2)
    def fail():
        attempts.mark()
        raise ValueError("again")

    with pytest.raises(ValueError, match="again"):
        api.get(fail.remote())
    assert attempts.count() == 3


@pytest.mark.parametrize("listed", [[OSError], (KeyError, OSError)], ids=["list", "tuple"])
@pytest.mark.parametrize(
    ("raised", "count"),
    [(OSError, 3), (FileNotFoundError, 3), (ValueError, 1)],
    ids=["listed", "subclass", "other"],
)
def test_only_listed_exceptions_are_retried(tmp_path, listed, raised, count):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(retry_exceptions=listed, max_retries=2)
    def fail():
        attempts.mark()
        raise raised("why")

    with pytest.raises(raised):
        api.get(fail.remote())
    assert attempts.count() == count


def test_a_retry_may_succeed(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote
    def fail_twice():
        if attempts.mark() <= 2:
            raise ConnectionError
        return "at last"

    assert api.get(fail_twice.options(retry_exceptions=[ConnectionError]).remote()) == "at last"
    assert attempts.count() == 3


def test_crashes_and_exceptions_share_the_retries(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_retries=3, retry_exceptions=True)
    def fail_in_turn():
        if attempts.mark() % 2:
            os._exit(1)
        raise ValueError

    with pytest.raises(ValueError):
        api.get(fail_in_turn.remote())
    assert attempts.count() == 4


def test_exit_of_the_interpreter_is_not_success():
    @api.remote(max_retries=0)
    def leave():
        sys.exit(3)

    with pytest.raises((exceptions.WorkerCrashedError, exceptions.RayTaskError)):
        api.get(leave.remote())


def test_the_number_of_the_attempt_does_not_leak_into_the_next_task(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_retries=1)
    def die_every_other_time(_):
        if attempts.mark() % 2:
            os._exit(1)
        return attempts.count()

    for i in range(3):
        assert api.get(die_every_other_time.remote(i)) == 2 * (i + 1)

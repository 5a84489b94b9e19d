"""Actors: restarts and the ends of their lives."""

import gc
import os
import signal

import pytest

from harness import ON_SHOAL, Gate, Tally, api, exceptions, process_alive, submodule, wait_until, wait_until_gone

pytestmark = pytest.mark.usefixtures("cluster")


@api.remote
class Counter:
    """Counts, and tells in which process."""

    def __init__(self, start=0):
        self.value = start

    def add(self):
        self.value += 1
        return self.value

    def pid(self):
        return os.getpid()

    def crash(self):
        os._exit(1)


def dead(actor):
    """Whether calls of the actor fail for good."""
    try:
        api.get(actor.pid.remote())
    except exceptions.ActorDiedError:
        return True
    except exceptions.RayActorError:
        return False
    return False


# Restarts


def test_an_actor_dies_with_its_process():
    counter = Counter.remote()
    assert api.get(counter.add.remote()) == 1
    with pytest.raises(exceptions.RayActorError):
        api.get(counter.crash.remote())
    with pytest.raises(exceptions.ActorDiedError):
        api.get(counter.add.remote())


def test_calls_in_flight_fail_when_the_actor_dies():
    counter = Counter.remote()
    crash = counter.crash.remote()
    references = [counter.add.remote() for _ in range(20)]
    for reference in [crash, *references]:
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)


def test_an_actor_is_restarted_as_often_as_allowed():
    counter = Counter.options(max_restarts=2).remote(10)
    for _ in range(2):
        assert api.get(counter.add.remote()) == 11
        with pytest.raises(exceptions.RayActorError):
            api.get(counter.crash.remote())
        wait_until(lambda: not unavailable(counter), what="the restart")
    with pytest.raises(exceptions.RayActorError):
        api.get(counter.crash.remote())
    wait_until(lambda: dead(counter))


def unavailable(actor):
    try:
        api.get(actor.pid.remote())
    except exceptions.RayActorError:
        return True
    return False


def test_minus_one_restarts_for_ever():
    counter = Counter.options(max_restarts=-1, max_task_retries=-1).remote()
    pids = set()
    for _ in range(4):
        pid = api.get(counter.pid.remote())
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        pids.add(pid)
    assert len(pids) == 4
    assert api.get(counter.add.remote()) == 1


def test_calls_are_retried_over_a_restart(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=1, max_task_retries=1)
    class CrashesOnce:
        def work(self):
            if attempts.mark() == 1:
                os._exit(1)
            return "done"

    assert api.get(CrashesOnce.remote().work.remote()) == "done"
    assert attempts.count() == 2


def test_calls_are_not_retried_by_default(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=-1)
    class Crashes:
        def work(self):
            attempts.mark()
            os._exit(1)

    with pytest.raises(exceptions.RayActorError):
        api.get(Crashes.remote().work.remote())
    assert attempts.count() == 1


def test_retries_of_a_call_are_counted(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_restarts=-1)
    class Crashes:
        @api.method(max_task_retries=2)
        def work(self):
            attempts.mark()
            os._exit(1)

    with pytest.raises(exceptions.RayActorError):
        api.get(Crashes.remote().work.remote())
    # Ray counts a try that finds the actor restarting, though nothing runs.
    assert attempts.count() == 3 if ON_SHOAL else attempts.count() in (2, 3)


def test_exceptions_of_a_call_may_be_retried(tmp_path):
    attempts = Tally(tmp_path / "attempts")

    @api.remote(max_task_retries=5)
    class Fails:
        @api.method(retry_exceptions=[ConnectionError])
        def work(self):
            if attempts.mark() <= 2:
                raise ConnectionError
            return "done"

        def work_once(self):
            attempts.mark()
            raise ConnectionError

    fails = Fails.remote()
    assert api.get(fails.work.remote()) == "done"
    assert attempts.count() == 3
    with pytest.raises(ConnectionError):
        api.get(fails.work_once.remote())
    assert attempts.count() == 4
    with pytest.raises(ConnectionError):
        api.get(fails.work_once.options(retry_exceptions=True, max_task_retries=1).remote())
    assert attempts.count() == 6


def test_the_constructor_runs_again_with_its_arguments(tmp_path):
    started = Tally(tmp_path / "started")

    @api.remote(max_restarts=1, max_task_retries=1)
    class Holder:
        def __init__(self, data):
            started.mark()
            self.size = len(data)

        def read(self):
            return self.size, api.get_runtime_context().was_current_actor_reconstructed

        def pid(self):
            return os.getpid()

    holder = Holder.remote(api.put(bytes(400_000)))
    gc.collect()
    assert api.get(holder.read.remote()) == (400_000, False)
    pid = api.get(holder.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert api.get(holder.read.remote()) == (400_000, True)
    assert started.count() == 2


def test_every_holder_sees_the_restart():
    @api.remote
    class Holder:
        def __init__(self, counter):
            self.counter = counter

        def add(self):
            return api.get(self.counter.add.remote())

    counter = Counter.options(max_restarts=1, max_task_retries=1).remote()
    holder = Holder.remote(counter)
    assert api.get(holder.add.remote()) == 1
    pid = api.get(counter.pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert api.get(holder.add.remote()) == 1
    assert api.get(counter.add.remote()) == 2


# The constructor fails


def test_a_failed_constructor_is_told_by_every_call():
    @api.remote
    class Fails:
        def __init__(self):
            raise ValueError("no start")

        def work(self):
            return 1

    fails = Fails.remote()
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError, match="no start") as caught:
            api.get(fails.work.remote())
        assert caught.value.actor_init_failed


def test_constructors_get_arguments_whose_bytes_are_not_mapped_yet():
    @api.remote(num_cpus=0)
    class Holder:
        def __init__(self, data):
            self.size = len(data)

        def size_of_data(self):
            return self.size

    for _ in range(20):
        holder = Holder.remote(api.put(bytes(400_000)))
        assert api.get(holder.size_of_data.remote()) == 400_000


def test_an_argument_of_the_constructor_fails():
    @api.remote
    def fail():
        raise ValueError("argument")

    with pytest.raises(exceptions.ActorDiedError):
        api.get(Counter.remote(fail.remote()).add.remote())


def test_a_handle_of_an_actor_that_waits_for_an_argument_is_passed_on(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def wait(value):
        gate.wait()
        if value is None:
            raise ValueError("no value")
        return value

    @api.remote
    def add(actor):
        started.mark()
        return api.get(actor.add.remote())

    started = Tally(tmp_path / "started")
    made, broken = Counter.remote(wait.remote(4)), Counter.remote(wait.remote(None))
    results = [add.remote(made), add.remote(broken)]
    wait_until(lambda: started.count() == 2)
    gate.open()
    assert api.get(results[0]) == 5
    with pytest.raises(exceptions.ActorDiedError, match="no value"):
        api.get(results[1])


def test_a_crash_in_the_constructor():
    @api.remote
    class Crashes:
        def __init__(self):
            os._exit(1)

        def work(self):
            return 1

    with pytest.raises(exceptions.ActorDiedError):
        api.get(Crashes.remote().work.remote())


# kill and exit_actor


def test_kill():
    counter = Counter.remote()
    pid = api.get(counter.pid.remote())
    api.kill(counter)
    wait_until_gone(pid)
    with pytest.raises(exceptions.ActorDiedError):
        api.get(counter.add.remote())
    api.kill(counter)


def test_kill_fails_the_running_call(tmp_path):
    started = Gate(tmp_path / "started")

    @api.remote
    class Busy:
        def work(self):
            started.open()
            Gate(tmp_path / "never").wait()

    busy = Busy.remote()
    running, waiting = busy.work.remote(), busy.work.remote()
    started.wait()
    api.kill(busy)
    for reference in (running, waiting):
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)


def test_kill_skips_the_exit_handlers(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote
    class Polite:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def pid(self):
            return os.getpid()

    polite = Polite.remote()
    pid = api.get(polite.pid.remote())
    api.kill(polite)
    wait_until_gone(pid)
    assert not exited.is_open()


def test_kill_does_not_restart_unless_asked():
    counter = Counter.options(max_restarts=5, max_task_retries=5).remote()
    pid = api.get(counter.pid.remote())
    api.kill(counter, no_restart=False)
    wait_until_gone(pid)
    assert api.get(counter.pid.remote()) != pid
    api.kill(counter)
    wait_until(lambda: dead(counter))


def test_kill_before_the_actor_lives(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    class Slow:
        def __init__(self):
            gate.wait()

        def work(self):
            return 1

    slow = Slow.remote()
    reference = slow.work.remote()
    api.kill(slow)
    with pytest.raises(exceptions.RayActorError):
        api.get(reference)


@pytest.mark.parametrize("wrong", [1, "actor", None], ids=str)
def test_only_actors_are_killed(wrong):
    with pytest.raises(ValueError):
        api.kill(wrong)
    with pytest.raises(ValueError):
        api.kill(api.put(1))


def test_an_actor_ends_itself(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote(max_restarts=-1)
    class Leaves:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def pid(self):
            return os.getpid()

        def leave(self):
            submodule("actor").exit_actor()

    leaves = Leaves.remote()
    pid = api.get(leaves.pid.remote())
    leave, after = leaves.leave.remote(), leaves.pid.remote()
    for reference in (leave, after):
        with pytest.raises(exceptions.RayActorError):
            api.get(reference)
    wait_until_gone(pid)
    exited.wait()
    assert dead(leaves)


def test_only_actors_end_themselves():
    exit_actor = submodule("actor").exit_actor
    with pytest.raises(TypeError):
        exit_actor()

    @api.remote
    def leave():
        exit_actor()

    with pytest.raises(TypeError):
        api.get(leave.remote())


def test_exit_of_the_interpreter_ends_an_actor():
    @api.remote
    class Leaves:
        def leave(self):
            raise SystemExit(0)

        def pid(self):
            return os.getpid()

    leaves = Leaves.remote()
    with pytest.raises(exceptions.RayActorError):
        api.get(leaves.leave.remote())
    assert dead(leaves)


def test_terminate_ends_the_actor_after_its_calls(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote
    class Polite:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def pid(self):
            return os.getpid()

    polite = Polite.remote()
    pids = [polite.pid.remote() for _ in range(10)]
    polite.__ray_terminate__.remote()
    pid = api.get(pids)[-1]
    wait_until_gone(pid)
    assert exited.is_open()
    assert dead(polite)


# Out of scope


def test_an_actor_ends_with_its_last_handle():
    counter = Counter.remote()
    pid = api.get(counter.pid.remote())
    copy = api.get(api.put(counter))
    del counter
    gc.collect()
    assert api.get(copy.add.remote()) == 1
    assert process_alive(pid)
    del copy
    gc.collect()
    wait_until_gone(pid)


def test_calls_submitted_before_the_last_handle_went_are_done(tmp_path):
    gate, done = Gate(tmp_path / "gate"), Tally(tmp_path / "done")

    @api.remote
    class Worker:
        def work(self):
            gate.wait()
            return done.mark()

    references = [Worker.remote().work.remote()]
    worker = Worker.remote()
    references += [worker.work.remote(), worker.work.remote()]
    del worker
    gc.collect()
    gate.open()
    assert sorted(api.get(references)) == [1, 2, 3]


def test_a_task_holds_the_actor_it_uses(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def use(counter):
        gate.wait()
        return api.get([counter.add.remote(), counter.pid.remote()])

    counter = Counter.remote()
    used = use.remote(counter)
    del counter
    gc.collect()
    gate.open()
    value, pid = api.get(used)
    assert value == 1
    wait_until_gone(pid)


def test_an_actor_ends_with_the_task_that_made_it():
    @api.remote
    def make():
        counter = Counter.remote()
        return api.get(counter.pid.remote())

    wait_until_gone(api.get(make.remote()))


def test_a_returned_handle_outlives_the_task():
    @api.remote
    def make():
        counter = Counter.remote()
        assert api.get(counter.add.remote()) == 1
        return counter

    counter = api.get(make.remote())
    assert api.get(counter.add.remote()) == 2


def test_an_actor_ends_with_the_actor_that_made_it():
    @api.remote
    class Parent:
        def __init__(self):
            self.child = Counter.remote()

        def child_pid(self):
            return api.get(self.child.pid.remote())

    parent = Parent.remote()
    pid = api.get(parent.child_pid.remote())
    api.kill(parent)
    wait_until_gone(pid)


def test_exit_handlers_run_when_the_last_handle_goes(tmp_path):
    exited = Gate(tmp_path / "exited")

    @api.remote
    class Polite:
        def __init__(self):
            import atexit

            atexit.register(exited.open)

        def ready(self):
            return True

    polite = Polite.remote()
    assert api.get(polite.ready.remote())
    del polite
    gc.collect()
    exited.wait()


def test_a_method_holds_its_actor():
    method = Counter.remote().add
    gc.collect()
    assert api.get(method.remote()) == 1

"""Simulated clusters: `shoal.sim`."""

import _thread
import asyncio
import gc
import os
import queue
import random
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

import shoal
import shoal.sim
from shoal import exceptions

pytestmark = [pytest.mark.shoal_only("simulates Shoal"), pytest.mark.usefixtures("no_cluster")]


@shoal.remote
def square(x):
    return x * x


@shoal.remote
def nap(seconds, value=None):
    time.sleep(seconds)
    return value


@shoal.remote
class Recorder:
    def __init__(self):
        self.seen = []

    def note(self, what):
        self.seen.append(what)

    def get(self):
        return self.seen

    def pid(self):
        return os.getpid()


# --- time ---------------------------------------------------------------------------------------------


def test_sleeping_takes_no_real_time():
    began = time.monotonic()
    with shoal.sim.cluster(seed=1) as c:
        assert shoal.get([nap.remote(3600, x) for x in range(4)]) == [0, 1, 2, 3]
        assert 3600 <= c.now < 3660
        time.sleep(1000)
        assert 4600 <= c.now < 4700
    assert time.monotonic() - began < 1000


def test_clocks_are_virtual_inside_and_real_outside():
    real = time.time
    with shoal.sim.cluster(seed=1):
        assert time.time is not real
        began = (time.time(), time.monotonic(), time.perf_counter(), time.monotonic_ns())
        time.sleep(5)
        ended = (time.time(), time.monotonic(), time.perf_counter(), time.monotonic_ns() - 5_000_000_000 + 5)
        assert [end - begin for begin, end in zip(began[:3], ended[:3], strict=True)] == pytest.approx(
            [5, 5, 5], abs=0.01
        )
    assert time.time is real


def test_timeouts_are_virtual():
    with shoal.sim.cluster(seed=1) as c:
        ref = nap.remote(100)
        with pytest.raises(exceptions.GetTimeoutError):
            shoal.get(ref, timeout=50)
        assert 50 <= c.now < 60
        assert shoal.wait([ref], timeout=1000) == ([ref], [])


# --- determinism ----------------------------------------------------------------------------------------


def interleaving(seed, nodes=1):
    """The order in which tasks come to an actor."""
    with shoal.sim.cluster(nodes=nodes, seed=seed) as c:
        recorder = Recorder.remote()

        @shoal.remote
        def work(recorder, number):
            for _ in range(3):
                time.sleep(random.random() / 1e4)
                shoal.get(recorder.note.remote(number))
            return random.random(), uuid.uuid4().hex, os.getpid()

        results = shoal.get([work.remote(recorder, number) for number in range(4)])
        seen = shoal.get(recorder.get.remote())
    return c.trace_hash, seen, results


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_same_seed_gives_the_same_run(nodes):
    for seed in range(3):
        assert interleaving(seed, nodes) == interleaving(seed, nodes)


PROGRAM = """
import shoal, shoal.sim, time

@shoal.remote(max_retries=-1)
def work(names):
    time.sleep(0.1)
    return sorted(names)

with shoal.sim.cluster(nodes=3, seed=11) as c:
    c.random_faults(3, within=0.5)
    shoal.get([work.remote({"a", "b", str(number)}) for number in range(20)])
print(c.trace_hash)
"""


def test_the_same_seed_gives_the_same_run_in_another_process():
    def run(hash_seed):
        command = [sys.executable, "-c", PROGRAM]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, check=True, capture_output=True, timeout=50).stdout

    assert run("1") == run("2") != b""


def test_different_seeds_give_different_orders():
    orders = {tuple(interleaving(seed)[1]) for seed in range(8)}
    assert len(orders) > 1


def test_chance_is_left_as_it_was():
    random.seed(5)
    state = random.getstate()
    with shoal.sim.cluster(seed=1):
        random.random()
    assert random.getstate() == state


# --- faults ---------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_a_retry():
    with shoal.sim.cluster(seed=3) as c:
        ref = nap.options(max_retries=1).remote(10, "done")
        time.sleep(5)
        assert c.kill_worker()
        assert shoal.get(ref) == "done"
        assert c.now > 15


def test_a_killed_worker_without_a_retry():
    with shoal.sim.cluster(seed=3) as c:
        ref = nap.options(max_retries=0).remote(10)
        time.sleep(5)
        c.kill_worker()
        with pytest.raises(exceptions.WorkerCrashedError):
            shoal.get(ref)


def test_the_worker_of_an_actor_is_killed():
    with shoal.sim.cluster(seed=3) as c:
        recorder = Recorder.options(max_restarts=1).remote()
        pid = shoal.get(recorder.pid.remote())
        assert pid in c.workers()
        assert c.kill_worker(recorder)
        time.sleep(1)
        assert shoal.get(recorder.pid.remote()) != pid
        assert not c.kill_worker(pid)


def test_a_dead_process_does_nothing_more():
    done = []

    @shoal.remote(max_retries=0)
    def work():
        try:
            time.sleep(10)
        finally:
            time.sleep(10)
            done.append("after its death")

    with shoal.sim.cluster(seed=3) as c:
        ref = work.remote()
        time.sleep(5)
        c.kill_worker()
        with pytest.raises(exceptions.WorkerCrashedError):
            shoal.get(ref)
        time.sleep(100)
    assert done == []


def test_a_handle_is_good_however_long_the_actor_waits_for_its_arguments():
    with shoal.sim.cluster(nodes=2, seed=1):

        @shoal.remote
        class Late:
            def __init__(self, value):
                self.value = value

            def get(self):
                return self.value

        @shoal.remote
        def ask(actor):
            return shoal.get(actor.get.remote())

        assert shoal.get(ask.remote(Late.remote(nap.remote(3600, 7)))) == 7


def test_the_death_of_a_node_is_survived():
    for seed in range(3):
        with shoal.sim.cluster(nodes=3, seed=seed, num_cpus=2) as c:
            refs = [nap.options(max_retries=2).remote(30, x) for x in range(6)]
            time.sleep(10)
            killed = c.kill_node()
            assert shoal.get(refs) == list(range(6))
            assert killed not in c.nodes
            c.start_node(killed)
            time.sleep(5)
            assert killed in c.nodes


def test_a_partition_heals():
    for seed in range(3):
        with shoal.sim.cluster(nodes=3, seed=seed, num_cpus=1) as c:
            refs = [nap.remote(2, x) for x in range(6)]
            time.sleep(1)
            c.partition([1], seconds=3)
            assert shoal.get(refs) == list(range(6))


@shoal.sim.chaos(seeds=10, nodes=4, num_cpus=2, faults=4, within=5)
def test_random_faults_cost_time_alone(c):
    refs = [nap.options(max_retries=-1).remote(0.5, x) for x in range(20)]
    assert shoal.get(refs) == list(range(20))


def test_the_first_machine_cannot_be_killed():
    with shoal.sim.cluster(nodes=2, seed=1) as c:
        with pytest.raises(ValueError, match="the driver"):
            c.kill_node(0)
        with pytest.raises(ValueError, match="no machine 7"):
            c.kill_node(7)
        with pytest.raises(ValueError, match="no fault"):
            c.random_faults(kinds=["meteor"])


# --- what does not end -------------------------------------------------------------------------------------


def test_a_deadlock_is_an_error_that_names_who_waits():
    @shoal.remote
    class Partner:
        def set(self, other):
            self.other = other

        def ask(self):
            return shoal.get(self.other.answer.remote())

        def answer(self):
            return 1

    with pytest.raises(shoal.sim.DeadlockError, match="the driver") as found, shoal.sim.cluster(seed=1):
        one, two = Partner.remote(), Partner.remote()
        shoal.get([one.set.remote(two), two.set.remote(one)])
        shoal.get([one.ask.remote(), two.ask.remote()])
    assert "Partner.ask" in "\n".join(found.value.__notes__)
    assert "seed=1" in "\n".join(found.value.__notes__)


def test_a_program_without_an_end():
    with pytest.raises(shoal.sim.TimeLimitError), shoal.sim.cluster(seed=1, time_limit=100):
        while True:
            time.sleep(1)


def test_somebody_who_keeps_the_turn():
    @shoal.remote
    def wait_outside():
        lock = _thread.allocate_lock()
        lock.acquire()
        return lock.acquire(timeout=20)

    with pytest.raises(shoal.sim.StalledError), shoal.sim.cluster(seed=1, patience=1):
        shoal.get(wait_outside.remote())


def test_a_failure_ends_the_simulation():
    with pytest.raises(ZeroDivisionError) as found, shoal.sim.cluster(nodes=2, seed=4):
        nap.remote(100)
        time.sleep(1)
        1 / 0  # noqa: B018
    assert found.value.__notes__ == ["This happened in a simulated cluster with seed=4."]
    with shoal.sim.cluster(seed=4):
        assert shoal.get(square.remote(3)) == 9


# --- threads and loops ----------------------------------------------------------------------------------------


def test_threads_of_a_task_take_turns():
    @shoal.remote
    def work():
        results = queue.Queue()

        def produce(number):
            time.sleep(number)
            results.put((number, shoal.get(square.remote(number))))

        threads = [threading.Thread(target=produce, args=(number,)) for number in (3, 1, 2)]
        for thread in threads:
            thread.start()
        found = [results.get(timeout=60) for _ in threads]
        for thread in threads:
            thread.join()
        assert not any(thread.is_alive() for thread in threads)
        with ThreadPoolExecutor(2) as pool:
            found += pool.map(lambda number: (number, shoal.get(square.remote(number))), (4, 5))
        return found

    with shoal.sim.cluster(seed=1):
        assert shoal.get(work.remote()) == [(1, 1), (2, 4), (3, 9), (4, 16), (5, 25)]


def test_locks_and_conditions_are_virtual():
    with shoal.sim.cluster(seed=1) as c:
        began = c.now
        lock = threading.Lock()
        lock.acquire()
        assert not lock.acquire(timeout=100)
        assert 100 <= c.now - began < 101
        with pytest.raises(queue.Empty):
            queue.Queue().get(timeout=100)
        assert not threading.Event().wait(100)
        assert 300 <= c.now - began < 301


def test_event_loops_are_virtual():
    async def main():
        async with asyncio.timeout(1000):
            await asyncio.sleep(500)
            return await asyncio.gather(nap.remote(100, 1), asyncio.to_thread(lambda: shoal.get(nap.remote(50, 2))))

    with shoal.sim.cluster(seed=1) as c:
        assert asyncio.run(main()) == [1, 2]
        assert 600 <= c.now < 650


# --- the ends -------------------------------------------------------------------------------------------------


def test_nothing_is_left():
    before = threading.active_count()
    with shoal.sim.cluster(nodes=2, seed=1):
        kept = shoal.put(bytes(1_000_000))
        Recorder.options(name="kept", lifetime="detached").remote()
        shoal.get(nap.remote(1))
    assert threading.active_count() == before
    assert gc.isenabled()
    with pytest.raises(ConnectionError):
        shoal.get(kept)
    assert not shoal.is_initialized()


def test_only_one_at_a_time():
    with shoal.sim.cluster(seed=1), pytest.raises(RuntimeError), shoal.sim.cluster(seed=2):
        pass


def test_init_in_a_simulation_changes_nothing():
    with shoal.sim.cluster(nodes=2, seed=1):
        shoal.init(num_cpus=17)
        assert shoal.cluster_resources()["CPU"] == 8
        shoal.shutdown()
        assert shoal.get(square.remote(2)) == 4


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="0 nodes"):
        shoal.sim.cluster(nodes=0)
    c = shoal.sim.cluster(seed=1)
    with pytest.raises(shoal.sim.SimulationError):
        c.kill_worker()


# --- chaos -----------------------------------------------------------------------------------------------------


def test_chaos_names_the_seed_that_fails_and_runs_it_again(monkeypatch):
    seen = []

    @shoal.sim.chaos(seeds=[3, 4, 5])
    def fails(c):
        seen.append(c.seed)
        assert c.seed != 4

    with pytest.raises(AssertionError) as found:
        fails()
    assert seen == [3, 4, 4]
    assert "failed again" in found.value.__notes__[-2]
    assert "SHOAL_SIM_SEED=4 pytest" in found.value.__notes__[-1]
    assert "test_chaos_names_the_seed" in found.value.__notes__[-1]
    seen.clear()
    monkeypatch.setenv("SHOAL_SIM_SEED", "5")
    fails()
    assert seen == [5]


@shoal.sim.chaos(seeds=2)
def test_chaos_leaves_fixtures_to_pytest(c, tmp_path):
    assert tmp_path.is_dir()
    assert shoal.get(square.remote(c.seed)) == c.seed**2

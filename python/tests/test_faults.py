"""Faults under load: workers die at random moments, and everything still ends right.

`SHOAL_FAULT_ROUNDS` sets how many rounds the long test makes. `SHOAL_FAULT_SEED` repeats the choices of a run.
"""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from harness import (
    ON_SHOAL,
    PATIENCE_SECONDS,
    Gate,
    Tally,
    api,
    exceptions,
    process_alive,
    start_driver,
    wait_until,
    wait_until_gone,
)

ROUNDS = int(os.environ.get("SHOAL_FAULT_ROUNDS", "10" if ON_SHOAL else "3"))
SEED = int(os.environ.get("SHOAL_FAULT_SEED", "0")) or random.randrange(1, 2**32)


def kill(pid, how=signal.SIGKILL):
    """Kill a process that may already be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), how)


def descendants(pid):
    """All live processes below `pid`."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return [pid for pid in found if process_alive(pid)]


@pytest.fixture
def pids(tmp_path):
    """Where tasks write the process they run in, so that a test can kill it."""
    return Tally(tmp_path / "pids")


# Random kills


@pytest.mark.timeout(60 + ROUNDS * (10 if ON_SHOAL else 60))
def test_workers_die_at_random_under_load(start_cluster, pids):
    print(f"SHOAL_FAULT_SEED={SEED} SHOAL_FAULT_ROUNDS={ROUNDS}")
    chance = random.Random(SEED)
    start_cluster(num_cpus=4)

    @api.remote(max_retries=-1)
    def work(i, data, pause):
        pids.mark(os.getpid())
        time.sleep(pause)
        return i, data + bytes(i % 3 * 80_000)

    @api.remote(max_retries=-1)
    def combine(*parts):
        pids.mark(os.getpid())
        return sum(i for i, _ in parts), sum(len(data) for _, data in parts)

    @api.remote(max_restarts=-1, max_task_retries=-1)
    class Sum:
        def add(self, pair):
            pids.mark(os.getpid())
            return pair[0] * 2

    def round_of_work():
        total = Sum.remote()
        shared = api.put(bytes(200_000))
        parts = [work.remote(i, shared, chance.choice([0, 0.001, 0.01])) for i in range(60)]
        sums = [combine.remote(*parts[i : i + 10]) for i in range(0, 60, 10)]
        doubled = [total.add.remote(pair) for pair in sums]
        for _ in range(chance.randrange(1, 6)):
            seen = pids.count()
            wait_until(lambda seen=seen: pids.count() > seen or not api.wait(doubled, num_returns=6, timeout=0)[1])
            kill(chance.choice(pids.marks()[-8:]))
            time.sleep(chance.random() * 0.02)
        return api.get(doubled), [size for _, size in api.get(sums)]

    tens = [range(start, start + 10) for start in range(0, 60, 10)]
    expected = (
        [2 * sum(ten) for ten in tens],
        [sum(200_000 + i % 3 * 80_000 for i in ten) for ten in tens],
    )
    for round_number in range(ROUNDS):
        assert round_of_work() == expected, f"round {round_number}"
        pids.path.unlink(missing_ok=True)
    wait_until(lambda: api.available_resources().get("CPU") == 4, what="return of all CPUs")


@pytest.mark.timeout(120 if ON_SHOAL else 300)
def test_every_worker_dies_at_once(start_cluster, pids, tmp_path):
    start_cluster(num_cpus=4)
    gate = Gate(tmp_path / "gate")

    @api.remote
    def work(i):
        pids.mark(os.getpid())
        gate.wait()
        return i

    for _ in range(3):
        references = [work.remote(i) for i in range(8)]
        pids.wait_for(4)
        for pid in set(pids.marks()):
            kill(pid)
        gate.open()
        assert api.get(references) == list(range(8))
        gate.path.unlink()
        pids.path.unlink()


# The worker that holds, makes or waits for something dies


@pytest.mark.usefixtures("cluster")
class TestOneWorker:
    def test_killed_while_it_waits_in_get(self, pids, tmp_path):
        gate = Gate(tmp_path / "gate")

        @api.remote
        def child():
            gate.wait()
            return "child"

        @api.remote
        def parent():
            pids.mark(os.getpid())
            return api.get(child.remote())

        reference = parent.remote()
        pids.wait_for(1)
        kill(pids.marks()[0])
        pids.wait_for(2)
        gate.open()
        assert api.get(reference) == "child"

    def test_killed_while_it_writes_a_large_result(self, pids):
        @api.remote
        def large(kill_after):
            attempt = pids.mark(os.getpid())
            if attempt == 1:
                threading.Timer(kill_after, os.kill, (os.getpid(), signal.SIGKILL)).start()
                while True:
                    api.put(bytes(20_000_000))
            return bytes(20_000_000)

        for kill_after in (0.001, 0.05):
            assert len(api.get(large.remote(kill_after))) == 20_000_000
            pids.path.unlink()

    def test_killed_while_it_reads_a_large_argument(self, pids):
        numpy = pytest.importorskip("numpy")

        @api.remote
        def read(array):
            if pids.mark(os.getpid()) <= 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return int(array.sum())

        array = api.put(numpy.ones(5_000_000, dtype="u1"))
        assert api.get(read.remote(array)) == 5_000_000
        del array

    def test_killed_with_calls_queued_at_its_actor(self, pids):
        @api.remote(max_restarts=-1, max_task_retries=-1)
        class Worker:
            def work(self, i):
                pids.mark(os.getpid())
                if i == 20:
                    time.sleep(0.05)
                return i

        worker = Worker.remote()
        references = [worker.work.remote(i) for i in range(200)]
        pids.wait_for(10)
        kill(pids.marks()[0])
        assert api.get(references) == list(range(200))

    def test_stopped_and_continued(self, pids, tmp_path):
        # A slow process is not a dead one.
        gate = Gate(tmp_path / "gate")

        @api.remote(max_retries=0)
        def work():
            pids.mark(os.getpid())
            gate.wait()
            return "slow but alive"

        reference = work.remote()
        pids.wait_for(1)
        os.kill(int(pids.marks()[0]), signal.SIGSTOP)
        gate.open()
        assert api.wait([reference], timeout=1)[0] == []
        os.kill(int(pids.marks()[0]), signal.SIGCONT)
        assert api.get(reference) == "slow but alive"

    def test_terminated_politely(self, pids, tmp_path):
        gate = Gate(tmp_path / "gate")

        @api.remote
        def work():
            if pids.mark(os.getpid()) == 1:
                gate.wait()
            return "again"

        reference = work.remote()
        pids.wait_for(1)
        kill(pids.marks()[0], signal.SIGTERM)
        assert api.get(reference) == "again"

    def test_an_idle_worker_is_killed(self, pids):
        @api.remote
        def pid():
            return os.getpid()

        for _ in range(3):
            victim = api.get(pid.remote())
            kill(victim)
            assert api.get(pid.remote()) != victim

    def test_a_child_process_of_a_task_does_not_confuse_it(self):
        @api.remote
        def run():
            return subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout.strip()

        @api.remote
        def fork():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            return "parent"

        assert api.get([run.remote(), fork.remote()]) == ["42", "parent"]

    def test_multiprocessing_inside_a_task(self):
        @api.remote
        def work():
            import concurrent.futures
            import multiprocessing

            context = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                return list(pool.map(abs, [-1, -2, -3]))

        assert api.get(work.remote()) == [1, 2, 3]

    def test_recursion_without_end(self):
        @api.remote(max_retries=0)
        def endless():
            return endless_python()

        def endless_python():
            return endless_python() + 1

        with pytest.raises(RecursionError):
            api.get(endless.remote())

    def test_out_of_memory_is_an_error_of_the_task(self):
        @api.remote(max_retries=0)
        def hog():
            return len(bytearray(2**47))  # more than the address space

        with pytest.raises((MemoryError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)):
            api.get(hog.remote())
        assert api.get(api.remote(lambda: "goes on").remote()) == "goes on"

    def test_closed_descriptors_are_the_end_of_one_worker_only(self):
        @api.remote(max_retries=0)
        def vandal():
            os.closerange(3, 4096)
            return 1

        with contextlib.suppress(exceptions.RayError):
            api.get(vandal.remote())
        assert api.get([api.remote(lambda i=i: i).remote() for i in range(8)]) == list(range(8))


# Memory runs short


@pytest.mark.timeout(120 if ON_SHOAL else 300)
def test_a_task_that_takes_too_much_memory_is_ended(start_cluster, monkeypatch, pids):
    gibibyte = 2**30
    total, free = machine_memory()
    variable = "SHOAL_MEMORY_THRESHOLD" if ON_SHOAL else "RAY_memory_usage_threshold"
    monkeypatch.setenv(variable, f"{(total - free + gibibyte) / total:.4f}")
    start_cluster(num_cpus=2)

    @api.remote(max_retries=0)
    def hog():
        pids.mark(os.getpid())
        taken = []
        while len(taken) < 30:
            taken.append(b"x" * (gibibyte // 10))
            time.sleep(0.05)
        Gate(pids.path.with_name("never")).wait()

    with pytest.raises(exceptions.OutOfMemoryError, match="memory"):
        api.get(hog.remote())
    wait_until_gone(int(pids.marks()[0]))
    assert api.get(api.remote(lambda: "goes on").remote()) == "goes on"


def machine_memory():
    """Bytes of memory in all, and bytes that are free for use."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return sizes["MemTotal"], sizes["MemAvailable"]


# The driver dies


@pytest.mark.timeout(120 if ON_SHOAL else 300)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_killed_driver_leaves_nothing(no_cluster, tmp_path, how):
    processes = Tally(tmp_path / "processes")
    driver = start_driver(
        """
        import os, sys, time
        api.init(num_cpus=2, include_dashboard=False)

        path = sys.argv[1]

        def report():
            with open(path, "a") as file:
                file.write(f"{os.getpid()}\\n")

        @api.remote
        def run():
            report()
            while True:
                time.sleep(0.1)

        @api.remote
        class Actor:
            def run(self):
                report()
                api.get(run.remote())

        actor = Actor.remote()
        data = api.put(bytes(10_000_000))
        api.get([actor.run.remote(), run.remote()])
        """,
        tmp_path,
        arguments=[processes.path],
    )
    try:
        processes.wait_for(3)
        below = descendants(driver.pid)
        assert {int(pid) for pid in processes.marks()} <= set(below)
        os.kill(driver.pid, how)
        driver.wait(PATIENCE_SECONDS)
        for pid in below:
            wait_until_gone(pid)
    finally:
        driver.kill()
        driver.communicate()


# From outside


@pytest.mark.shoal_only(reason="looks for Shoal's files and processes")
@pytest.mark.timeout(120)
def test_nothing_is_left_in_the_file_system(start_cluster, pids):
    start_cluster(num_cpus=4)
    context = api.get_runtime_context()
    session = pathlib.Path(context.get_temp_dir()) / context.get_session_name()

    @api.remote
    def work(i):
        if pids.mark(os.getpid()) % 10 == 1:
            os._exit(1)
        return bytes(200_000)

    api.get([work.remote(i) for i in range(40)])
    below = descendants(os.getpid())
    assert below
    assert session.is_dir()
    assert session.stat().st_mode & 0o777 == 0o700
    assert (session / "node.sock").stat().st_mode & 0o777 == 0o600
    api.shutdown()
    for pid in below:
        wait_until_gone(pid)
    assert not (session / "node.sock").exists()
    assert not list(pathlib.Path("/dev/shm").glob("*shoal*"))


@pytest.mark.shoal_only(reason="kills a process that only Shoal has")
@pytest.mark.timeout(120)
def test_the_death_of_the_daemon_is_an_error_not_a_hang(start_cluster, tmp_path):
    start_cluster(num_cpus=2)
    started = Gate(tmp_path / "started")

    @api.remote
    def run():
        started.open()
        Gate(tmp_path / "never").wait()

    reference = run.remote()
    started.wait()
    below = descendants(os.getpid())
    children = [pid for pid in below if parent(pid) == os.getpid()]
    assert children
    for pid in children:
        kill(pid)
    with pytest.raises((exceptions.RayError, ConnectionError)) as caught:
        api.get(reference, timeout=PATIENCE_SECONDS)
    assert not isinstance(caught.value, exceptions.GetTimeoutError)
    api.shutdown()
    for pid in below:
        wait_until_gone(pid)
    start_cluster(num_cpus=1)
    assert api.get(api.remote(lambda: "a new cluster").remote()) == "a new cluster"


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.shoal_only(reason="Ray listens on many ports")
def test_no_port_is_open(start_cluster):
    start_cluster(num_cpus=2)
    api.get(api.remote(lambda: 1).remote())
    listening = set()
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                listening.add(f"socket:[{fields[9]}]")
    for pid in descendants(os.getpid()):
        for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                assert os.readlink(descriptor) not in listening, f"process {pid} listens on a port"
            except FileNotFoundError:
                continue


@pytest.mark.shoal_only(reason="counts Shoal's processes")
@pytest.mark.timeout(120)
def test_workers_come_and_go_without_growing_in_number(start_cluster, pids):
    start_cluster(num_cpus=2)

    @api.remote
    def die_once(i):
        if pids.mark(f"{i} {os.getpid()}") and sum(mark.startswith(f"{i} ") for mark in pids.marks()) == 1:
            os._exit(1)
        return i

    @api.remote
    class Short:
        def pid(self):
            return os.getpid()

    assert api.get([die_once.remote(i) for i in range(10)]) == list(range(10))
    for _ in range(10):
        pid = api.get(Short.remote().pid.remote())
    wait_until_gone(pid)
    # The daemon, the template and what the pool keeps.
    wait_until(lambda: len(descendants(os.getpid())) <= 12, what="a small number of processes")

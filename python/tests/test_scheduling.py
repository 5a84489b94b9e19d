"""Which task runs when, where and in what surroundings."""

import os
import threading

import pytest

from harness import Gate, Tally, api, in_threads, run_driver

pytestmark = pytest.mark.usefixtures("cluster")


def test_results_keep_the_order_of_the_references():
    @api.remote
    def square(x):
        return x * x

    assert api.get([square.remote(i) for i in range(1000)]) == [i * i for i in range(1000)]


def test_tasks_run_in_parallel(tmp_path):
    # Each of the four waits until all of them run.
    present = Tally(tmp_path / "present")

    @api.remote
    def meet():
        present.mark()
        present.wait_for(4)
        return os.getpid()

    assert len(set(api.get([meet.remote() for _ in range(4)]))) == 4


def test_a_long_task_does_not_hold_up_short_ones(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def step(x):
        if x == "long":
            gate.wait()
        return x

    # The short ones before let the runtime learn that these tasks are short.
    api.get([step.remote(i) for i in range(300)])
    references = [step.remote("long")] + [step.remote(i) for i in range(300)]
    assert api.get(references[1:]) == list(range(300))
    assert api.wait(references[:1], timeout=0)[0] == []
    gate.open()
    assert api.get(references[0]) == "long"


def test_a_task_may_wait_for_one_submitted_after_it(tmp_path):
    gate = Gate(tmp_path / "gate")

    @api.remote
    def step(x):
        if x == "first":
            gate.wait()
        if x == "last":
            gate.open()
        return x

    api.get([step.remote(i) for i in range(300)])
    names = ["first", "first", "first", *range(50), "last"]
    assert api.get([step.remote(name) for name in names]) == names


@pytest.mark.parametrize("strategy", ["DEFAULT", "SPREAD"])
def test_scheduling_strategies_run_on_one_node(strategy):
    @api.remote(scheduling_strategy=strategy)
    def node():
        return api.get_runtime_context().get_node_id()

    assert set(api.get([node.remote() for _ in range(4)])) == {api.get_runtime_context().get_node_id()}


def test_workers_are_used_again():
    @api.remote
    def pid():
        return os.getpid()

    pids = {api.get(pid.remote()) for _ in range(40)}
    # More than the CPUs would mean a new process for tasks that run one after the other.
    assert len(pids) <= 4
    assert os.getpid() not in pids


def test_max_calls_ends_the_worker():
    @api.remote(max_calls=1)
    def pid():
        return os.getpid()

    pids = [api.get(pid.remote()) for _ in range(3)]
    assert len(set(pids)) == 3


def test_threads_submit_and_get_at_the_same_time():
    @api.remote
    def add(a, b):
        return a + b

    def work(thread):
        return api.get([add.remote(thread, i) for i in range(50)])

    assert in_threads(work, 8) == [[t + i for i in range(50)] for t in range(8)]


def test_a_task_uses_threads_of_its_own():
    @api.remote
    def add(a, b):
        return a + b

    @api.remote
    def many():
        results = []
        threads = [threading.Thread(target=lambda i=i: results.append(api.get(add.remote(i, 1)))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(results)

    assert api.get(many.remote()) == [1, 2, 3, 4]


def test_a_task_that_nobody_waits_for_still_runs(tmp_path):
    ran = Tally(tmp_path / "ran")

    @api.remote
    def f():
        ran.mark()

    for _ in range(5):
        f.remote()
    ran.wait_for(5)


# Surroundings


def test_a_worker_runs_in_the_directory_of_the_driver():
    @api.remote
    def directory():
        return os.getcwd()

    assert api.get(directory.remote()) == os.getcwd()


def test_a_worker_imports_what_the_driver_can_import(tmp_path):
    (tmp_path / "beside_the_script.py").write_text("def triple(x):\n    return 3 * x\n")
    done = run_driver(
        """
        import beside_the_script
        api.init(num_cpus=1, include_dashboard=False)
        print(api.get(api.remote(beside_the_script.triple).remote(2)))
        """,
        tmp_path,
    )
    assert done.stdout.strip() == "6", done.stderr


def test_a_worker_inherits_the_environment_of_the_driver(tmp_path):
    done = run_driver(
        """
        import os
        api.init(num_cpus=1, include_dashboard=False)
        print(api.get(api.remote(lambda: os.environ["COLOUR"]).remote()))
        """,
        tmp_path,
        environment={"COLOUR": "green"},
    )
    assert done.stdout.strip() == "green", done.stderr


def test_standard_input_of_a_worker_is_empty():
    @api.remote
    def read():
        import sys

        return sys.stdin.read()

    assert api.get(read.remote()) == ""

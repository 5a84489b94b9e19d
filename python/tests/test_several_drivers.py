"""Several drivers use one cluster: jobs of their own, names in common, actors that outlive their driver."""

import os
import signal

import pytest

from harness import NAME, PATIENCE_SECONDS, Tally, api, exceptions, run_driver, start_driver, wait_until_gone

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def address():
    """Where another driver finds the cluster of this one."""
    return api.get_runtime_context().gcs_address


PREAMBLE = """
import os, sys, time

@api.remote
class Counter:
    def __init__(self):
        self.value = 0
    def add(self):
        self.value += 1
        return self.value
    def pid(self):
        return os.getpid()
"""


def second_driver(address, source, directory, **options):
    """Run `source` in a driver that uses the cluster at `address`; what it prints comes back."""
    connect = f"api.init(address={address!r}, **{options!r})\n"
    done = run_driver(PREAMBLE + connect + source, directory)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_each_driver_is_a_job_of_its_own(address, tmp_path):
    source = """
context = api.get_runtime_context()
print(context.get_job_id(), context.get_node_id(), int(api.cluster_resources()["CPU"]))
print(api.get(api.remote(lambda: api.get_runtime_context().get_job_id()).remote()))
"""
    job, node, cpus, job_of_task = second_driver(address, source, tmp_path)
    context = api.get_runtime_context()
    assert job == job_of_task != context.get_job_id()
    assert node == context.get_node_id()
    assert cpus == "4"


def test_the_address_may_come_from_the_environment(address, tmp_path):
    done = run_driver(
        "api.init()\nprint(api.get_runtime_context().get_node_id())",
        tmp_path,
        environment={f"{NAME.upper()}_ADDRESS": address},
    )
    assert done.stdout.strip() == api.get_runtime_context().get_node_id(), done.stderr


@pytest.mark.parametrize("option", ["num_cpus=1", "num_gpus=1", "resources={'wheel': 1}", "object_store_memory=10**8"])
def test_a_running_cluster_cannot_be_given_resources(address, tmp_path, option):
    source = f"""
try:
    api.init(address={address!r}, {option})
except ValueError:
    print("refused", api.is_initialized())
"""
    done = run_driver(source, tmp_path)
    assert done.stdout.split() == ["refused", "False"], done.stderr


@pytest.mark.shoal_only(reason="Ray tries for several minutes")
def test_no_cluster_at_the_address(tmp_path):
    source = f"""
try:
    api.init(address={str(tmp_path / "node.sock")!r})
except ConnectionError:
    print("refused", api.is_initialized())
"""
    done = run_driver(source, tmp_path)
    assert done.stdout.split() == ["refused", "False"], done.stderr


def test_a_detached_actor_outlives_its_driver(address, tmp_path):
    source = """
counter = Counter.options(name="left behind", lifetime="detached").remote()
print(api.get(counter.add.remote()), api.get(counter.pid.remote()))
"""
    value, pid = second_driver(address, source, tmp_path, namespace="shared")
    assert value == "1"
    found = api.get_actor("left behind", namespace="shared")
    assert api.get(found.pid.remote()) == int(pid)
    value, *_ = second_driver(
        address, "print(api.get(api.get_actor('left behind').add.remote()))", tmp_path, namespace="shared"
    )
    assert value == "2"
    assert api.get(found.add.remote()) == 3
    api.kill(found)
    wait_until_gone(int(pid))


def test_a_detached_actor_still_restarts_without_its_driver(address, tmp_path):
    source = """
counter = Counter.options(name="restarts", lifetime="detached", max_restarts=1, max_task_retries=1).remote()
print(api.get(counter.pid.remote()))
"""
    (pid,) = second_driver(address, source, tmp_path, namespace="shared")
    found = api.get_actor("restarts", namespace="shared")
    os.kill(int(pid), signal.SIGKILL)
    wait_until_gone(int(pid))
    new_pid = api.get(found.pid.remote())
    assert new_pid != int(pid)
    api.kill(found)


@pytest.mark.parametrize("end", ["", "os._exit(0)", "raise ValueError"], ids=["normal", "abrupt", "error"])
def test_other_actors_end_with_their_driver(address, tmp_path, end):
    pids = Tally(tmp_path / "pids")
    source = f"""
counter = Counter.options(name="not left behind").remote()
with open({str(pids.path)!r}, "a") as file:
    file.write(f"{{api.get(counter.pid.remote())}}\\n")
{end}
"""
    run_driver(PREAMBLE + f"api.init(address={address!r}, namespace='shared')\n" + source, tmp_path)
    (pid,) = pids.marks()
    wait_until_gone(int(pid))
    with pytest.raises(ValueError):
        api.get_actor("not left behind", namespace="shared")


def test_a_killed_driver_leaves_the_cluster_to_others(address, tmp_path):
    pids = Tally(tmp_path / "pids")
    driver = start_driver(
        PREAMBLE
        + f"""
path = {str(pids.path)!r}
api.init(address={address!r})

@api.remote
def run():
    with open(path, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    time.sleep(10_000)

counter = Counter.remote()
api.get(counter.add.remote())
api.get([run.remote(), run.remote()])
""",
        tmp_path,
    )
    try:
        pids.wait_for(2)
        driver.kill()
        driver.wait(PATIENCE_SECONDS)
        for pid in pids.marks():
            wait_until_gone(int(pid))
    finally:
        driver.kill()
        driver.communicate()

    # All CPUs are free again.
    @api.remote(num_cpus=4)
    def everything():
        return "ran"

    assert api.get(everything.remote()) == "ran"


def test_names_are_private_by_default(address, tmp_path):
    class Empty:
        def ready(self):
            return True

    mine = api.remote(Empty).options(name="mine").remote()
    assert api.get(mine.ready.remote())
    source = """
try:
    api.get_actor("mine")
except ValueError:
    print("unknown")
"""
    assert second_driver(address, source, tmp_path) == ["unknown"]


def test_a_driver_reads_what_an_actor_of_another_holds(address, tmp_path):
    source = """
@api.remote
class Keeper:
    def make(self):
        self.reference = api.put(bytes(500_000))
        return [self.reference]

keeper = Keeper.options(name="keeper", lifetime="detached").remote()
api.get(keeper.make.remote())
"""
    second_driver(address, source, tmp_path, namespace="shared")
    keeper = api.get_actor("keeper", namespace="shared")
    (reference,) = api.get(keeper.make.remote())
    assert len(api.get(reference)) == 500_000
    api.kill(keeper)
    with pytest.raises(exceptions.RayActorError):
        api.get(keeper.make.remote())

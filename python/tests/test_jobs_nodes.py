"""Several drivers at different nodes of one cluster: what each had on other nodes goes with it, however it ends."""

import signal

import pytest

from harness import PATIENCE_SECONDS, Counter, api, on, process_alive, start_driver, wait_until, wait_until_gone

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.shoal_only(reason="it looks into nodes, and drivers connect to nodes of their own"),
]

SIZE = 8 << 20

# A driver with an actor, a task that runs for ever and large objects on node c. It says who works for it, and then
# answers each line with whether all of it is well. It ends when its input does.
DRIVER = """
import os, sys, time

SIZE = {size}
api.init(address={address!r})
there = dict(num_cpus=0.25, resources={{"c": 0.01}})

@api.remote(**there)
class Keeper:
    def keep(self, references):
        self.given = references
        self.made = api.put(bytes(SIZE))
        assert len(api.get(self.given[0])) == SIZE
        return [os.getpid(), self.made]
    def size(self):
        return len(api.get(self.given[0])) + len(api.get(self.made))

@api.remote(**there)
def make():
    return bytes(SIZE)

@api.remote(**there)
def run(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    os.rename(path, path + ".pid")
    time.sleep(10_000)

mine = api.put(bytes(SIZE))
keeper = Keeper.options(name="keeper").remote()
pid, theirs = api.get(keeper.keep.remote([mine]))
result = make.remote()
running = run.remote(sys.argv[1])
while not os.path.exists(sys.argv[1] + ".pid"):
    time.sleep(0.01)
print(pid, open(sys.argv[1] + ".pid").read(), api.get_runtime_context().get_job_id(), flush=True)
for _ in sys.stdin:
    print(len(api.get(theirs)) + len(api.get(result)) + api.get(keeper.size.remote()) == 4 * SIZE, flush=True)
"""


class Driver:
    """Such a driver at a node."""

    def __init__(self, node, directory):
        directory.mkdir()
        source = DRIVER.format(size=SIZE, address=node.socket)
        self.process = start_driver(source, directory, arguments=[directory / "run"])
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        keeper, task, self.job = line.split()
        self.pids = [int(keeper), int(task)]

    def is_well(self):
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "True\n" and all(map(process_alive, self.pids))

    def end_in_order(self):
        _, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, errors

    def die(self):
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == -signal.SIGKILL


@pytest.fixture
def start(tmp_path):
    """A function that starts a driver at a node; what is left of them ends with the test."""
    started = []

    def start(node):
        started.append(Driver(node, tmp_path / f"driver-{len(started)}"))
        return started[-1]

    yield start
    for driver in started:
        driver.process.kill()
        driver.process.communicate()


def held(node):
    """What a node says that is held: the jobs of its workers, its store, and what it believes to be free where."""
    status = node.status()
    store = {key: status["store"][key] for key in ("objects", "pinned", "spilled", "used")}
    free = {summary["node"]: summary["free"] for summary in status["nodes"]}
    return {worker["job"] for worker in status["workers"]}, status["drivers"], store, free


def wait_until_still(nodes):
    """What all nodes hold, once they have told the same a few times."""
    seen = []

    def still():
        seen.append([held(node) for node in nodes])
        return len(seen) >= 5 and all(one == seen[-1] for one in seen[-5:])

    wait_until(still, what="a quiet cluster")
    return seen[-1]


@pytest.mark.parametrize("order", ["killed last", "killed first"])
def test_drivers_leave_nothing_on_other_nodes_and_harm_nobody(start_nodes, start, order):
    cluster, (a, b, _) = start_nodes(*({"num_cpus": 2, "resources": {name: 1}} for name in "abc"))
    nodes = cluster.list_all_nodes()

    # The third driver is this one, at the head's node.
    @api.remote(num_cpus=0, **on("c"))
    class Mine(Counter):
        def make(self):
            self.made = api.put(bytes(SIZE))
            return [self.made]

    counter = Mine.remote()
    mine = api.get(counter.pid.remote(), timeout=PATIENCE_SECONDS)
    (kept,) = api.get(counter.make.remote(), timeout=PATIENCE_SECONDS)
    assert len(api.get(kept, timeout=PATIENCE_SECONDS)) == SIZE
    before = wait_until_still(nodes)

    first, second = start(a), start(b)
    assert first.job != second.job
    with_both = [held(node) for node in nodes]
    assert with_both != before
    assert first.is_well()
    assert second.is_well()
    calls = [counter.add.remote() for _ in range(100)]

    ending, staying = (first, second) if order == "killed last" else (second, first)
    for driver, other in ((ending, staying), (staying, None)):
        driver.end_in_order() if driver is first else driver.die()
        for pid in driver.pids:
            wait_until_gone(pid)
        assert other is None or other.is_well()
        calls += [counter.add.remote() for _ in range(100)]

    wait_until(lambda: [held(node) for node in nodes] == before, what="what was there before")
    assert api.get(calls, timeout=PATIENCE_SECONDS) == list(range(1, 301))
    assert api.get(counter.pid.remote(), timeout=PATIENCE_SECONDS) == mine
    assert len(api.get(kept, timeout=PATIENCE_SECONDS)) == SIZE

"""The process that made an object dies; whoever holds a reference reads it all the same.

In Ray most of these end in OwnerDiedError, and some hang. Here the node's daemon keeps what must be known of an
object that somebody else came to hold, and owns it when its owner is dead.
"""

import os
import signal
import subprocess

import pytest

from harness import ON_SHOAL, PATIENCE_SECONDS, Gate, Tally, api, exceptions, on, submodule, wait_until

SIZES = pytest.mark.parametrize("size", [0, 3 << 20], ids=["small", "large"])
pytestmark = [
    pytest.mark.timeout(120 if ON_SHOAL else 400),
    pytest.mark.shoal_only(reason="in Ray an object dies with the process that made it (OwnerDiedError)"),
]


def payload(size):
    return bytes(size) + b"end"


@api.remote(num_cpus=0)
class Maker:
    """Makes objects in its own process, which owns them, and hands out references in lists."""

    def put(self, size):
        return [os.getpid(), api.put(payload(size))]

    def submit(self, size):
        """The result of a task that has ended: its record has the outcome."""
        reference = made.remote(size)
        api.wait([reference])
        return [os.getpid(), reference]

    def submit_chain(self, size):
        result = chain_of_tasks(size)[-1]
        api.wait([result], fetch_local=False)
        return [os.getpid(), result]

    def submit_waiting(self, gate, tally):
        """A task that has not ended when its owner dies."""
        return [os.getpid(), waits.remote(gate, tally)]

    def chain(self, size):
        """A list whose element is a list whose element is an object: each is an object of its own."""
        return [os.getpid(), api.put([api.put([api.put(payload(size))])])]

    def wrap(self, references):
        """An object of this process that holds somebody else's."""
        return [os.getpid(), api.put(references)]

    def item(self, size):
        """An item of a generator that this process consumes."""
        items = yields.remote(size)
        return [os.getpid(), [next(items) for _ in range(3)][1]]

    def leave(self):
        api.actor.exit_actor()


@api.remote(num_cpus=0)
class Holder:
    def keep(self, references):
        self.references = references
        return os.getpid()

    def read(self):
        return api.get(self.references[0], timeout=PATIENCE_SECONDS)

    def size(self):
        return len(self.read())

    def references_kept(self):
        return self.references


@api.remote(num_cpus=0)
def made(size):
    return payload(size)


@api.remote(num_cpus=0)
def reverse(value):
    return value[::-1]


@api.remote(num_cpus=0)
def join(one, other):
    return one + other


@api.remote(num_cpus=0)
def measure(value):
    return len(value)


def chain_of_tasks(size):
    """The results of a task, of one that takes it, and of one that takes that: all on node a, where they stay."""
    first = made.options(**on("a")).remote(size)
    second = reverse.options(**on("a")).remote(first)
    return first, second, join.options(**on("a")).remote(second, second)


@api.remote(num_cpus=0, num_returns="streaming")
def yields(size):
    for _ in range(3):
        yield payload(size)


@api.remote(num_cpus=0, max_retries=3)
def waits(gate, tally):
    tally.mark()
    gate.wait()
    return "made"


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def kill(pid):
    """End a process as the kernel would when memory runs out."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), what="end of the process")


@SIZES
@pytest.mark.parametrize("how", ["put", "submit", "item"])
def test_a_reference_in_a_list_outlives_the_actor_that_made_the_object(cluster, how, size):
    maker = Maker.remote()
    pid, reference = api.get(getattr(maker, how).remote(size), timeout=PATIENCE_SECONDS)
    kill(pid)
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(size)


@SIZES
def test_a_reference_outlives_the_task_that_made_the_object(cluster, size):
    @api.remote(num_cpus=0, max_retries=0)
    def make():
        return [os.getpid(), api.put(payload(size))]

    pid, reference = api.get(make.remote(), timeout=PATIENCE_SECONDS)
    kill(pid)
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(size)
    # It can be an argument, too.
    holder = Holder.remote()
    api.get(holder.keep.remote([reference]), timeout=PATIENCE_SECONDS)
    del reference
    assert api.get(holder.read.remote(), timeout=PATIENCE_SECONDS) == payload(size)


@SIZES
def test_an_actor_that_leaves_in_order_leaves_its_objects(cluster, size):
    maker = Maker.remote()
    pid, reference = api.get(maker.put.remote(size), timeout=PATIENCE_SECONDS)
    maker.leave.remote()
    wait_until(lambda: is_gone(pid), what="end of the process")
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(size)


def test_an_object_that_was_spilled_outlives_its_owner(start_cluster):
    start_cluster(num_cpus=2, object_store_memory=100 << 20)
    maker = Maker.remote()
    pid, reference = api.get(maker.put.remote(40 << 20), timeout=PATIENCE_SECONDS)
    others = [api.put(bytes(20 << 20)) for _ in range(6)]
    kill(pid)
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(40 << 20)
    assert len(api.get(others[0], timeout=PATIENCE_SECONDS)) == 20 << 20


@SIZES
def test_a_chain_of_references_outlives_its_owner(cluster, size):
    maker = Maker.remote()
    pid, outer = api.get(maker.chain.remote(size), timeout=PATIENCE_SECONDS)
    kill(pid)
    [middle] = api.get(outer, timeout=PATIENCE_SECONDS)
    [inner] = api.get(middle, timeout=PATIENCE_SECONDS)
    assert api.get(inner, timeout=PATIENCE_SECONDS) == payload(size)


def test_each_link_of_a_chain_of_owners_may_die(cluster):
    makers = [Maker.remote() for _ in range(3)]
    pids, reference = [], None
    for maker in makers:
        if reference is None:
            pid, reference = api.get(maker.put.remote(10), timeout=PATIENCE_SECONDS)
        else:
            pid, reference = api.get(maker.wrap.remote([reference]), timeout=PATIENCE_SECONDS)
        pids.append(pid)
    for pid in pids:
        kill(pid)
    value = [reference]
    for _ in pids:
        value = api.get(value[0], timeout=PATIENCE_SECONDS)
    assert value == payload(10)


def test_actors_that_hold_an_object_of_a_dead_one_read_it_and_pass_it_on(cluster):
    maker = Maker.remote()
    pid, reference = api.get(maker.put.remote(1000), timeout=PATIENCE_SECONDS)
    first, second = Holder.remote(), Holder.remote()
    api.get(first.keep.remote([reference]), timeout=PATIENCE_SECONDS)
    del reference
    kill(pid)
    api.get(second.keep.remote(api.get(first.references_kept.remote())), timeout=PATIENCE_SECONDS)
    api.kill(first)
    assert api.get(second.read.remote(), timeout=PATIENCE_SECONDS) == payload(1000)


def test_a_read_that_waits_when_the_owner_dies_gets_the_value(cluster, tmp_path):
    gate, tally = Gate(tmp_path / "gate"), Tally(tmp_path / "tally")
    maker = Maker.remote()
    pid, reference = api.get(maker.submit_waiting.remote(gate, tally), timeout=PATIENCE_SECONDS)
    holder = Holder.remote()
    api.get(holder.keep.remote([reference]), timeout=PATIENCE_SECONDS)
    reading = holder.read.remote()
    wait_until(lambda: tally.count() == 1, what="start of the task")
    kill(pid)
    # Its worker ends with its owner, and it is run again for who holds its result.
    wait_until(lambda: tally.count() == 2, what="second start of the task")
    gate.open()
    assert api.get([reading, reference], timeout=PATIENCE_SECONDS) == ["made", "made"]


def test_what_a_dead_process_never_passed_on_is_freed_with_it(start_cluster):
    start_cluster(num_cpus=2, object_store_memory=80 << 20)
    maker = Maker.remote()
    pid, kept = api.get(maker.put.remote(1 << 20), timeout=PATIENCE_SECONDS)

    @api.remote(num_cpus=0)
    class Hoarder:
        def hoard(self):
            self.references = [api.put(bytes(10 << 20)) for _ in range(5)]
            return os.getpid()

    for _ in range(4):
        hoarder = Hoarder.remote()
        kill(api.get(hoarder.hoard.remote(), timeout=PATIENCE_SECONDS))
    kill(pid)
    assert api.get(kept, timeout=PATIENCE_SECONDS) == payload(1 << 20)


def test_what_can_neither_be_read_nor_made_says_that_its_owner_died(cluster, tmp_path):
    @api.remote(num_cpus=0)
    class Careless:
        def submit(self):
            never = Gate(tmp_path / "never")
            task = waits.options(max_retries=0).remote(never, Tally(tmp_path / "tally"))
            return [os.getpid(), task]

    careless = Careless.remote()
    pid, reference = api.get(careless.submit.remote(), timeout=PATIENCE_SECONDS)
    wait_until(lambda: Tally(tmp_path / "tally").count() == 1)
    kill(pid)
    with pytest.raises(exceptions.OwnerDiedError):
        api.get(reference, timeout=PATIENCE_SECONDS)


@pytest.fixture
def nodes(no_cluster):
    """A head with one CPU, where the program is, and two nodes with resources of their own, "a" and "b"."""
    cluster = submodule("cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    added = [cluster.add_node(num_cpus=1, resources={name: 1}) for name in "ab"]
    cluster.connect()
    cluster.wait_for_nodes()
    yield cluster, added
    api.shutdown()
    cluster.shutdown()


@SIZES
def test_an_owner_on_another_node_dies(nodes, size):
    maker = Maker.options(**on("a")).remote()
    pid, reference = api.get(maker.put.remote(size), timeout=PATIENCE_SECONDS)
    holder = Holder.options(**on("b")).remote()
    api.get(holder.keep.remote([reference]), timeout=PATIENCE_SECONDS)
    kill(pid)
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(size)
    del reference
    assert api.get(holder.read.remote(), timeout=PATIENCE_SECONDS) == payload(size)


def test_the_owner_dies_while_another_node_copies_its_object(nodes):
    size = 128 << 20
    maker = Maker.options(**on("a")).remote()
    pid, reference = api.get(maker.put.remote(size), timeout=PATIENCE_SECONDS)
    holder = Holder.options(**on("b")).remote()
    api.get(holder.keep.remote([reference]), timeout=PATIENCE_SECONDS)
    reading = holder.size.remote()
    kill(pid)
    assert api.get(reading, timeout=PATIENCE_SECONDS) == len(payload(size))


def kill_node(cluster, node):
    cluster.remove_node(node, allow_graceful=False)


def stop_node(cluster, node):
    cluster.remove_node(node, allow_graceful=True)


def drain_node(cluster, node):
    """Have a node emptied that has no time for it."""
    command = [*submodule("_daemon").command(), "drain-node", str(node.node_id), "--deadline=0"]
    subprocess.run([*command, f"--temp-dir={cluster.temp_directory}"], check=True, timeout=PATIENCE_SECONDS)
    wait_until(node.has_ended, what="end of the drained node")
    cluster.remove_node(node)


ENDS = pytest.mark.parametrize("end", [kill_node, stop_node, drain_node])


@ENDS
@SIZES
def test_the_owners_node_ends_and_others_have_what_it_made(nodes, size, end):
    cluster, (a, _) = nodes
    maker = Maker.options(**on("a")).remote()
    _, reference = api.get(maker.put.remote(size), timeout=PATIENCE_SECONDS)
    holder = Holder.options(**on("b")).remote()
    api.get(holder.keep.remote([reference]), timeout=PATIENCE_SECONDS)
    # A copy on another node: of a small object the record is one.
    assert api.get(holder.read.remote(), timeout=PATIENCE_SECONDS) == payload(size)
    end(cluster, a)
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(size)
    del reference
    assert api.get(holder.read.remote(), timeout=PATIENCE_SECONDS) == payload(size)


@ENDS
def test_a_result_whose_owner_and_only_copy_are_on_a_node_that_ends_is_made_again(nodes, end):
    cluster, (a, _) = nodes
    size = 3 << 20
    maker = Maker.options(**on("a")).remote()
    _, reference = api.get(maker.submit.remote(size), timeout=PATIENCE_SECONDS)
    end(cluster, a)
    assert api.get(reference, timeout=PATIENCE_SECONDS) == payload(size)


@ENDS
def test_a_task_whose_node_ends_while_it_fetches_its_argument_runs_elsewhere(nodes, end):
    """Its own node's end is not the death of who owns the argument."""
    cluster, (_, b) = nodes
    size = 128 << 20
    maker = Maker.options(**on("a")).remote()
    _, argument = api.get(maker.put.remote(size), timeout=PATIENCE_SECONDS)
    result = measure.options(**on("b")).remote(argument)
    end(cluster, b)
    cluster.add_node(num_cpus=1, resources={"b": 1})
    assert api.get(result, timeout=PATIENCE_SECONDS) == len(payload(size))


def test_a_lost_result_is_made_again_from_arguments_that_are_lost_too(nodes):
    cluster, (a, _) = nodes
    size = 3 << 20
    *arguments, result = chain_of_tasks(size)
    api.wait([result], timeout=PATIENCE_SECONDS, fetch_local=False)
    kill_node(cluster, a)
    cluster.add_node(num_cpus=1, resources={"a": 1})
    # Each is asked for on its own, the last one first: who waits for whom is for the owner to find out.
    assert api.get([result, *arguments[::-1]], timeout=PATIENCE_SECONDS) == [
        payload(size)[::-1] * 2,
        payload(size)[::-1],
        payload(size),
    ]


def test_a_lost_result_is_made_again_from_lost_arguments_that_nobody_holds(nodes):
    cluster, (a, _) = nodes
    size = 3 << 20
    result = chain_of_tasks(size)[-1]
    api.wait([result], timeout=PATIENCE_SECONDS, fetch_local=False)
    kill_node(cluster, a)
    cluster.add_node(num_cpus=1, resources={"a": 1})
    assert api.get(result, timeout=PATIENCE_SECONDS) == payload(size)[::-1] * 2


def test_a_lost_result_of_a_dead_owner_is_made_again_from_arguments_that_are_lost_too(nodes):
    cluster, (a, _) = nodes
    size = 3 << 20
    maker = Maker.options(**on("a")).remote()
    _, result = api.get(maker.submit_chain.remote(size), timeout=PATIENCE_SECONDS)
    kill_node(cluster, a)
    cluster.add_node(num_cpus=1, resources={"a": 1})
    assert api.get(result, timeout=PATIENCE_SECONDS) == payload(size)[::-1] * 2

"""What becomes of objects whose owner dies: the same programs on Shoal and on Ray, and a table of how each ended.

Each program hands out a reference to an object of another process, ends that process, and reads the reference. The
value is still in memory, or can be made again, so it is the right answer.

    python benches/side_by_side/owner_death.py
    python benches/side_by_side/owner_death.py --systems shoal --only "in a list"

Every program runs in a process and on a cluster of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# This file is also the program that each system runs, with nothing installed but the system itself.
sys.path.insert(0, str(Path(__file__).parent))
from adapter import SYSTEMS, System, load

LIMIT_SECONDS = 60
CHILD_SECONDS = 150
LARGE = 3 << 20
HUGE = 192 << 20


def payload(size):
    return bytes(size) + b"end"


def kill(pid):
    """End a process as the kernel does when memory runs out, and see it gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise RuntimeError(f"process {pid} does not end")


class NotStarted(Exception):
    """There was no cluster, so the program says nothing."""


@contextlib.contextmanager
def starting():
    try:
        yield
    except Exception as error:
        raise NotStarted(str(error)) from error


class Programs:
    """The programs, for one system. Each returns what it read and what is right."""

    def __init__(self, api):
        self.api = api
        self.remote = api.remote(num_cpus=0)

        @self.remote
        def make(size):
            return payload(size)

        @api.remote(num_cpus=0, max_retries=3)
        def make_slowly(marks):
            with open(marks, "a") as file:
                file.write("x")
            time.sleep(5)
            return "made"

        @api.remote(num_cpus=0, num_returns="streaming")
        def yield_some(size):
            for _ in range(3):
                yield payload(size)

        @api.remote(num_cpus=0, max_retries=3)
        def reverse(value):
            return value[::-1]

        @api.remote(num_cpus=0, max_retries=3)
        def join(one, other):
            return one + other

        @api.remote(num_cpus=0, max_retries=3)
        def measure(value):
            return len(value)

        def chain_of_tasks(size):
            """A task, one with its result, and one with that one's result: all on node a, each result in its store."""
            there = {"resources": {"a": 0.1}}
            made = make.options(**there).remote(size)
            reversed_ = reverse.options(**there).remote(made)
            return [made, reversed_, join.options(**there).remote(reversed_, reversed_)]

        @self.remote
        class Maker:
            def submit_chain(self, size):
                references = chain_of_tasks(size)
                api.wait(references[-1:], fetch_local=False)
                return [os.getpid(), references[-1]]

            def put(self, size):
                return [os.getpid(), api.put(payload(size))]

            def submit(self, size):
                reference = make.remote(size)
                api.wait([reference], fetch_local=False)
                return [os.getpid(), reference]

            def submit_slow(self, marks):
                return [os.getpid(), make_slowly.remote(marks)]

            def chain(self, size):
                return [os.getpid(), api.put([api.put([api.put(payload(size))])])]

            def item(self, size):
                items = yield_some.remote(size)
                return [os.getpid(), [next(items) for _ in range(3)][1]]

            def leave(self):
                api.actor.exit_actor()

        @self.remote
        class Holder:
            def keep(self, references):
                self.references = references

            def read(self):
                return api.get(self.references[0], timeout=LIMIT_SECONDS)

        self.Maker, self.Holder = Maker, Holder
        self.chain_of_tasks, self.measure = chain_of_tasks, measure

    def get(self, reference):
        return self.api.get(reference, timeout=LIMIT_SECONDS)

    def start(self, **options):
        with starting():
            self.api.init(num_cpus=2, include_dashboard=False, **options)

    def start_nodes(self):
        with starting():
            return self.start_nodes_now()

    def start_nodes_now(self):
        module = importlib.import_module(f"{self.api.__name__}.cluster_utils")
        cluster = module.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes = {name: cluster.add_node(num_cpus=1, resources={name: 1}) for name in "ab"}
        if self.api.__name__ == "shoal":
            cluster.connect()
        else:
            self.api.init(address=cluster.address)
        cluster.wait_for_nodes()
        return cluster, nodes

    def add_node(self, cluster, name):
        with starting():
            cluster.add_node(num_cpus=1, resources={name: 1})

    def handed_out(self, method, argument, read, maker=None):
        """Make something in an actor, kill the actor's process, read what it made."""
        maker = maker or self.Maker.remote()
        pid, reference = self.get(getattr(maker, method).remote(argument))
        kill(pid)
        return read(reference)

    def in_a_list(self):
        """A small `put` of a killed actor, handed out in a list."""
        self.start()
        return self.handed_out("put", 10, self.get), payload(10)

    def in_a_list_large(self):
        """A large `put` of a killed actor, handed out in a list."""
        self.start()
        return self.handed_out("put", LARGE, self.get), payload(LARGE)

    def of_a_task(self):
        """The result of a finished task that a killed actor had submitted."""
        self.start()
        return self.handed_out("submit", LARGE, self.get), payload(LARGE)

    def of_a_running_task(self):
        """The result of a task that was running when its owner was killed."""
        self.start()
        with tempfile.NamedTemporaryFile() as marks:
            maker = self.Maker.remote()
            pid, reference = self.get(maker.submit_slow.remote(marks.name))
            while not os.path.getsize(marks.name):
                time.sleep(0.01)
            kill(pid)
            return self.get(reference), "made"

    def chain(self):
        """A list in a list in a list, all owned by a killed actor."""
        self.start()
        read = lambda outer: self.get(self.get(self.get(outer)[0])[0])  # noqa: E731
        return self.handed_out("chain", 10, read), payload(10)

    def in_actor_state(self):
        """An object that another actor keeps when its owner is killed."""
        self.start()
        maker, holder = self.Maker.remote(), self.Holder.remote()
        pid, reference = self.get(maker.put.remote(LARGE))
        self.get(holder.keep.remote([reference]))
        del reference
        kill(pid)
        return self.get(holder.read.remote()), payload(LARGE)

    def item_of_a_generator(self):
        """An item of a generator that a killed actor had consumed."""
        self.start()
        return self.handed_out("item", LARGE, self.get), payload(LARGE)

    def orderly_exit(self):
        """An object of an actor that has left with `exit_actor`."""
        self.start()
        maker = self.Maker.remote()
        _, reference = self.get(maker.put.remote(LARGE))
        with contextlib.suppress(Exception):  # How an actor's exit is told differs.
            self.get(maker.leave.remote())
        time.sleep(1)
        return self.get(reference), payload(LARGE)

    def spilled(self):
        """An object that was spilled to disk before its owner was killed."""
        self.start(object_store_memory=100 << 20)
        maker = self.Maker.remote()
        pid, reference = self.get(maker.put.remote(40 << 20))
        others = [self.api.put(bytes(20 << 20)) for _ in range(6)]
        kill(pid)
        value = self.get(reference)
        del others
        return value, payload(40 << 20)

    def while_copied(self):
        """An object of 192 MiB whose owner was killed while another node copied it."""
        self.start_nodes()
        maker = self.Maker.options(resources={"a": 0.1}).remote()
        holder = self.Holder.options(resources={"b": 0.1}).remote()
        pid, reference = self.get(maker.put.remote(HUGE))
        self.get(holder.keep.remote([reference]))
        reading = holder.read.remote()
        time.sleep(0.05)
        kill(pid)
        return len(self.get(reading)), len(payload(HUGE))

    def copied_elsewhere(self, in_order):
        cluster, nodes = self.start_nodes()
        maker = self.Maker.options(resources={"a": 0.1}).remote()
        holder = self.Holder.options(resources={"b": 0.1}).remote()
        _, reference = self.get(maker.put.remote(LARGE))
        self.get(holder.keep.remote([reference]))
        self.get(holder.read.remote())
        cluster.remove_node(nodes["a"], allow_graceful=in_order)
        return self.get(reference), payload(LARGE)

    def made_again(self, method, in_order, right):
        cluster, nodes = self.start_nodes()
        maker = self.Maker.options(resources={"a": 0.1}).remote()
        _, reference = self.get(getattr(maker, method).remote(LARGE))
        cluster.remove_node(nodes["a"], allow_graceful=in_order)
        self.add_node(cluster, "a")
        return self.get(reference), right

    def with_its_node(self):
        """An object with a copy elsewhere whose owner was killed with its node."""
        return self.copied_elsewhere(in_order=False)

    def with_its_node_again(self):
        """A task's result whose owner and only copy were on a node that was killed."""
        return self.made_again("submit", False, payload(LARGE))

    def with_its_node_in_order(self):
        """An object with a copy elsewhere whose owner's node was stopped in order."""
        return self.copied_elsewhere(in_order=True)

    def with_its_node_in_order_again(self):
        """A task's result whose owner and only copy were on a node that was stopped in order."""
        return self.made_again("submit", True, payload(LARGE))

    def on_a_stopping_node(self):
        """The result of a task that needed 192 MiB of a live owner when its own node was stopped in order."""
        cluster, nodes = self.start_nodes()
        maker = self.Maker.options(resources={"a": 0.1}).remote()
        _, argument = self.get(maker.put.remote(HUGE))
        # Nothing but this program knows of it; the task fetches it where it runs.
        result = self.measure.options(resources={"b": 0.1}).remote(argument)
        time.sleep(0.1)
        cluster.remove_node(nodes["b"], allow_graceful=True)
        self.add_node(cluster, "b")
        return self.get(result), len(payload(HUGE))

    def without_arguments(self):
        """A lost result whose arguments have lost all copies, too."""
        cluster, nodes = self.start_nodes()
        references = self.chain_of_tasks(LARGE)
        self.api.wait(references[-1:], fetch_local=False, timeout=LIMIT_SECONDS)
        cluster.remove_node(nodes["a"], allow_graceful=False)
        self.add_node(cluster, "a")
        return self.get(references[-1]), payload(LARGE)[::-1] * 2

    def without_owner_and_arguments(self):
        """A lost result of a dead owner whose arguments have lost all copies, too."""
        return self.made_again("submit_chain", False, payload(LARGE)[::-1] * 2)


NAMES = [name for name, value in vars(Programs).items() if getattr(value, "__doc__", None) and name[0] != "_"]
NAMES.remove("handed_out")


def run_one(system: str, name: str) -> str:
    """Run a program in this process; how it ended, in a word or two."""
    api = load(system)
    try:
        found, right = getattr(Programs(api), name)()
    except Exception as error:
        cause = getattr(error, "cause", None)
        return type(cause if isinstance(cause, Exception) else error).__name__
    return "the value" if found == right else "A WRONG VALUE"


def run_child(system: System, name: str) -> str:
    """The same in a process of its own that cannot hang for ever."""
    with tempfile.TemporaryDirectory(prefix="owner", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        child = subprocess.Popen(
            [system.python, __file__, "--child", system.name, name],
            env=system.environment(Path(scratch)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = child.communicate(timeout=CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return f"hangs ({CHILD_SECONDS} s)"
    lines = [line.removeprefix("ended: ") for line in output.splitlines() if line.startswith("ended: ")]
    return lines[-1] if lines else f"the program died ({child.returncode})"


def main() -> int:
    """Run what was asked for; 1 if Shoal did not read a value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=sorted(SYSTEMS), default=["shoal", "ray"])
    parser.add_argument("--python", nargs="*", default=[], metavar="SYSTEM=PATH", help="another interpreter")
    parser.add_argument("--only", nargs="+", default=[], help="programs whose text contains one of these")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print("ended:", run_one(*arguments.child), flush=True)
        # Whatever hangs must not keep the outcome from being told.
        os._exit(0)
    others = dict(option.split("=", 1) for option in arguments.python)
    systems = [
        System(name, Path(others.get(name, SYSTEMS[name].python)), SYSTEMS[name].variables)
        for name in arguments.systems
    ]
    systems = [system for system in systems if system.installed() or print(f"{system.name} is not installed")]
    print("| program | " + " | ".join(system.name for system in systems) + " |")
    print("|---|" + "---|" * len(systems))
    failed = False
    for name in NAMES:
        text = getattr(Programs, name).__doc__.removesuffix(".")
        if arguments.only and not any(part in text for part in arguments.only):
            continue
        ends = [run_child(system, name) for system in systems]
        failed |= any(s.name == "shoal" and end != "the value" for s, end in zip(systems, ends, strict=True))
        print(f"| {text} | " + " | ".join(ends) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

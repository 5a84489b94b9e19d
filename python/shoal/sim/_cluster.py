"""A simulated cluster, and what can be done to it."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shoal import _session, _shoal
from shoal.sim import _patches
from shoal.sim._errors import DeadlockError, LeakError, SimulationError, StalledError, TimeLimitError

if TYPE_CHECKING:
    from shoal.actor import ActorHandle

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

SEED_VARIABLE = "SHOAL_SIM_SEED"

FAULTS = ("kill_worker", "kill_node", "partition", "pause", "slow", "clog", "cut")
"""What `Cluster.random_faults` draws from."""


def cluster(
    nodes: int = 1,
    *,
    seed: int | None = None,
    num_cpus: int = 4,
    resources: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    labels: Sequence[Mapping[str, str]] | None = None,
    object_store_memory: int = 256 << 20,
    time_limit: float = 24 * 3600.0,
    patience: float = 60.0,
) -> Cluster:
    """A simulated cluster, to be entered with ``with``; the thread that enters it becomes its driver.

    Args:
        nodes: How many machines. The first one has the head and the driver.
        seed: Decides everything that is left to chance. None: what ``SHOAL_SIM_SEED`` says, else a new one.
        num_cpus: CPUs of each machine.
        resources: Custom resources of every machine, or a list with those of each; whole amounts.
        labels: Labels of each machine.
        object_store_memory: Bytes of each machine's object store.
        time_limit: Seconds of virtual time after which the driver gets `TimeLimitError`.
        patience: Seconds of real time after which one who has not called Shoal is taken for stuck: the driver
            gets `StalledError`.

    Raises:
        RuntimeError: this process has joined a real cluster, or simulates one already.
        ValueError: there is no such cluster.

    Example:
        >>> import shoal, shoal.sim
        >>> with shoal.sim.cluster(nodes=2, seed=1) as c:
        ...     len(shoal.nodes())
        2
    """
    if nodes < 1:
        raise ValueError(f"a cluster of {nodes} nodes cannot be simulated")
    if seed is None:
        given = os.environ.get(SEED_VARIABLE)
        seed = int(given) if given else random.SystemRandom().getrandbits(32)
    hosts = []
    for index in range(nodes):
        own = resources[index] if isinstance(resources, Sequence) else resources or {}
        hosts.append(
            {
                "cpus": num_cpus,
                "store_bytes": object_store_memory,
                "resources": [(name, int(amount)) for name, amount in own.items()],
                "labels": list((labels[index] if labels else {}).items()),
            }
        )
    return Cluster(hosts, seed, time_limit, patience)


class Cluster:
    """A simulated cluster while it is on; see `cluster`."""

    def __init__(self, hosts: list[dict[str, Any]], seed: int, time_limit: float, patience: float) -> None:
        self._hosts = hosts
        self._limits = (time_limit, patience)
        self._simulation: _shoal.Simulation | None = None
        self._collects = False
        self._last: tuple[int, float] = (0, 0.0)
        self.seed = seed
        """What everything that is left to chance follows from."""

    def __enter__(self) -> Cluster:
        if _session.find() is not None:
            raise RuntimeError("this process has joined a cluster: leave it with shutdown() before simulating one")
        _patches.begin(self.seed)
        # A collection would drop references whenever it comes, which is not decided by the seed.
        self._collects = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            self._simulation = _shoal.Simulation(self._hosts, self.seed, *self._limits, _patches.switch)
        except BaseException:
            self._restore()
            raise
        info = self._simulation.describe()
        _patches.driver = info["process"]
        _patches.simulation = self._simulation
        _patches.install()
        _session.enter_simulation(info)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        simulation, self._simulation = self._required, None
        try:
            self._last = (simulation.order, simulation.now)
            if isinstance(error, DeadlockError | TimeLimitError | StalledError):
                for line in _places(simulation):
                    error.add_note(line)
            _session.leave_simulation()
            left = simulation.close(error is None)
        finally:
            _patches.remove()
            _patches.simulation = None
            self._restore()
        if error is not None:
            error.add_note(f"This happened in a simulated cluster with seed={self.seed}.")
        elif left:
            raise LeakError(f"seed {self.seed}: the driver has left, and these are left:\n  " + "\n  ".join(left))

    def _restore(self) -> None:
        if self._collects:
            gc.enable()
        gc.collect()

    @property
    def _required(self) -> _shoal.Simulation:
        if self._simulation is None:
            raise SimulationError("the simulated cluster is not on: use it inside of its `with`")
        return self._simulation

    # --- looking ----------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds of virtual time since the cluster began; after its end, when that was."""
        return self._last[1] if self._simulation is None else self._simulation.now

    @property
    def trace_hash(self) -> int:
        """Stands for everything that has happened and its order: the same for two runs of one seed."""
        return self._last[0] if self._simulation is None else self._simulation.order

    def pending(self) -> list[str]:
        """One line for everything that waits, and for what."""
        return self._required.pending()

    @property
    def nodes(self) -> list[int]:
        """The machines whose daemon is a member of the cluster, counted from 0."""
        return [index for index, node in enumerate(self._required.nodes()) if node is not None]

    def workers(self, node: int | None = None) -> list[int]:
        """Process ids of the workers, as ``os.getpid()`` in them says; of one machine, or of all."""
        found = self._required.workers()
        return [_patches.pid_of(process) for process, host, _ in found if node in (None, host)]

    # --- doing ------------------------------------------------------------------------------------

    def kill_worker(self, which: ActorHandle[Any] | int | None = None) -> bool:
        """Kill a worker: that of an actor, that with a process id, or any.

        Returns:
            Whether there was one.
        """
        found = self._required.workers()
        if isinstance(which, int):
            found = [worker for worker in found if _patches.pid_of(worker[0]) == which]
        elif which is not None:
            actor = which._shoal_actor.binary()
            found = [worker for worker in found if worker[2] == actor]
        if not found:
            return False
        process, _, _ = found[self._required.draw(len(found))]
        self._required.kill_process(process)
        return True

    def kill_node(self, node: int | None = None, *, restart: bool = False) -> int:
        """Cut the power of a machine: everything on it is gone at once, and nobody is told.

        Args:
            node: Which, from 1 on; None: any.
            restart: Whether a daemon starts there again, as a new node.

        Returns:
            Which it was.

        Raises:
            ValueError: there is no such machine, or it is the first one, where the driver is.
        """
        if node is None:
            others = [other for other in self.nodes if other != 0]
            if not others:
                raise ValueError("no machine is left but that of the driver")
            node = others[self._required.draw(len(others))]
        self._check(node)
        if node == 0:
            raise ValueError("machine 0 has the driver, that is the test itself: it cannot be killed")
        self._required.kill_host(node, restart)
        return node

    def start_node(self, node: int) -> None:
        """Give a machine that was killed its power again: it joins as a new node, within a second."""
        self._check(node)
        self._required.start_host(node)

    def partition(
        self, some: Iterable[int], others: Iterable[int] | None = None, *, seconds: float = 5.0, one_way: bool = False
    ) -> None:
        """Let nothing come through between some machines and others.

        Args:
            some: Machines.
            others: Other machines; None: all the others.
            seconds: For how long, in virtual time. After ten seconds the nodes that the head does not hear are
                taken for dead.
            one_way: Only what `some` send is held up.
        """
        here = sorted(set(some))
        there = sorted(set(range(len(self._hosts))) - set(here) if others is None else set(others))
        for node in (*here, *there):
            self._check(node)
        for one in here:
            for other in there:
                self._required.block(one, other, seconds)
                if not one_way:
                    self._required.block(other, one, seconds)

    def heal(self) -> None:
        """Let everything come through again."""
        self._required.heal()

    def random_faults(
        self, count: int = 5, *, within: float = 10.0, kinds: Sequence[str] = FAULTS, restart: bool = True
    ) -> None:
        """Let things go wrong at random times from now on.

        Args:
            count: How many things.
            within: They happen in the next so many seconds of virtual time.
            kinds: Some of `FAULTS`: ``"kill_worker"``, ``"kill_node"``, ``"partition"`` (of one machine, for up
                to five seconds), ``"pause"`` (a machine stops), ``"slow"``, ``"clog"`` (what is sent to a machine
                takes long), ``"cut"`` (its connections break).
            restart: Whether killed nodes come back.

        Raises:
            ValueError: there is no such kind of fault.
        """
        for kind in kinds:
            if kind not in FAULTS:
                raise ValueError(f"there is no fault {kind!r}; there are {', '.join(FAULTS)}")
        draw = self._required.draw
        times = sorted(draw(int(within * 1e6)) / 1e6 for _ in range(count))
        plan = [(at, kinds[draw(len(kinds))]) for at in times]

        def strike() -> None:
            begin = time.monotonic()
            for at, kind in plan:
                time.sleep(max(0.0, begin + at - time.monotonic()))
                self._strike(kind, restart)

        threading.Thread(target=strike, name="faults", daemon=True).start()

    def _strike(self, kind: str, restart: bool) -> None:
        simulation = self._required
        others = [node for node in self.nodes if node != 0]
        if kind == "kill_worker":
            self.kill_worker()
        elif not others:
            return
        elif kind == "kill_node":
            self.kill_node(restart=restart)
        else:
            node = others[simulation.draw(len(others))]
            seconds = (1 + simulation.draw(5000)) / 1e3
            if kind == "partition":
                self.partition([node], seconds=seconds, one_way=simulation.draw(3) == 0)
            else:
                simulation.strike(kind, node, seconds)

    def _check(self, node: int) -> None:
        if not 0 <= node < len(self._hosts):
            raise ValueError(f"there is no machine {node}: there are {len(self._hosts)}, counted from 0")

    def __repr__(self) -> str:
        """How it was made."""
        return f"Cluster(nodes={len(self._hosts)}, seed={self.seed})"


def _places(simulation: _shoal.Simulation) -> Iterator[str]:
    """Where in the program each thread is."""
    frames = sys._current_frames()
    for name, identity in simulation.threads():
        frame = frames.get(identity)
        while frame is not None and frame.f_code.co_filename.startswith((_OURS, os.path.dirname(threading.__file__))):
            frame = frame.f_back
        if frame is not None:
            code = frame.f_code
            yield f"thread {name} is in {code.co_qualname}, {code.co_filename}:{frame.f_lineno}"

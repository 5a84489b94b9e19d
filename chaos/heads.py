"""Kills the head under work, again and again: ``python -m chaos.heads --kills 100 --state etcd``.

With ``--state file`` the head starts again from its log on the same machine, and what is measured is the time from
that start until a new actor serves. With ``--state etcd`` a standby takes over, and the time runs from the kill.
After each kill everything that the head had acknowledged must be there: named actors with their state, ended ones
ended, entries of the key-value table, placement groups.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import shoal
from chaos import leaks
from chaos.work import Echo, Wrong, expect, square
from shoal import _shoal
from shoal.cluster_utils import Cluster, ClusterNode, EtcdServer
from shoal.util.placement_group import placement_group, placement_group_table, remove_placement_group

PATIENCE_SECONDS = 120.0
DIRECTORY = "shoal-heads-"
"""What the name of everything that is made on disk begins with."""
ACTORS_MAX = 6
GROUPS_MAX = 4


# What runs on the head's node dies with it, as on any other node; the rest must not.
AWAY = {"away": 0.001}


@shoal.remote(num_cpus=0, resources=AWAY)
class Account:
    """A detached actor with something to lose."""

    def __init__(self, value: int) -> None:
        self.value = value

    def read(self) -> int:
        """What it was made with."""
        return self.value


class Ledger:
    """What the head has acknowledged. One thread writes, while the head is killed and while it is not."""

    def __init__(self, chance: random.Random) -> None:
        self.actors: dict[str, int] = {}
        self.ended: list[str] = []
        self.values: dict[str, bytes] = {}
        self.groups: dict[str, Any] = {}
        self.acknowledged = 0
        self.lock = threading.Lock()
        self._chance = chance
        self._count = 0

    def write(self) -> None:
        """Change something, and note it once it is acknowledged."""
        self._count += 1
        number = self._count
        kind = self._chance.choice([self._value, self._value, self._actor, self._group])
        kind(number)
        self.acknowledged += 1

    def _value(self, number: int) -> None:
        key, value = f"key {number % 200}", self._chance.randbytes(self._chance.choice([10, 1000, 100_000]))
        _shoal.ask("put", {"key": key, "value": value, "overwrite": True})
        self.values[key] = value

    def _actor(self, number: int) -> None:
        name = f"account {number}"
        account: Any = Account
        made = account.options(name=name, lifetime="detached").remote(number)
        expect(shoal.get(made.read.remote(), timeout=PATIENCE_SECONDS), number, name)
        self.actors[name] = number
        if len(self.actors) > ACTORS_MAX:
            oldest = next(iter(self.actors))
            shoal.kill(shoal.get_actor(oldest))
            del self.actors[oldest]
            self.ended.append(oldest)

    def _group(self, number: int) -> None:
        # Not of CPUs, which tasks may keep busy without a gap.
        group = placement_group([AWAY] * 2, name=f"group {number}", lifetime="detached")
        if not group.wait(PATIENCE_SECONDS):
            raise Wrong(f"group {number} is not placed")
        self.groups[f"group {number}"] = group
        if len(self.groups) > GROUPS_MAX:
            oldest = next(iter(self.groups))
            remove_placement_group(self.groups.pop(oldest))

    def check(self) -> None:
        """Everything is there."""
        for name, number in self.actors.items():
            expect(shoal.get(shoal.get_actor(name).read.remote(), timeout=PATIENCE_SECONDS), number, name)
        for key, value in self.values.items():
            expect(_shoal.ask("get", {"key": key}), value, key)
        table = placement_group_table()
        for name, group in self.groups.items():
            expect(table[group.id.hex()]["name"], name, "the name of a group")
            expect(table[group.id.hex()]["state"] in ("CREATED", "RESCHEDULING"), True, name)
        for name in self.ended[-3:]:
            wait_until(functools.partial(is_gone, name), f"{name} was killed, and is there")


def is_gone(name: str) -> bool:
    """Whether there is no actor of this name."""
    try:
        shoal.get_actor(name)
    except ValueError:
        return True
    return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Raise `Wrong` if it does not come true in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise Wrong(what)
        time.sleep(0.01)


class Heads:
    """A cluster of a head, perhaps a standby, and two nodes; this program is at the last one."""

    def __init__(self, directory: pathlib.Path, etcd: EtcdServer | None) -> None:
        self.cluster = Cluster()
        self._directory = directory
        self._etcd = etcd
        self._started = 0
        self._arguments: dict[str, Any] = {"num_cpus": 0, "object_store_memory": 64 << 20}
        self.cluster.add_node(**self._arguments, **self._state())
        self._standby = self._add_standby()
        self._port = int(self.cluster.address.rpartition(":")[2])
        for _ in range(2):
            node = self.cluster.add_node(num_cpus=2, resources={"away": 1}, object_store_memory=128 << 20)
        self.home: ClusterNode = node

    def _state(self) -> dict[str, Any]:
        if self._etcd is None:
            return {"state_dir": str(self._directory / "state")}
        # Each head has a directory of its own, with a copy of what the first one has made.
        first, own = self._directory / "state 0", self._directory / f"state {self._started}"
        if self._started > 0:
            own.mkdir(mode=0o700)
            shutil.copy(first / "authority.pem", own)
        self._started += 1
        return {"state": self._etcd.location, "state_dir": str(own)}

    def _add_standby(self) -> ClusterNode | None:
        if self._etcd is None:
            return None
        return self.cluster.add_node(standby=True, **self._arguments, **self._state())

    def kill(self) -> float:
        """Kill the head's daemon, and see to the next one; gives the moment from which it is awaited."""
        head = self.cluster.head_node
        assert head is not None
        since = time.monotonic()
        os.kill(head.pid, signal.SIGKILL)
        if self._standby is not None:
            self.cluster.succeed_head(self._standby)
            threading.Thread(target=head.kill).start()
            return since
        self.cluster.remove_node(head, allow_graceful=False)
        time.sleep(random.uniform(0, 1.5))
        since = time.monotonic()
        self.cluster.add_node(wait=False, port=self._port, **self._arguments, **self._state())
        return since

    def replace(self) -> None:
        """Start another standby instead of the one that has become the head."""
        self._standby = self._add_standby()


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m chaos.heads", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="how often the head is killed [default: 5]")
    parser.add_argument("--state", choices=["file", "etcd"], default="file", help="where its log is [default: file]")
    parser.add_argument("--seed", type=int, default=None, help="which values and pauses [default: a new one]")
    return parser.parse_args()


def in_a_loop(work: Callable[[], None], stop: threading.Event, wrong: list[str]) -> threading.Thread:
    """Do it in a thread, until told to stop or something is wrong."""

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException:
            wrong.append(traceback.format_exc())
            stop.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def run(given: argparse.Namespace, heads: Heads, seed: int) -> list[float]:
    """Kill; the seconds until new work was placed, for each kill."""
    chance = random.Random(seed)
    ledger = Ledger(random.Random(seed + 1))
    stop = threading.Event()
    wrong: list[str] = []
    echo: Any = shoal.remote(num_cpus=0, resources=AWAY)(Echo)
    kept = echo.remote()

    def calculate() -> None:
        expect(shoal.get([square.remote(value) for value in range(20)], timeout=PATIENCE_SECONDS)[-1], 361, "a task")
        expect(shoal.get(kept.say.remote("x"), timeout=PATIENCE_SECONDS), "x", "a call")

    def write() -> None:
        with ledger.lock:
            ledger.write()

    threads = [in_a_loop(calculate, stop, wrong), in_a_loop(write, stop, wrong)]
    times = []
    for number in range(given.kills):
        time.sleep(chance.uniform(0.3, 1.5))
        since = heads.kill()
        fresh = echo.remote()
        expect(shoal.get(fresh.say.remote(number), timeout=PATIENCE_SECONDS), number, "a new actor")
        times.append(time.monotonic() - since)
        with ledger.lock:
            ledger.check()
        if wrong:
            break
        print(f"heads: kill {number + 1}: new work after {times[-1]:.2f} s; {ledger.acknowledged} kept", flush=True)
        heads.replace()
    stop.set()
    for thread in threads:
        thread.join(2 * PATIENCE_SECONDS)
    if wrong or any(thread.is_alive() for thread in threads):
        raise Wrong("\n".join(wrong) or "the work hangs")
    ledger.check()
    return times


def main() -> int:
    """Run; 0 if nothing was lost."""
    given = options()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    print(f"heads: --seed {seed} --kills {given.kills} --state {given.state}", flush=True)
    machine = leaks.Machine(DIRECTORY)
    with tempfile.TemporaryDirectory(prefix=DIRECTORY) as directory:
        try:
            etcd = EtcdServer() if given.state == "etcd" else None
        except FileNotFoundError:
            print("heads: SKIPPED: there is no etcd here (Debian: apt-get install etcd-server)")
            return 0
        heads = Heads(pathlib.Path(directory), etcd)
        try:
            shoal.init(address=heads.home.socket, namespace="heads", log_to_driver=False)
            times = run(given, heads, seed)
        except Exception:
            print(f"heads: WRONG: {traceback.format_exc()}")
            for log in sorted(pathlib.Path(heads.cluster.temp_directory).rglob("daemon.log")):
                print(f"{log}:\n{log.read_text(errors='replace')[-3000:]}")
            return 1
        finally:
            shoal.shutdown()
            heads.cluster.shutdown()
            if etcd is not None:
                etcd.stop()
    if left := machine.leaks():
        print("\n".join(f"heads: WRONG: left behind: {what}" for what in left))
        return 1
    times.sort()
    late = times[math.ceil(0.99 * len(times)) - 1]
    what = "the start of the head" if given.state == "file" else "the kill of the head"
    print(
        f"heads: {len(times)} kills, nothing lost; new work placed after {what}: "
        f"median {statistics.median(times):.2f} s, p99 {late:.2f} s, max {times[-1]:.2f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

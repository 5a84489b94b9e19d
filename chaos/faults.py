"""A cluster of real daemons, and everything that happens to it."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from chaos.hosts import Host, Hosts
from shoal import _daemon
from shoal.cluster_utils import Cluster, ClusterNode

# Longer than any node may be silent before it is declared dead.
DEAD_SECONDS = 15.0
FENCED_SECONDS = 90.0
"""A node that was declared dead and hears of it ends within this time."""
CALLED_OFF = 0.3
"""So many drains are called off."""


WEIGHTS = {"worker": 5, "node": 3, "head": 3, "blink": 3, "slow": 2, "drain": 2, "partition": 1}
"""How often each happens, beside the others. A partition takes as long as five of the others."""


class Survivor(Exception):
    """A node that was declared dead goes on."""


class Victim:
    """A cluster whose driver has a node that is never killed, and ways to harm the rest."""

    def __init__(self, hosts: Hosts, nodes: int, seed: int) -> None:
        self._hosts = hosts
        self._chance = random.Random(seed)
        self.cluster = Cluster()
        self.done: Counter[str] = Counter()
        self._where: dict[int, Host] = {}
        try:
            self._head_host = hosts.add()
            self._add(self._head_host, num_cpus=1)
            self._port = int(self.cluster.address.rpartition(":")[2])
            self.home = self._add(hosts.add(), num_cpus=1)
            self.others = [self._add(hosts.add(), num_cpus=2) for _ in range(nodes)]
        except BaseException:
            self.cluster.shutdown()
            raise

    def _add(self, host: Host, **arguments: Any) -> ClusterNode:
        node = self.cluster.add_node(
            network_namespace=host.namespace,
            node_ip_address=host.address,
            object_store_memory=512 << 20,
            **arguments,
        )
        self._where[node.pid] = host
        return node

    def kinds(self) -> dict[str, Callable[[], str]]:
        """All faults by name; each says what it did."""
        found: dict[str, Callable[[], str]] = {
            "worker": self.kill_worker,
            "node": self.kill_node,
            "head": self.kill_head,
            "drain": self.drain_node,
        }
        if not self._hosts.why_loopback:
            found["blink"] = self.cut_briefly
            found["partition"] = self.cut_until_dead
        if not self._hosts.why_not_slow:
            found["slow"] = self.make_slow
        return found

    def kill_worker(self) -> str:
        """Kill a worker process of some node."""
        node = self._chance.choice(self.nodes())
        workers = [worker for worker in node.status()["workers"] if worker.get("pid")]
        if not workers:
            return f"node {node.node_id} has no worker to kill"
        pid = int(self._chance.choice(workers)["pid"])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return f"worker {pid} had gone"
        return f"killed worker {pid} of node {node.node_id}"

    def kill_node(self) -> str:
        """Kill a node's daemon; another one comes in its place."""
        node = self._chance.choice(self.others)
        return f"killed node {node.node_id}, {self._replace(node)}"

    def kill_head(self) -> str:
        """Kill the head and the node that it is on, and start it again from its log."""
        head = self.cluster.head_node
        assert head is not None
        del self._where[head.pid]
        self.cluster.remove_node(head, allow_graceful=False)
        self._pause(2.0)
        head = self._add(self._head_host, num_cpus=1, port=self._port)
        return f"killed the head, now on node {head.node_id}"

    def drain_node(self) -> str:
        """Have a node emptied: it ends by itself when its time is up or nothing is left, or the drain is called off."""
        node = self._chance.choice(self.others)
        if self._chance.random() < CALLED_OFF:
            self._ask_to_drain(node)
            pause = self._pause(4.0)
            self._ask_to_drain(node, "--cancel")
            return f"drained node {node.node_id} for {pause:.1f} s"
        grace = self._chance.uniform(0, 10)
        start = time.monotonic()
        self._ask_to_drain(node, f"--deadline={grace:.1f}")
        self._must_end(node, f"was to drain within {grace:.1f} s")
        took = time.monotonic() - start
        said = f"drained node {node.node_id} within {grace:.1f} s, it ended after {took:.1f} s"
        return f"{said}, {self._replace(node)}"

    def _ask_to_drain(self, node: ClusterNode, *arguments: str) -> None:
        temp = f"--temp-dir={self.cluster.temp_directory}"
        command = [*_daemon.command(), "drain-node", str(node.node_id), temp, *arguments]
        answer = subprocess.run(command, capture_output=True, check=False, text=True)
        if answer.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")

    def cut_briefly(self) -> str:
        """Unplug a node's cable for less time than anybody is declared dead after."""
        node = self._chance.choice(self.nodes())
        host = self._where[node.pid]
        host.cut()
        pause = self._pause(1.2)
        host.heal()
        return f"cut {self._name(node)} off for {pause:.1f} s"

    def make_slow(self) -> str:
        """Have a node's cable delay and lose packets for a while, which nobody may take for death."""
        node = self._chance.choice(self.nodes())
        link = self._where[node.pid].link
        assert link is not None
        milliseconds, loss = self._chance.uniform(1, 60), self._chance.uniform(0, 0.05)
        with link.slow(milliseconds, loss):
            pause = self._pause(8.0)
        what = f"{2 * milliseconds:.0f} ms there and back and {100 * loss:.1f} % loss"
        return f"{pause:.1f} s with {what} for {self._name(node)}"

    def _name(self, node: ClusterNode) -> str:
        return "the head" if node is self.cluster.head_node else f"node {node.node_id}"

    def cut_until_dead(self) -> str:
        """Unplug a node's cable until the others have buried it; when it hears of that it must end."""
        node = self._chance.choice(self.others)
        host = self._where[node.pid]
        host.cut()
        pause = DEAD_SECONDS + self._pause(3.0)
        time.sleep(DEAD_SECONDS)
        host.heal()
        self._must_end(node, f"was cut off for {pause:.1f} s")
        return f"cut node {node.node_id} off for {pause:.1f} s until it was dead, {self._replace(node)}"

    def _must_end(self, node: ClusterNode, why: str) -> None:
        """Wait until a node has ended by itself."""
        deadline = time.monotonic() + FENCED_SECONDS
        while not node.has_ended():
            if time.monotonic() > deadline:
                raise Survivor(f"node {node.node_id} {why} and goes on")
            time.sleep(0.1)

    def _replace(self, node: ClusterNode) -> str:
        """Kill a node's daemon, if it has not ended by itself, and start another one on its host."""
        host = self._where.pop(node.pid)
        self.cluster.remove_node(node, allow_graceful=False)
        self._pause(2.0)
        number = self.others.index(node)
        self.others[number] = self._add(host, num_cpus=2)
        return f"node {self.others[number].node_id} replaces it"

    def _pause(self, at_most: float) -> float:
        pause = self._chance.uniform(0, at_most)
        time.sleep(pause)
        return pause

    def harm(self, kinds: list[str]) -> str:
        """One of these faults; says which and what it did."""
        kind = self._chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        said = self.kinds()[kind]()
        self.done[kind] += 1
        return said

    def rest(self) -> None:
        """Let some time pass before the next fault."""
        time.sleep(self._chance.uniform(0.2, 2.5))

    def nodes(self) -> list[ClusterNode]:
        """All nodes that are alive, the head's first."""
        return self.cluster.list_all_nodes()

    def stop(self) -> None:
        """End all nodes in order, the head's last."""
        for node in self.nodes()[::-1]:
            self.cluster.remove_node(node)

    def logs(self) -> list[pathlib.Path]:
        """The daemons' logs."""
        return sorted(pathlib.Path(self.cluster.temp_directory).rglob("daemon.log"))

"""Clusters of many nodes on one machine, for tests and for trying things out.

Every node is a real daemon with sockets, workers and an object store of its own; only the network
between them is the machine's loopback.
"""

from __future__ import annotations

import atexit
import json
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Any

import shoal
from shoal import _daemon
from shoal.exceptions import ShoalSystemError

__all__ = ["Cluster", "ClusterNode", "EtcdServer"]

_AMOUNTS = {
    "num_cpus": "--num-cpus",
    "num_gpus": "--num-gpus",
    "memory": "--memory",
    "object_store_memory": "--object-store-memory",
    "object_spilling_directory": "--object-spilling-directory",
    "node_name": "--node-name",
    "node_ip_address": "--node-ip-address",
    "port": "--port",
    "state_dir": "--state-dir",
    "state": "--state",
}
_TABLES = {"resources": "--resources", "labels": "--labels"}
_POLL_SECONDS = 0.02


class ClusterNode:
    """A node of a `Cluster`.

    Attributes:
        node_id: Its number in the cluster, as `shoal.nodes` shows it.
        address: ``host:port`` where other nodes reach it.
        pid: The process id of its daemon.
        session: The directory with its logs.
    """

    def __init__(self, daemon: _daemon.Daemon, temp: str) -> None:
        self._daemon = daemon
        self._temp = temp
        self.node_id = int(daemon.ready["node"])
        self.address = str(daemon.ready["address"])
        self.pid = daemon.pid
        self.session = str(daemon.ready["session"])
        self.socket = str(daemon.ready["socket"])

    def __repr__(self) -> str:
        return f"ClusterNode({self.node_id}, {self.address!r}, pid={self.pid})"

    def status(self) -> dict[str, Any]:
        """What ``shoal status --json`` says at this node: its workers, actors, store and view of the cluster.

        Raises:
            ShoalSystemError: it does not answer.
        """
        command = [*_daemon.command(), "status", "--json", f"--pid={self.pid}", f"--temp-dir={self._temp}"]
        answer = subprocess.run(command, capture_output=True, check=False, text=True)
        if answer.returncode != 0:
            raise ShoalSystemError(answer.stderr.strip())
        document: dict[str, Any] = json.loads(answer.stdout)
        return document

    def kill(self) -> None:
        """Kill the daemon at once (SIGKILL), as a machine that loses power does."""
        self._daemon.kill()

    def has_ended(self) -> bool:
        """Whether its daemon has, by itself or by `kill`."""
        return self._daemon.has_ended()

    def stop(self) -> None:
        """End the node in order."""
        self._daemon.stop()


class EtcdServer:
    """An etcd of one member on this machine, for clusters with standby heads. It ends with `stop`.

    Raises:
        FileNotFoundError: no ``etcd`` is installed (Debian: ``apt-get install etcd-server``).

    Attributes:
        location: What ``shoal start --state`` and `Cluster.add_node` take as ``state``.
    """

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="shoal-etcd-")
        client, peer = (f"http://127.0.0.1:{port}" for port in _free_ports(2))
        self._command = [
            *("etcd", f"--data-dir={self._directory}/data", "--logger=zap", "--log-level=error"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--initial-cluster=default={peer}",
        ]
        self.location = f"etcd://{client.removeprefix('http://')}/shoal"
        try:
            self._process = self._launch()
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        """The process id of its server."""
        return self._process.pid

    def restart(self) -> None:
        """Kill it (SIGKILL) and start it again with what it has written."""
        self._process.kill()
        self._process.wait()
        self._process = self._launch()

    def stop(self) -> None:
        """End it, and forget everything. Idempotent."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    # All at once, so that they differ.
    sockets = [socket.socket() for _ in range(count)]
    try:
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [int(bound.getsockname()[1]) for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


class Cluster:
    """A cluster on this machine that ends with this program.

    Args:
        initialize_head: Start the head's node at once.
        connect: Connect this program to it (see `connect`).
        head_node_args: Arguments of `add_node` for the head's node.
        shutdown_at_exit: End the cluster when the interpreter exits.

    Example:
        >>> import shoal
        >>> from shoal.cluster_utils import Cluster
        >>> cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        >>> node = cluster.add_node(num_cpus=1, resources={"special": 1})
        >>> _ = cluster.connect()
        >>> cluster.wait_for_nodes()
        >>> shoal.cluster_resources()["CPU"]
        2.0
        >>> shoal.shutdown()
        >>> cluster.shutdown()
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        self._temp: str | None = tempfile.mkdtemp(prefix="shoal-cluster-")
        self.head_node: ClusterNode | None = None
        # Nodes look for the secret where heads have it that were given no directory.
        self._secret: str | None = None
        self.worker_nodes: list[ClusterNode] = []
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if not initialize_head and connect:
            raise RuntimeError("there is nothing to connect to: pass initialize_head=True, too")
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str:
        """``host:port`` of the head, for `shoal.init` and `shoal start --address`."""
        if self.head_node is None:
            raise RuntimeError("the cluster has no head yet: call add_node()")
        return self.head_node.address

    @property
    def gcs_address(self) -> str:
        """The same as `address`."""
        return self.address

    @property
    def temp_directory(self) -> str:
        """The directory below which the nodes' sessions are."""
        if self._temp is None:
            raise RuntimeError("the cluster was shut down")
        return self._temp

    def add_node(
        self, wait: bool = True, network_namespace: str | None = None, standby: bool = False, **node_args: Any
    ) -> ClusterNode:
        """Start a node; the first one is the head's.

        Args:
            wait: Return once the head counts it among the nodes.
            standby: Start a node that becomes the head when the head is gone. Needs state (the location of an etcd,
                as of ``shoal start --state``) and state_dir, the same as the head was given.
            network_namespace: The name of a network namespace to start it in, as ``ip netns`` lists them: a host of
                its own. Give its address there as ``node_ip_address``.
            **node_args: num_cpus, num_gpus, memory (bytes), object_store_memory (bytes), resources (amounts by
                name), labels, node_name, node_ip_address, port, object_spilling_directory, and for the head state_dir
                and state.

        Raises:
            TypeError: an argument is unknown.
            ShoalSystemError: the node cannot be started; its log says why.
        """
        unknown = sorted(set(node_args) - set(_AMOUNTS) - set(_TABLES))
        if unknown:
            raise TypeError(f"add_node has no argument {', '.join(unknown)}")
        arguments = [
            f"{_AMOUNTS[name]}={value}" for name, value in node_args.items() if name in _AMOUNTS and value is not None
        ]
        arguments += [
            f"{_TABLES[name]}={json.dumps(value)}" for name, value in node_args.items() if name in _TABLES and value
        ]
        arguments.append(f"--temp-dir={self._temp}")
        if self.head_node is None:
            if "port" not in node_args:
                arguments.append("--port=0")
            arguments.append("--head")
        elif standby:
            arguments += ["--head"] if "port" in node_args else ["--head", "--port=0"]
        else:
            arguments.append(f"--address={self.address}")
            arguments += [] if self._secret is None else [f"--secret-file={self._secret}"]
        prefix = [] if network_namespace is None else ["ip", "netns", "exec", network_namespace]
        node = ClusterNode(_daemon.Daemon(arguments, prefix), self.temp_directory)
        if self.head_node is None:
            self.head_node = node
            if self._secret is None and node_args.get("state_dir"):
                self._secret = f"{node_args['state_dir']}/join-secret"
        else:
            self.worker_nodes.append(node)
        if wait:
            self._wait_until(lambda nodes: any(entry["node"] == node.node_id and entry["alive"] for entry in nodes), 30)
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node: in order, or by killing its daemon at once."""
        if node is self.head_node:
            self.head_node = None
        elif node in self.worker_nodes:
            self.worker_nodes.remove(node)
        else:
            raise ValueError(f"{node!r} is not a node of this cluster")
        if allow_graceful:
            node.stop()
        else:
            node.kill()

    def succeed_head(self, node: ClusterNode) -> None:
        """Take a standby for the head's node: it was elected, since the one that was the head is gone."""
        self.worker_nodes.remove(node)
        self.head_node = node

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes that were added and not removed, the head's first."""
        head = [] if self.head_node is None else [self.head_node]
        return head + self.worker_nodes

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Wait until the head counts exactly the nodes of this cluster alive.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: it does not within the time.
        """
        wanted = {node.node_id for node in self.list_all_nodes()}
        self._wait_until(lambda nodes: {entry["node"] for entry in nodes if entry["alive"]} == wanted, timeout)

    def connect(self, namespace: str | None = None) -> Any:
        """Connect this program as a driver, at the head's node."""
        if self.head_node is None:
            raise RuntimeError("the cluster has no head yet: call add_node()")
        return shoal.init(address=self.head_node.socket, namespace=namespace)

    def shutdown(self) -> None:
        """End all nodes; this program must have disconnected. Idempotent."""
        for node in self.list_all_nodes()[::-1]:
            node.stop()
        self.head_node = None
        self.worker_nodes.clear()
        if self._temp is not None:
            shutil.rmtree(self._temp, ignore_errors=True)
            self._temp = None
        atexit.unregister(self.shutdown)

    def _wait_until(self, condition: Any, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        nodes: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            nodes = self._status()
            if condition(nodes):
                return
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"the nodes are not as expected after {timeout} seconds: {nodes}")

    def _status(self) -> list[dict[str, Any]]:
        command = [*_daemon.command(), "status", "--json", f"--temp-dir={self._temp}"]
        answer = subprocess.run(command, capture_output=True, check=False)
        if answer.returncode != 0:
            return []
        nodes: list[dict[str, Any]] = json.loads(answer.stdout)["nodes"]
        return nodes

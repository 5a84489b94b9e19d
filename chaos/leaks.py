"""What may be left when all work has ended: nothing.

It is looked for three times, since each end lets go of something: when the work has ended (`of_work`), when the
driver has left (`of_driver`), and when the cluster was stopped in order (`of_sessions`, `Machine`).
"""

from __future__ import annotations

import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from shoal._daemon import SESSION_VARIABLE
from shoal.cluster_utils import ClusterNode
from shoal.exceptions import ShoalSystemError
from shoal.util import placement_group_table

PATIENCE_SECONDS = 60.0

RUN_VARIABLE = "SHOAL_CHAOS_RUN"
"""Every process that descends from this one inherits it; its value tells them from those of other runs."""

_GROUP = "_group_"
"""What the resources of placement groups have in their names."""


def of_work(nodes: list[ClusterNode], patience: float = PATIENCE_SECONDS) -> list[str]:
    """What work that has ended still holds after a while, in words. This program is still connected.

    `patience` is in seconds, here and below.
    """
    return _after_a_while(lambda: _of_nodes(nodes, _held) + _of_groups(placement_group_table()), patience)


def of_driver(nodes: list[ClusterNode], patience: float = PATIENCE_SECONDS) -> list[str]:
    """What is still there for a driver that has left, the only one, after a while, in words."""
    return _after_a_while(lambda: _of_nodes(nodes, _held, _served) + _of_processes(nodes), patience)


def of_sessions(temp: pathlib.Path) -> list[str]:
    """What nodes that were stopped in order left below their temporary directory, in words.

    What the killed ones left was removed by those that were started after them.
    """
    return [f"left by a node: {path}" for path in sorted(temp.glob("shoal-*/*")) if path.name != "lock"]


class Machine:
    """What the machine has before a run; what it has more after everything was closed down has leaked.

    Args:
        name: What the names of the run's network namespaces and links begin with.
        root: Where ``/proc``, ``/sys``, ``/dev`` and ``/run`` are.
    """

    def __init__(self, name: str, root: pathlib.Path = pathlib.Path("/")) -> None:
        self._name = name
        self._root = root
        self._mark = os.environ[RUN_VARIABLE] = uuid.uuid4().hex
        self._had = set(self._found())

    def leaks(self, patience: float = PATIENCE_SECONDS) -> list[str]:
        """What it has more after a while, in words."""
        return _after_a_while(lambda: sorted(set(self._found()) - self._had), patience)

    def _found(self) -> Iterator[str]:
        for pid, mark in marked(RUN_VARIABLE):
            if mark == self._mark:
                yield f"a process lives: {_describe(pid)}"
        for name in _names(self._root / "dev/shm"):
            if "shoal" in name:
                yield f"a file in shared memory: {name}"
        for line in (self._root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            if "shoal" in line or self._name in line:
                yield f"a mount: {line}"
        for name in _names(self._root / "run/netns"):
            if name.startswith(self._name):
                yield f"a network namespace: {name}"
        for name in _names(self._root / "sys/class/net"):
            if name.startswith(self._name):
                yield f"a network link: {name}"


def marked(variable: str) -> Iterator[tuple[int, str]]:
    """The other living processes that were started with this variable in their environment, and its value."""
    prefix = f"{variable}=".encode()
    for name in _names(pathlib.Path("/proc")):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            entries = pathlib.Path("/proc", name, "environ").read_bytes().split(b"\0")
            for entry in entries:
                if entry.startswith(prefix) and _parent(int(name)) is not None:
                    yield int(name), os.fsdecode(entry.removeprefix(prefix))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue


def _after_a_while(look: Callable[[], list[str]], patience: float) -> list[str]:
    deadline = time.monotonic() + patience
    while found := look():
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return []


def _of_nodes(nodes: list[ClusterNode], *looks: Callable[[dict[str, Any]], Iterator[str]]) -> list[str]:
    found = []
    alive = sorted(node.node_id for node in nodes)
    for node in nodes:
        try:
            status = node.status()
        except ShoalSystemError as error:
            found.append(f"node {node.node_id} does not answer: {error}")
            continue
        believed = sorted(summary["node"] for summary in status["nodes"] if summary["alive"])
        if believed != alive:
            found.append(f"node {node.node_id} believes {believed} alive, not {alive}")
        found += [f"node {node.node_id}: {what}" for look in looks for what in look(status)]
    return found


def _held(status: dict[str, Any]) -> Iterator[str]:
    """What a node says is held: by objects, tasks, actors and placement groups."""
    for key in ("objects", "pinned", "spilled", "used"):
        if status["store"][key]:
            yield f"{key} in the store: {status['store'][key]}"
    for summary in status["nodes"]:
        if not summary["alive"]:
            continue
        if summary["free"] != {name: amount for name, amount in summary["total"].items() if amount}:
            yield f"only {summary['free']} of {summary['total']} free on node {summary['node']}"
        if groups := sorted(name for name in summary["total"] if _GROUP in name):
            yield f"resources of placement groups on node {summary['node']}: {groups}"
    for actor in status["actors"]:
        if actor["state"] != "Dead":
            yield f"an actor lives: {actor}"
    for worker in status["workers"]:
        if worker["state"] not in ("starting", "idle"):
            yield f"a worker is busy: {worker}"


def _served(status: dict[str, Any]) -> Iterator[str]:
    """Whom a node says it serves."""
    if status["drivers"]:
        yield f"drivers: {status['drivers']}"
    for worker in status["workers"]:
        yield f"a worker of a job that has ended: {worker}"


def _of_groups(table: dict[str, Any]) -> list[str]:
    return [f"a placement group: {group}" for group in table.values() if group["state"] != "REMOVED"]


def _of_processes(nodes: list[ClusterNode]) -> list[str]:
    """Processes of nodes that have gone, and more than the daemon's own children of those that have not."""
    daemons = {node.session: node.pid for node in nodes}
    # All nodes of a cluster have their sessions in one directory.
    places = {os.path.dirname(session) for session in daemons}
    found = []
    for pid, session in marked(SESSION_VARIABLE):
        if os.path.dirname(session) not in places:
            continue
        if session not in daemons:
            found.append(f"a process of a node that has gone: {_describe(pid)}")
        # A template, from which workers are forked, is the daemon's child; workers are its children.
        elif _parent(pid) not in (daemons[session], None):
            found.append(f"a worker that its node does not speak of: {_describe(pid)}")
    return found


def _parent(pid: int) -> int | None:
    """The process id of its parent; None if it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything.
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def _describe(pid: int) -> str:
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        words = []
    return f"{pid} {b' '.join(words).decode(errors='replace')[:200]}".replace("\n", " ")


def _names(directory: pathlib.Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []

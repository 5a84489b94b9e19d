"""A cluster of many real node daemons on this machine that have nothing to do: what it takes to form and to idle.

    many_daemons.py                               100 nodes without CPUs, and so without workers
    many_daemons.py --nodes 20 --idle-seconds 5   a short run

All daemons talk over loopback as they would between machines: one authenticated connection per pair that has
something to say, reports and heartbeats to the head. They are ended when the figures are there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "side_by_side"))
import processes

from shoal.cluster_utils import Cluster, ClusterNode

NODE: dict[str, Any] = {"num_cpus": 0, "object_store_memory": 64 << 20}
PATIENCE_SECONDS = 300.0
SETTLE_SECONDS = 5.0


def start(cluster: Cluster, count: int, at_once: int) -> None:
    """Start the head, then all other nodes, so many of them at the same time."""
    cluster.add_node(**NODE)
    with ThreadPoolExecutor(at_once) as pool:
        started = [pool.submit(cluster.add_node, wait=False, **NODE) for _ in range(count - 1)]
        for one in started:
            one.result()


def wait_until_all_know_all(nodes: list[ClusterNode], at_once: int) -> None:
    """Return when each node counts all nodes alive."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    total, behind = len(nodes), nodes
    with ThreadPoolExecutor(at_once) as pool:
        while behind:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(behind)} nodes do not know of all others")
            known = pool.map(lambda node: sum(one["alive"] for one in node.status()["nodes"]), behind)
            behind = [node for node, count in zip(behind, known, strict=True) if count != total]


def idle_seconds(pids: list[int], seconds: float) -> float:
    """Processor time that these processes use in so many seconds."""
    before = processes.processor_seconds(pids)
    time.sleep(seconds)
    return processes.processor_seconds(pids) - before


def measure(count: int, seconds: float, at_once: int) -> list[tuple[str, str]]:
    """Form a cluster, leave it alone, end it; figures by what they are."""
    cluster = Cluster()
    try:
        began = time.monotonic()
        start(cluster, count, at_once)
        cluster.wait_for_nodes(PATIENCE_SECONDS)
        formed = time.monotonic() - began
        nodes = cluster.list_all_nodes()
        # Asking takes longer than telling did, so this is a check and not a figure.
        wait_until_all_know_all(nodes, at_once)
        time.sleep(SETTLE_SECONDS)
        pids = processes.descendants(os.getpid())
        used = idle_seconds(pids, seconds)
        memory = processes.memory(pids)
        head = next(one for one in memory if one.pid == nodes[0].pid)
        rest = [one for one in memory if one is not head]
        ending = time.monotonic()
    finally:
        cluster.shutdown()
    ended = time.monotonic() - ending
    rss, pss = sum(one.rss for one in memory), sum(one.pss for one in memory)
    return [
        ("nodes, processes", f"{count}, {len(memory)}"),
        ("started, and the head counts all", f"{formed:.1f} s"),
        ("resident in total (shared pages counted in each)", f"{rss:,.0f} MB"),
        ("proportional set size in total (shared pages counted once)", f"{pss:,.0f} MB"),
        ("resident: the head's node, another node", f"{head.rss:.1f} MB, {median([one.rss for one in rest]):.1f} MB"),
        (f"processor time of all in {seconds:g} idle seconds", f"{used:.2f} s ({100 * used / seconds:.1f} % of one)"),
        ("ended, one after the other", f"{ended:.1f} s"),
    ]


def median(values: list[float]) -> float:
    """The middle one; not a number if there is none."""
    return sorted(values)[len(values) // 2] if values else float("nan")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100, help="how many daemons, the head's included [100]")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="how long they are left alone [30]")
    parser.add_argument("--at-once", type=int, default=4 * (os.cpu_count() or 1), help="how many start together")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    figures = measure(given.nodes, given.idle_seconds, given.at_once)
    print("| idle daemons | |\n|---|---|")
    for what, figure in figures:
        print(f"| {what} | {figure} |")
    print(f"\n{os.cpu_count()} processors; load average before: {load:.1f}, after: {os.getloadavg()[0]:.1f}")
    if left := processes.descendants(os.getpid()):
        sys.exit(f"{len(left)} processes are left")


if __name__ == "__main__":
    main()

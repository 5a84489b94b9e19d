"""What may be left when all work has ended: nothing."""

from __future__ import annotations

import time

from chaos.faults import Victim
from shoal.exceptions import ShoalSystemError

PATIENCE_SECONDS = 60.0


def leaks(victim: Victim) -> list[str]:
    """What is still held somewhere after a while, in words."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while found := _look(victim):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return []


def _look(victim: Victim) -> list[str]:
    found = []
    for node in victim.nodes():
        try:
            status = node.status()
        except ShoalSystemError as error:
            found.append(f"node {node.node_id} does not answer: {error}")
            continue
        for key in ("objects", "pinned", "spilled"):
            if status["store"][key]:
                found.append(f"node {node.node_id}: {key} in the store: {status['store'][key]}")
        alive = {summary["node"] for summary in status["nodes"] if summary["alive"]}
        wanted = {other.node_id for other in victim.nodes()}
        if alive != wanted:
            found.append(f"node {node.node_id} believes {sorted(alive)} alive, not {sorted(wanted)}")
        for summary in status["nodes"]:
            if summary["alive"] and summary["free"] != {name: n for name, n in summary["total"].items() if n}:
                found.append(
                    f"node {node.node_id} believes {summary['free']} of {summary['total']} of "
                    f"node {summary['node']} free"
                )
        for actor in status["actors"]:
            if actor["state"] != "Dead":
                found.append(f"node {node.node_id}: an actor lives: {actor}")
    return found

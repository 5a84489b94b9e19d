"""What the cluster consists of and what it has done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from shoal import _labels, _session, _shoal
from shoal.ids import NodeID, TaskID

__all__ = ["available_resources", "cluster_resources", "get_gpu_ids", "nodes", "timeline"]


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster, each as a dictionary.

    Keys: ``NodeID`` (hexadecimal), ``Alive``, ``NodeManagerAddress`` and ``NodeManagerHostname``
    (its host), ``NodeName`` (as it was started with, else its host), ``Resources`` (amounts by name;
    memory in bytes) and ``Labels``.

    Example:
        >>> import shoal
        >>> [node["Alive"] for node in shoal.nodes()]
        [True]
    """
    return [_describe_node(node) for node in _ask_nodes()]


def _ask_nodes() -> list[Mapping[str, Any]]:
    _session.require()
    found: list[Mapping[str, Any]] = _shoal.ask("nodes", {})
    return found


def _describe_node(node: Mapping[str, Any]) -> dict[str, Any]:
    identifier = NodeID.from_number(node["node"]).hex()
    session = _session.require()
    return {
        "NodeID": identifier,
        "Alive": node["alive"],
        "NodeManagerAddress": node["host"],
        "NodeManagerHostname": node["host"],
        "NodeName": node["name"],
        "RayletSocketName": session.socket,
        "Resources": dict(node["total"]) if node["alive"] else {},
        "Labels": {**dict(node["labels"]), _labels.NODE_ID: identifier},
        "alive": node["alive"],
    }


def cluster_resources() -> dict[str, float]:
    """Everything the living nodes have: amounts by resource name, memory in bytes.

    Example:
        >>> import shoal
        >>> shoal.cluster_resources()["CPU"] >= 1
        True
    """
    return _sum("total")


def available_resources() -> dict[str, float]:
    """What of `cluster_resources` is free now. Resources with nothing free are left out."""
    return {name: amount for name, amount in _sum("free").items() if amount > 0}


def _sum(field: str) -> dict[str, float]:
    total: dict[str, float] = {}
    for node in _ask_nodes():
        if node["alive"]:
            for name, amount in dict(node[field]).items():
                total[name] = total.get(name, 0.0) + amount
    return total


def get_gpu_ids() -> list[int] | list[str]:
    """The GPUs that this task or actor may use, as its ``CUDA_VISIBLE_DEVICES`` names them.

    Empty in a driver, and for a task without GPUs.

    Example:
        >>> import shoal
        >>> shoal.get_gpu_ids()
        []
    """
    from shoal.runtime_context import get_runtime_context

    _session.require()
    names = get_runtime_context().get_accelerator_ids()["GPU"]
    if all(name.isdigit() for name in names):
        return [int(name) for name in names]
    return names


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """What ran when and where, in the format of Chrome's trace viewer and of Perfetto.

    Rows are processes, grouped by node; times are in microseconds.

    Args:
        filename: Write the trace there, as JSON, and return None.

    Returns:
        The trace's events, if no file was named.

    Example:
        >>> import shoal
        >>> isinstance(shoal.timeline(), list)
        True
    """
    _session.require()
    events = [_trace_event(event) for event in _shoal.task_events()]
    for node, process in sorted({(event["pid"], event["tid"]) for event in events}):
        events.append(_name_event("process_name", node, process, f"node {node}"))
        events.append(_name_event("thread_name", node, process, f"worker {process}"))
    if filename is None:
        return events
    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def _trace_event(event: Mapping[str, Any]) -> dict[str, Any]:
    task = event["task"]
    return {
        "cat": f"task::{event['label']}",
        "name": event["label"],
        "ph": "X",
        "pid": event["process"] >> 32,
        "tid": event["pid"],
        "ts": event["start_micros"],
        "dur": event["end_micros"] - event["start_micros"],
        "args": {
            "task_id": TaskID(task).hex() if isinstance(task, bytes) else str(task),
            "name": event["label"],
        },
    }


def _name_event(kind: str, node: int, process: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": node, "tid": process, "args": {"name": name}}

"""Tools built on tasks and actors."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Not when it is first used, like the others: whoever imports the module of this name first would
# find that instead of the function.
from shoal.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from shoal.util import accelerators, queue, scheduling_strategies
    from shoal.util.actor_pool import ActorPool
    from shoal.util.check_serialize import inspect_serializability
    from shoal.util.iteration import as_completed, map_unordered
    from shoal.util.named_actors import list_named_actors
    from shoal.util.node import get_node_instance_id, get_node_ip_address, log_once
    from shoal.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "accelerators",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "queue",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
]

_homes = {
    "ActorPool": "actor_pool",
    "as_completed": "iteration",
    "deregister_serializer": "serialization",
    "get_node_instance_id": "node",
    "get_node_ip_address": "node",
    "inspect_serializability": "check_serialize",
    "list_named_actors": "named_actors",
    "log_once": "node",
    "map_unordered": "iteration",
    "register_serializer": "serialization",
}
_modules = frozenset({"accelerators", "queue", "scheduling_strategies"})


def __getattr__(name: str) -> Any:
    if name in _homes:
        value = getattr(importlib.import_module(f"{__name__}.{_homes[name]}"), name)
    elif name in _modules:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

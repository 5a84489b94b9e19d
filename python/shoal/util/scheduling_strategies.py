"""Objects for the option ``scheduling_strategy``."""

from __future__ import annotations

from typing import Any

from shoal.ids import NodeID

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: The node, in hexadecimal as `shoal.nodes` tells it.
        soft: Run elsewhere if the node is gone; else the work fails then.

    Example:
        >>> import shoal
        >>> from shoal.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        >>> @shoal.remote
        ... def node():
        ...     return shoal.get_runtime_context().get_node_id()
        >>> here = shoal.get_runtime_context().get_node_id()
        >>> strategy = NodeAffinitySchedulingStrategy(here, soft=False)
        >>> shoal.get(node.options(scheduling_strategy=strategy).remote()) == here
        True
    """

    def __init__(
        self,
        node_id: str | NodeID,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        if isinstance(node_id, NodeID):
            node_id = node_id.hex()
        if not isinstance(node_id, str):
            raise TypeError(f"node_id is a string of hexadecimal digits, not {node_id!r}")
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable needs soft=True")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable needs soft=False")
        try:
            self._number = NodeID.from_hex(node_id).number()
        except ValueError:
            raise ValueError(f"{node_id!r} is not the id of a node") from None
        self.node_id = node_id
        self.soft = bool(soft)
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def to_core(self) -> tuple[int, bool]:
        """The node's number, and whether another node will do."""
        return self._number, self.soft


class PlacementGroupSchedulingStrategy:
    """Run in a placement group. Placement groups are not supported yet.

    Args:
        placement_group: The group; None is no group.
        placement_group_bundle_index: Which of its bundles; -1 is any.
        placement_group_capture_child_tasks: Whether tasks submitted there run there, too.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class In:
    """The label has one of these values."""

    def __init__(self, *values: str) -> None:
        self.values = list(values)


class NotIn:
    """The label has none of these values."""

    def __init__(self, *values: str) -> None:
        self.values = list(values)


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node has not the label."""


class NodeLabelSchedulingStrategy:
    """Run on nodes with certain labels. Not supported yet.

    Args:
        hard: Conditions by label that must hold.
        soft: Conditions by label that should hold.
    """

    def __init__(
        self,
        hard: dict[str, In | NotIn | Exists | DoesNotExist],
        *,
        soft: dict[str, In | NotIn | Exists | DoesNotExist] | None = None,
    ) -> None:
        self.hard = dict(hard)
        self.soft = dict(soft or {})

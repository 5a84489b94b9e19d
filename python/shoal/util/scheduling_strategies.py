"""Objects for the option ``scheduling_strategy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.ids import NodeID

if TYPE_CHECKING:
    from shoal.util.placement_group import PlacementGroup

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
    """Run in a placement group.

    Args:
        placement_group: The group; None or `PlacementGroup.empty()` is no group.
        placement_group_bundle_index: Which of its bundles; -1 is any.
        placement_group_capture_child_tasks: Whether tasks and actors submitted there run in the
            group, too, unless they say otherwise; ``scheduling_strategy="DEFAULT"`` does. None: if
            the submitter's own do.

    Example:
        >>> import shoal
        >>> from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
        >>> group = shoal.util.placement_group([{"CPU": 1}])
        >>> @shoal.remote(num_cpus=1)
        ... def double(x):
        ...     return 2 * x
        >>> strategy = PlacementGroupSchedulingStrategy(group)
        >>> shoal.get(double.options(scheduling_strategy=strategy).remote(2))
        4
        >>> shoal.util.remove_placement_group(group)
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        from shoal.util.placement_group import PlacementGroup

        if placement_group is not None and not isinstance(placement_group, PlacementGroup):
            raise TypeError(f"placement_group is a PlacementGroup or None, not {placement_group!r}")
        is_none = placement_group is None or placement_group.is_empty
        if is_none and placement_group_bundle_index != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        if placement_group_bundle_index < -1:
            raise ValueError(f"placement group bundle index {placement_group_bundle_index} is invalid: -1 is any")
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def to_core(self, *, captures: bool) -> tuple[bytes, int, bool] | None:
        """The group, the bundle or -1, and whether it captures, which is `captures` by default."""
        if self.placement_group is None or self.placement_group.is_empty:
            return None
        given = self.placement_group_capture_child_tasks
        captures = captures if given is None else bool(given)
        return self.placement_group.id.binary(), self.placement_group_bundle_index, captures


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

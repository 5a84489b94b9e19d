"""Objects for the option ``scheduling_strategy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import _labels
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
        soft: Run elsewhere if the node is gone, or can never run it; else the work fails then. While the
            node is there and busy, the work waits for it either way, unless one of the next two is given.
        _spill_on_unavailable: Run elsewhere also if the node has no room now. Needs soft=True.
        _fail_on_unavailable: Fail if the node has no room now, and gets none within half a second
            (`TaskUnschedulableError`, `ActorUnschedulableError`). Needs soft=False. Calls of one function
            with equal options share workers: one that finds such a worker busy waits for that, and one that
            is refused fails those that wait with it.

    Raises:
        ValueError: that is no id of a node, or two of the arguments exclude each other.

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
        self._spill_on_unavailable = bool(_spill_on_unavailable)
        self._fail_on_unavailable = bool(_fail_on_unavailable)

    def to_core(self) -> tuple[int, bool, bool]:
        """The node's number, whether another node will do, and whether the work is not to wait for room there."""
        return self._number, self.soft, self._spill_on_unavailable or self._fail_on_unavailable


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


class _OneOf:
    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError(f"{type(self).__name__} takes at least one value")
        for value in values:
            wrong = _labels.check_value(value)
            if wrong:
                raise ValueError(wrong)
        self.values = list(values)


class In(_OneOf):
    """The label has one of these values."""


class NotIn(_OneOf):
    """The label has none of these values, or the node has not the label."""


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node has not the label."""


class NodeLabelSchedulingStrategy:
    """Run on nodes with certain labels. The option ``label_selector`` says the same in fewer words.

    Args:
        hard: Conditions by label that must hold.
        soft: Conditions by label that should hold. Not supported.

    Raises:
        ValueError: a condition or a label makes no sense, or there is none.
        NotImplementedError: soft is given.

    Example:
        >>> import shoal
        >>> from shoal.util.scheduling_strategies import DoesNotExist, NodeLabelSchedulingStrategy
        >>> @shoal.remote
        ... def double(x):
        ...     return 2 * x
        >>> strategy = NodeLabelSchedulingStrategy({"zone": DoesNotExist()})
        >>> shoal.get(double.options(scheduling_strategy=strategy).remote(2))
        4
    """

    def __init__(
        self,
        hard: dict[str, In | NotIn | Exists | DoesNotExist] | None,
        *,
        soft: dict[str, In | NotIn | Exists | DoesNotExist] | None = None,
    ) -> None:
        self.hard = _checked(hard, "hard")
        self.soft = _checked(soft, "soft")
        if not self.hard and not self.soft:
            raise ValueError("NodeLabelSchedulingStrategy needs at least one condition")
        if self.soft:
            raise NotImplementedError(
                "NodeLabelSchedulingStrategy(soft=...) is not supported: conditions hold or the work does not run. "
                "Let hard name all values that will do, as in In('a', 'b')"
            )

    def to_core(self) -> list[_labels.Selector]:
        """What the labels of the node must be."""
        found = []
        for key, condition in self.hard.items():
            values = condition.values if isinstance(condition, In | NotIn) else []
            found.append((key, values, isinstance(condition, NotIn | DoesNotExist)))
        return found


def _checked(given: Any, name: str) -> dict[str, In | NotIn | Exists | DoesNotExist]:
    if not isinstance(given or {}, dict):
        raise ValueError(f"{name} is a dictionary of conditions by label, not {given!r}")
    for key, condition in (given or {}).items():
        wrong = _labels.check_key(key)
        if wrong:
            raise ValueError(wrong)
        if not isinstance(condition, In | NotIn | Exists | DoesNotExist):
            raise ValueError(f"the condition for '{key}' is In, NotIn, Exists or DoesNotExist, not {condition!r}")
    return dict(given or {})

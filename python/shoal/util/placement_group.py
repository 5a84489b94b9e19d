"""Placement groups: resources that are set aside together, on one node or over several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from shoal import _labels, _session
from shoal.ids import NodeID, PlacementGroupID

if TYPE_CHECKING:
    from shoal import ObjectRef

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

VALID_PLACEMENT_GROUP_STRATEGIES = frozenset({"PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"})

Bundle = dict[str, float]


class PlacementGroup:
    """A handle to a placement group. Handles can be passed to tasks and compared.

    The group does not end with its handles: see `placement_group`.

    Example:
        >>> import shoal
        >>> from shoal.util import placement_group, remove_placement_group
        >>> group = placement_group([{"CPU": 1}], strategy="PACK")
        >>> group.bundle_count
        1
        >>> shoal.get(group.ready()) == group
        True
        >>> remove_placement_group(group)
    """

    __slots__ = ("_bundles", "id")

    def __init__(
        self,
        id: PlacementGroupID,  # noqa: A002, programs for Ray name it
        bundle_cache: Sequence[Bundle] | None = None,
    ) -> None:
        self.id = id
        self._bundles = None if bundle_cache is None else [dict(bundle) for bundle in bundle_cache]

    @staticmethod
    def empty() -> PlacementGroup:
        """The handle that stands for no group."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    @property
    def is_empty(self) -> bool:
        """Whether this stands for no group."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference to this handle that is ready once all bundles are there and take work.

        Getting it raises `shoal.exceptions.TaskPlacementGroupRemoved` if the group is removed first.
        """
        from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self, 0, placement_group_capture_child_tasks=False)
        reference: ObjectRef[PlacementGroup] = _check().options(scheduling_strategy=strategy).remote(self)
        return reference

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until all bundles are there.

        Args:
            timeout_seconds: At most so long.

        Returns:
            Whether they are there.

        Raises:
            ValueError: the group was removed.

        Example:
            >>> import shoal
            >>> from shoal.util import placement_group, remove_placement_group
            >>> group = placement_group([{"CPU": 10_000}])
            >>> group.wait(timeout_seconds=0.1)
            False
            >>> remove_placement_group(group)
        """
        _session.require()
        from shoal import _shoal

        return _shoal.wait_group(self.id.binary(), timeout_seconds)

    @property
    def bundle_specs(self) -> list[Bundle]:
        """What the bundles hold: amounts by resource name. ValueError if there is no such group."""
        if self._bundles is None:
            found = _find(self.id)
            if found is None:
                raise ValueError(f"There is no placement group {self.id.hex()}.")
            self._bundles = found["bundles"]
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles there are. ValueError if there is no such group."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PlacementGroup):
            return NotImplemented
        return self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[type[PlacementGroup], tuple[PlacementGroupID, list[Bundle] | None]]:
        return PlacementGroup, (self.id, self._bundles)


def placement_group(
    bundles: list[Bundle],
    strategy: str | None = "PACK",
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Set resources aside: all bundles at once, or none until there is room for all.

    Returns at once; `PlacementGroup.wait` and `PlacementGroup.ready` wait for the bundles. Work
    runs in them that is submitted with the option ``scheduling_strategy`` and a
    `shoal.util.scheduling_strategies.PlacementGroupSchedulingStrategy`. When a node dies, its
    bundles are set aside anew elsewhere; the group takes nothing new until it is whole again.

    Args:
        bundles: What each bundle holds: amounts by resource name, ``memory`` in bytes. A bundle
            lies on one node.
        strategy: ``"PACK"``: on as few nodes as possible. ``"SPREAD"``: on as many as possible.
            ``"STRICT_PACK"``: all on one node. ``"STRICT_SPREAD"``: each on a node of its own.
        name: For `get_placement_group`; unique in this program's namespace. Empty is none.
        lifetime: ``"detached"``: until it is removed. None: no longer than the program or the
            actor that makes it.
        _soft_target_node_id: With ``"STRICT_PACK"``, the node that should be preferred. A hint
            that this cluster does not follow.
        bundle_label_selector: For each bundle, what the labels of its node must be.
        topology_strategy: Not supported.

    Raises:
        ValueError: the bundles or options are impossible, or the name is taken.

    Example:
        >>> import shoal
        >>> from shoal.util import placement_group, remove_placement_group
        >>> from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy
        >>> group = placement_group([{"CPU": 1}, {"CPU": 1}])
        >>> @shoal.remote(num_cpus=1)
        ... def where():
        ...     return shoal.util.get_current_placement_group()
        >>> strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
        >>> shoal.get(where.options(scheduling_strategy=strategy).remote()) == group
        True
        >>> remove_placement_group(group)
    """
    strategy = "PACK" if strategy is None else strategy
    _validate(bundles, strategy, lifetime)
    selectors = _selectors(bundle_label_selector, len(bundles))
    if _soft_target_node_id is not None:
        _validate_target(_soft_target_node_id, strategy)
    if topology_strategy:
        raise NotImplementedError("'topology_strategy' is not supported yet; use 'bundle_label_selector'")
    session = _session.require()
    from shoal import _shoal

    amounts = [{key: float(amount) for key, amount in bundle.items() if amount} for bundle in bundles]
    group = _shoal.create_group(
        bundles=list(zip(amounts, selectors, strict=True)),
        strategy=strategy,
        name=name or "",
        namespace=session.namespace,
        detached=lifetime == "detached",
    )
    return PlacementGroup(PlacementGroupID(group), amounts)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give the resources back. Tasks and actors that use them end, and so do those that wait for them.

    Tasks fail with `shoal.exceptions.TaskPlacementGroupRemoved`, calls of actors with
    `shoal.exceptions.ActorPlacementGroupRemoved`. Returns at once. Removing a group twice does nothing.

    Example:
        >>> import shoal
        >>> from shoal.util import placement_group, remove_placement_group
        >>> group = placement_group([{"CPU": 1}])
        >>> remove_placement_group(group)
    """
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"remove_placement_group() takes a PlacementGroup, not {placement_group!r}")
    _session.require()
    from shoal import _shoal

    if not placement_group.is_empty:
        _shoal.remove_group(placement_group.id.binary())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of this name in this program's namespace; ValueError if there is none.

    Example:
        >>> import shoal
        >>> from shoal.util import get_placement_group, placement_group, remove_placement_group
        >>> group = placement_group([{"CPU": 1}], name="training")
        >>> get_placement_group("training") == group
        True
        >>> remove_placement_group(group)
    """
    if not placement_group_name:
        raise ValueError("get_placement_group() needs a name that is not empty")
    session = _session.require()
    from shoal import _shoal

    found = _shoal.ask("group_by_name", {"name": placement_group_name, "namespace": session.namespace})
    if not found:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(PlacementGroupID(found[0]["group"]), found[0]["bundles"])


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the calling task or actor runs in, or None.

    Example:
        >>> from shoal.util import get_current_placement_group
        >>> get_current_placement_group() is None
        True
    """
    _session.require()
    from shoal import _shoal

    current = _shoal.current_group()
    return None if current is None else PlacementGroup(PlacementGroupID(current[0]))


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known of a group, or of all groups by their ids.

    Args:
        placement_group: Which group; None for all, those lately removed included.

    Returns:
        ``placement_group_id``, ``name``, ``bundles`` and ``bundles_to_node_id`` by bundle index,
        ``strategy``, ``state`` (``"PENDING"``, ``"CREATED"``, ``"RESCHEDULING"`` or ``"REMOVED"``) and
        ``stats`` with ``scheduling_state`` and, in ``detail``, what it waits for. Empty if there is no
        such group. ``bundles_to_node_id`` is empty unless the group is whole.

    Example:
        >>> from shoal.util import placement_group, placement_group_table, remove_placement_group
        >>> group = placement_group([{"CPU": 1}])
        >>> group.wait(10)
        True
        >>> placement_group_table(group)["state"]
        'CREATED'
        >>> remove_placement_group(group)
    """
    _session.require()
    if placement_group is not None:
        found = _find(placement_group.id)
        return {} if found is None else _describe(found)
    return {PlacementGroupID(group["group"]).hex(): _describe(group) for group in _all()}


def _all() -> list[dict[str, Any]]:
    _session.require()
    from shoal import _shoal

    groups: list[dict[str, Any]] = _shoal.ask("groups", {})
    return groups


def _find(wanted: PlacementGroupID) -> dict[str, Any] | None:
    return next((group for group in _all() if group["group"] == wanted.binary()), None)


_SCHEDULING_STATES = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}


def _describe(group: Mapping[str, Any]) -> dict[str, Any]:
    nodes = [NodeID.from_number(node).hex() for node in group["nodes"]]
    state = group["state"]
    return {
        "placement_group_id": PlacementGroupID(group["group"]).hex(),
        "name": group["name"],
        "bundles": dict(enumerate(group["bundles"])),
        "bundles_to_node_id": dict(enumerate(nodes)),
        "strategy": group["strategy"],
        "state": state,
        "stats": {"scheduling_state": _SCHEDULING_STATES.get(state, "PENDING"), "detail": group["detail"]},
    }


@cache
def _check() -> Any:
    import shoal

    @shoal.remote(num_cpus=0)
    def placement_group_ready(group: PlacementGroup) -> PlacementGroup:
        return group

    return placement_group_ready


# --- validation -----------------------------------------------------------------------------------

_EXAMPLE = 'for example [{"CPU": 1.0}, {"GPU": 1.0}]'


def _validate(bundles: Any, strategy: Any, lifetime: Any) -> None:
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, {_EXAMPLE}, not {type(bundles).__name__}.")
    if not bundles:
        raise ValueError(f"Bundles must be a non-empty list of resource dictionaries, {_EXAMPLE}.")
    for bundle in bundles:
        _validate_bundle(bundle)
    if strategy not in VALID_PLACEMENT_GROUP_STRATEGIES:
        allowed = ", ".join(sorted(VALID_PLACEMENT_GROUP_STRATEGIES))
        raise ValueError(f"Invalid placement group strategy {strategy!r}: supported are {allowed}.")
    if lifetime not in (None, "detached"):
        raise ValueError(f"The lifetime of a placement group is None or 'detached', not {lifetime!r}.")


def _validate_bundle(bundle: Any) -> None:
    if not isinstance(bundle, dict):
        raise ValueError(f"Bundles must be resource dictionaries, {_EXAMPLE}, not {bundle!r}.")
    for name, amount in bundle.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"The name of a resource is a string that is not empty, not {name!r}.")
        if name == "bundle":
            raise ValueError("'bundle' is a reserved name and cannot be a resource of a bundle.")
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise ValueError(f"The amount of {name} in a bundle is a number, not {amount!r}.")
        if not math.isfinite(amount) or amount < 0:
            raise ValueError(f"The amount of {name} in a bundle cannot be negative or infinite, but is {amount}.")
    if not any(bundle.values()):
        raise ValueError(f"Bundles cannot be empty dictionaries or have only amounts of 0, but one is {bundle!r}.")


def _validate_target(node: Any, strategy: str) -> None:
    if strategy != "STRICT_PACK":
        raise ValueError("'_soft_target_node_id' needs the strategy 'STRICT_PACK'.")
    try:
        NodeID.from_hex(node)
    except (TypeError, ValueError):
        raise ValueError(f"{node!r} is not the id of a node.") from None


def _selectors(given: Any, bundles: int) -> list[list[tuple[str, list[str], bool]]]:
    if given is None or given == []:
        return [[] for _ in range(bundles)]
    if not isinstance(given, list) or len(given) != bundles:
        raise ValueError(
            f"Invalid bundle label selector {given!r}: it is a list of dictionaries, one for each of {bundles} bundles."
        )
    for selector in given:
        wrong = "it is not a dictionary" if not isinstance(selector, dict) else _labels.check_selector(selector)
        if wrong is not None:
            raise ValueError(f"Invalid bundle label selector {selector!r}: {wrong}.")
    return [_labels.to_core(selector) for selector in given]

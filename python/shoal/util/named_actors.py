"""Which actors can be found by name."""

from __future__ import annotations

from typing import Any, Literal, overload

from shoal import _session

__all__ = ["list_named_actors"]


@overload
def list_named_actors(all_namespaces: Literal[False] = False) -> list[str]: ...
@overload
def list_named_actors(all_namespaces: Literal[True]) -> list[dict[str, str]]: ...
def list_named_actors(all_namespaces: bool = False) -> Any:
    """The names of living actors that have one.

    Args:
        all_namespaces: Return ``{"name": ..., "namespace": ...}`` of those in every namespace,
            instead of the names in this program's.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... class Idle:
        ...     pass
        >>> idle = Idle.options(name="idle", namespace="garden").remote()
        >>> {"name": "idle", "namespace": "garden"} in shoal.util.list_named_actors(True)
        True
    """
    session = _session.require()
    from shoal import _shoal

    named = [actor for actor in _shoal.ask("actors", {"dead": False}) if actor["name"]]
    if all_namespaces:
        return [{"name": a["name"], "namespace": a["namespace"]} for a in named]
    return [a["name"] for a in named if a["namespace"] == session.namespace]

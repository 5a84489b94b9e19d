"""Serialise a class in a way of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shoal import _serialization

__all__ = ["deregister_serializer", "register_serializer"]

T = TypeVar("T")
State = TypeVar("State")


def register_serializer(cls: type[T], *, serializer: Callable[[T], State], deserializer: Callable[[State], T]) -> None:
    """Serialise instances of exactly `cls` by `serializer`, in this process.

    Whoever reads the value calls `deserializer`, so readers need not register anything.

    Args:
        cls: The class; subclasses are not affected.
        serializer: Makes something of an instance that can be pickled.
        deserializer: Makes an instance of that.

    Example:
        >>> import shoal, threading
        >>> class Locked:
        ...     def __init__(self, value):
        ...         self.value, self.lock = value, threading.Lock()
        >>> shoal.util.register_serializer(
        ...     Locked, serializer=lambda locked: locked.value, deserializer=Locked)
        >>> shoal.get(shoal.put(Locked(3))).value
        3
        >>> shoal.util.deregister_serializer(Locked)
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer takes a class, not {cls!r}")
    _serialization.add_serializer(cls, serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Serialise instances of `cls` in the usual way again, in this process."""
    _serialization.remove_serializer(cls)

"""Ids: immutable, hashable, picklable names of things.

Nodes and workers are numbered by the cluster. Their ids are those numbers, padded to the 28 bytes
that programs written for Ray expect; the number comes first, so a short prefix tells them apart.
"""

from __future__ import annotations

import os
from typing import ClassVar, Self

__all__ = [
    "ActorClassID",
    "ActorID",
    "BaseID",
    "ClusterID",
    "FunctionID",
    "JobID",
    "NodeID",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
]


class BaseID:
    """An id of a fixed number of bytes.

    Example:
        >>> from shoal import UniqueID
        >>> one = UniqueID.from_random()
        >>> UniqueID.from_hex(one.hex()) == one
        True
    """

    __slots__ = ("_bytes", "_hash")
    SIZE: ClassVar[int] = 28

    def __init__(self, binary: bytes) -> None:
        """Make an id of its bytes; ValueError unless there are exactly `size()` of them."""
        if not isinstance(binary, bytes):
            raise TypeError(f"{type(self).__name__} is made of bytes, not of {binary!r}")
        if len(binary) != self.SIZE:
            raise ValueError(f"{type(self).__name__} has {self.SIZE} bytes, but {len(binary)} were given")
        self._bytes = binary
        self._hash = hash((type(self).__name__, binary))

    @classmethod
    def size(cls) -> int:
        """How many bytes an id of this kind has."""
        return cls.SIZE

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The id that prints as `text`; ValueError if `text` is not hexadecimal."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_binary(cls, binary: bytes) -> Self:
        """The id with these bytes."""
        return cls(binary)

    @classmethod
    def from_random(cls) -> Self:
        """A new id that no other thing has."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def nil(cls) -> Self:
        """The id of nothing."""
        return cls(b"\xff" * cls.SIZE)

    def is_nil(self) -> bool:
        """Whether this is the id of nothing."""
        return self._bytes == b"\xff" * self.SIZE

    def binary(self) -> bytes:
        """The bytes."""
        return self._bytes

    def hex(self) -> str:
        """The bytes in hexadecimal."""
        return self._bytes.hex()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self._bytes == other._bytes

    def __lt__(self, other: Self) -> bool:
        return self._bytes < other._bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._bytes,)


class UniqueID(BaseID):
    """An id of no particular kind of thing."""

    __slots__ = ()


class _NumberedID(BaseID):
    """An id that is a number given by the cluster."""

    __slots__ = ()
    NUMBER_SIZE: ClassVar[int] = 8

    @classmethod
    def from_number(cls, number: int) -> Self:
        """The id of the thing with this number."""
        return cls(number.to_bytes(cls.NUMBER_SIZE, "big").ljust(cls.SIZE, b"\0"))

    def number(self) -> int:
        """The number; ValueError if this is not the id of a numbered thing."""
        if self._bytes[self.NUMBER_SIZE :].strip(b"\0"):
            raise ValueError(f"{self!r} names nothing in a cluster")
        return int.from_bytes(self._bytes[: self.NUMBER_SIZE], "big")


class NodeID(_NumberedID):
    """A node of the cluster."""

    __slots__ = ()
    NUMBER_SIZE = 4


class WorkerID(_NumberedID):
    """A process of the cluster: a driver or a worker."""

    __slots__ = ()


class JobID(_NumberedID):
    """A job: a driver and everything it starts."""

    __slots__ = ()
    SIZE = 4
    NUMBER_SIZE = 4

    @classmethod
    def from_int(cls, number: int) -> Self:
        """The id of the job with this number."""
        return cls.from_number(number)

    def int(self) -> int:
        """The job's number."""
        return self.number()


class TaskID(BaseID):
    """A task."""

    __slots__ = ()
    SIZE = 16


class ActorID(BaseID):
    """An actor."""

    __slots__ = ()
    SIZE = 16


class FunctionID(BaseID):
    """A remote function, by its definition."""

    __slots__ = ()


class ActorClassID(BaseID):
    """An actor class, by its definition."""

    __slots__ = ()


class ClusterID(BaseID):
    """A cluster."""

    __slots__ = ()


class PlacementGroupID(BaseID):
    """A placement group."""

    __slots__ = ()
    SIZE = 16

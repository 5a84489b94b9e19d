"""Find out what inside a value keeps it from being pickled."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

import cloudpickle

__all__ = ["FailureTuple", "inspect_serializability"]


class FailureTuple(NamedTuple):
    """Something that cannot be pickled.

    Attributes:
        obj: The thing itself.
        name: What it is called where it was found.
        parent: The thing it was found in.
    """

    obj: Any
    name: str
    parent: Any


class Culprit(NamedTuple):
    """Something that cannot be pickled, with the way to it from the value that holds it."""

    obj: Any
    path: str
    parent: Any


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Say whether a value can be pickled, and if not, which parts of it are in the way.

    Args:
        base_obj: The value.
        name: What to call it in the report.
        depth: How many levels of closures, attributes and items to look into.
        print_file: Where the report goes; standard output by default.

    Returns:
        Whether it can be pickled, and the set of parts that cannot.

    Example:
        >>> import threading, os
        >>> import shoal
        >>> lock = threading.Lock()
        >>> def f():
        ...     return lock
        >>> ok, failures = shoal.util.inspect_serializability(f, print_file=open(os.devnull, "w"))
        >>> ok, [failure.name for failure in failures]
        (False, ['lock'])
    """
    file = print_file or sys.stdout
    label = name or getattr(base_obj, "__qualname__", None) or repr(base_obj)
    error = pickling_error(base_obj)
    print(f"Checking whether {label} can be pickled", file=file)
    if error is None:
        print("  It can.", file=file)
        return True, set()
    print(f"  It cannot: {error}", file=file)
    culprits = list(find_culprits(base_obj, label, depth))
    for culprit in culprits:
        print(f"  {culprit.path} cannot be pickled: {culprit.obj!r}", file=file)
    failures = {
        FailureTuple(c.obj, c.path.rpartition(".")[2], c.parent)
        for c in culprits
        if _hashable(c.obj) and _hashable(c.parent)
    }
    return False, failures


def find_culprits(value: Any, name: str = "it", depth: int = 3) -> Iterator[Culprit]:
    """The deepest parts of `value` that cannot be pickled; `value` itself if no part is to blame."""
    yield from _search(value, name, None, depth, set())


def pickling_error(value: Any) -> Exception | None:
    """Why `value` cannot be pickled, or None if it can."""
    try:
        cloudpickle.dumps(value)
    except Exception as error:
        return error
    return None


def _search(value: Any, path: str, parent: Any, depth: int, seen: set[int]) -> Iterator[Culprit]:
    seen.add(id(value))
    found = False
    if depth > 0:
        for name, part in _parts(value):
            if id(part) in seen or pickling_error(part) is None:
                continue
            found = True
            yield from _search(part, f"{path}.{name}", value, depth - 1, seen)
    if not found:
        yield Culprit(value, path, parent)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isfunction(value):
        closure = inspect.getclosurevars(value)
        yield from closure.nonlocals.items()
        yield from closure.globals.items()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    else:
        yield from list(getattr(value, "__dict__", {}).items())


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True

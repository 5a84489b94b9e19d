"""Pickling of everything that the extension does not serialise itself.

Protocol 5 with out-of-band buffers, so that arrays are not copied into the pickle; functions and
classes of the driver's ``__main__`` travel by value.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import cloudpickle

_custom: dict[type, Callable[[Any], tuple[Any, ...]]] = {}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    # Looked up by exact class, before what cloudpickle and `copyreg` know.
    dispatch_table: ClassVar[Any] = ChainMap(_custom, cloudpickle.Pickler.dispatch_table, copyreg.dispatch_table)


def dumps(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle `value`: the pickle and its out-of-band buffers.

    Raises TypeError that names what inside `value` cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    return _dump(value, buffers.append), buffers


def dumps_in_band(value: Any) -> bytes:
    """Pickle `value` into one piece, for code and descriptions. Raises like `dumps`."""
    return _dump(value, None)


def _dump(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None) -> bytes:
    with io.BytesIO() as file:
        try:
            _Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
        except RecursionError:
            raise TypeError(f"{_describe(value)} is nested too deeply to be pickled") from None
        except (TypeError, pickle.PicklingError, AttributeError, ValueError) as error:
            raise TypeError(_explain(value, error)) from error
        return file.getvalue()


def loads(data: Any, buffers: Sequence[Any] = ()) -> Any:
    """The value that `dumps` made `data` and `buffers` of."""
    return pickle.loads(data, buffers=buffers)


def add_serializer(cls: type, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Pickle instances of exactly `cls` by `serializer`, and rebuild them by `deserializer`."""
    _custom[cls] = lambda instance: (deserializer, (serializer(instance),))


def remove_serializer(cls: type) -> None:
    """Pickle instances of `cls` in the usual way again."""
    _custom.pop(cls, None)


def _describe(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _explain(value: Any, error: Exception) -> str:
    from shoal.util.check_serialize import find_culprits

    text = f"{_describe(value)} cannot be pickled: {error}."
    culprits = [culprit for culprit in find_culprits(value) if culprit.obj is not value]
    for culprit in culprits:
        text += f"\n  {culprit.path} is {_describe(culprit.obj)}, which cannot be pickled"
    return text

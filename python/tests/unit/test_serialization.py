"""Pickling of what the extension does not serialise itself."""

import pickle
import threading

import numpy
import pytest

from shoal import _serialization
from shoal.util.check_serialize import inspect_serializability


def copy(value):
    data, buffers = _serialization.dumps(value)
    return _serialization.loads(data, [bytes(buffer.raw()) for buffer in buffers])


def test_functions_with_a_closure():
    offset = 3
    assert copy(lambda x: x + offset)(4) == 7


def test_local_classes():
    class Point:
        def __init__(self, x):
            self.x = x

    assert copy(Point(3)).x == 3


def test_arrays_are_not_copied_into_the_pickle():
    array = numpy.arange(100_000)
    data, buffers = _serialization.dumps({"a": array})
    assert len(data) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == array.nbytes
    assert (copy({"a": array})["a"] == array).all()


def test_what_is_in_the_way_is_named():
    lock = threading.Lock()

    class Holder:
        def __init__(self):
            self.inner = {"the lock": lock}

    with pytest.raises(TypeError, match=r"inner.*the lock"):
        _serialization.dumps(Holder())
    with pytest.raises(TypeError, match="lock"):
        _serialization.dumps(lock)


def test_what_nests_too_deeply():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(TypeError):
        _serialization.dumps(value)
    # Taken apart by hand: the interpreter would recurse as deeply when it frees it.
    while value:
        value = value.pop()


class Locked:
    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()


def test_serializers_of_the_program():
    with pytest.raises(TypeError):
        _serialization.dumps(Locked(1))
    _serialization.add_serializer(Locked, lambda locked: locked.value, Locked)
    try:
        assert copy([Locked(5)])[0].value == 5
        # The reader need not know.
        data, _ = _serialization.dumps(Locked(6))
        _serialization.remove_serializer(Locked)
        assert pickle.loads(data).value == 6
    finally:
        _serialization.remove_serializer(Locked)
    with pytest.raises(TypeError):
        _serialization.dumps(Locked(1))


def test_inspection_finds_what_cannot_be_pickled(capsys):
    lock = threading.Lock()

    def function():
        return lock

    ok, failures = inspect_serializability(function, name="the function")
    assert not ok
    assert [(failure.obj, failure.name) for failure in failures] == [(lock, "lock")]
    assert "the function" in capsys.readouterr().out
    assert inspect_serializability([1, 2]) == (True, set())

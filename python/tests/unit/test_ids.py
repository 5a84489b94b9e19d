"""Ids."""

import pickle

import pytest

from shoal import ids

KINDS = [getattr(ids, name) for name in ids.__all__]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_come_back(kind):
    one = kind.from_random()
    assert kind(one.binary()) == one
    assert kind.from_hex(one.hex()) == one
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(kind.from_hex(one.hex())) == hash(one)
    assert len(one.binary()) == kind.size()
    assert one.hex() in repr(one)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_nothing(kind):
    assert kind.nil().is_nil()
    assert not kind.from_random().is_nil()


def test_ids_of_two_kinds_differ():
    binary = bytes(range(28))
    assert ids.NodeID(binary) != ids.WorkerID(binary)
    assert len({ids.NodeID(binary), ids.WorkerID(binary), ids.NodeID(binary)}) == 2


@pytest.mark.parametrize("wrong", [b"", b"short", bytes(29)])
def test_ids_have_a_size(wrong):
    with pytest.raises(ValueError, match="28 bytes"):
        ids.NodeID(wrong)


def test_ids_are_made_of_bytes():
    with pytest.raises(TypeError):
        ids.NodeID("0" * 28)
    with pytest.raises(ValueError):
        ids.NodeID.from_hex("xyz")


def test_numbered_ids():
    node = ids.NodeID.from_number(7)
    assert node.number() == 7
    assert len(node.hex()) == 56
    assert node.hex().startswith("00000007")
    assert ids.WorkerID.from_number((1 << 32) | 5).number() == (1 << 32) | 5
    assert ids.JobID.from_int(3).int() == 3
    with pytest.raises(ValueError, match="names nothing"):
        ids.NodeID.from_hex("ab" * 28).number()

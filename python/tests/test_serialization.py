"""How functions, classes and objects travel between processes."""

import collections
import dataclasses
import enum
import functools
import sys
import threading
import typing

import pytest

from harness import api, run_driver, submodule

pytestmark = pytest.mark.usefixtures("cluster")


class Importable:
    """A class that workers import."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Importable) and self.value == other.value

    __hash__ = None


def importable_function(x):
    return x + 1


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    x: int


class Named(typing.NamedTuple):
    x: int


@api.remote
def echo(value):
    return value


@api.remote
def call(function, *args):
    return function(*args)


@pytest.mark.parametrize(
    "value",
    [Importable(1), Colour.RED, Slotted(1), Named(2), importable_function, Importable, collections.deque([1, 2])],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_can_be_imported_keeps_its_identity(value):
    result = api.get(echo.remote(value))
    assert result == value
    assert type(result) is type(value)


def test_functions_of_every_kind():
    local = 10

    def closure(x):
        return x + local

    def recursive(n):
        return 1 if n == 0 else n * recursive(n - 1)

    def with_default(x, y=[local]):  # noqa: B006
        return x + y[0]

    assert api.get(call.remote(lambda x: x + 1, 1)) == 2
    assert api.get(call.remote(closure, 1)) == 11
    assert api.get(call.remote(recursive, 5)) == 120
    assert api.get(call.remote(with_default, 1)) == 11
    assert api.get(call.remote(importable_function, 1)) == 2
    assert api.get(call.remote(functools.partial(closure, 5))) == 15
    assert api.get(call.remote(Importable(3).__eq__, Importable(3))) is True
    assert api.get(call.remote(str.upper, "a")) == "A"
    assert api.get(api.get(echo.remote(lambda: api.put("made in the driver")))()) == "made in the driver"


def test_local_classes():
    class Local:
        shared = 5

        def __init__(self, x):
            self.x = x

        def total(self):
            return self.x + self.shared

    class Derived(Local):
        def total(self):
            return super().total() * 2

    local = api.get(echo.remote(Derived(1)))
    assert local.total() == 12
    assert isinstance(local, Local)


def test_a_local_class_stays_the_same_class():
    class Local:
        pass

    @api.remote
    def same(one, other):
        return type(one) is type(other)

    assert api.get(same.remote(Local(), Local()))
    assert type(api.get(echo.remote(Local()))) is Local


def test_remote_functions_are_values():
    @api.remote
    def outer(function):
        return api.get(function.remote(2))

    @api.remote
    def inner(x):
        return x * 10

    assert api.get(outer.remote(inner)) == 20


def test_actor_classes_are_values():
    @api.remote
    class Adder:
        def add(self, a, b):
            return a + b

    @api.remote
    def make_and_call(actor_class):
        return api.get(actor_class.remote().add.remote(1, 2))

    assert api.get(make_and_call.remote(Adder)) == 3


def test_references_deep_inside():
    @dataclasses.dataclass
    class Tree:
        value: object
        children: list

    @api.remote
    def total(tree):
        return api.get(tree.value) + sum(api.get([total.remote(child) for child in tree.children]))

    leaf = Tree(api.put(1), [])
    assert api.get(total.remote(Tree(api.put(10), [leaf, Tree(api.put(100), [leaf])]))) == 112


def test_many_references_in_one_value():
    references = [api.put(i) for i in range(1000)]
    back = api.get(echo.remote({"references": references}))["references"]
    assert back == references
    assert api.get(back) == list(range(1000))


def test_shared_parts_stay_shared():
    shared = [1]
    one, other = api.get(echo.remote((shared, shared)))
    assert one is other
    cycle = [1]
    cycle.append(cycle)
    back = api.get(echo.remote(cycle))
    assert back[1] is back


def test_deep_nesting():
    value = []
    for _ in range(200):
        value = [value]
    assert api.get(echo.remote(value)) == value


class OutOfBand:
    """A value whose bytes travel beside the pickle."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        import pickle

        if protocol >= 5:
            return OutOfBand, (pickle.PickleBuffer(self.data),)
        return OutOfBand, (bytes(self.data),)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_buffers_travel_out_of_band(size):
    data = bytes(range(256)) * (size // 256 + 1)
    back = api.get(echo.remote(OutOfBand(bytearray(data))))
    assert bytes(back.data) == data
    assert bytes(api.get(api.put(OutOfBand(data))).data) == data


def test_many_buffers_in_one_value():
    parts = [bytearray([i % 256]) * (i * 37) for i in range(100)]
    back = api.get(echo.remote([OutOfBand(part) for part in parts]))
    assert [bytes(part.data) for part in back] == [bytes(part) for part in parts]


def test_buffers_are_aligned():
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.arange(n, dtype="f8") for n in (3, 5, 70_000, 1)]
    for array in api.get(api.put(["x", *arrays]))[1:]:
        assert array.flags.aligned
        assert array.ctypes.data % 64 == 0 or array.size < 1000


def test_a_class_says_how_it_is_pickled():
    class WithState:
        def __init__(self):
            self.lock = threading.Lock()
            self.value = 7

        def __getstate__(self):
            return {"value": self.value}

        def __setstate__(self, state):
            self.__dict__.update(state)
            self.lock = threading.Lock()

    back = api.get(echo.remote(WithState()))
    assert back.value == 7
    assert back.lock is not None


def test_serializers_for_classes_of_others():
    register, deregister = submodule("util").register_serializer, submodule("util").deregister_serializer

    class Foreign:
        def __init__(self, value):
            self.value = value
            self.lock = threading.Lock()

    with pytest.raises(TypeError):
        api.put(Foreign(1))
    register(Foreign, serializer=lambda foreign: foreign.value, deserializer=Foreign)
    try:
        assert api.get(api.put(Foreign(5))).value == 5
        assert api.get(call.remote(lambda foreign: foreign.value, Foreign(6))) == 6
    finally:
        deregister(Foreign)
    with pytest.raises(TypeError):
        api.put(Foreign(1))


def test_inspect_serializability(capsys):
    inspect = submodule("util").inspect_serializability
    lock = threading.Lock()

    def holds_a_lock():
        return lock

    good, failures = inspect(lambda: 1, name="good")
    assert good
    assert failures == set()
    bad, failures = inspect(holds_a_lock, name="holds_a_lock")
    assert not bad
    assert any("lock" in str(failure) for failure in failures)


def test_the_main_script(tmp_path):
    done = run_driver(
        """
        import dataclasses
        import enum

        CONSTANT = 5

        def helper(x):
            return x + CONSTANT

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Point:
            x: int

        class Problem(Exception):
            pass

        @api.remote
        def work(point, colour):
            assert isinstance(point, Point)
            assert colour is Colour.RED
            return Point(helper(point.x)), colour

        @api.remote
        def fail():
            raise Problem("of the main script")

        if __name__ == "__main__":
            api.init(num_cpus=1, include_dashboard=False)
            point, colour = api.get(work.remote(Point(1), Colour.RED))
            assert point == Point(6) and colour is Colour.RED
            try:
                api.get(fail.remote())
            except Problem as problem:
                print("caught", problem.cause)
        """,
        tmp_path,
    )
    assert done.stdout.strip() == "caught of the main script", done.stderr


def test_a_function_changed_in_a_notebook_is_the_new_one():
    # Two definitions of one name, as a cell that is run twice makes them.
    results = []
    for value in (1, 2):

        @api.remote
        def redefined(value=value):
            return value

        results.append(api.get(redefined.remote()))
    assert results == [1, 2]


def test_a_function_that_carries_too_much_is_refused():
    data = bytes(120_000_000)

    @api.remote
    def heavy():
        return len(data)

    with pytest.raises(ValueError, match=r"too large|MiB|put"):
        heavy.remote()


def test_modules_are_values():
    assert api.get(echo.remote(sys.modules["json"])).__name__ == "json"


def test_pickling_happens_once_for_each_put():
    class Counted:
        pickled = 0

        def __reduce__(self):
            Counted.pickled += 1
            return int, (1,)

    reference = api.put(Counted())
    assert api.get([reference, reference]) == [1, 1]
    assert Counted.pickled == 1

"""Arguments are checked where a call is made."""

import inspect
import itertools
import pickle

import pytest

from shoal._signature import Signature


def plain(a, b=1): ...
def positional_only(a, b=1, /): ...
def keyword_only(a, *, b, c=1): ...
def anything(*args, **kwargs): ...
def mixed(a, /, b, *rest, c=1, **more): ...
def nothing(): ...
def odd(a, /, **more): ...


def accepted(call, args, kwargs):
    try:
        call(*args, **kwargs)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("function", [plain, positional_only, keyword_only, anything, mixed, nothing, odd])
def test_it_accepts_what_python_accepts(function):
    signature = pickle.loads(pickle.dumps(Signature.of(function)))
    names = ("a", "b", "c", "z")
    for count, size in itertools.product(range(4), range(4)):
        for keywords in itertools.combinations(names, size):
            args, kwargs = (0,) * count, dict.fromkeys(keywords, 0)
            expected = accepted(inspect.signature(function).bind, args, kwargs)
            assert accepted(lambda *a, **k: signature.check(a, k), args, kwargs) is expected, (args, kwargs)
            if not kwargs:
                # What a call does before it asks for a full check.
                quick = signature.low <= count <= signature.high
                assert quick is expected, (args, kwargs)


def test_the_words_are_pythons():
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        Signature.of(plain).check((), {})
    with pytest.raises(TypeError, match="too many positional arguments"):
        Signature.of(plain).check((1, 2, 3), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Signature.of(plain).check((1,), {"z": 1})


def test_the_first_parameter_may_be_bound():
    class Thing:
        def method(self, a):
            pass

    signature = Signature.of(Thing.method, skip_first=True)
    signature.check((1,), {})
    with pytest.raises(TypeError):
        signature.check((1, 2), {})


def test_what_does_not_tell_takes_anything():
    signature = Signature.of(dict.fromkeys if False else type)
    signature.check((1, 2, 3), {"a": 1})
    assert signature.low == 0


def test_no_values_of_the_program_travel():
    class Unpicklable:
        def __reduce__(self):
            raise AssertionError

    def function(a=Unpicklable()):  # noqa: B008
        pass

    pickle.loads(pickle.dumps(Signature.of(function))).check((), {})

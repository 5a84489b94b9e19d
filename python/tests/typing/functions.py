"""What type checkers see of remote functions. Checked by mypy, never run.

A line with `type: ignore` must be an error: an ignore that is not needed is one, too.
"""

from collections.abc import Iterator
from typing import assert_type

import shoal
from shoal import ObjectRef, ObjectRefGenerator


@shoal.remote
def length(text: str) -> int:
    return len(text)


@shoal.remote
def repeat(text: str, times: int = 2) -> str:
    return text * times


@shoal.remote
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


@shoal.remote
def nothing() -> None:
    return None


@shoal.remote(num_cpus=2)
def with_options(x: float) -> bool:
    return x > 0


@shoal.remote(num_returns=2)
def pair(x: int) -> tuple[int, int]:
    return x, x


@shoal.remote(num_returns=0)
def silent(x: int) -> None:
    return None


@shoal.remote
def many(*numbers: int, scale: float = 1.0) -> float:
    return sum(numbers) * scale


# Results

assert_type(length.remote("a"), ObjectRef[int])
assert_type(length.remote(text="a"), ObjectRef[int])
assert_type(repeat.remote("a"), ObjectRef[str])
assert_type(repeat.remote("a", times=3), ObjectRef[str])
assert_type(count.remote(3), ObjectRefGenerator[int])
assert_type(nothing.remote(), ObjectRef[None])
assert_type(with_options.remote(1.5), ObjectRef[bool])
assert_type(pair.remote(1), list[ObjectRef[object]])  # type: ignore[assert-type]  # of anything, not of objects
assert_type(silent.remote(1), None)
assert_type(many.remote(1, 2, scale=0.5), ObjectRef[float])
assert_type(shoal.get(length.remote("a")), int)
assert_type(shoal.get([length.remote("a"), length.remote("b")]), list[int])
assert_type([shoal.get(ref) for ref in count.remote(3)], list[int])

# References as arguments

assert_type(length.remote(repeat.remote("a")), ObjectRef[int])
assert_type(repeat.remote("a", length.remote("b")), ObjectRef[str])
assert_type(repeat.remote(repeat.remote("a"), length.remote("b")), ObjectRef[str])
assert_type(repeat.remote(shoal.put("a")), ObjectRef[str])

# Options

assert_type(length.options(num_cpus=2).remote("a"), ObjectRef[int])
assert_type(length.options(num_returns=0).remote("a"), None)
assert_type(length.options(num_returns=1).remote("a"), ObjectRef[int])
length.options(num_returns=2).remote("a")[0]

# Mistakes

length.remote(1)  # type: ignore[call-overload]
length.remote()  # type: ignore[call-overload]
length.remote("a", "b")  # type: ignore[call-overload]
length.remote(word="a")  # type: ignore[call-overload]
length.remote(length.remote("a"))  # type: ignore[arg-type]
repeat.remote("a", times="b")  # type: ignore[call-overload]


# References


async def awaits(ref: ObjectRef[int]) -> None:
    assert_type(await ref, int)
    assert_type(await ref.as_future(), int)
    assert_type(ref.future().result(), int)


async def iterates(generator: ObjectRefGenerator[int]) -> None:
    async for ref in generator:
        assert_type(ref, ObjectRef[int])


assert_type(shoal.put([1]), ObjectRef[list[int]])
refs = [shoal.put(1), shoal.put(2)]
assert_type(shoal.wait(refs), tuple[list[ObjectRef[int]], list[ObjectRef[int]]])

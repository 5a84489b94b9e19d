"""What users do with a cluster, in rounds that check their own results.

Each kind of work is a class whose `round` does a little and raises `Wrong` if what comes back is not
what must come back. Faults are no excuse: whatever may be retried has the right value in the end, and
what may not be retried has a value or a typed error, and ran at most once.
"""

from __future__ import annotations

import os
import pathlib
import random
import time
import zlib
from typing import Any

import shoal
from shoal.util import placement_group, remove_placement_group
from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PATIENCE_SECONDS = 180.0
"""Longer than any fault lasts: what takes longer hangs."""

MEBIBYTE = 1 << 20


class Wrong(Exception):
    """A result is not what it must be."""


def expect(actual: Any, wanted: Any, what: str) -> None:
    """Raise `Wrong` unless both are equal."""
    if actual != wanted:
        raise Wrong(f"{what}: {actual!r}, not {wanted!r}")


def noise(seed: int, size: int) -> bytes:
    """`size` bytes that only this seed gives."""
    return random.Random(seed).randbytes(size)


@shoal.remote(max_retries=-1)
def square(value: int) -> int:
    """A task."""
    return value * value


@shoal.remote(num_cpus=0, max_retries=-1)
def total(values: list[int]) -> int:
    """A task that waits for tasks of its own."""
    return sum(shoal.get([square.remote(value) for value in values]))


@shoal.remote(max_retries=-1)
def make(seed: int, size: int) -> bytes:
    """A large object."""
    return noise(seed, size)


@shoal.remote(max_retries=-1)
def checksum(data: bytes) -> int:
    """A task with a large argument."""
    return zlib.crc32(data)


@shoal.remote(max_retries=-1)
def count_up(to: int) -> Any:
    """A generator."""
    for value in range(to):
        yield value, bytes(value)


@shoal.remote(max_retries=0)
def idle() -> None:
    """A task that only ends when its place does."""
    time.sleep(10_000)


class Echo:
    """An actor."""

    def say(self, value: Any) -> Any:
        """The same value."""
        return value


class Scribe:
    """An actor that leaves traces."""

    def write(self, path: str, token: str) -> str:
        """Append a line to a file."""
        with open(path, "a", encoding="utf-8") as file:
            file.write(token + "\n")
        return token


# It restarts, and its calls are made again.
persistent = shoal.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Echo)
# It restarts, and its calls are made at most once.
careful = shoal.remote(num_cpus=0, max_restarts=-1)(Scribe)


class Tasks:
    """Fan-out, and tasks that wait for tasks."""

    def __init__(self, directory: pathlib.Path) -> None:
        pass

    def round(self, chance: random.Random) -> None:
        """Thirty tasks, and one that makes ten."""
        values = [chance.randrange(1000) for _ in range(30)]
        squares = [square.remote(value) for value in values]
        nested = total.remote(values[:10])
        expect(shoal.get(squares, timeout=PATIENCE_SECONDS), [value * value for value in values], "squares")
        expect(
            shoal.get(nested, timeout=PATIENCE_SECONDS), sum(value * value for value in values[:10]), "sum of squares"
        )


class Actors:
    """Calls of an actor that restarts, in order."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._actor: Any = None
        self._rounds = 0

    def round(self, chance: random.Random) -> None:
        """Fifty calls; a new actor now and then."""
        if self._rounds % 20 == 0:
            self._actor = persistent.remote()
        self._rounds += 1
        values = [chance.random() for _ in range(50)]
        answers = [self._actor.say.remote(value) for value in values]
        expect(shoal.get(answers, timeout=PATIENCE_SECONDS), values, "answers of an actor")


class AtMostOnce:
    """Calls that must not be repeated: a value or a typed error, and one line in a file at most."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._actor = careful.remote()
        self._told: dict[pathlib.Path, list[str]] = {}
        self._count = 0

    def round(self, chance: random.Random) -> None:
        """Twenty calls, then the file is looked at; a new file now and then."""
        path = self._directory / f"tokens-{self._count // 1000}"
        told = self._told.setdefault(path, [])
        path.touch()
        tokens = [f"{os.getpid()}-{self._count + number}" for number in range(20)]
        self._count += 20
        for token, answer in [(token, self._actor.write.remote(str(path), token)) for token in tokens]:
            try:
                expect(shoal.get(answer, timeout=PATIENCE_SECONDS), token, "token")
            except shoal.exceptions.RayActorError:
                continue
            told.append(token)
        self._check(path)

    def close(self) -> None:
        """What was repeated late is found, too."""
        for path in self._told:
            self._check(path)

    def _check(self, path: pathlib.Path) -> None:
        written = path.read_text(encoding="utf-8").split()
        expect(len(written), len(set(written)), "lines of calls that run at most once")
        missing = sorted(set(self._told[path]) - set(written))
        expect(missing, [], "calls that returned and left no line")


class Generators:
    """Streams of values."""

    def __init__(self, directory: pathlib.Path) -> None:
        pass

    def round(self, chance: random.Random) -> None:
        """One stream, read to its end or left early."""
        length = chance.randrange(1, 40)
        stop = length if chance.random() < 0.8 else chance.randrange(length)
        for number, reference in enumerate(count_up.remote(length)):
            expect(shoal.get(reference, timeout=PATIENCE_SECONDS), (number, bytes(number)), "value of a stream")
            if number == stop:
                return
        expect(stop, length, "end of a stream")


class LargeObjects:
    """Objects that live where they were made, kept for a while and read again from elsewhere."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._kept: list[tuple[Any, int]] = []

    def round(self, chance: random.Random) -> None:
        """Make some, read some, forget some."""
        for _ in range(2):
            seed, size = chance.randrange(1 << 30), chance.randrange(MEBIBYTE // 4, 3 * MEBIBYTE)
            reference = make.remote(seed, size) if chance.random() < 0.5 else shoal.put(noise(seed, size))
            self._kept.append((reference, zlib.crc32(noise(seed, size))))
        some = chance.sample(self._kept, min(3, len(self._kept)))
        sums = shoal.get([checksum.remote(reference) for reference, _ in some], timeout=PATIENCE_SECONDS)
        expect(sums, [wanted for _, wanted in some], "checksums elsewhere")
        reference, wanted = chance.choice(self._kept)
        expect(zlib.crc32(shoal.get(reference, timeout=PATIENCE_SECONDS)), wanted, "checksum here")
        while len(self._kept) > 12:
            self._kept.pop(chance.randrange(len(self._kept)))


class Names:
    """Detached actors: what the head has acknowledged is there until it is killed, whatever happens to the head."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._names: list[str] = []
        self._count = 0

    def round(self, chance: random.Random) -> None:
        """Make one, find all, end one."""
        name = f"actor-{self._count}"
        self._count += 1
        made = persistent.options(name=name, lifetime="detached").remote()
        expect(shoal.get(made.say.remote(name), timeout=PATIENCE_SECONDS), name, "answer of a new actor")
        self._names.append(name)
        found = [shoal.get_actor(name).say.remote(name) for name in self._names]
        expect(shoal.get(found, timeout=PATIENCE_SECONDS), self._names, "answers of actors found by name")
        if len(self._names) > 4:
            self._end(self._names.pop(chance.randrange(len(self._names))))

    def close(self) -> None:
        """End all of them."""
        while self._names:
            self._end(self._names.pop())

    def _end(self, name: str) -> None:
        actor = shoal.get_actor(name)
        shoal.kill(actor)
        try:
            value = shoal.get(actor.say.remote(1), timeout=PATIENCE_SECONDS)
        except shoal.exceptions.RayActorError:
            return
        raise Wrong(f"{name} answered {value!r} after it had been killed")


class PlacementGroups:
    """Groups whose bundles work, and which are removed while something still runs in them."""

    def __init__(self, directory: pathlib.Path) -> None:
        pass

    def round(self, chance: random.Random) -> None:
        """One group."""
        strategy = chance.choice(("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"))
        # Room for a task beside the actor, wherever that comes up again.
        group = placement_group([{"CPU": 0.5}] * 2, strategy=strategy)
        shoal.get(group.ready(), timeout=PATIENCE_SECONDS)
        places = [PlacementGroupSchedulingStrategy(group, bundle) for bundle in (0, 1, -1)]
        asked = [
            (value, square.options(num_cpus=0.25, scheduling_strategy=place).remote(value))
            for value, place in enumerate(places)
        ]
        actor = persistent.options(num_cpus=0.1, scheduling_strategy=places[chance.randrange(3)]).remote()
        said = actor.say.remote(strategy)
        for value, answer in asked:
            expect(shoal.get(answer, timeout=PATIENCE_SECONDS), value * value, f"square in a {strategy} group")
        expect(shoal.get(said, timeout=PATIENCE_SECONDS), strategy, "answer of an actor in a group")
        left = idle.options(num_cpus=0.25, scheduling_strategy=places[chance.randrange(3)]).remote()
        remove_placement_group(group)
        try:
            shoal.get(left, timeout=PATIENCE_SECONDS)
        except shoal.exceptions.RayError:
            return
        raise Wrong("a task that sleeps for hours ended without an error when its group was removed")


KINDS = {kind.__name__: kind for kind in (Tasks, Actors, AtMostOnce, Generators, LargeObjects, Names, PlacementGroups)}

"""What is measured, written once for both systems: run by `run.py` in the first host of a cluster."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from typing import Any

import numpy as np

MIB = 1 << 20


def transfer(api: Any, size: int, rounds: int) -> dict[str, float]:
    """One object from the first node to the second: the median rate as the reader sees it."""
    reader = reader_on(api, 1)
    rates = []
    for number in range(rounds + 1):
        array = np.full(size, number + 1, dtype=np.uint8)
        reference = api.put(array)
        seconds, found = api.get(reader.read.remote([reference]))
        assert found == size // MIB * (number + 1), "the bytes that came are those that were put"
        rates.append(size / seconds)
        del reference
    # The first one finds cold memory and no connection.
    return {"first": rates[0], "median": statistics.median(rates[1:]), "best": max(rates[1:])}


def broadcast(api: Any, size: int, rounds: int, nodes: int) -> dict[str, float]:
    """One object to all other nodes: the median of the seconds until all have read it."""
    readers = [reader_on(api, node) for node in range(1, nodes + 1)]
    taken = []
    for number in range(rounds + 1):
        reference = api.put(np.full(size, number + 1, dtype=np.uint8))
        start = time.perf_counter()
        found = api.get([reader.read.remote([reference]) for reader in readers])
        taken.append(time.perf_counter() - start)
        assert all(total == size // MIB * (number + 1) for _, total in found)
        del reference
    return {"first": taken[0], "median": statistics.median(taken[1:]), "best": min(taken[1:])}


def calls(api: Any, seconds: float, rounds: int) -> dict[str, float]:
    """Calls of an actor on the second node: a second, one after the other and a thousand at a time."""
    actor = reader_on(api, 1)
    in_turn, together = [], []
    for _ in range(rounds + 1):
        in_turn.append(rate(lambda: api.get(actor.touch.remote()), seconds))
        together.append(1000 * rate(lambda: api.get([actor.touch.remote() for _ in range(1000)]), seconds))
    return {"sync": statistics.median(in_turn[1:]), "async": statistics.median(together[1:])}


def local(api: Any, seconds: float) -> dict[str, float]:
    """What never leaves the machine, a second."""

    @api.remote
    def nothing() -> None:
        pass

    @api.remote(num_cpus=0)
    class Actor:
        def touch(self) -> bytes:
            return b"ok"

    actor, data = Actor.remote(), np.ones(MIB, dtype=np.uint8)
    figures = {
        "task": (1, lambda: api.get(nothing.remote())),
        "tasks, a thousand at a time": (1000, lambda: api.get([nothing.remote() for _ in range(1000)])),
        "call": (1, lambda: api.get(actor.touch.remote())),
        "calls, a thousand at a time": (1000, lambda: api.get([actor.touch.remote() for _ in range(1000)])),
        "put and get of 1 MiB": (1, lambda: api.get(api.put(data))),
    }
    for _, work in figures.values():
        work()
    return {name: times * rate(work, seconds) for name, (times, work) in figures.items()}


def delays(api: Any, seconds: float, size: int) -> dict[str, float]:
    """Calls of an actor on the second node, in milliseconds, alone and while objects are sent there."""
    actor, reader = reader_on(api, 1), reader_on(api, 1)
    alone = sorted(times_of_calls(api, actor, seconds))
    reference = api.put(np.ones(size, dtype=np.uint8))
    read = reader.read.remote([reference])
    beside = []
    while not api.wait([read], timeout=0)[0]:
        start = time.perf_counter()
        api.get(actor.touch.remote())
        beside.append(1000 * (time.perf_counter() - start))
    moved, _ = api.get(read)
    beside.sort()
    return {
        "median": statistics.median(alone),
        "worst": alone[int(0.95 * len(alone))],
        "beside": statistics.median(beside),
        "beside worst": beside[int(0.95 * len(beside))],
        "rate": size / moved,
    }


def times_of_calls(api: Any, actor: Any, seconds: float) -> list[float]:
    taken = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        api.get(actor.touch.remote())
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def rate(call: Any, seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - start)


def reader_on(api: Any, node: int) -> Any:
    @api.remote
    class Reader:
        def read(self, references: list[Any]) -> tuple[float, int]:
            start = time.perf_counter()
            array = api.get(references[0])
            seconds = time.perf_counter() - start
            return seconds, int(array[::MIB].sum(dtype=np.int64))

        def touch(self) -> bytes:
            return b"ok"

    reader = Reader.options(num_cpus=0, resources={f"node{node}": 1}).remote()
    api.get(reader.touch.remote())
    return reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=["shoal", "ray"], required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--measure", choices=["transfer", "broadcast", "calls", "delays", "local"], required=True)
    parser.add_argument("--size", type=int, default=1024 * MIB, help="bytes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--nodes", type=int, default=8)
    given = parser.parse_args()
    api = importlib.import_module(given.system)
    api.init(address=given.address, log_to_driver=False, logging_level="ERROR")
    if given.measure == "transfer":
        result = transfer(api, given.size, given.rounds)
    elif given.measure == "broadcast":
        result = broadcast(api, given.size, given.rounds, given.nodes)
    elif given.measure == "local":
        result = local(api, given.seconds)
    elif given.measure == "delays":
        result = delays(api, given.seconds, given.size)
    else:
        result = calls(api, given.seconds, given.rounds)
    api.shutdown()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""The measurements of Ray's microbenchmark, written against the API that both systems have.

Number of clients, batch sizes and values are those of `ray/_private/ray_perf.py`, so that a line here
means what the line of the same name means there. Functions and classes are defined inside the
measurements: they travel by value, and a worker need not find this file.
"""

from __future__ import annotations

import os
import time
from types import ModuleType
from typing import Any

import numpy as np

from recorder import Recorder

GIGABYTE = 1e9
BATCH = 1000
# As many as in Ray's benchmark: Ray's bandwidth rises from put to put until its store has been
# written once, and fewer runs would show little but that beginning.
LARGE_PUT_RUNS = 4


def _small_task(api: ModuleType) -> Any:
    @api.remote
    def small_value():
        return b"ok"

    return small_value


def _actor_class(api: ModuleType) -> Any:
    small_task = _small_task(api)

    @api.remote(num_cpus=0)
    class Actor:
        def small_value(self):
            return b"ok"

        def small_value_arg(self, value):
            return b"ok"

        def small_value_batch(self, count):
            api.get([small_task.remote() for _ in range(count)])

    return Actor


def _async_actor_class(api: ModuleType) -> Any:
    @api.remote
    class AsyncActor:
        async def small_value(self):
            return b"ok"

        async def small_value_with_arg(self, value):
            return b"ok"

    return AsyncActor


def _client_class(api: ModuleType) -> Any:
    @api.remote(num_cpus=0)
    class Client:
        def __init__(self, servers):
            self.servers = servers

        def small_value_batch(self, count):
            api.get([server.small_value.remote() for server in self.servers for _ in range(count)])

        def small_value_batch_arg(self, count):
            value = api.put(0)
            api.get([server.small_value_arg.remote(value) for server in self.servers for _ in range(count)])

    return Client


def objects(api: ModuleType, record: Recorder) -> None:
    """Puts and gets of small and large values."""
    value = api.put(0)
    record.rate("single client get calls", lambda: api.get(value))
    record.rate("single client put calls", lambda: api.put(0))

    @api.remote
    def put_small_values():
        for _ in range(100):
            api.put(0)

    record.rate(
        "multi client put calls",
        lambda: api.get([put_small_values.remote() for _ in range(10)]),
        10 * 100,
    )

    _large_puts(api, record)

    elements = 10 * 1024 * 1024

    @api.remote
    def put_large_values():
        for _ in range(10):
            api.put(np.zeros(elements, dtype=np.int64))

    record.rate(
        "multi client put gigabytes",
        lambda: api.get([put_large_values.remote() for _ in range(10)]),
        10 * 10 * elements * 8 / GIGABYTE,
        LARGE_PUT_RUNS,
    )

    @api.remote
    def create_object_containing_refs():
        return [api.put(1) for _ in range(10_000)]

    containing_refs = create_object_containing_refs.remote()
    record.rate("single client get object containing 10k refs", lambda: api.get(containing_refs))


def _large_puts(api: ModuleType, record: Recorder) -> None:
    # Never written, so that every page of the source is the one zero page, as in Ray's benchmark;
    # the line with a written source shows the same put when the bytes come from memory.
    array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
    record.rate("single client put gigabytes", lambda: api.put(array), array.nbytes / GIGABYTE, LARGE_PUT_RUNS)
    if record.wants("single client put gigabytes, written source"):
        array.fill(1)
        record.rate(
            "single client put gigabytes, written source",
            lambda: api.put(array),
            array.nbytes / GIGABYTE,
            LARGE_PUT_RUNS,
        )


def first_puts(api: ModuleType, record: Recorder) -> None:
    """Bandwidth of the first ten puts that a process ever does: nothing is warm but the cluster."""

    def put_ten() -> float:
        values = [np.ones(10 * 1024 * 1024, dtype=np.int64) for _ in range(10)]
        begin = time.perf_counter()
        for value in values:
            api.put(value)
        return sum(value.nbytes for value in values) / GIGABYTE / (time.perf_counter() - begin)

    class Putter:
        def put_ten(self):
            return put_ten()

    putter_class: Any = api.remote(num_cpus=0)(Putter)

    record.sample("first puts of a driver", put_ten())
    for _ in range(record.effort.runs):
        record.sample("first puts of a worker", api.get(putter_class.remote().put_ten.remote()))


def tasks(api: ModuleType, record: Recorder) -> None:
    """Tasks that return a small value, from one client and from four."""
    small_task = _small_task(api)

    def batch():
        api.get([small_task.remote() for _ in range(BATCH)])

    def wait_one_by_one():
        not_ready = [small_task.remote() for _ in range(BATCH)]
        # One request to fetch covers all of them; asking again each time would measure the asking.
        fetch_local = True
        for _ in range(BATCH):
            _ready, not_ready = api.wait(not_ready, fetch_local=fetch_local)
            fetch_local = False

    record.rate("single client tasks and get batch", batch)
    record.rate("single client wait 1k refs", wait_one_by_one)
    record.rate("single client tasks sync", lambda: api.get(small_task.remote()))
    record.rate("single client tasks async", batch, BATCH)

    clients, count = 4, 10_000
    actor_class = _actor_class(api)
    actors = [actor_class.remote() for _ in range(clients)]
    record.rate(
        "multi client tasks async",
        lambda: api.get([actor.small_value_batch.remote(count) for actor in actors]),
        clients * count,
    )


def actors(api: ModuleType, record: Recorder) -> None:
    """Calls of actors whose methods are plain functions."""
    actor_class, client_class = _actor_class(api), _client_class(api)

    def calls_in_batch(actor: Any) -> None:
        api.get([actor.small_value.remote() for _ in range(BATCH)])

    actor = actor_class.remote()
    record.rate("1:1 actor calls sync", lambda: api.get(actor.small_value.remote()))
    actor = actor_class.remote()
    record.rate("1:1 actor calls async", lambda: calls_in_batch(actor), BATCH)
    actor = actor_class.options(max_concurrency=16).remote()
    record.rate("1:1 actor calls concurrent", lambda: calls_in_batch(actor), BATCH)
    _calls_of_many(api, record, actor_class, "actor")

    count = 1000
    servers = [actor_class.remote() for _ in range(_half_the_processors())]
    clients = [client_class.remote([server]) for server in servers]
    record.rate(
        "n:n actor calls with arg async",
        lambda: api.get([client.small_value_batch_arg.remote(count) for client in clients]),
        count * len(clients),
    )


def async_actors(api: ModuleType, record: Recorder) -> None:
    """Calls of actors whose methods are coroutines."""
    actor_class = _async_actor_class(api)
    actor = actor_class.remote()
    record.rate("1:1 async-actor calls sync", lambda: api.get(actor.small_value.remote()))
    actor = actor_class.remote()
    record.rate(
        "1:1 async-actor calls async",
        lambda: api.get([actor.small_value.remote() for _ in range(BATCH)]),
        BATCH,
    )
    actor = actor_class.remote()
    record.rate(
        "1:1 async-actor calls with args async",
        lambda: api.get([actor.small_value_with_arg.remote(i) for i in range(BATCH)]),
        BATCH,
    )
    _calls_of_many(api, record, actor_class, "async-actor")


def _calls_of_many(api: ModuleType, record: Recorder, actor_class: Any, kind: str) -> None:
    """The 1:n and n:n lines: one client or four tasks call as many actors as half the processors."""
    count, callers = 5000, 4
    servers = [actor_class.remote() for _ in range(_half_the_processors())]
    client = _client_class(api).remote(servers)
    record.rate(
        f"1:n {kind} calls async",
        lambda: api.get(client.small_value_batch.remote(count)),
        count * len(servers),
    )
    servers = [actor_class.remote() for _ in range(_half_the_processors())]

    @api.remote
    def call_in_turn(actors):
        api.get([actors[i % len(actors)].small_value.remote() for i in range(count)])

    record.rate(
        f"n:n {kind} calls async",
        lambda: api.get([call_in_turn.remote(servers) for _ in range(callers)]),
        callers * count,
    )


def placement_groups(api: ModuleType, record: Recorder) -> None:
    """A hundred groups of one bundle: created, ready, removed. The cluster needs `custom: 100`."""
    count = 100

    def create_and_remove():
        groups = [api.util.placement_group(bundles=[{"custom": 0.001}]) for _ in range(count)]
        for group in groups:
            if not group.wait(timeout_seconds=30):
                raise TimeoutError("a placement group was not ready after 30 s")
        # Groups that stay would slow down those that follow.
        for group in groups:
            api.util.remove_placement_group(group)

    record.rate("placement group create/removal", create_and_remove, count)


def _half_the_processors() -> int:
    return max(1, (os.cpu_count() or 1) // 2)

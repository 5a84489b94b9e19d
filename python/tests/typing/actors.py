"""What type checkers see of actors. Checked by mypy, never run. See `functions.py`."""

from collections.abc import Iterator
from typing import assert_type

import shoal
from shoal import ObjectRef, ObjectRefGenerator
from shoal.actor import ActorClass, ActorHandle, typed
from shoal.util import ActorPool
from shoal.util.queue import Queue


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    @shoal.method
    def add(self, amount: int, times: int = 1) -> int:
        self.value += amount * times
        return self.value

    @shoal.method
    async def later(self, text: str) -> str:
        return text

    @shoal.method
    def steps(self, count: int) -> Iterator[int]:
        yield from range(count)

    @shoal.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.value, self.value

    @shoal.method(max_task_retries=3)
    def retried(self) -> str:
        return "done"


CounterActor = shoal.remote(Counter)
assert_type(CounterActor, ActorClass[[int], Counter])  # type: ignore[assert-type]  # the name `start` is part of it
handle = CounterActor.remote(1)
assert_type(handle, ActorHandle[Counter])
assert_type(CounterActor.remote(start=1), ActorHandle[Counter])
assert_type(CounterActor.options(name="counter").remote(1), ActorHandle[Counter])
assert_type(shoal.remote(num_cpus=2)(Counter).remote(1), ActorHandle[Counter])
CounterActor.remote("a")  # type: ignore[arg-type]
CounterActor.remote()  # type: ignore[call-arg]

# A plain handle takes any method, and gives anything.
handle.add.remote("anything")

# A typed one knows its methods.
counter = typed(handle)
assert_type(counter.add.remote(1), ObjectRef[int])
assert_type(counter.add.remote(1, times=2), ObjectRef[int])
assert_type(counter.add.remote(counter.add.remote(1)), ObjectRef[int])
assert_type(counter.later.remote("a"), ObjectRef[str])
assert_type(counter.steps.remote(3), ObjectRefGenerator[int])
assert_type(counter.retried.remote(), ObjectRef[str])
counter.pair.remote()[0]
counter.add.remote("a")  # type: ignore[call-overload]
counter.add.remote()  # type: ignore[call-overload]
counter.subtract.remote(1)  # type: ignore[attr-defined]

# Inside the class, methods are plain: a bare `Counter` runs without a cluster.
assert_type(Counter.add(Counter(1), 2), int)

shoal.kill(handle)
shoal.kill("counter")  # type: ignore[arg-type]
pool = ActorPool([handle])
queue: Queue[int] = Queue()
assert_type(queue.get(), int)
queue.put("a")  # type: ignore[arg-type]

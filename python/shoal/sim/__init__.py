"""Chaos testing: your own tasks and actors in a simulated cluster, in process and under virtual time.

The cluster is the real one: the same state machines that schedule, retry and recover in production. Simulated are
the machines, the network and the clock, all of it from one seed: the same seed gives the same run.

    >>> import shoal, shoal.sim, time
    >>> @shoal.remote(max_retries=3)
    ... def work(x):
    ...     time.sleep(60)  # takes no real time
    ...     return x * x
    >>> with shoal.sim.cluster(nodes=3, seed=7) as c:
    ...     refs = [work.remote(x) for x in range(4)]
    ...     time.sleep(30)
    ...     _ = c.kill_node(1)
    ...     shoal.get(refs)
    [0, 1, 4, 9]

See `cluster` and `chaos`; ``docs/chaos-testing.md`` says what is simulated and what is not.
"""

from shoal.sim._chaos import chaos
from shoal.sim._cluster import Cluster, cluster
from shoal.sim._errors import (
    BrokenError,
    DeadlockError,
    LeakError,
    ProcessKilled,
    SimulationError,
    StalledError,
    TimeLimitError,
)

__all__ = [
    "BrokenError",
    "Cluster",
    "DeadlockError",
    "LeakError",
    "ProcessKilled",
    "SimulationError",
    "StalledError",
    "TimeLimitError",
    "chaos",
    "cluster",
]

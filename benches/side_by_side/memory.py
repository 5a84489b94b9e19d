"""Memory and idle processor use of a cluster: alone, and with 20 actors beside the idle workers.

PSS counts a page shared by n processes 1/n in each, so it sums to what the machine really spends;
RSS counts it whole in each and is what most tools show. Every process of the system is summed but the
driver, which is the user's own and has a line of its own.
"""

from __future__ import annotations

import os
import time
from typing import Any

import adapter
import processes
from recorder import Recorder, settle

ACTORS = 20
IDLE_SECONDS = 10.0


def measure(system: str, record: Recorder, with_defaults: bool) -> None:
    """Start a cluster and take one sample of each memory line."""
    api = adapter.load(system)
    prefix = "default options, " if with_defaults else ""
    if with_defaults:
        adapter.start_with_defaults(api)
    else:
        adapter.start(api)

    @api.remote
    def process():
        time.sleep(0.2)
        return os.getpid()

    class Actor:
        def process(self):
            return os.getpid()

    actor_class: Any = api.remote(num_cpus=0)(Actor)

    def run_tasks() -> set[int]:
        return set(api.get([process.remote() for _ in range(2 * (os.cpu_count() or 1))]))

    run_tasks()
    settle()
    reported = run_tasks()
    time.sleep(2)
    idle = _system()
    workers = [one for one in idle if adapter.is_worker(one.command, one.pid, reported)]
    daemons = [one for one in idle if one not in workers]
    record.detail(prefix + "idle processes", [vars(one) for one in idle])
    record.sample(prefix + "idle: daemons, PSS", sum(one.pss for one in daemons))
    record.sample(prefix + "idle: daemons, RSS", sum(one.rss for one in daemons))
    for worker in workers:
        record.sample(prefix + "idle: one worker, PSS", worker.pss)
        record.sample(prefix + "idle: one worker, RSS", worker.rss)
    driver = processes.memory([os.getpid()])[0]
    record.sample(prefix + "driver, PSS", driver.pss)
    record.sample(prefix + "idle: daemons, CPU", _idle_percent([one.pid for one in daemons]))

    actors = [actor_class.remote() for _ in range(ACTORS)]
    reported |= set(api.get([actor.process.remote() for actor in actors]))
    reported |= run_tasks()
    settle()
    full = _system()
    record.detail(prefix + "processes with 20 actors", [vars(one) for one in full])
    record.sample(prefix + "daemons + 20 actors + idle workers, PSS", sum(one.pss for one in full))
    record.sample(prefix + "daemons + 20 actors + idle workers, RSS", sum(one.rss for one in full))
    api.shutdown()


def _system() -> list[processes.Memory]:
    """The processes of the cluster: all that the supervisor has below it, except this driver."""
    return processes.memory(pid for pid in processes.descendants(os.getppid()) if pid != os.getpid())


def _idle_percent(pids: list[int]) -> float:
    """Processor time of the processes while nothing runs, as a percentage of one processor."""
    before = processes.processor_seconds(pids)
    time.sleep(IDLE_SECONDS)
    return 100 * (processes.processor_seconds(pids) - before) / IDLE_SECONDS

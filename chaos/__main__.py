"""The command: ``python -m chaos --minutes 30``."""

from __future__ import annotations

import argparse
import gc
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from typing import Any

import shoal
from chaos import leaks, work
from chaos.faults import Victim
from chaos.hosts import Hosts

REPORT_SECONDS = 10.0
ROUND_SECONDS = 10.0
"""After an interrupt the rounds that have begun may go on for so long."""
INTERRUPTED = 130
"""The exit code after an interrupt, as of a shell."""


class Worker(threading.Thread):
    """Does one kind of work, round after round, until it is told to stop or something is wrong."""

    def __init__(self, kind: str, seed: int, directory: pathlib.Path, stop: threading.Event) -> None:
        super().__init__(name=kind, daemon=True)
        self.rounds = 0
        self.wrong: str | None = None
        self._chance = random.Random(f"{seed} {kind}")
        self._directory = directory
        self._stop_now = stop

    def run(self) -> None:
        """Work."""
        try:
            kind: Any = work.KINDS[self.name](self._directory)
            while not self._stop_now.is_set():
                kind.round(self._chance)
                self.rounds += 1
            if hasattr(kind, "close"):
                kind.close()
        except BaseException:
            self.wrong = traceback.format_exc()
            self._stop_now.set()


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long faults happen [default: 30]")
    parser.add_argument("--seed", type=int, default=None, help="which faults and values [default: a new one]")
    parser.add_argument("--nodes", type=int, default=3, help="nodes beside the head's and the driver's [default: 3]")
    parser.add_argument("--faults", default="", help="kinds with commas between them [default: all that are possible]")
    parser.add_argument("--work", default="", help=f"kinds of work [default: {','.join(work.KINDS)}]")
    parser.add_argument("--loopback", action="store_true", help="no network namespaces: links are left alone")
    parser.add_argument("--quiet", action="store_true", help="do not print every fault")
    return parser.parse_args()


def main() -> int:
    """Run; 0 if every result was right and nothing was left, 130 if it was interrupted and nothing was wrong."""
    given = options()
    signal.signal(signal.SIGINT, interrupt)
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    replay = f"python -m chaos --seed {seed} --minutes {given.minutes:g} --nodes {given.nodes}"
    for name in ("faults", "work"):
        if getattr(given, name):
            replay += f" --{name} {getattr(given, name)}"
    print(f"chaos: {replay.removeprefix('python -m chaos ')}", flush=True)
    hosts = Hosts(given.loopback)
    machine = leaks.Machine(hosts.name)
    if hosts.why_loopback:
        print(f"chaos: everything on loopback, no link is cut: {hosts.why_loopback}", flush=True)
    if hosts.why_not_slow:
        print(f"chaos: SKIPPED: links that are slow and lose packets: {hosts.why_not_slow}", flush=True)
    interrupted = False
    try:
        wrong = run(given, seed, hosts)
    except KeyboardInterrupt:
        interrupted, wrong = True, []
    finally:
        hosts.close()
    wrong += [f"left behind: {what}" for what in machine.leaks()]
    if wrong:
        print("\n".join(f"chaos: WRONG: {line}" for line in wrong))
        print(f"chaos: again (the same faults, at times of their own): {replay}")
        return 1
    if interrupted:
        print(f"chaos: interrupted, nothing wrong so far; from the start: {replay}")
        return INTERRUPTED
    print("chaos: every result was right, and nothing is left")
    return 0


def interrupt(*_: object) -> None:
    """The first interrupt ends the faults; what follows from it is not interrupted again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(given: argparse.Namespace, seed: int, hosts: Hosts) -> list[str]:
    """Everything; what was wrong, in words. KeyboardInterrupt: it was interrupted, and nothing was wrong."""
    victim = Victim(hosts, given.nodes, seed)
    temp = pathlib.Path(victim.cluster.temp_directory)
    try:
        shoal.init(address=victim.home.socket, namespace="chaos", log_to_driver=False)
        # What an interrupted round writes is of no interest to anybody.
        with tempfile.TemporaryDirectory(prefix="shoal-chaos-", ignore_cleanup_errors=True) as directory:
            wrong = harm_at_work(given, seed, victim, pathlib.Path(directory))
        gc.collect()
        wrong = wrong or leaks.of_work(victim.nodes())
        if not wrong:
            shoal.shutdown()
            wrong = leaks.of_driver(victim.nodes())
        if wrong:
            return wrong + [f"{path}:\n{path.read_text(errors='replace')[-3000:]}" for path in victim.logs()]
        victim.stop()
        return leaks.of_sessions(temp)
    finally:
        shoal.shutdown()
        victim.cluster.shutdown()


def harm_at_work(given: argparse.Namespace, seed: int, victim: Victim, directory: pathlib.Path) -> list[str]:
    """Do harm while there is work, until the work has ended; as `run`."""
    stop = threading.Event()
    names = given.work.split(",") if given.work else list(work.KINDS)
    workers = [Worker(name, seed, directory, stop) for name in names]
    wrong = []
    interrupted: KeyboardInterrupt | None = None
    try:
        for worker in workers:
            worker.start()
        wrong += harm(given, victim, workers, stop)
        stop.set()
        wrong += ended(workers, 2 * work.PATIENCE_SECONDS)
    except KeyboardInterrupt as error:
        print("chaos: interrupted, closing down", flush=True)
        interrupted = error
        stop.set()
        deadline = time.monotonic() + ROUND_SECONDS
        for worker in workers:
            if worker.is_alive():
                worker.join(max(0.0, deadline - time.monotonic()))
        wrong += went_wrong(workers)
    print(progress(victim, workers), flush=True)
    if interrupted and not wrong:
        raise interrupted
    return wrong


def ended(workers: list[Worker], patience: float) -> list[str]:
    """Wait until all work has ended, for so many seconds each; what was wrong, in words."""
    for worker in workers:
        worker.join(patience)
    return [f"{worker.name} hangs" for worker in workers if worker.is_alive()] + went_wrong(workers)


def went_wrong(workers: list[Worker]) -> list[str]:
    """What was wrong with the work so far, in words."""
    return [f"{worker.name}, after {worker.rounds} rounds: {worker.wrong}" for worker in workers if worker.wrong]


def harm(given: argparse.Namespace, victim: Victim, workers: list[Worker], stop: threading.Event) -> list[str]:
    """Fault after fault until the time is over or something is wrong."""
    kinds = given.faults.split(",") if given.faults else list(victim.kinds())
    unknown = sorted(set(kinds) - set(victim.kinds()))
    if unknown:
        return [f"not possible here: {', '.join(unknown)}; possible: {', '.join(victim.kinds())}"]
    start = last = time.monotonic()
    while time.monotonic() < start + 60 * given.minutes and not stop.is_set():
        victim.rest()
        try:
            said = victim.harm(kinds)
        except Exception:
            return [f"a fault could not be done: {traceback.format_exc()}"]
        if not given.quiet:
            print(f"{time.monotonic() - start:7.1f} s  {said}", flush=True)
        if time.monotonic() > last + REPORT_SECONDS:
            last = time.monotonic()
            print(progress(victim, workers), flush=True)
    return []


def progress(victim: Victim, workers: list[Worker]) -> str:
    """What has been done and survived so far."""
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(victim.done.items()))
    rounds = ", ".join(f"{worker.rounds} {worker.name}" for worker in workers)
    return f"chaos: faults: {done or 'none'}; rounds: {rounds}"


if __name__ == "__main__":
    sys.exit(main())

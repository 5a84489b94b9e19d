"""Shoal over a network, beside Ray and iperf3: hosts are network namespaces of this machine.

    run.py transfer     one object of 1 GiB between two nodes, and what iperf3 reaches between the same namespaces
    run.py calls        calls of an actor on another node
    run.py broadcast    one object of 1 GiB to eight nodes
    run.py security     what never leaves a machine, on a node of a cluster and on one that is alone
    run.py loss         QUIC and gRPC where packets take 25 ms each way and some are lost

Only figures of one run can be compared: each round measures all systems, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from namespaces import Hosts, missing
from nodes import Cluster

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("program.py")
MIB = 1 << 20
GIB = 1 << 30
# What a program may take at most.
LIMIT_SECONDS = 300.0

Samples = dict[str, list[float]]


def systems(given: argparse.Namespace) -> Iterator[tuple[str, Path, str]]:
    """Name, interpreter and transport of what is measured."""
    for transport in given.transports:
        yield f"shoal {transport}", given.shoal, transport
    if given.ray and given.ray.exists():
        yield "ray", given.ray, "auto"


def iperf(hosts: Hosts, seconds: float) -> float:
    """Bytes a second of one TCP stream."""
    server = subprocess.Popen(hosts.command(1, "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    try:
        client = hosts.command(0, "iperf3", "-c", hosts.addresses[1], "-t", str(seconds), "-J")
        for _ in range(50):
            done = subprocess.run(client, capture_output=True, text=True, check=False)
            end = json.loads(done.stdout).get("end", {})
            if "sum_received" in end:
                return float(end["sum_received"]["bits_per_second"]) / 8
            time.sleep(0.1)  # the server does not listen yet
        raise RuntimeError(f"iperf3 failed: {done.stdout}")
    finally:
        server.kill()
        server.wait()


def each(
    given: argparse.Namespace, hosts: Hosts, store: int, *arguments: str
) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure every system once, in the same hosts."""
    for name, python, transport in systems(given):
        with Cluster(name.split()[0], python, hosts, store, transport) as cluster:
            yield name, cluster.run(PROGRAM, *arguments, seconds=LIMIT_SECONDS)


def measure_transfer(given: argparse.Namespace) -> None:
    samples: Samples = defaultdict(list)
    arguments = ["--measure=transfer", f"--size={given.size}", f"--rounds={given.repeats}"]
    for _ in range(given.rounds):
        with Hosts(2) as hosts:
            if shutil.which("iperf3"):
                samples["iperf3"].append(iperf(hosts, 3) / GIB)
            for name, result in each(given, hosts, 3 * given.size + GIB, *arguments):
                samples[f"{name}, first"].append(result["first"] / GIB)
                samples[name].append(result["median"] / GIB)
    table(f"one object of {given.size / GIB:.2f} GiB between two nodes", "GiB/s", samples, "iperf3")


def measure_calls(given: argparse.Namespace) -> None:
    samples: Samples = defaultdict(list)
    for _ in range(given.rounds):
        with Hosts(2) as hosts:
            for name, result in each(given, hosts, GIB, "--measure=calls", f"--seconds={given.seconds}", "--rounds=3"):
                samples[f"{name}, sync"].append(result["sync"])
                samples[f"{name}, async"].append(result["async"])
    table("calls of an actor on another node", "calls/s", samples)


def measure_broadcast(given: argparse.Namespace) -> None:
    samples: Samples = defaultdict(list)
    arguments = ["--measure=broadcast", f"--size={given.size}", "--rounds=2", f"--nodes={given.nodes}"]
    for _ in range(given.rounds):
        with Hosts(given.nodes + 1) as hosts:
            for name, result in each(given, hosts, 2 * given.size + GIB // 4, *arguments):
                samples[f"{name}, first"].append(result["first"])
                samples[name].append(result["median"])
    table(f"one object of {given.size / GIB:.2f} GiB to {given.nodes} nodes", "s", samples)


def measure_security(given: argparse.Namespace) -> None:
    """Certificates, keys and ports cost nothing where nothing is sent: that is to be seen."""
    samples: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    arguments = ["--measure=local", f"--seconds={given.seconds}"]
    # Over two nodes tasks are spread, which costs messages and is no cost of their encryption.
    for number in range(2 * given.rounds):
        with Hosts(1 + number % 2) as hosts:
            alone = Cluster("shoal", given.shoal, hosts, GIB)
            alone.address = "local"
            found = {"alone": alone.run(PROGRAM, *arguments, seconds=LIMIT_SECONDS)}
            with Cluster("shoal", given.shoal, hosts, GIB) as cluster:
                name = "first of two nodes" if number % 2 else "a cluster's only node"
                found[name] = cluster.run(PROGRAM, *arguments, seconds=LIMIT_SECONDS)
        for name, figures in found.items():
            for figure, value in figures.items():
                samples[figure][name].append(value)
    for figure, of_figure in samples.items():
        table(figure, "a second", of_figure, "alone")


def measure_loss(given: argparse.Namespace) -> None:
    size = min(given.size, 32 * MIB)
    for loss in given.losses:
        samples: Samples = defaultdict(list)
        for _ in range(given.rounds):
            with Hosts(2, delay=given.delay, loss=loss) as hosts:
                arguments = ["--measure=delays", f"--size={size}", f"--seconds={given.seconds}"]
                for name, result in each(given, hosts, GIB, *arguments):
                    for figure, value in result.items():
                        samples[f"{name}, {figure}"].append(value / MIB if figure == "rate" else value)
        table(f"{given.delay:g} ms each way, {100 * loss:g} % lost", "ms (rate: MiB/s)", samples)


def table(title: str, unit: str, samples: Samples, base: str | None = None) -> None:
    """Print medians with the smallest and the largest value, and the share of `base`."""
    print(f"\n{title} [{unit}], load {os.getloadavg()[0]:.1f}")
    reference = statistics.median(samples[base]) if base in samples else None
    for name, values in samples.items():
        median = statistics.median(values)
        share = f"  {median / reference:5.2f} of {base}" if reference else ""
        print(f"  {name:34} {median:10.3f}  ({min(values):.3f} to {max(values):.3f}){share}", flush=True)


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "transfer": measure_transfer,
    "calls": measure_calls,
    "broadcast": measure_broadcast,
    "security": measure_security,
    "loss": measure_loss,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="clusters of each system")
    parser.add_argument("--repeats", type=int, default=5, help="transfers in each cluster")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement of calls")
    parser.add_argument("--size", type=int, default=GIB, help="bytes of the object")
    parser.add_argument("--nodes", type=int, default=8, help="receivers of a broadcast")
    parser.add_argument("--delay", type=float, default=25.0, help="milliseconds, one way")
    parser.add_argument("--losses", type=float, nargs="+", default=[0.0, 0.01, 0.05], help="shares of packets")
    parser.add_argument("--transports", nargs="+", default=["auto", "quic", "grpc"], help="how nodes of Shoal talk")
    parser.add_argument("--shoal", type=Path, default=ROOT / ".venv/bin/python", help="the interpreter that has Shoal")
    parser.add_argument("--ray", type=Path, default=ROOT / ".venv-ray/bin/python", help="the interpreter that has Ray")
    given = parser.parse_args()
    unknown = sorted(set(given.measurements) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"there is no measurement {', '.join(unknown)}")
    if reason := missing():
        print(f"SKIPPED: {reason}")
        return
    for needed, found in {"iperf3": shutil.which("iperf3"), "ray": given.ray.exists()}.items():
        if not found:
            print(f"without {needed}, which is not installed", file=sys.stderr)
    for name in given.measurements or MEASUREMENTS:
        MEASUREMENTS[name](given)


if __name__ == "__main__":
    main()

"""Compare Shoal with Ray on this machine, alternating in one run.

.venv-ray/bin/python benches/side_by_side/run.py                     # everything
.venv-ray/bin/python benches/side_by_side/run.py --quick             # a few minutes
.venv-ray/bin/python benches/side_by_side/run.py --systems ray --groups tasks --rounds 1
.venv-ray/bin/python benches/side_by_side/run.py --only "tasks sync" --systems shoal
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

import catalogue
import plot
import processes
import report
import results as storage
from adapter import MACHINE, SYSTEMS, System
from catalogue import Line
from recorder import Effort
from supervisor import run_group


def main(arguments: list[str] | None = None) -> None:
    options = _parse(arguments)
    # The processes of a measured cluster must not escape, whatever they do with their parents.
    processes.adopt_orphans()
    # Being told to stop ends them too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    systems = _installed(options.systems)
    lines, limits = _selected(options)
    results = storage.Results([system.name for system in systems])
    interrupted = False
    begin = time.monotonic()
    try:
        for round_number in range(1, options.rounds + 1):
            print(f"round {round_number} of {options.rounds}", flush=True)
            _round(round_number, systems, lines, limits, options, results)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        processes.kill_descendants()

    print("\n" + report.table(results))
    print(f"\n{(time.monotonic() - begin) / 60:.1f} minutes" + (", interrupted" if interrupted else ""))
    if not options.no_files:
        _write(results, systems, options, whole=not interrupted and _is_whole(options, systems))
    if interrupted:
        sys.exit(130)
    # A slow or failed line is in the report; a process left behind would outlive it.
    if any(one["system"] == "shoal" for one in results.unclean()):
        sys.exit(1)


def _round(
    round_number: int,
    systems: list[System],
    lines: list[Line],
    limits: list[Line],
    options: argparse.Namespace,
    results: storage.Results,
) -> None:
    """Every group once on every system; which system goes first changes from round to round."""
    order = systems if round_number % 2 else systems[::-1]
    plan = [(group, names, order) for group, names in catalogue.groups(lines).items()]
    # The limits come in the middle, so that they meet the machine in the state the systems met it.
    plan[len(plan) // 2 : len(plan) // 2] = [
        (group, names, [MACHINE]) for group, names in catalogue.groups(limits).items()
    ]
    for group, names, group_systems in plan:
        if group in catalogue.ONCE_PER_RUN and round_number > 1:
            continue
        for system in group_systems:
            begin = time.monotonic()
            outcome = run_group(
                system,
                group,
                names,
                Effort(options.warm_up, options.seconds, options.runs),
                options={"queued on ray": options.queued_on_ray, "queued on shoal": options.queued_on_shoal},
                line_timeout=options.line_timeout * (5 if group == "scale" else 1),
                shutdown_timeout=options.shutdown_timeout,
            )
            results.add(system.name, group, round_number, outcome)
            print(f"  {group}: {system.name}: {time.monotonic() - begin:.0f} s", flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), help="default: those that are installed")
    parser.add_argument("--rounds", type=int, help="rounds of alternation (3; quick: 2)")
    parser.add_argument("--runs", type=int, help="timed runs of a line in one round (2; quick: 1)")
    parser.add_argument("--seconds", type=float, help="length of a timed run (2; quick: 1)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before the timed runs (1)")
    parser.add_argument("--quick", action="store_true", help="the most telling lines only")
    parser.add_argument("--groups", nargs="+", choices=sorted({line.group for line in catalogue.LINES}))
    parser.add_argument("--only", nargs="+", default=[], help="lines whose name contains one of these")
    parser.add_argument("--scale", action="store_true", help="with the large counts, which take minutes")
    parser.add_argument("--queued-on-ray", type=int, default=100_000, help="queued tasks on Ray")
    parser.add_argument("--queued-on-shoal", type=int, default=1_000_000, help="queued tasks on Shoal")
    parser.add_argument("--no-limits", action="store_true", help="without the machine's limits")
    parser.add_argument("--no-files", action="store_true", help="print only, write no JSON and no picture")
    parser.add_argument("--line-timeout", type=float, default=240, help="seconds before a line is given up")
    parser.add_argument("--shutdown-timeout", type=float, default=20, help="seconds a cluster may take to go")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.runs = options.runs or (1 if options.quick else 2)
    options.seconds = options.seconds or (1.0 if options.quick else 2.0)
    return options


def _installed(names: list[str] | None) -> list[System]:
    """The systems to measure; one that was asked for by name must be there."""
    chosen = []
    for name in names or SYSTEMS:
        if SYSTEMS[name].installed():
            chosen.append(SYSTEMS[name])
        elif names:
            sys.exit(f"{name} is not installed for {SYSTEMS[name].python}")
        else:
            print(f"{name} is not installed, left out")
    return chosen


def _selected(options: argparse.Namespace) -> tuple[list[Line], list[Line]]:
    """The lines to run on the systems, and the machine's limits that go with them."""

    def named(line: Line) -> bool:
        return not options.only or any(part in line.name for part in options.only)

    lines = [
        line
        for line in catalogue.LINES
        if named(line)
        and (line.name in catalogue.QUICK if options.quick else True)
        and (line.group in options.groups if options.groups else line.group != "scale" or options.scale)
    ]
    if not lines:
        sys.exit("no line is selected")
    if options.no_limits:
        return lines, []
    if options.quick:
        return lines, [line for line in catalogue.LIMITS if line.name in catalogue.QUICK_LIMITS]
    if options.only or options.groups:
        needed = {line.limit for line in lines}
        return lines, [line for line in catalogue.LIMITS if line.name in needed]
    return lines, catalogue.LIMITS


def _is_whole(options: argparse.Namespace, systems: list[System]) -> bool:
    """Whether this is the comparison whose results are kept as the latest."""
    partial = options.quick or options.groups or options.only or options.no_limits
    return not partial and len(systems) == len(SYSTEMS)


def _write(results: storage.Results, systems: list[System], options: argparse.Namespace, whole: bool) -> None:
    settings = {
        name: getattr(options, name)
        for name in ("rounds", "runs", "seconds", "warm_up", "queued_on_ray", "queued_on_shoal")
    }
    document = results.as_json(settings, storage.versions(systems))
    path = storage.save(document, as_latest=whole)
    print(f"results: {path.relative_to(storage.ROOT)}")
    picture = path.with_suffix(".png")
    if plot.draw(document, picture):
        print(f"picture: {picture.relative_to(storage.ROOT)}")


if __name__ == "__main__":
    main()

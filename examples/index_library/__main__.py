"""Index the Python standard library in parallel: which identifiers does it use, and how often?

Each file is parsed by a task, an actor merges what the tasks find, and one worker is killed on the way: its
tasks are retried, and the result is still that of a serial run, which is what this program checks.

    python examples/index_library [--files COUNT] [--output DIRECTORY]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

from drawing import Accident, Drawing, Span
from identifiers import LIBRARY, identifiers, library_files
from parallel import Kill, Record, run
from progress import Progress

import shoal

TOP_COUNT = 12


def main() -> int:
    """Run the demo; 0 if the parallel result equals the serial one."""
    arguments = parse_arguments()
    files = library_files()[: arguments.files]
    size = sum(path.stat().st_size for path in files)
    print(f"Standard library of Python {sys.version.split()[0]}: {len(files)} files, {size / 1e6:.1f} MB")

    started = time.perf_counter()
    expected = run_serially(files)
    serial_seconds = time.perf_counter() - started

    arguments.output.mkdir(parents=True, exist_ok=True)
    chrome_trace = arguments.output / "timeline.json"
    started = time.perf_counter()
    with shoal.init(), Progress("parallel", len(files)) as progress:
        started_up = time.perf_counter()
        record, kill = run(files, progress)
        parallel_seconds = time.perf_counter() - started_up
        shoal.timeline(str(chrome_trace))

    picture = arguments.output / "timeline.svg"
    picture.write_text(draw(record, kill, parallel_seconds), encoding="utf-8")

    print_top(record.counts)
    print(f"killed    {what_was_lost(record, kill)}")
    print(f"start-up  {started_up - started:5.2f} s")
    print(f"serial    {serial_seconds:5.2f} s")
    print(f"parallel  {parallel_seconds:5.2f} s: {serial_seconds / parallel_seconds:.2f} times as fast on {cpus()}")
    print(f"timeline  {picture} (open it in a browser), {chrome_trace} (for ui.perfetto.dev)")
    if record.counts != expected:
        print("The parallel result DIFFERS from the serial one.")
        return 1
    print(f"The parallel result equals the serial one: {len(expected):,} names, used {expected.total():,} times.")
    return 0


def parse_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Index the Python standard library in parallel.")
    parser.add_argument("--files", type=int, metavar="COUNT", help="only so many files, the largest ones")
    parser.add_argument("--output", type=Path, default=Path("target/demo"), help="where the timeline goes")
    return parser.parse_args()


def run_serially(files: list[Path]) -> Counter[str]:
    """The same work in one loop."""
    counts: Counter[str] = Counter()
    with Progress("serial  ", len(files)) as progress:
        for number, path in enumerate(files, start=1):
            counts.update(identifiers(path))
            progress.show(number)
    return counts


def print_top(counts: Counter[str]) -> None:
    """Print the identifiers used most, with bars."""
    top = counts.most_common(TOP_COUNT)
    print("\nMost used identifiers:")
    for name, count in top:
        print(f"  {name:<14} {count:>9,}  {'▇' * max(1, round(40 * count / top[0][1]))}")
    print()


def what_was_lost(record: Record, kill: Kill | None) -> str:
    """Who was killed, what it was doing, and who did that again."""
    if kill is None:
        return "nobody: there were too few files"
    lost = record.lost(kill)
    if lost is None:
        return f"worker {kill.pid} (kill -9), between two tasks"
    return f"worker {kill.pid} (kill -9); worker {record.counted(lost.path).pid} parsed {short(lost.path)} again"


def draw(record: Record, kill: Kill | None, seconds: float) -> str:
    """The timeline of a run, as SVG."""
    spans = [span_of(attempt.path, attempt.pid, attempt.started, ended) for attempt, ended in record.parsed]
    spans.sort(key=lambda span: span.start)
    rows = {row: f"{count} files" for row, count in Counter(span.row for span in spans).items()}
    accident = None
    lost = record.lost(kill)
    if kill is not None and lost is not None:
        again = next(span for span in spans if span.name == short(lost.path))
        accident = Accident(span_of(lost.path, lost.pid, lost.started, kill.at), again)
        rows.setdefault(accident.lost.row, "no file")
    actor = f"actor {record.pid}"
    rows[actor] = "merges"
    spans += [Span(actor, f"merge {short(path)}", "merge", start, end) for path, start, end in record.merged]
    title = f"{len(record.parsed)} files parsed in {seconds:.1f} s on {cpus()}"
    title += "; one worker killed on the way" if kill else ""
    return Drawing(title, rows, spans, accident).svg()


def span_of(path: Path, pid: int, started: float, ended: float) -> Span:
    """The bar of one attempt at a file."""
    package = short(path).rpartition("/")[0].partition("/")[0]
    return Span(f"worker {pid}", short(path), package or "single modules", started, ended)


def short(path: Path) -> str:
    """A file's name within the library."""
    return path.relative_to(LIBRARY).as_posix()


def cpus() -> str:
    """How many processors Shoal uses here."""
    count = os.cpu_count() or 1
    return f"{count} CPU" if count == 1 else f"{count} CPUs"


if __name__ == "__main__":
    sys.exit(main())

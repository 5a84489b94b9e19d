"""The results as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import catalogue
from catalogue import Line
from recorder import LOAD
from results import Results

HEADER = ("", "unit", "Ray (min..max)", "Shoal (min..max)", "ratio", "limit", "of limit", "target", "reached")


def table(results: Results) -> str:
    """Every measured line with medians, spread, ratio, the machine's limit and the target."""
    rows: list[tuple[str, ...]] = [HEADER]
    for group, names in catalogue.groups(catalogue.LINES).items():
        lines = [line for line in catalogue.LINES if line.name in names and _measured(results, line)]
        if lines:
            rows.append((group.upper(), *[""] * (len(HEADER) - 1)))
            rows += [_row(results, line) for line in lines]
    text = [_aligned(rows)]
    limits = [line for line in catalogue.LIMITS if _measured(results, line)]
    if limits:
        text.append(_aligned([("THE MACHINE'S LIMITS", "unit", "median (min..max)")] + [
            (line.name, line.unit, _value(results, line, "machine")) for line in limits
        ]))  # fmt: skip
    text += _notes(results)
    return "\n\n".join(text)


def _measured(results: Results, line: Line) -> bool:
    return line.name in results.samples or line.name in results.errors


def _row(results: Results, line: Line) -> tuple[str, ...]:
    ratio, limit, of_limit = results.ratio(line), results.limit(line), results.of_limit(line)
    reached = {True: "yes", False: "NO", None: ""}[results.reached(line)]
    return (
        line.name,
        line.unit,
        _value(results, line, "ray"),
        _value(results, line, "shoal"),
        "" if ratio is None else f"{ratio:.1f}x",
        "" if limit is None else number(limit),
        "" if of_limit is None else f"{of_limit:.2f}",
        str(line.target or ""),
        reached,
    )


def _value(results: Results, line: Line, system: str) -> str:
    median, spread = results.median(line.name, system), results.spread(line.name, system)
    if median is None or spread is None:
        return "failed" if system in results.errors.get(line.name, {}) else "-"
    count = len(results.samples[line.name][system])
    return number(median) + (f" ({number(spread[0])}..{number(spread[1])})" if count > 1 else "")


def number(value: float) -> str:
    """A number with three significant digits or all digits before the point."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    for least, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if magnitude >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.2g}"


def _notes(results: Results) -> list[str]:
    notes = []
    failures = [
        f"  {system}: {name}: {reason}"
        for name, reasons in results.errors.items()
        for system, reason in reasons.items()
    ]
    if failures:
        notes.append("FAILED\n" + "\n".join(failures))
    unclean = results.unclean()
    checked = f"{len(results.shutdowns)} shutdowns checked, {len(unclean)} left something behind"
    notes.append("\n".join([checked] + [
        f"  {one['system']}, {one['group']}: {one['left']} {one['shared memory left']}" for one in unclean
    ]))  # fmt: skip
    loads = [float(str(detail[LOAD])) for detail in results.details if LOAD in detail]
    if loads:
        notes.append(f"load average when a group began: {min(loads):.1f}..{max(loads):.1f}")
    judged = [line for line in catalogue.LINES if results.reached(line) is not None]
    if judged:
        missed = [line.name for line in judged if not results.reached(line)]
        notes.append(f"{len(judged) - len(missed)} of {len(judged)} targets reached" + "".join(
            f"\n  missed: {name}" for name in missed
        ))  # fmt: skip
    return notes


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

"""The results of one comparison: what was measured, and what follows from it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import catalogue
from adapter import ROOT, System
from catalogue import Line
from supervisor import Outcome

DIRECTORY = ROOT / "benches" / "results"


@dataclass
class Results:
    """Samples by line and system, in the order they were taken."""

    systems: list[str]
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    shutdowns: list[dict[str, object]] = field(default_factory=list)
    details: list[dict[str, object]] = field(default_factory=list)

    def add(self, system: str, group: str, round_number: int, outcome: Outcome) -> None:
        where = {"system": system, "group": group, "round": round_number}
        for name, values in outcome.samples.items():
            self.samples.setdefault(name, {}).setdefault(system, []).extend(values)
        for name, reason in outcome.errors.items():
            self.errors.setdefault(name, {})[system] = reason
        self.shutdowns += [{**where, **shutdown} for shutdown in outcome.shutdowns]
        if outcome.details:
            self.details.append({**where, **outcome.details})

    def median(self, name: str, system: str) -> float | None:
        """The median of a line's samples, or None where there is none."""
        values = self.samples.get(name, {}).get(system)
        return statistics.median(values) if values else None

    def spread(self, name: str, system: str) -> tuple[float, float] | None:
        """The smallest and the largest sample."""
        values = self.samples.get(name, {}).get(system)
        return (min(values), max(values)) if values else None

    def ratio(self, line: Line) -> float | None:
        """How many times better Shoal is than Ray: above 1 is better, whatever the unit."""
        ray, shoal = self.median(line.name, "ray"), self.median(line.name, "shoal")
        if not ray or not shoal:
            return None
        return shoal / ray if line.more_is_better else ray / shoal

    def limit(self, line: Line) -> float | None:
        """The machine's limit for this line, in its unit."""
        return self.median(line.limit, "machine") if line.limit else None

    def of_limit(self, line: Line) -> float | None:
        """Shoal's value as a fraction of the machine's limit."""
        shoal, limit = self.median(line.name, "shoal"), self.limit(line)
        return shoal / limit if shoal and limit else None

    def reached(self, line: Line) -> bool | None:
        """Whether Shoal reaches the target; None without a target or without the values to tell.

        A line that failed on Shoal in any round misses its target.
        """
        target, shoal = line.target, self.median(line.name, "shoal")
        if target is not None and "shoal" in self.errors.get(line.name, {}):
            return False
        if target is None or shoal is None:
            return None
        if target.below is not None:
            return shoal < target.below
        wanted = target.times_ray if target.times_ray is not None else target.of_limit
        value = self.ratio(line) if target.times_ray is not None else self.of_limit(line)
        return None if value is None or wanted is None else value >= wanted

    def unclean(self) -> list[dict[str, object]]:
        """The shutdowns after which a process or a file in shared memory was left."""
        return [one for one in self.shutdowns if one["left"] or one["shared memory left"]]

    def as_json(self, settings: dict[str, object], versions: dict[str, str]) -> dict[str, object]:
        lines = [self._line_as_json(line) for line in catalogue.LINES if self._has(line)]
        return {
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions,
            "settings": settings,
            "lines": lines,
            "limits": [self._line_as_json(line) for line in catalogue.LIMITS if self._has(line)],
            "shutdowns": self.shutdowns,
            "details": self.details,
        }

    def _has(self, line: Line) -> bool:
        return line.name in self.samples or line.name in self.errors

    def _line_as_json(self, line: Line) -> dict[str, object]:
        return {
            "name": line.name,
            "group": line.group,
            "unit": line.unit,
            "median": {s: self.median(line.name, s) for s in self.samples.get(line.name, {})},
            "samples": self.samples.get(line.name, {}),
            "errors": self.errors.get(line.name, {}),
            "ratio": self.ratio(line),
            "limit": self.limit(line),
            "of limit": self.of_limit(line),
            "target": str(line.target) if line.target else None,
            "reached": self.reached(line),
        }


def machine() -> dict[str, object]:
    """The machine in words and numbers, without its name."""
    information = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in information if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count(),
        "memory GB": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions(systems: list[System]) -> dict[str, str]:
    """The version of each installed system, with the commit for Shoal."""
    found = {}
    for system in systems:
        probe = f"import importlib.metadata; print(importlib.metadata.version({system.name!r}))"
        found[system.name] = subprocess.run(
            [system.python, "-c", probe], cwd="/", check=True, capture_output=True, text=True
        ).stdout.strip()
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    found["commit"] = described.stdout.strip() or "unknown"
    return found


def save(document: dict[str, object], as_latest: bool) -> Path:
    """Write the document under the date of now, and as the latest if asked; returns its path."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    path = DIRECTORY / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H-%M-%SZ}.json"
    path.write_text(text)
    if as_latest:
        (DIRECTORY / "latest.json").write_text(text)
    return path

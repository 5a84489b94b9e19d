"""The systems under comparison, and the little in which they differ.

Both have the same API, so every measurement is written once against a module named `api`:
`ray` in one process, `shoal` in another. What differs is where each is installed, which
environment variables keep runs apart, and how to tell a worker from the other processes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class System:
    """A system to measure, installed in a virtualenv of its own."""

    name: str
    python: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def installed(self) -> bool:
        """Whether the virtualenv exists and can find the module."""
        if not self.python.exists():
            return False
        probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self.name!r}) is None)"
        return subprocess.run([self.python, "-c", probe], cwd="/").returncode == 0

    def environment(self, scratch: Path) -> dict[str, str]:
        """The variables of a measured process whose temporary files go to `scratch`."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "SHOAL_")) and name != "PYTHONPATH"
        }
        return {**inherited, **{name: value.format(scratch=scratch) for name, value in self.variables.items()}}


RAY = System(
    "ray",
    ROOT / ".venv-ray" / "bin" / "python",
    # A directory per run keeps a run from joining a cluster that someone else left running.
    {"RAY_TMPDIR": "{scratch}", "RAY_USAGE_STATS_ENABLED": "0"},
)
SHOAL = System("shoal", ROOT / ".venv" / "bin" / "python")
# Not a system: what the machine itself can do. It needs numpy alone.
MACHINE = System("machine", RAY.python)

SYSTEMS = {system.name: system for system in (RAY, SHOAL)}


def load(name: str) -> ModuleType:
    """Import the module of a system together with its `util` package."""
    api = importlib.import_module(name)
    importlib.import_module(f"{name}.util")
    return api


def version(name: str) -> str:
    """The installed version of a system's package."""
    return importlib.metadata.version(name)


def start(api: ModuleType, **options: object) -> None:
    """Start a local cluster with one logical CPU per processor and no dashboard."""
    api.init(num_cpus=os.cpu_count(), include_dashboard=False, **options)


def start_with_defaults(api: ModuleType) -> None:
    """Start a local cluster the way a user does who gives no option, dashboard included."""
    api.init()


def is_worker(command: str, pid: int, reported: set[int]) -> bool:
    """Whether a process runs tasks or actors.

    `reported` holds the processes that answered a task or an actor call. Ray starts workers ahead
    of need, which may not have run anything; their title tells.
    """
    return pid in reported or command.startswith("ray::IDLE")

"""The switch that lets programs written for Ray run unchanged: ``import ray`` finds Shoal."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

VARIABLE = "SHOAL_AS_RAY"


class _Finder(MetaPathFinder):
    """Finds ``ray.x.y`` as the module ``shoal.x.y``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "ray" and not fullname.startswith("ray."):
            return None
        ours = "shoal" + fullname[len("ray") :]
        try:
            known = importlib.util.find_spec(ours)
        except ModuleNotFoundError:
            known = None
        if known is None:
            return None
        return ModuleSpec(fullname, _Loader(ours), is_package=known.submodule_search_locations is not None)


class _Loader(Loader):
    """Gives out the module of Shoal itself, not a copy: classes must be the same under both names."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.module = importlib.import_module(self.name)
        self.spec = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just labelled the module with the other name.
        module.__spec__ = self.spec


def install_as_ray() -> None:
    """Make ``import ray``, in this process and in its workers, import Shoal.

    Call it before `shoal.init`, and before anything imports Ray. ``python -m shoal run script.py``
    does it for a whole program.

    Raises:
        RuntimeError: Ray itself has been imported already.

    Example:
        >>> import shoal
        >>> shoal.install_as_ray()
        >>> import ray
        >>> ray.put is shoal.put
        True
    """
    import shoal

    loaded = sys.modules.get("ray")
    if loaded is shoal:
        return
    if loaded is not None:
        raise RuntimeError("Ray has been imported already; install Shoal in its place before that")
    sys.meta_path.insert(0, _Finder())
    sys.modules["ray"] = shoal


def install_if_asked() -> None:
    """Install in a worker what was installed in its driver."""
    if os.environ.get(VARIABLE) == "1":
        install_as_ray()


def is_installed() -> bool:
    """Whether ``import ray`` finds Shoal in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def name() -> str:
    """What programs call this package here."""
    return "ray" if is_installed() else "shoal"

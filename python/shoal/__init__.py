"""Shoal runs ordinary Python on a laptop or a cluster.

Functions become tasks, classes become actors, and values become objects in shared memory:

    >>> import shoal
    >>> @shoal.remote
    ... def square(x: int) -> int:
    ...     return x * x
    >>> shoal.get([square.remote(x) for x in range(4)])
    [0, 1, 4, 9]

The API is Ray's; see `shoal.init`, `shoal.remote`, `shoal.get`, `shoal.put` and `shoal.wait`.
"""

from __future__ import annotations

import sys as _sys

# Type checkers take it for true; importing it from typing would be most of what `import shoal` costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shoal import actor, exceptions, runtime_context, sim, util
    from shoal._cluster import (
        available_resources,
        cluster_resources,
        get_gpu_ids,
        nodes,
        timeline,
    )
    from shoal._decorator import remote
    from shoal._objects import cancel, get, put, wait
    from shoal._ray_compat import install_as_ray
    from shoal._session import init, is_initialized, shutdown
    from shoal._shoal import ObjectRef
    from shoal.actor import get_actor, kill, method
    from shoal.ids import (
        ActorClassID,
        ActorID,
        ClusterID,
        FunctionID,
        JobID,
        NodeID,
        PlacementGroupID,
        TaskID,
        UniqueID,
        WorkerID,
    )
    from shoal.job_config import JobConfig
    from shoal.logging_config import LoggingConfig
    from shoal.object_ref_generator import DynamicObjectRefGenerator, ObjectRefGenerator
    from shoal.runtime_context import get_runtime_context

    __version__: str

__all__ = [
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobConfig",
    "JobID",
    "LoggingConfig",
    "NodeID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "install_as_ray",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "runtime_context",
    "shutdown",
    "sim",
    "timeline",
    "util",
    "wait",
]

# Where each name comes from; imported at its first use, so that importing shoal costs nothing.
_ids = (
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "FunctionID",
    "JobID",
    "NodeID",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
)
_homes = {
    **dict.fromkeys(_ids, "ids"),
    "DynamicObjectRefGenerator": "object_ref_generator",
    "JobConfig": "job_config",
    "LoggingConfig": "logging_config",
    "ObjectRef": "_shoal",
    "ObjectRefGenerator": "object_ref_generator",
    "available_resources": "_cluster",
    "cancel": "_objects",
    "cluster_resources": "_cluster",
    "get": "_objects",
    "get_actor": "actor",
    "get_gpu_ids": "_cluster",
    "get_runtime_context": "runtime_context",
    "init": "_session",
    "install_as_ray": "_ray_compat",
    "is_initialized": "_session",
    "kill": "actor",
    "method": "actor",
    "nodes": "_cluster",
    "put": "_objects",
    "remote": "_decorator",
    "shutdown": "_session",
    "timeline": "_cluster",
    "wait": "_objects",
}
_modules = frozenset({"actor", "exceptions", "runtime_context", "runtime_env", "sim", "util"})


def __getattr__(name: str) -> Any:
    home = _homes.get(name)
    if home is not None:
        value = getattr(_load(home), name)
    elif name in _modules:
        value = _load(name)
    elif name == "__version__":
        value = _load("_shoal").version()
    else:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    globals()[name] = value
    return value


def _load(module: str) -> Any:
    name = f"{__name__}.{module}"
    # The import statement would load importlib's own helpers; this is what it calls.
    __import__(name)
    return _sys.modules[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

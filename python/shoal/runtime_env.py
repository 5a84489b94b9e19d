"""Surroundings of tasks and actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]

_KNOWN = frozenset(
    {
        "_inject_current_ray",
        "_nsight",
        "_rocprof_sys",
        "conda",
        "config",
        "container",
        "env_vars",
        "excludes",
        "image_uri",
        "java_jars",
        "pip",
        "py_executable",
        "py_modules",
        "uv",
        "worker_process_setup_hook",
        "working_dir",
    }
)
_SUPPORTED = frozenset({"env_vars", "config", "excludes"})


class RuntimeEnv(dict[str, Any]):
    """A dictionary that describes the surroundings of a job, a task or an actor.

    Supported now: ``env_vars``, a dictionary of environment variables. What else is asked for is
    refused with NotImplementedError when the work is submitted, and never ignored.

    Example:
        >>> from shoal.runtime_env import RuntimeEnv
        >>> RuntimeEnv(env_vars={"COLOUR": "green"})
        {'env_vars': {'COLOUR': 'green'}}
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__({name: value for name, value in fields.items() if value is not None})
        check_names(self)


class RuntimeEnvConfig(dict[str, Any]):
    """How surroundings are set up.

    Args:
        setup_timeout_seconds: Give up after this many seconds; -1 is never.
        eager_install: Set them up when the job starts instead of when they are first needed.
        log_files: Further files whose lines the driver prints.
    """

    def __init__(
        self,
        setup_timeout_seconds: int = 600,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        super().__init__(
            setup_timeout_seconds=setup_timeout_seconds,
            eager_install=eager_install,
            log_files=list(log_files or []),
        )


def check_names(runtime_env: Mapping[str, Any]) -> None:
    """ValueError when there is a field that nobody knows."""
    unknown = sorted(set(runtime_env) - _KNOWN)
    if unknown:
        raise ValueError(f"runtime_env has no field {', '.join(unknown)}")


def check(runtime_env: Mapping[str, Any]) -> None:
    """Refuse what cannot be honoured: NotImplementedError, or ValueError or TypeError if wrong."""
    check_names(runtime_env)
    unsupported = sorted(name for name in set(runtime_env) - _SUPPORTED if runtime_env[name] is not None)
    if unsupported:
        raise NotImplementedError(f"runtime_env cannot set up {', '.join(unsupported)} yet; only env_vars is supported")
    env_vars = runtime_env.get("env_vars")
    if env_vars is None:
        return
    if not isinstance(env_vars, dict):
        raise TypeError(f"runtime_env['env_vars'] is a dict, not {type(env_vars).__name__}")
    for name, value in env_vars.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"runtime_env['env_vars'] maps strings to strings, not {name!r}: {value!r}")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(f"{name!r} is not the name of an environment variable")

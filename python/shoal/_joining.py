"""How `shoal.init` finds or starts a cluster and joins it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal import _daemon, _labels, options
from shoal._session import RUNTIME_ENV_VARIABLE, Session

if TYPE_CHECKING:
    from shoal.job_config import JobConfig
    from shoal.logging_config import LoggingConfig

# Options of a new cluster that the daemon takes, besides the ordinary ones.
_DAEMON_RARE = frozenset({"_memory", "_node_name", "_temp_dir", "object_spilling_directory"})
# Known to programs written for Ray, and without meaning here: they tune parts that Shoal has not.
_IGNORED_RARE = frozenset(
    {
        "_driver_object_store_memory",
        "_enable_object_reconstruction",
        "_metrics_export_port",
        "_node_ip_address",
        "_plasma_directory",
        "_redis_password",
        "_redis_username",
        "_skip_env_hook",
        "_system_config",
        "_tracing_startup_hook",
        "cgroup_path",
        "enable_resource_isolation",
        "proxy_server_url",
        "system_reserved_cpu",
        "system_reserved_memory",
    }
)


@dataclass
class Plan:
    """What `init` was asked for, checked."""

    socket: str | None
    """The node to join; None starts one."""
    daemon: list[str]
    """Arguments of a daemon to start."""
    namespace: str
    runtime_env: Mapping[str, Any]
    variables: list[tuple[str, str]] = field(default_factory=list)


_STORE_BYTES_MIN = 16 << 20


def plan(
    *,
    address: str | None,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    labels: dict[str, str] | None,
    object_store_memory: int | None,
    local_mode: bool,
    job_config: JobConfig | None,
    logging_config: LoggingConfig | None,
    namespace: str | None,
    runtime_env: dict[str, Any] | None,
    rare: dict[str, Any],
) -> Plan:
    """Check the arguments of `init` without changing anything."""
    if local_mode:
        raise RuntimeError("local_mode is not supported; call the function itself to debug it")
    unknown = sorted(set(rare) - _DAEMON_RARE - _IGNORED_RARE)
    if unknown:
        raise RuntimeError(f"init has no argument {', '.join(unknown)}")
    if namespace == "":
        raise ValueError("a namespace cannot be empty")
    if object_store_memory is not None and object_store_memory < _STORE_BYTES_MIN:
        raise ValueError(f"the object store needs at least {_STORE_BYTES_MIN} bytes, not {object_store_memory}")
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"a namespace is a string, not {namespace!r}")
    if job_config is not None:
        namespace = namespace or job_config.ray_namespace
        runtime_env = runtime_env or job_config.runtime_env

    daemon = _daemon_arguments(num_cpus, num_gpus, resources, labels, object_store_memory, rare)
    socket = _find_node(address, rare.get("_temp_dir"))
    if socket is not None:
        _refuse_options_of_new_cluster(
            {
                "num_cpus": num_cpus,
                "num_gpus": num_gpus,
                "resources": resources,
                "labels": labels,
                "object_store_memory": object_store_memory,
                "_node_name": rare.get("_node_name"),
                "_system_config": rare.get("_system_config") or None,
            }
        )
    variables = options.variables(runtime_env)
    if runtime_env:
        variables.append((RUNTIME_ENV_VARIABLE, json.dumps(runtime_env)))
    if logging_config is not None:
        variables.append(logging_config.to_variable())
    from shoal import _ray_compat

    if _ray_compat.is_installed():
        variables.append((_ray_compat.VARIABLE, "1"))
    return Plan(socket, daemon, namespace or "", runtime_env or {}, variables)


def _refuse_options_of_new_cluster(given: Mapping[str, Any]) -> None:
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} can only be given when init starts a cluster, and a running one "
            'was found. Leave them out, or pass address="local" to start one.'
        )


def _daemon_arguments(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    labels: dict[str, str] | None,
    object_store_memory: int | None,
    rare: Mapping[str, Any],
) -> list[str]:
    memory, node_name = rare.get("_memory"), rare.get("_node_name")
    amounts = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "memory": memory,
    }
    for name, value in amounts.items():
        options.TASK_OPTIONS[name].validate(name, value)
    wrong = _labels.check_labels(labels)
    if wrong is not None:
        raise ValueError(wrong)
    if node_name is not None and not isinstance(node_name, str):
        raise TypeError(f"a node's name is a string, not {node_name!r}")
    if node_name is not None and not (0 < len(node_name.encode()) <= 255 and node_name.isprintable()):
        raise ValueError(f"a node's name has 1 to 255 bytes of printable text, unlike {node_name!r}")
    if object_store_memory is not None and object_store_memory <= 0:
        raise ValueError(f"object_store_memory is a number of bytes, not {object_store_memory}")
    arguments = {
        "--num-cpus": num_cpus,
        "--num-gpus": num_gpus,
        "--resources": json.dumps(resources) if resources else None,
        "--node-name": node_name,
        "--labels": json.dumps(labels) if labels else None,
        "--object-store-memory": None if object_store_memory is None else int(object_store_memory),
        "--memory": None if memory is None else int(memory),
        "--temp-dir": rare.get("_temp_dir"),
        "--object-spilling-directory": rare.get("object_spilling_directory"),
    }
    return [f"{name}={value}" for name, value in arguments.items() if value is not None]


# --- addresses --------------------------------------------------------------------------------


def _find_node(address: str | None, temp: str | None) -> str | None:
    """The socket of the node to join, or None to start one; ConnectionError if there is none."""
    if address == "local":
        return None
    if address in (None, "auto"):
        named = os.environ.get("SHOAL_ADDRESS")
        if named == "local":
            return None
        if named and named != "auto":
            return _socket_of(named, temp)
        running = find_running(temp)
        if running is None and (address == "auto" or named == "auto"):
            raise ConnectionError(
                "No running cluster was found on this machine. Start one with `shoal start "
                "--head`, or call init() without an address."
            )
        return running
    if not isinstance(address, str):
        raise TypeError(f"an address is a string, not {address!r}")
    return _socket_of(address, temp)


def _socket_of(address: str, temp: str | None) -> str:
    """The node's socket that `address` means: the cluster of that head, a session directory, or the socket."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit() and not os.path.exists(address):
        return _member_on_this_machine(host, int(port), temp)
    path = os.path.join(address, "node.sock") if os.path.isdir(address) else address
    if not _is_served(os.path.abspath(path)):
        raise ConnectionError(
            f"There is no cluster at {address!r}. An address is HOST:PORT of a cluster's head, a session "
            'directory or the path of a node\'s socket, "auto" or "local".'
        )
    return os.path.abspath(path)


def _member_on_this_machine(host: str, port: int, temp: str | None) -> str:
    """The socket of a node on this machine that belongs to the cluster of that head: the head's own if it is here."""
    import socket

    try:
        heads = {info[4][0] for info in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise ConnectionError(f"{host!r} is not the name of a machine: {error}") from None
    wanted = {f"[{head}]:{port}" if ":" in str(head) else f"{head}:{port}" for head in heads}
    members = [node for node in running_nodes(temp) if node["cluster"] in wanted]
    if not members:
        raise ConnectionError(
            f"No node of the cluster of {host}:{port} runs on this machine. Programs connect to a node beside "
            f"them: start one here with `shoal start --address={host}:{port}`."
        )
    return str(min(members, key=lambda node: bool(node["address"] != node["cluster"]))["socket"])


def running_nodes(temp: str | None = None) -> list[dict[str, Any]]:
    """What the nodes of this user on this machine say of themselves.

    `temp`: the directory below which sessions are kept.
    """
    base = os.path.join(temp or "/tmp", f"shoal-{os.getuid()}")
    found = []
    for name in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        try:
            with open(os.path.join(base, name, "node.json"), encoding="utf-8") as file:
                node = json.load(file)
        except (OSError, ValueError):
            continue
        if _is_served(node["socket"]):
            found.append(node)
    return found


def find_running(temp: str | None = None) -> str | None:
    """The socket of the node that ``shoal start`` runs on this machine, or None.

    `temp`: the directory below which sessions are kept.
    """
    try:
        with open(os.path.join(temp or "/tmp", f"shoal-{os.getuid()}", "current"), encoding="utf-8") as file:
            socket = file.read().strip()
    except OSError:
        return None
    return socket if _is_served(socket) else None


def _is_served(socket: str) -> bool:
    """Whether the daemon of this socket lives: then it holds the lock beside it."""
    import fcntl

    try:
        with open(os.path.join(os.path.dirname(socket), "lock"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# --- joining ----------------------------------------------------------------------------------


def join(plan: Plan, *, log_to_driver: bool | None) -> Session:
    """Start a node if need be, and join it."""
    from shoal import _logs, _shoal

    daemon = _daemon.Daemon(plan.daemon) if plan.socket is None else None
    socket = plan.socket or str(daemon.ready["socket"] if daemon else "")
    if log_to_driver is None:
        log_to_driver = os.environ.get("SHOAL_LOG_TO_DRIVER", "1") != "0"
    try:
        info = _shoal.connect(socket, plan.namespace, _launch(plan), _logs.print_output if log_to_driver else None)
    except BaseException:
        if daemon is not None:
            daemon.stop()
        raise
    return Session(info, daemon=daemon, socket=socket, runtime_env=plan.runtime_env)


def _launch(plan: Plan) -> dict[str, Any]:
    """How workers of this job are started: as this process was, in the same directory."""
    # An empty entry means the current directory, which a worker may change.
    module_path = [os.path.abspath(entry) for entry in sys.path]
    return {
        "python": sys.executable,
        "module_path": module_path,
        "working_directory": os.getcwd(),
        "variables": _environment(plan.variables),
        "preload": _preload(),
    }


# For whoever starts nodes: no program that runs on them needs these, and the head's log keeps environments.
_SECRETS = ("SHOAL_JOIN_SECRET", "SHOAL_ETCD_USER", "SHOAL_ETCD_PASSWORD")


def _environment(variables: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The whole environment of workers: this process's, and `variables` on top of it."""
    merged = {**os.environ, **dict(variables)}
    for name in (_daemon.SESSION_VARIABLE, *_SECRETS):
        merged.pop(name, None)
    # What is not Unicode cannot be passed on; no program can have set it in Python on purpose.
    return sorted((name, value) for name, value in merged.items() if _is_unicode(name + value))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _preload() -> list[str]:
    """Modules that a template imports once for all its workers."""
    named = os.environ.get("SHOAL_PRELOAD")
    if named is not None:
        return [name for name in named.split(",") if name]
    # Slow to import, and wanted by workers if the driver has it.
    return [name for name in ("numpy",) if name in sys.modules]


def configure_logging(level: int | str | None, record_format: str | None, config: LoggingConfig | None) -> None:
    """Set up the logger ``shoal`` of this process, if anything was asked for."""
    if config is not None:
        config.apply()
    if level is None and record_format is None:
        return
    import logging

    logger = logging.getLogger("shoal")
    if level is not None:
        logger.setLevel(level.upper() if isinstance(level, str) else level)
    if record_format is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(record_format))
        logger.handlers = [handler]
        logger.propagate = False

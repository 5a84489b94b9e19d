"""This process's membership in a cluster: joining it, leaving it, and what was learnt on joining."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from shoal._daemon import Daemon
    from shoal.job_config import JobConfig
    from shoal.logging_config import LoggingConfig


RUNTIME_ENV_VARIABLE = "SHOAL_RUNTIME_ENV"
"""Carries the job's `runtime_env` to workers, which show it in their runtime context."""


class Session:
    """What this process knows about the cluster it is part of."""

    def __init__(
        self, info: Mapping[str, Any], *, daemon: Daemon | None, socket: str, runtime_env: Mapping[str, Any]
    ) -> None:
        self.process: int = info["process"]
        self.node: int = info["node"]
        self.job: int = info["job"]
        self.namespace: str = info["namespace"]
        self.directory: str = info["session"]
        self.is_worker: bool = bool(info.get("is_worker", False))
        self.runtime_env = dict(runtime_env)
        self.daemon = daemon
        self.socket = socket


class SessionBound(Protocol):
    """Something that keeps what it has sent to a cluster, and must forget it when that is left."""

    def forget_session(self) -> None: ...


current: Session | None = None
"""The session, or None. Read by every call that needs one; set only in this module."""

_bound: weakref.WeakSet[SessionBound] = weakref.WeakSet()
_lock = threading.RLock()
_previous_sigterm: Any = None


def bind(thing: SessionBound) -> None:
    """Have `thing.forget_session()` called when this session ends."""
    _bound.add(thing)


def forget_exports() -> None:
    """Have everything that was sent to the cluster sent again before it is used."""
    for thing in list(_bound):
        thing.forget_session()


def find() -> Session | None:
    """The session, or None where this process has none. A worker's is there without `init`."""
    if current is None:
        _adopt_worker()
    return current


def require() -> Session:
    """The session; starts or joins a cluster if there is none.

    RuntimeError where ``SHOAL_ENABLE_AUTO_CONNECT=0`` forbids that.
    """
    session = find()
    if session is not None:
        return session
    if os.environ.get("SHOAL_ENABLE_AUTO_CONNECT", "1") == "0":
        from shoal._ray_compat import name

        raise RuntimeError(
            f"This process has not joined a cluster: call {name()}.init() first. (It would have "
            "been called now, but SHOAL_ENABLE_AUTO_CONNECT=0 forbids that.)"
        )
    with _lock:
        session = find()
        if session is None:
            init()
            session = find()
    assert session is not None
    return session


def _adopt_worker() -> None:
    """A worker is connected by the extension before any Python of ours runs."""
    global current
    if "shoal._shoal" not in sys.modules:
        # Nothing can have connected; `is_initialized` must not load the extension.
        return
    import json

    from shoal import _shoal

    if _shoal.is_connected():
        with _lock:
            if current is None:
                runtime_env = json.loads(os.environ.get(RUNTIME_ENV_VARIABLE, "{}"))
                info = _shoal.process_info()
                socket = os.path.join(info["session"], "node.sock")
                current = Session(info, daemon=None, socket=socket, runtime_env=runtime_env)


def enter_worker() -> None:
    """Do in a worker what its driver has asked for; called before it runs anything of the program."""
    from shoal import _logs, _ray_compat, logging_config

    _ray_compat.install_if_asked()
    _logs.name_streams()
    logging_config.apply_from_environment()


class Context(Mapping[str, Any]):
    """What `shoal.init` returns: facts about the cluster, and a context manager that leaves it.

    Example:
        >>> import shoal
        >>> with shoal.init(num_cpus=2) as context:
        ...     print(shoal.cluster_resources()["CPU"])
        2.0
        >>> shoal.is_initialized()
        False
    """

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is; empty if there is none."""
        return str(self.address_info["webui_url"] or "")

    def disconnect(self) -> None:
        """Leave the cluster, like `shoal.shutdown`."""
        shutdown()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disconnect()

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __repr__(self) -> str:
        return f"Context({self.address_info!r})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "localhost",
    dashboard_port: int | None = None,
    job_config: JobConfig | None = None,
    configure_logging: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    logging_config: LoggingConfig | None = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Context:
    """Join a cluster, starting one on this machine if need be.

    Args:
        address: Which cluster. None: the one that ``SHOAL_ADDRESS`` names, else the one that
            ``shoal start`` runs on this machine, else a new one. ``"auto"``: like None, but never
            a new one. ``"local"``: always a new one. Else a session directory or the path of a
            node's socket.
        num_cpus: CPUs of a new cluster; all of this machine by default.
        num_gpus: GPUs of a new cluster; those found by default.
        resources: Custom resources of a new cluster, amounts by name.
        labels: Labels of the node of a new cluster.
        object_store_memory: Bytes of shared memory for objects of a new cluster.
        ignore_reinit_error: Do nothing, instead of raising, when this process has joined already.
        namespace: Where names of actors count; one of this program alone by default.
        runtime_env: Surroundings of every worker of this program; ``env_vars`` is supported.
        job_config: More about this job; its namespace and runtime_env hold where the arguments
            of the same name are not given.
        logging_level: Level of the logger ``shoal`` in this process.
        logging_format: Format of the logger ``shoal`` in this process.
        logging_config: How log records look in this process and in workers.
        log_to_driver: Print what workers print; True by default.
        configure_logging: Whether the logging arguments have any effect.
        include_dashboard: Accepted for compatibility, like the other dashboard arguments: there
            is no dashboard yet.
        dashboard_host: See include_dashboard.
        dashboard_port: See include_dashboard.
        local_mode: No longer supported.
        **kwargs: Rare options: ``_memory`` (bytes that tasks may ask for), ``_temp_dir`` (where
            session directories go), ``object_spilling_directory``.

    Returns:
        Facts about the cluster; also a context manager that leaves it.

    Raises:
        ConnectionError: there is no cluster at the address.
        ValueError: a resource is impossible, or given although a running cluster is joined.
        RuntimeError: this process has joined already, or an argument is unknown.

    Example:
        >>> import shoal
        >>> context = shoal.init(num_cpus=2)
        >>> shoal.cluster_resources()["CPU"]
        2.0
        >>> shoal.shutdown()
    """
    from shoal import _joining

    with _lock:
        if is_simulated():
            # Programs are simulated as they are, and many begin with this.
            return Context(address_info())
        if find() is not None:
            if ignore_reinit_error:
                return Context(address_info())
            raise RuntimeError(
                "This process has joined a cluster already: leave it first with shutdown(), or "
                "pass ignore_reinit_error=True to go on with it."
            )
        plan = _joining.plan(
            address=address,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=resources,
            labels=labels,
            object_store_memory=object_store_memory,
            local_mode=local_mode,
            job_config=job_config,
            logging_config=logging_config,
            namespace=namespace,
            runtime_env=runtime_env,
            rare=kwargs,
        )
        if configure_logging:
            _joining.configure_logging(logging_level, logging_format, logging_config)
        _become(_joining.join(plan, log_to_driver=log_to_driver))
        return Context(address_info())


def _become(session: Session) -> None:
    global current
    current = session
    # Registered anew each time, so that it runs before what the program registered earlier.
    atexit.unregister(shutdown)
    atexit.register(shutdown)
    _install_sigterm_handler()


def shutdown(*, wait_for_processes: bool = False) -> None:
    """Leave the cluster, and stop it if `init` of this process has started it. Idempotent.

    Objects and actors of this process are gone afterwards; remote functions and actor classes can
    be used again after the next `init`. Also called when the interpreter exits.

    Args:
        wait_for_processes: Accepted for compatibility: it returns when the processes of a cluster
            that this process has started have ended in any case.

    Example:
        >>> import shoal
        >>> shoal.shutdown()
        >>> shoal.is_initialized()
        False
    """
    global current
    with _lock:
        session = current
        if session is None or session.is_worker or is_simulated():
            return
        from shoal import _shoal

        try:
            for thing in list(_bound):
                thing.forget_session()
            _bound.clear()
            _shoal.disconnect()
        finally:
            current = None
            _restore_sigterm_handler()
            if session.daemon is not None:
                session.daemon.stop()
    from shoal import _logs

    _logs.flush()


def is_simulated() -> bool:
    """Whether this thread belongs to a simulated cluster, see `shoal.sim`."""
    extension = sys.modules.get("shoal._shoal")
    return extension is not None and extension.simulated_process() is not None


def enter_simulation(info: Mapping[str, Any]) -> None:
    """This process simulates a cluster from now on: every simulated process has this session."""
    global current
    with _lock:
        assert current is None
        current = Session(info, daemon=None, socket="simulation", runtime_env={})


def leave_simulation() -> None:
    """The simulation ends."""
    global current
    with _lock:
        for thing in list(_bound):
            thing.forget_session()
        _bound.clear()
        current = None


def is_initialized() -> bool:
    """Whether this process has joined a cluster. True in every worker.

    Example:
        >>> import shoal
        >>> shoal.is_initialized()
        False
    """
    return find() is not None


def address_info() -> dict[str, Any]:
    """Facts about the cluster under the names that Ray's users know."""
    from shoal.ids import NodeID

    session = require()
    return {
        "node_ip_address": "127.0.0.1",
        "address": session.socket,
        "gcs_address": session.socket,
        "raylet_socket_name": session.socket,
        "object_store_address": None,
        "redis_address": None,
        "webui_url": "",
        "metrics_export_port": None,
        "session_dir": session.directory,
        "node_id": NodeID.from_number(session.node).hex(),
    }


# --- signals and forks ----------------------------------------------------------------------------


def _install_sigterm_handler() -> None:
    """Make SIGTERM run exit handlers, which stop what this process has started."""
    global _previous_sigterm
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        _previous_sigterm = signal.signal(signal.SIGTERM, _on_sigterm)


def _restore_sigterm_handler() -> None:
    global _previous_sigterm
    if threading.current_thread() is not threading.main_thread():
        return
    if _previous_sigterm is not None and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, _previous_sigterm)
    _previous_sigterm = None


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _after_fork_in_child() -> None:
    """A fork has no part in its parent's session, and must not keep the daemon alive."""
    global current
    session, current = current, None
    if session is not None and session.daemon is not None:
        session.daemon.forget()
    _bound.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

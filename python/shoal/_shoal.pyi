"""The extension module: it only converts and forwards. Private; the public API is in ``shoal``.

It calls back into Python:

- ``shoal._serialization.dumps(value)`` and ``loads(data, buffers)`` for values that it does not serialise itself;
- ``shoal._errors.to_exception(value)`` for what to raise for a deserialised error value, and
  ``from_failure(kind, fields)`` for a failure of the core: ``kind`` is the variant's name, ``fields`` has its fields by
  name; ids are bytes, a death or the cause of an actor's death is a dict with ``kind`` and its fields (``error``: the
  deserialised exception of a constructor, ``failure``: another such dict, ``death``, ``detail``);
- ``shoal._async.await_ref(ref)``, ``concurrent_future(ref)`` and ``as_future(ref)`` for the methods of that purpose.

A call through a handle of an earlier session raises ConnectionError.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar, final

from shoal.ids import JobID, TaskID

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

def version() -> str: ...
def main(program: list[str], arguments: list[str]) -> int:
    """Run the ``shoal`` command; returns its exit code."""

# --- session ----------------------------------------------------------------------------------

def connect(
    socket: str,
    namespace: str,
    launch: dict[str, Any],
    on_output: Callable[[int, int, bool, list[str]], None] | None,
) -> dict[str, Any]:
    """Join the node behind ``socket`` as a driver.

    ``launch``: python, module_path, working_directory, variables (list of pairs), preload.
    ``on_output(process, pid, is_stderr, lines)`` is called on a background thread.
    Returns process, node, job, namespace, session, cpus, segment. Raises ConnectionError.
    """

def disconnect() -> None:
    """Leave. Every blocked call of this process ends with an error. Idempotent."""

def is_connected() -> bool:
    """Whether this process has joined a node. Not so in a fork of a process that has."""

def ask(query: str, arguments: dict[str, Any]) -> Any:
    """Ask head or node: 'nodes', 'actors' (dead: bool), 'actor_by_name' (name, namespace),
    'put' (key, value: bytes, overwrite), 'get' (key), 'delete' (key), 'workers', 'store',
    'groups', 'group_by_name' (name, namespace).

    Returns plain dicts, lists, bytes, bools, or None for not found. A node: node, alive, name, host, total, free,
    labels (a dict). An actor: actor (bytes), job, label, name, namespace, incarnation, state, pid.
    A placement group: group (bytes), job, name, namespace, bundles, strategy, state, detail, nodes; 'group_by_name'
    returns a list with it. 'actor_by_name' returns (actor: Actor (weak), handle: bytes) or None.
    """

# --- objects ----------------------------------------------------------------------------------

@final
class ObjectRef(Generic[_T_co]):
    """A reference to a value that exists now or later. Counted: the value lives while one is left."""

    def __new__(cls, binary: bytes) -> Self: ...
    @staticmethod
    def nil() -> ObjectRef[Any]: ...
    @staticmethod
    def from_random() -> ObjectRef[Any]: ...
    @staticmethod
    def from_hex(text: str) -> ObjectRef[Any]: ...
    def owner_address(self) -> str: ...
    def call_site(self) -> str: ...
    def hex(self) -> str: ...
    def binary(self) -> bytes: ...
    def task_id_binary(self) -> bytes: ...
    def task_id(self) -> TaskID:
        """``shoal.ids.TaskID`` of ``task_id_binary``."""
    def job_id(self) -> JobID:
        """``shoal.ids.JobID.from_number`` of the session's job."""
    def is_nil(self) -> bool: ...
    @staticmethod
    def size() -> int:
        """How many bytes ``binary`` has."""
    def owner_process(self) -> int: ...
    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call back once the outcome is here (maybe at once, maybe on another thread)."""
    def future(self) -> Future[_T_co]: ...
    def as_future(self) -> Awaitable[_T_co]: ...
    def __await__(self) -> Generator[Any, None, _T_co]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Stream:
    """The consumer's end of a streaming generator."""

    def next(self, timeout: float | None = None) -> ObjectRef[Any] | None:
        """The next item's reference, or None after the last. Raises GetTimeoutError."""
    def is_next_ready(self) -> bool: ...
    def on_next_ready(self, callback: Callable[[], None]) -> None: ...
    def is_finished(self) -> bool: ...
    def completed(self) -> ObjectRef[Any]:
        """Ready when the generator's task has ended."""
    def close(self) -> None: ...

@final
class StoredBytes:
    """Bytes in the object store, for as long as somebody looks at them; they can only be read."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

def put(value: Any) -> ObjectRef[Any]: ...
def get(refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
    """All values in order; raises the first error."""

def get_one(ref: ObjectRef[_T], timeout: float | None) -> _T: ...
def wait_refs(
    refs: list[Any], num_returns: int, timeout: float | None, fetch: bool
) -> tuple[list[Any], list[Any]] | None:
    """The ready ones (at most ``num_returns``) and the others; None if not all are ObjectRefs.

    Raises ValueError if one is there twice or ``num_returns`` is out of range.
    """

def wait(
    refs: Sequence[ObjectRef[Any] | Stream], num_returns: int, timeout: float | None, fetch: bool
) -> tuple[list[int], list[int]]:
    """Indices of ready ones (at most ``num_returns``) and of the others, both in input order."""

def cancel(ref: ObjectRef[Any] | Stream, force: bool, recursive: bool) -> None: ...

# --- tasks ------------------------------------------------------------------------------------

@final
class Function:
    """A remote function with all options fixed. Build one per set of options and keep it."""

    def __new__(
        cls,
        *,
        code: bytes,
        name: str,
        resources: dict[str, float],
        strategy: str | tuple[int, bool, bool] | tuple[bytes, int, bool],
        labels: list[tuple[str, list[str], bool]],
        variables: list[tuple[str, str]],
        returns: int,
        backpressure: int,
        retries_max: int,
        retry_exceptions: bool | bytes,
        calls_max: int,
    ) -> Self:
        """``returns`` -1 is a stream; ``strategy`` is 'hybrid', 'spread', (node, soft) or
        (placement group, bundle or -1, whether what it submits runs there, too);
        ``labels`` are what its node's must be, each as key, values, whether these are excluded;
        ``retry_exceptions`` bytes is a pickled tuple of classes."""
    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """ObjectRef, list of them, None for no returns, or Stream."""

# --- actors -----------------------------------------------------------------------------------

@final
class Method:
    """A method of an actor class with all options fixed."""

    def __new__(
        cls,
        *,
        name: str,
        label: str,
        returns: int,
        backpressure: int,
        retries_max: int,
        retry_exceptions: bool | bytes,
        group: str,
        any_order: bool,
    ) -> Self: ...

@final
class Actor:
    """A counted reference to an actor (or a weak one). Hash and equality by id."""

    def binary(self) -> bytes: ...
    def hex(self) -> str: ...
    def is_weak(self) -> bool: ...
    def submit(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], pending_max: int) -> Any:
        """Like Function.submit. ``pending_max`` -1 is no limit, else PendingCallsLimitExceeded."""
    def kill(self, no_restart: bool) -> None: ...
    def ready(self) -> ObjectRef[None]:
        """Ready when the constructor has returned."""

def create_actor(
    *,
    code: bytes,
    label: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    placement: dict[str, float],
    running: dict[str, float],
    strategy: str | tuple[int, bool, bool] | tuple[bytes, int, bool],
    labels: list[tuple[str, list[str], bool]],
    variables: list[tuple[str, str]],
    restarts_max: int,
    name: str,
    namespace: str,
    detached: bool,
    asynchronous: bool,
    groups: list[tuple[str, int]],
    out_of_order: bool,
    handle: bytes,
) -> Actor:
    """Ask the head to make an actor. ``groups``: default group ('', limit) first.

    Waits for the head only if ``name`` is set; raises ActorAlreadyExistsError then.
    ``handle`` is what 'actor_by_name' gives back.
    """

# --- placement groups -----------------------------------------------------------------------------

def create_group(
    *,
    bundles: list[tuple[dict[str, float], list[tuple[str, list[str], bool]]]],
    strategy: str,
    name: str,
    namespace: str,
    detached: bool,
) -> bytes:
    """Ask the head to make a group; ValueError if it refuses. A bundle is its amounts, and for each
    label: key, values, whether these are excluded. ``strategy`` is 'PACK', 'SPREAD', … ."""

def remove_group(group: bytes) -> None: ...
def wait_group(group: bytes, timeout: float | None) -> bool:
    """Whether the group was placed in time. ValueError if it was removed."""

# --- serialization hooks ------------------------------------------------------------------------

def rebuild_reference(binary: bytes) -> ObjectRef[Any]:
    """What a pickled ObjectRef calls. Inside a value or arguments this registers a borrow."""

def rebuild_actor(binary: bytes, weak: bool) -> Actor: ...

# --- simulated clusters -------------------------------------------------------------------------

@final
class Simulation:
    """A simulated cluster; the thread that makes it is its driver. One at a time."""

    def __new__(
        cls,
        nodes: list[dict[str, Any]],
        seed: int,
        time_limit: float,
        patience: float,
        switch: Callable[[int], None],
    ) -> Self:
        """A node: cpus, store_bytes, resources, labels (lists of pairs). ``switch(process)`` is called when the
        code of another process goes on."""
    def describe(self) -> dict[str, Any]: ...
    def close(self, orderly: bool) -> list[str]: ...
    @property
    def now(self) -> float: ...
    @property
    def order(self) -> int: ...
    def pending(self) -> list[str]: ...
    def threads(self) -> list[tuple[str, int]]: ...
    def draw(self, limit: int) -> int: ...
    def nodes(self) -> list[int | None]: ...
    def workers(self) -> list[tuple[int, int, bytes | None]]: ...
    def kill_host(self, host: int, restarts: bool) -> None: ...
    def start_host(self, host: int) -> None: ...
    def kill_process(self, process: int) -> None: ...
    def block(self, source: int, to: int, seconds: float) -> None: ...
    def heal(self) -> None: ...
    def strike(self, kind: str, host: int, seconds: float) -> None: ...

@final
class SimulatedThread:
    """A new thread of the present simulated process."""

    def __new__(cls, name: str) -> Self: ...
    def begin(self) -> None:
        """The present thread is this one; waits for its turn."""
    def end(self) -> None: ...

def simulated_process() -> int | None:
    """The simulated process that the present thread belongs to."""

def simulated_time() -> tuple[int, int] | None:
    """Virtual nanoseconds since the beginning and since the epoch."""

def simulated_sleep(seconds: float) -> None: ...
def simulated_park(token: int, timeout: float | None, jobs: bool) -> bool:
    """Wait until ``simulated_unpark(token)``, or, with ``jobs``, until a call has come; False after the timeout."""

def simulated_unpark(token: int) -> None: ...
def simulated_exit(code: int) -> None:
    """End the present process."""

# --- inside a worker ----------------------------------------------------------------------------

def run_template(link: int, segment: int) -> dict[str, Any] | None:
    """Serve fork requests. Returns in each forked worker with what it needs (``variables``), in the template None."""

@final
class Construction:
    """The actor that this process is to be."""

    @property
    def asynchronous(self) -> bool: ...
    @property
    def groups(self) -> list[tuple[str, int]]: ...
    @property
    def devices(self) -> dict[str, list[int]]: ...
    def prepare(self) -> tuple[type, tuple[Any, ...], dict[str, Any]]:
        """The class and the arguments of its constructor."""
    def complete(self, instance: Any) -> None: ...
    def fail(self, exception: BaseException) -> None: ...

@final
class Assigned:
    """A call that an async actor is to run."""

    @property
    def label(self) -> str: ...
    @property
    def task_id(self) -> bytes: ...
    @property
    def is_stream(self) -> bool: ...
    def prepare(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]: ...
    def complete(self, value: Any) -> None: ...
    def fail(self, exception: BaseException) -> None: ...
    def abandon(self) -> None:
        """It ends the process: report nothing."""
    def must_wait_after(self, item: Any) -> bool: ...
    def wait_for_consumer(self) -> None: ...
    def end_stream(self) -> None: ...

def run_tasks(group: int | None = None) -> Construction | None:
    """Run tasks on this thread. Returns an actor to construct, or None when the process is to end."""

def poll_tasks(spin: bool) -> list[Assigned | None]:
    """The calls that have come; None at the end when the process is to end."""

def pollable() -> int:
    """A descriptor that is readable when ``poll_tasks`` would find something."""

def flush() -> None:
    """Write what waits to be written."""

def set_asynchronous(find: Callable[[], Assigned | None]) -> None:
    """``find()`` returns the call of the running coroutine."""

def on_cancel(cancel: Callable[[bytes], None]) -> None:
    """Call back with a task's id when that task is cancelled."""

def take_interrupt() -> bool:
    """Whether the task that runs now is to be interrupted; forgets it."""

def current_task() -> dict[str, Any] | None:
    """What this thread or coroutine runs: task (bytes), attempt, label, actor (bytes or None),
    actor_label, function, devices (dict name -> list of indices), resources; None in a driver."""

def current_group() -> tuple[bytes, bool] | None:
    """The placement group that this process works in, and whether what it submits runs there, too."""

def process_info() -> dict[str, Any]:
    """process, node, job, namespace, session, is_worker, actor (bytes|None), incarnation.

    In an actor also: actor_name (empty if it has none), actor_handle (the bytes given to ``create_actor``).
    """

def task_events() -> list[dict[str, Any]]:
    """What ran where: task, label, process, pid, start_micros, end_micros."""

def is_canceled() -> bool: ...
def exit_actor_requested() -> None:
    """Tell the node that this actor's end is intended."""

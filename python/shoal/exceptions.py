"""Everything Shoal raises on its own account.

All classes derive from `ShoalError`. An exception of the user's code arrives as `TaskError`, and at
the same time as an instance of the exception's own class, so ``except ValueError`` works across
processes. Names that Ray uses for the same thing are aliases at the end of this file.
"""

from __future__ import annotations

from typing import Any

from shoal._task_error import ShoalError, TaskError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "ChannelError",
    "ChannelTimeoutError",
    "CompiledGraphCapacityExceeded",
    "CrossLanguageError",
    "DirectTransportError",
    "GetTimeoutError",
    "LocalNodeDiedError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfBandReferenceError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "ShoalError",
    "ShoalSystemError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]


class _MessageError(ShoalError):
    """Base of the errors that consist of a message; `default` stands in when there is none."""

    default = ""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(self.default if message is None else message)

    @property
    def message(self) -> str:
        """What happened and what to do about it."""
        return str(self.args[0])


class CrossLanguageError(_MessageError):
    """An exception of a program in another language."""


class TaskCancelledError(ShoalError):
    """The task was cancelled with `shoal.cancel`, or because the task that submitted it was.

    Attributes:
        task_id: The task, a `shoal.TaskID`, or None where it is not known.
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        task = "The task" if self.task_id is None else f"Task {self.task_id.hex()}"
        return f"{task} was cancelled." + (f" {self.error_message}" if self.error_message else "")


class LocalNodeDiedError(_MessageError):
    """The node daemon that this process belongs to is gone."""

    default = (
        "The node daemon of this process is gone, and the process with it is cut off from the "
        "cluster. Its log is in the session's logs directory."
    )


class WorkerCrashedError(_MessageError):
    """The worker process died while it ran the task, and no retry was left."""

    default = (
        "The worker died while it ran this task, and no retry was left. Its output is in the "
        "session's logs directory; `max_retries` sets how often a task is tried again."
    )


class NodeDiedError(_MessageError):
    """The node died; the cluster's head has recorded its death."""

    default = "The node died."


class OutOfMemoryError(_MessageError):
    """The node was short of memory and killed the worker to relieve it."""

    default = (
        "The node was short of memory and killed this task's worker. Ask for more memory per task "
        "with the `memory` option, or run fewer at once with a larger `num_cpus`."
    )


class RpcError(_MessageError):
    """A message between processes could not be delivered.

    Attributes:
        rpc_code: A number for the kind of failure, or None.
    """

    def __init__(self, message: str, rpc_code: int | None = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.rpc_code)


class AuthenticationError(_MessageError):
    """The cluster did not accept this process."""


class UserCodeException(_MessageError):
    """Wraps an exception of the user's code; `retry_exceptions` looks at what it wraps."""


class ActorError(ShoalError):
    """A call of an actor's method did not finish, because of the actor and not of the call.

    Attributes:
        actor_id: The actor, in hexadecimal, or None where it is not known.
        error_msg: What happened.
    """

    default = "The actor failed before it finished this call."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str | None = None,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        message = self.default if error_msg is None else error_msg
        super().__init__(message)
        self.actor_id = actor_id
        self.error_msg = message
        self._actor_init_failed = actor_init_failed
        self._preempted = preempted

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.actor_id, self.error_msg, self._actor_init_failed, self._preempted)
        return _rebuild_actor_error, (type(self), fields)

    @property
    def actor_init_failed(self) -> bool:
        """Whether the actor's constructor raised."""
        return self._actor_init_failed

    @property
    def preempted(self) -> bool:
        """Whether the actor died because its node was taken away."""
        return self._preempted


def _rebuild_actor_error(kind: type[ActorError], fields: tuple[Any, ...]) -> ActorError:
    error = kind.__new__(kind)
    ActorError.__init__(error, *fields)
    return error


class ActorDiedError(ActorError):
    """The actor is dead for good: this call, and every later one, fails."""

    default = "The actor died before it finished this call."

    def __init__(
        self,
        cause: TaskError | str | None = None,
        actor_id: str | None = None,
        *,
        preempted: bool = False,
    ) -> None:
        if isinstance(cause, TaskError):
            text = f"The actor died because its constructor raised:\n{cause}"
        else:
            text = self.default if cause is None else cause
        super().__init__(actor_id, text, isinstance(cause, TaskError), preempted)


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; it may come back, and the call may have run."""

    def __init__(self, error_message: str, actor_id: str | bytes | None = None) -> None:
        name = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        super().__init__(
            name,
            f"The actor {name or ''} cannot be reached now: {error_message}. The call may or may "
            "not have run. Try again, or set `max_task_retries` where calls may run twice.",
        )


class ShoalSystemError(ShoalError):
    """Shoal itself failed."""

    def __init__(self, client_exc: object = "", traceback_str: str | None = None) -> None:
        super().__init__(client_exc, traceback_str)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        trace = f"\n{self.traceback_str}" if self.traceback_str else ""
        return f"System error: {self.client_exc}{trace}"


class StreamingGeneratorReplayInconsistentError(ShoalSystemError):
    """A generator that ran again yielded another number of items than before."""


class ChannelError(ShoalSystemError):
    """A channel of a compiled graph failed."""


class ChannelTimeoutError(ChannelError, TimeoutError):
    """A channel of a compiled graph was not ready in time."""


class CompiledGraphCapacityExceeded(ShoalSystemError):
    """A compiled graph has too many executions under way."""


class DirectTransportError(ShoalSystemError):
    """A direct transfer between devices failed."""


class ObjectStoreFullError(_MessageError):
    """The object store has no room, and nothing in it can be spilled to disk."""

    default = (
        "The object store is full of values that are in use and cannot be moved to disk. Drop "
        "references that are not needed, or give `object_store_memory` more bytes in `shoal.init`."
    )


class OutOfDiskError(_MessageError):
    """The disk has no room for values that the object store must move out."""

    default = (
        "The object store is full and the disk has no room to take values from it. Free space on "
        "the disk, or choose another directory with `object_spilling_directory` in `shoal.init`."
    )


class PlasmaObjectNotAvailable(_MessageError):
    """The value is not in this node's store."""


class GetTimeoutError(_MessageError, TimeoutError):
    """`shoal.get` with a timeout found a value not ready in time. The task goes on."""

    default = "The value was not ready in time. Its task goes on; ask again, or cancel it."


class ObjectLostError(ShoalError):
    """The value's bytes are gone, and it could not be made again.

    Attributes:
        object_ref_hex: The object, in hexadecimal.
    """

    reason = "All copies of it are lost, and there is no task to make it again."

    def __init__(self, object_ref_hex: str = "", owner_address: bytes | None = None, call_site: str = "") -> None:
        super().__init__(object_ref_hex, owner_address, call_site)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site

    def __str__(self) -> str:
        place = f"\nIts reference was made at {self.call_site}" if self.call_site else ""
        return f"The value of object {self.object_ref_hex} cannot be had. {self._detail()}{place}"

    def _detail(self) -> str:
        detail = getattr(self, "detail", None)
        return str(detail) if detail else self.reason


class ObjectFetchTimedOutError(ObjectLostError):
    """No copy of the value could be found in time."""

    reason = "No node that has a copy could be found in time."


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The value was freed although a reference to it is left: a fault in Shoal."""

    reason = "It was freed although a reference to it is left. This is a fault in Shoal."


class ObjectFreedError(ObjectLostError):
    """The value was freed while somebody still asked for it."""

    reason = "It was freed. Keep its reference for as long as the value is needed."


class OwnerDiedError(ObjectLostError):
    """The process that owned the value died and took it along."""

    reason = (
        "The process that made its reference has ended, and its value was neither ready nor may its task run "
        "again. Give the task a retry (`max_retries`), or keep the process that submits it alive until it ends."
    )


class ObjectReconstructionFailedError(ObjectLostError):
    """The value was lost, and running its task again did not bring it back."""

    reason = "Its task could not be run again. `max_retries` sets how often a task may be."


class AsyncioActorExit(ShoalError):
    """Ends an asynchronous actor; raised by `shoal.actor.exit_actor`. Do not catch it."""


class RuntimeEnvSetupError(ShoalError):
    """The surroundings that `runtime_env` asks for could not be set up."""

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        detail = f" {self.error_message}" if self.error_message else ""
        return f"The surroundings asked for by `runtime_env` could not be set up.{detail}"


class TaskPlacementGroupRemoved(WorkerCrashedError):
    """The placement group that the task ran in, or was to run in, is gone."""

    default = "The placement group that this task was to run in was removed."


class ActorPlacementGroupRemoved(ActorDiedError):
    """The placement group that the actor lived in, or was to live in, is gone."""

    default = "The placement group that this actor lived in was removed."


class PendingCallsLimitExceeded(_MessageError):
    """The handle has as many unfinished calls as its `max_pending_calls` allows."""

    default = (
        "This handle has as many unfinished calls as `max_pending_calls` allows. Wait for some "
        "of their results before calling again."
    )


class TaskUnschedulableError(_MessageError):
    """No node can ever run the task."""

    default = "No node of the cluster can ever run this task."

    def __str__(self) -> str:
        return f"The task cannot be scheduled: {self.message}"


class ActorUnschedulableError(_MessageError):
    """No node can ever run the actor."""

    default = "No node of the cluster can ever run this actor."

    def __str__(self) -> str:
        return f"The actor cannot be scheduled: {self.message}"


class ObjectRefStreamEndOfStreamError(_MessageError):
    """The generator ended before this item."""

    default = "The generator ended before this item."


class OutOfBandReferenceError(_MessageError):
    """A reference was pickled outside of Shoal, where that is forbidden."""


class UnserializableException(_MessageError):
    """An exception that could not be rebuilt here; the message is what it printed."""


class ActorAlreadyExistsError(ValueError, ShoalError):
    """A living actor of the namespace has this name."""


class ActorHandleNotFoundError(ValueError, ShoalError):
    """The handle belongs to another cluster or session."""


# The names that Ray's users know.
RayError = ShoalError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = ShoalSystemError
RayChannelError = ChannelError
RayChannelTimeoutError = ChannelTimeoutError
RayCgraphCapacityExceeded = CompiledGraphCapacityExceeded
RayDirectTransportError = DirectTransportError
LocalRayletDiedError = LocalNodeDiedError
OufOfBandObjectRefSerializationException = OutOfBandReferenceError

# Shown under the module that users import them from.
ShoalError.__module__ = __name__
TaskError.__module__ = __name__

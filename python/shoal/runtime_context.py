"""Where the caller runs: which job, node, worker, task and actor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal import _session, options
from shoal.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID, WorkerID

if TYPE_CHECKING:
    from shoal.actor import ActorHandle
    from shoal.runtime_env import RuntimeEnv

__all__ = ["RuntimeContext", "get_runtime_context"]

# How workers are told which devices are theirs, by resource.
_VISIBLE_DEVICES = {"GPU": "CUDA_VISIBLE_DEVICES"}


class RuntimeContext:
    """Where the caller runs. Made by `shoal.get_runtime_context`; ids are in hexadecimal."""

    def _task(self) -> Mapping[str, Any]:
        from shoal import _shoal

        _session.require()
        return _shoal.current_task() or {}

    def _process(self) -> Mapping[str, Any]:
        from shoal import _shoal

        _session.require()
        return _shoal.process_info()

    def get(self) -> dict[str, Any]:
        """Job, node, worker, task and actor as a dictionary; None for what there is not.

        Nothing is started: without a cluster everything is None.
        """
        if _session.find() is None:
            return dict.fromkeys(("job_id", "node_id", "worker_id", "task_id", "actor_id"))
        return {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "worker_id": self.get_worker_id(),
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
        }

    def get_job_id(self) -> str:
        """The job."""
        return JobID.from_number(self._process()["job"]).hex()

    def get_node_id(self) -> str:
        """The node."""
        return NodeID.from_number(self._process()["node"]).hex()

    def get_worker_id(self) -> str:
        """The process."""
        return WorkerID.from_number(self._process()["process"]).hex()

    def get_task_id(self) -> str | None:
        """The task, or None in a driver."""
        task = self._task().get("task")
        return None if task is None else TaskID(task).hex()

    def get_task_name(self) -> str | None:
        """The task's name, or None in a driver."""
        return self._task().get("label")

    def get_task_function_name(self) -> str | None:
        """The name of the function or ``Class.method`` that runs, or None in a driver."""
        return self._task().get("function")

    def get_actor_id(self) -> str | None:
        """The actor, or None outside of one."""
        actor = self._process().get("actor")
        return None if actor is None else ActorID(actor).hex()

    def get_actor_name(self) -> str | None:
        """The actor's name, empty if it has none, or None outside of an actor."""
        process = self._process()
        if process.get("actor") is None:
            return None
        return str(process.get("actor_name") or "")

    @property
    def namespace(self) -> str:
        """Where names of actors count."""
        return _session.require().namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor has been started again after its process died."""
        process = self._process()
        return process.get("actor") is not None and process["incarnation"] > 0

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle to this actor, which does not keep it alive; RuntimeError outside of one."""
        process = self._process()
        actor, description = process.get("actor"), process.get("actor_handle")
        if actor is None or description is None:
            raise RuntimeError("current_actor can only be asked for in an actor")
        from shoal import _actor_handle, _shoal

        described = _actor_handle.unpack(description)
        return _actor_handle.ActorHandle(_shoal.rebuild_actor(actor, True), *described, _session.require())

    def _group(self) -> tuple[bytes, bool] | None:
        from shoal import _shoal

        _session.require()
        return _shoal.current_group()

    def get_placement_group_id(self) -> str | None:
        """The placement group this runs in, or None."""
        group = self._group()
        return None if group is None else PlacementGroupID(group[0]).hex()

    @property
    def current_placement_group_id(self) -> str | None:
        """The placement group this runs in, or None."""
        return self.get_placement_group_id()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks submitted here run in the placement group of this one."""
        group = self._group()
        return group is not None and group[1]

    def get_assigned_resources(self) -> dict[str, float]:
        """What this task or actor holds: amounts by resource name. Empty in a driver."""
        return dict(self._task().get("resources") or {})

    def get_resource_ids(self) -> dict[str, list[str]]:
        """See `get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The devices that this task or actor may use, by resource name."""
        devices = self._task().get("devices") or {}
        found = {name: [str(index) for index in indices] for name, indices in devices.items()}
        for resource, variable in _VISIBLE_DEVICES.items():
            visible = os.environ.get(variable)
            if found.get(resource) and visible:
                # Under an outer restriction the driver's numbering differs from the node's.
                found[resource] = visible.split(",")
            found.setdefault(resource, [])
        return found

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this node."""
        from shoal._cluster import nodes

        here = self.get_node_id()
        return next((dict(n["Labels"]) for n in nodes() if n["NodeID"] == here), {})

    def get_runtime_env_string(self) -> str:
        """The surroundings of this job, as JSON."""
        import json

        return json.dumps(dict(self.runtime_env))

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The surroundings of this job."""
        from shoal.runtime_env import RuntimeEnv

        given = dict(_session.require().runtime_env)
        if options.inherited_variables:
            given["env_vars"] = {**(given.get("env_vars") or {}), **options.inherited_variables}
        return RuntimeEnv(**given)

    @property
    def gcs_address(self) -> str:
        """The address of the cluster."""
        return _session.require().socket

    def get_temp_dir(self) -> str:
        """The directory that session directories are in."""
        return os.path.dirname(_session.require().directory)

    def get_session_name(self) -> str:
        """The name of the session: the last part of its directory."""
        return os.path.basename(_session.require().directory)

    def is_canceled(self) -> bool:
        """Whether somebody has cancelled the task that runs here; for methods that can stop early.

        RuntimeError in an asynchronous method: that one gets asyncio.CancelledError.
        """
        import sys

        from shoal import _shoal

        _session.require()
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "is_canceled() has no meaning in an `async def` method: it is cancelled by asyncio.CancelledError"
            )
        return _shoal.is_canceled()

    @property
    def job_id(self) -> JobID:
        """The job."""
        return JobID.from_number(self._process()["job"])

    @property
    def node_id(self) -> NodeID:
        """The node."""
        return NodeID.from_number(self._process()["node"])

    @property
    def worker_id(self) -> WorkerID:
        """The process."""
        return WorkerID.from_number(self._process()["process"])

    @property
    def task_id(self) -> TaskID | None:
        """The task, or None in a driver."""
        task = self._task().get("task")
        return None if task is None else TaskID(task)

    @property
    def actor_id(self) -> ActorID | None:
        """The actor, or None outside of one."""
        actor = self._process().get("actor")
        return None if actor is None else ActorID(actor)


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Where the caller runs; joins or starts a cluster if there is none.

    Example:
        >>> import shoal
        >>> @shoal.remote
        ... def name():
        ...     return shoal.get_runtime_context().get_task_name()
        >>> shoal.get(name.options(name="a task").remote())
        'a task'
    """
    return _context

"""What a worker process does: run tasks, or be an actor, until it is told to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from shoal import _logs, _shoal, options

# The daemon's own mark of what a worker starts; nobody has asked for it.
_WORKER_VARIABLE = "SHOAL_WORKER"


def main(worker: Mapping[str, Any]) -> None:
    """Serve this worker's assignments. Returns when the process is to end."""
    os.environ.update(worker["variables"])
    asked_for = {name: value for name, value in worker["variables"] if name != _WORKER_VARIABLE}
    options.inherited_variables.update(asked_for)
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Lines reach the driver as they are printed.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    from shoal import _session

    _session.enter_worker()
    serve()


def serve() -> None:
    """Run tasks, or be an actor, until the process is to end."""
    construction = _shoal.run_tasks()
    if construction is not None:
        _be_actor(construction)


def _interrupted(number: int, frame: FrameType | None) -> None:
    # The signal may come late: then the task that it was meant for is over.
    if _shoal.take_interrupt():
        raise KeyboardInterrupt


def use_devices(devices: Mapping[str, Sequence[int]]) -> None:
    """Make the process see the devices it was given and no others.

    Indices count what this node's programs may see, so a visible-devices variable that was set
    before is translated.
    """
    variable = "CUDA_VISIBLE_DEVICES"
    indices = devices.get("GPU")
    if indices is None:
        if _given_devices is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = _given_devices
        return
    names = _given_devices.split(",") if _given_devices else None
    os.environ[variable] = ",".join(names[index] if names and index < len(names) else str(index) for index in indices)


_given_devices = os.environ.get("CUDA_VISIBLE_DEVICES")


def use_group(group: bytes | None) -> None:
    """Make what this process submits without saying where run in this placement group; None is anywhere."""
    if options.captured_group == group:
        return
    from shoal import _session

    options.captured_group = group
    # What was exported says where it runs.
    _session.forget_exports()


def _be_actor(construction: _shoal.Construction) -> None:
    use_devices(construction.devices) if construction.devices else None
    if construction.asynchronous:
        from shoal import _executor_async

        _executor_async.serve(construction)
        return
    if not construct(construction):
        # The node stops this process.
        _shoal.run_tasks()
        return
    groups = construction.groups
    if len(groups) == 1 and groups[0][1] == 1:
        _shoal.run_tasks(0)
        return
    threads = [
        threading.Thread(target=_serve_group, args=(group,), daemon=True, name=f"{name or 'default'}-{number}")
        for group, (name, limit) in enumerate(groups)
        for number in range(limit)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def construct(construction: _shoal.Construction) -> bool:
    """Run the constructor and report how it ended."""
    group, captures = _shoal.current_group() or (None, False)
    use_group(group if captures else None)
    try:
        cls, args, kwargs = construction.prepare()
        instance = cls(*args, **kwargs)
        if _shoal.simulated_process() is None:
            _logs.name_actor(instance)
    except SystemExit:
        raise
    except BaseException as error:
        construction.fail(error)
        return False
    construction.complete(instance)
    return True


def _serve_group(group: int) -> None:
    while True:
        try:
            _shoal.run_tasks(group)
        except SystemExit as request:
            # exit_actor() lets the other threads finish; sys.exit() means the process.
            from shoal.actor import _ActorExit

            if not isinstance(request, _ActorExit):
                _shoal.flush()
                code = request.code
                os._exit(code if isinstance(code, int) else 0 if code is None else 1)
            continue
        return

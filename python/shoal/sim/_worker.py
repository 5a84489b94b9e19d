"""What the main thread of a simulated worker runs."""

from __future__ import annotations

import contextlib
import threading
import traceback

from shoal import _executor, _shoal
from shoal.sim._errors import ProcessKilled


def serve(process: int) -> None:
    """Serve a worker's assignments until its process ends."""
    threading.current_thread().name = f"shoal-{process & 0xFFFFFFFF}"
    try:
        _executor.serve()
        # Returned because its process is to end, which the node sees to; or as a real one does, at its end.
        _shoal.simulated_exit(0)
    except ProcessKilled:
        pass
    except SystemExit as request:
        _exit(request)
    except BaseException:
        # As the interpreter does with a real one.
        traceback.print_exc()
        _exit(SystemExit(1))
    finally:
        # The interpreter keeps what it knows of threads that it has not started itself.
        threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]


def _exit(request: SystemExit) -> None:
    code = request.code
    with contextlib.suppress(ProcessKilled):
        _shoal.simulated_exit(code if isinstance(code, int) else 0 if code is None else 1)

"""Start a node daemon that lives no longer than this process.

The daemon is our own interpreter running nothing but the extension module, so it starts in
milliseconds. It holds the reading end of a pipe whose writing end is here: however this process
ends, the pipe closes, and the daemon stops everything it has started.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.exceptions import ShoalSystemError

SESSION_VARIABLE = "SHOAL_SESSION"
"""Names the session in every process that a node has started."""

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LOG_TAIL_BYTES = 4000

# Loads the extension by its path: no site-packages, no package import.
_BOOTSTRAP = """\
import _imp, sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
path = sys.argv[1]
spec = ModuleSpec("shoal._shoal", ExtensionFileLoader("shoal._shoal", path), origin=path)
module = _imp.create_dynamic(spec)
_imp.exec_dynamic(module)
sys.exit(module.main([sys.executable, *sys.orig_argv[1:sys.orig_argv.index(path) + 1]], sys.argv[2:]))
"""


def command() -> list[str]:
    """The command line that runs the ``shoal`` command; its arguments come after."""
    from shoal import _shoal

    path = _shoal.__file__
    if path is None:
        raise ShoalSystemError("the extension module was not loaded from a file")
    return [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, path]


class Daemon:
    """A running node daemon that this process started and owns."""

    def __init__(self, arguments: Sequence[str], prefix: Sequence[str] = ()) -> None:
        """Start it and wait until it serves; ShoalSystemError with its output if it does not.

        `prefix` is a command that becomes the command that follows it, as ``ip netns exec NAME`` does.
        """
        owner_reads, self._owner = os.pipe()
        ready, ready_writes = os.pipe()
        self._output = os.memfd_create("shoal-daemon-output")
        try:
            self._process = subprocess.Popen(
                [
                    *prefix,
                    *command(),
                    "daemon",
                    f"--owner-fd={owner_reads}",
                    f"--ready-fd={ready_writes}",
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(owner_reads, ready_writes),
                # Another node's mark would make this one look like something that a worker has left behind.
                env={name: value for name, value in os.environ.items() if name != SESSION_VARIABLE},
                # Ctrl-C in the terminal is for the program, which then stops the daemon.
                start_new_session=True,
            )
        except BaseException:
            os.close(self._owner)
            os.close(self._output)
            os.close(ready)
            raise
        finally:
            os.close(owner_reads)
            os.close(ready_writes)
        try:
            self.ready: Mapping[str, Any] = self._wait_until_ready(ready)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(ready)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether its process has."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End it and everything it started; returns when it has ended. Idempotent."""
        if self._owner < 0:
            return
        os.close(self._owner)
        self._owner = -1
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._output)

    def kill(self) -> None:
        """Kill it at once (SIGKILL); what it started ends by itself."""
        self._process.kill()
        self.stop()

    def forget(self) -> None:
        """Let go of it without ending it: called in a fork of the process that owns it."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _wait_until_ready(self, ready: int) -> Mapping[str, Any]:
        deadline = time.monotonic() + _START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([ready], [], [], left)[0]:
                raise self._failure(f"was not ready after {_START_SECONDS:.0f} seconds")
            part = os.read(ready, 65536)
            if not part:
                code = self._process.wait(_STOP_SECONDS)
                raise self._failure(f"ended with code {code} before it was ready")
            line += part
        message: Mapping[str, Any] = json.loads(line)
        if "error" in message:
            raise ShoalSystemError(f"the node daemon could not start: {message['error']}")
        return message

    def _failure(self, what: str) -> ShoalSystemError:
        size = os.fstat(self._output).st_size
        start = max(0, size - _LOG_TAIL_BYTES)
        tail = os.pread(self._output, _LOG_TAIL_BYTES, start).decode(errors="replace").strip()
        return ShoalSystemError(f"the node daemon {what}. It wrote:\n{tail or '(nothing)'}")

"""What these tests share: the module under test and ways to wait for something without guessing times.

Shoal has Ray's API and semantics, so every test here also runs against Ray. `SHOAL_TEST_API=ray` takes
Ray as the module under test, which checks the expectations themselves.

Workers import this module too, so it stays small.
"""

import functools
import importlib
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

NAME = os.environ.get("SHOAL_TEST_API", "shoal")
ON_SHOAL = NAME == "shoal"

# Long enough for the slowest machine; a test that waits this long has failed.
PATIENCE_SECONDS = 30 if ON_SHOAL else 90


@functools.cache
def submodule(path):
    """A module of the API under test: `submodule("util.queue")` is `shoal.util.queue`."""
    return importlib.import_module(f"{NAME}.{path}")


def __getattr__(name):
    # Imported at first use, so that tests which need no cluster do not load the API.
    if name == "api":
        return importlib.import_module(NAME)
    if name == "exceptions":
        return submodule("exceptions")
    raise AttributeError(name)


def wait_until(condition, timeout=PATIENCE_SECONDS, what="the condition"):
    """Poll `condition` until it is true and return its value; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout} seconds"
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


class Gate:
    """A door in the file system: processes wait at it until some process opens it.

    It needs nothing of the runtime under test, and it works when the runtime does not.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def open(self):
        self.path.touch()

    def is_open(self):
        return self.path.exists()

    def wait(self, timeout=PATIENCE_SECONDS):
        wait_until(self.is_open, timeout, f"opening of {self.path.name}")


class Tally:
    """A counter in the file system that counts across processes, also across those that die.

    Each mark is one line, so a line can carry who made it.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def mark(self, text="."):
        """Add one mark and return how many there are now, this one included."""
        # One write of a short line to a file opened for appending is atomic.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{text}\n".encode())
        finally:
            os.close(descriptor)
        return self.count()

    def marks(self):
        try:
            return self.path.read_text().splitlines()
        except FileNotFoundError:
            return []

    def count(self):
        return len(self.marks())

    def wait_for(self, count, timeout=PATIENCE_SECONDS):
        wait_until(lambda: self.count() >= count, timeout, f"{count} marks in {self.path.name}")


def number_of(node_id):
    """The number of the node with this id in hexadecimal digits."""
    return int(node_id[:8], 16)


class Counter:
    """What tests make actors of: it counts, and tells in which process."""

    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value

    def pid(self):
        return os.getpid()


def on(name, amount=0.01):
    """Options for work that goes to the node which has the resource of this name."""
    return {"resources": {name: amount}}


def daemon_log(node):
    """What the daemon of a node of a `Cluster` has written."""
    return pathlib.Path(node.session, "logs", "daemon.log").read_text()


def process_alive(pid):
    """Whether a process still runs; one that only waits for its parent to collect it does not."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The name in parentheses may hold anything, so the state is looked for after the last one.
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_until_gone(pid, timeout=PATIENCE_SECONDS):
    wait_until(lambda: not process_alive(pid), timeout, f"end of process {pid}")


def run_driver(source, directory, environment=None, arguments=(), timeout=PATIENCE_SECONDS * 2):
    """Run `source` as the main script of a driver of its own, and return the finished process.

    The script finds the API as `api`. Its output comes back as text.
    """
    process = start_driver(source, directory, environment, arguments)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the driver did not end\n--- stdout\n{out}\n--- stderr\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_driver(source, directory, environment=None, arguments=()):
    """Start `source` as `run_driver` does, and return the running process."""
    script = pathlib.Path(directory) / "driver.py"
    script.write_text(f"import {NAME} as api\n" + textwrap.dedent(source))
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_threads(function, count):
    """Call `function(i)` for each i below `count`, each in a thread of its own, and return the results."""
    results = [None] * count
    errors = []

    def call(index):
        try:
            results[index] = function(index)
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "a thread did not end"
    if errors:
        raise errors[0]
    return results

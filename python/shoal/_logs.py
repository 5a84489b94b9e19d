"""Print on the driver what workers print: with who it was, and repetitions summed up.

The same line from many workers is shown once and then counted; the count follows some seconds
later. ``SHOAL_DEDUP_LOGS=0`` shows everything.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any, NamedTuple

# A worker writes this before a line when its next lines belong to another task or actor. No line
# of a program starts with it.
NAME_MARK = "\x01shoal-name:"

_NUMBER = re.compile(r"[0-9a-fA-F]*[0-9][0-9a-fA-F]*")
_CYAN, _PLAIN = "\x1b[36m", "\x1b[0m"


class Line(NamedTuple):
    """A line that a worker wrote."""

    pid: int
    name: str
    is_stderr: bool
    text: str


class _Pattern:
    """Lines that differ in numbers alone, seen within one window."""

    __slots__ = ("count", "last", "shown_at", "sources")

    def __init__(self, line: Line, now: float) -> None:
        self.shown_at = now
        self.count = 0
        self.last = line
        self.sources = {line.pid}


class Deduplicator:
    """Decides which lines to show.

    A line is shown at once when it is new, or when only one process writes it. From others it is
    counted, and after `window` seconds the last one is shown with the count.
    """

    def __init__(
        self,
        window: float,
        allow: str | None = None,
        skip: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`allow` and `skip`: patterns of lines to show always, or never."""
        self._window = window
        self._allow = re.compile(allow) if allow else None
        self._skip = re.compile(skip) if skip else None
        self._clock = clock
        # In the order in which their windows end.
        self._patterns: dict[tuple[bool, str], _Pattern] = {}

    def feed(self, lines: list[Line]) -> list[Line]:
        """The lines to show now."""
        now = self._clock()
        shown = []
        for line in lines:
            if self._allow and self._allow.search(line.text):
                shown.append(line)
            elif self._skip and self._skip.search(line.text):
                continue
            elif self._is_new(line, now):
                shown.append(line)
        return shown + self.expired()

    def _is_new(self, line: Line, now: float) -> bool:
        key = _NUMBER.sub("", line.text)
        if not any(character.isalpha() for character in key):
            # Numbers are all that this line says.
            return True
        pattern = self._patterns.get((line.is_stderr, key))
        if pattern is None:
            self._patterns[line.is_stderr, key] = _Pattern(line, now)
            return True
        pattern.sources.add(line.pid)
        if len(pattern.sources) == 1:
            return True
        pattern.count += 1
        pattern.last = line
        return False

    def expired(self) -> list[Line]:
        """Summaries of the patterns whose window has ended."""
        now = self._clock()
        shown = []
        for key, pattern in list(self._patterns.items()):
            if now - pattern.shown_at < self._window:
                break
            del self._patterns[key]
            if pattern.count > 0:
                shown.append(_summary(pattern))
                # Go on counting in a new window.
                pattern.count = 0
                pattern.shown_at = now
                self._patterns[key] = pattern
        return shown

    def drain(self) -> list[Line]:
        """Summaries of everything that is still counted."""
        shown = [_summary(pattern) for pattern in self._patterns.values() if pattern.count > 0]
        self._patterns.clear()
        return shown

    def next_expiry(self) -> float | None:
        """Seconds until a summary is due, or None if none is."""
        due = [p.shown_at + self._window for p in self._patterns.values() if p.count > 0]
        return max(0.0, min(due) - self._clock()) if due else None


def _summary(pattern: _Pattern) -> Line:
    if pattern.count == 1:
        # A count of one says less than the line itself.
        return pattern.last
    text = f"{pattern.last.text} [repeated {pattern.count}x across cluster]"
    return pattern.last._replace(text=text)


class Printer:
    """Prints lines with prefix ``(name pid=…)``, in colour on a terminal."""

    def __init__(self, deduplicator: Deduplicator | None) -> None:
        self._deduplicator = deduplicator
        self._names: dict[tuple[int, bool], str] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self, process: int, pid: int, is_stderr: bool, lines: list[str]) -> None:
        """Print what a worker wrote; called on a thread of the extension."""
        with self._lock:
            named = self._read_names(process, pid, is_stderr, lines)
            if self._deduplicator is not None:
                named = self._deduplicator.feed(named)
                self._schedule_summary()
            _print(named)

    def flush(self) -> None:
        """Print the counts that are due later."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._deduplicator is not None:
                _print(self._deduplicator.drain())
            self._names.clear()

    def _read_names(self, process: int, pid: int, is_stderr: bool, lines: list[str]) -> list[Line]:
        named = []
        for text in lines:
            if text.startswith(NAME_MARK):
                self._names[process, is_stderr] = text[len(NAME_MARK) :]
            else:
                named.append(Line(pid, self._names.get((process, is_stderr), ""), is_stderr, text))
        return named

    def _schedule_summary(self) -> None:
        assert self._deduplicator is not None
        if self._timer is not None:
            return
        delay = self._deduplicator.next_expiry()
        if delay is None:
            return
        self._timer = threading.Timer(delay + 0.01, self._summarise)
        self._timer.daemon = True
        self._timer.start()

    def _summarise(self) -> None:
        with self._lock:
            self._timer = None
            assert self._deduplicator is not None
            _print(self._deduplicator.expired())
            self._schedule_summary()


def _print(lines: list[Line]) -> None:
    for line in lines:
        stream = sys.stderr if line.is_stderr else sys.stdout
        if stream is None:
            continue
        prefix = f"({line.name} pid={line.pid})" if line.name else f"(pid={line.pid})"
        if _is_coloured(stream):
            prefix = f"{_CYAN}{prefix}{_PLAIN}"
        try:
            # With its end in one piece, so that nothing of the program's own comes between.
            stream.write(f"{prefix} {line.text}\n")
        except (ValueError, OSError):
            # The program has closed its output; there is nowhere to print.
            continue
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            continue


def _is_coloured(stream: IO[str]) -> bool:
    chosen = os.environ.get("SHOAL_COLOR_PREFIX")
    if chosen is not None:
        return chosen == "1"
    try:
        return stream.isatty() and "NO_COLOR" not in os.environ
    except (AttributeError, ValueError):
        return False


def _deduplicator() -> Deduplicator | None:
    if os.environ.get("SHOAL_DEDUP_LOGS", "1") == "0":
        return None
    return Deduplicator(
        float(os.environ.get("SHOAL_DEDUP_LOGS_AGG_WINDOW_S", "5")),
        os.environ.get("SHOAL_DEDUP_LOGS_ALLOW_REGEX"),
        os.environ.get("SHOAL_DEDUP_LOGS_SKIP_REGEX"),
    )


_printer: Printer | None = None


def print_output(process: int, pid: int, is_stderr: bool, lines: list[str]) -> None:
    """Print what a worker wrote: the callback that a driver gives to the extension."""
    global _printer
    if _printer is None:
        _printer = Printer(_deduplicator())
    _printer(process, pid, is_stderr, lines)


def flush() -> None:
    """Print the counts that are due later; called when the session ends."""
    global _printer
    printer, _printer = _printer, None
    if printer is not None:
        printer.flush()


# --- in a worker --------------------------------------------------------------------------------


class NamedStream:
    """A worker's standard output or error: says whose lines follow, before the first of them."""

    def __init__(self, stream: Any, name: Callable[[], str]) -> None:
        """`name()` is the label of the task or actor that runs in the calling thread."""
        self._stream = stream
        self._name = name
        self._last = ""
        self._at_line_start = True

    def write(self, text: str) -> int:
        """Write, like any text stream."""
        if text:
            if self._at_line_start:
                name = self._name()
                if name and name != self._last:
                    self._last = name
                    self._stream.write(f"{NAME_MARK}{name}\n")
            self._at_line_start = text.endswith("\n")
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        """Write several texts, like any text stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


def name_streams() -> None:
    """Have this worker's output say whose it is."""
    sys.stdout = NamedStream(sys.stdout, _current_name)
    sys.stderr = NamedStream(sys.stderr, _current_name)


_actor_name: str | None = None


def name_actor(instance: Any) -> None:
    """Let an actor whose class says how it is shown name its lines that way."""
    global _actor_name
    shown_by: object = type(instance).__repr__
    if shown_by is not object.__repr__:
        _actor_name = repr(instance)


def _current_name() -> str:
    """What shows the actor that this process is, or the name of the task that this thread runs."""
    if _actor_name is not None:
        return _actor_name
    from shoal import _shoal

    task = _shoal.current_task()
    # A constructor runs before there is a task.
    actor = _shoal.process_info().get("actor_label") if task is None else task.get("actor_label")
    return str(actor or (task or {}).get("label") or "")

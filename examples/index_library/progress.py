"""A progress bar for terminals, and plain lines for everything else."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self

REDRAW_SECONDS = 0.05
PLAIN_LINES = 4
"""How many lines tell of the progress where there is no terminal."""


class Progress:
    """Shows on standard error how much of the work is done.

    Example:
        >>> with Progress("count", total=3) as progress:
        ...     for done in range(3):
        ...         progress.show(done + 1)
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._started = time.monotonic()
        self._drawn = 0.0
        self._lines = 0
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_terminal:
            print(file=sys.stderr)

    def show(self, done: int) -> None:
        """Show that `done` of the total are done; cheap enough to be called for each one."""
        if self._is_terminal:
            now = time.monotonic()
            if done == self._total or now - self._drawn >= REDRAW_SECONDS:
                self._drawn = now
                self._draw(done)
        elif done * PLAIN_LINES >= (self._lines + 1) * self._total:
            self._lines = done * PLAIN_LINES // self._total
            print(f"{self._label}: {self._text(done)}", file=sys.stderr)

    def say(self, text: str) -> None:
        """Print a line of text above the bar."""
        clear = "\r\x1b[2K" if self._is_terminal else ""
        print(f"{clear}{text}", file=sys.stderr)
        self._drawn = 0.0

    def _draw(self, done: int) -> None:
        text = self._text(done)
        room = shutil.get_terminal_size().columns - len(self._label) - len(text) - 6
        width = max(10, min(50, room))
        eighths = done * width * 8 // self._total
        bar = "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
        print(f"\r\x1b[2K{self._label} ▕{bar:<{width}}▏ {text}", end="", file=sys.stderr, flush=True)

    def _text(self, done: int) -> str:
        return f"{done}/{self._total} files, {time.monotonic() - self._started:.1f} s"

"""One line of progress with the time left: redrawn on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO


class Progress:
    """Progress over `total` units of work (any unit that takes roughly the same time).

    Args:
        total: units of work in all.
        quiet: print nothing.
        stream: where to print; redrawn in place when it is a terminal.
        every: seconds between two plain lines.
    """

    def __init__(
        self,
        total: float,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        every: float = 10.0,
    ) -> None:
        self.total, self.done, self.quiet = total, 0.0, quiet
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.every = 0.3 if self.terminal else every
        self.begun = time.monotonic()
        self.last = self.begun
        self.width = 0
        self._lock = threading.Lock()

    def advance(self, units: float, what: str) -> None:
        """Count `units` of finished work; `what` says what is going on. Threads may call it."""
        with self._lock:
            self.done += units
            now = time.monotonic()
            if self.quiet or now - self.last < self.every:
                return
            self.last = now
            self._line(now, what)

    def _line(self, now: float, what: str) -> None:
        left = (now - self.begun) / max(self.done, 1e-9) * max(0.0, self.total - self.done)
        share = min(99, int(100 * self.done / self.total))
        self._show(f"{share:3d} %  {what}, about {left:.0f} s left")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.clear()
        if not self.quiet:
            print(line, file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the redrawn line away."""
        if self.terminal and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
            self.width = 0

    def _show(self, text: str) -> None:
        if not self.terminal:
            print(text, file=self.stream, flush=True)
            return
        self.stream.write("\r" + text.ljust(self.width))
        self.stream.flush()
        self.width = len(text)

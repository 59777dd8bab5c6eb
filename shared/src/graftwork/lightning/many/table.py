"""What a shared run shows while it trains: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from graftwork.tenants.runner import Runner

#: seconds between two lines where there is no terminal
PAUSE = 10.0
MARKS = {"running": "", "done": "green", "failed": "red", "left": "dim"}


class Board:
    """Shows the runner's tenants.

    Args:
        counts: by name, the steps until a job is done.
        quiet: show nothing.
        console: where; stderr without.
        validated: by a job's name, its latest validation; `None`: there is none.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        quiet: bool = False,
        console: Console | None = None,
        validated: Callable[[str], Mapping[str, float]] | None = None,
    ) -> None:
        self.validated = validated
        self.counts, self.quiet = counts, quiet
        self.console = console or Console(file=sys.stderr)
        self.began = time.monotonic()
        self._said = self.began
        self._live: Live | None = None
        self._rows: dict[str, int] = {}

    def __enter__(self) -> Board:
        if not self.quiet and self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def show(self, runner: Runner) -> None:
        """After a round."""
        if self._live is not None:
            self._live.update(self.table(runner))
        elif not self.quiet and time.monotonic() - self._said >= PAUSE:
            self._said = time.monotonic()
            self.console.print(self.line(runner))

    def table(self, runner: Runner) -> Table:
        """One row for each tenant."""
        out = Table(title=f"round {runner.rounds}")
        more = ("validation",) if self.validated is not None else ()
        for name in ("job", "method", "status", "step", "loss", *more, "rows/s", "failures"):
            out.add_column(name, justify="left" if name in ("job", "method", "status") else "right")
        seconds = max(time.monotonic() - self.began, 1e-9)
        for row in runner.table():
            began = self._rows.setdefault(row["name"], row["rows"])
            out.add_row(
                row["name"],
                row["method"],
                row["status"],
                f"{row['step']}/{self.counts.get(row['name'], '?')}",
                "" if row["loss"] is None else f"{row['loss']:.4g}",
                *([self._validation(row["name"])] if more else []),
                f"{(row['rows'] - began) / seconds:.3g}",
                str(row["failures"] or ""),
                style=MARKS.get(row["status"], ""),
            )
        return out

    def line(self, runner: Runner) -> str:
        """The same in one line."""
        jobs = [
            f"{r['name']} {r['step']}/{self.counts.get(r['name'], '?')}"
            + ("" if r["loss"] is None else f" loss {r['loss']:.4g}")
            + (f" {said}" if (said := self._validation(r["name"])) else "")
            + ("" if r["status"] == "running" else f" {r['status']}")
            for r in runner.table()
        ]
        return f"round {runner.rounds}: " + ", ".join(jobs)

    def _validation(self, name: str) -> str:
        found = self.validated(name) if self.validated is not None else {}
        return ", ".join(f"{k} {v:.4g}" for k, v in found.items())

"""Trials that were run, kept in a file: a killed command goes on where it stopped, a failure costs one trial.

One JSON line for each trial, the first says for which sizes they hold. A trial that failed is told, leaves its error in
the file, and is tried again by the next command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic

Figures = dict[str, float]


class Failed(Figures):
    """No figures; `note` says why."""

    def __init__(self, note: str) -> None:
        super().__init__()
        self.note = note


class Kept:
    """Trials by name.

    Args:
        path: of the file; without one nothing is kept, and an error stops the command.
        about: what the figures hold for: sizes and device.

    Raises:
        GraftError: the file is of other sizes, or is no such file.
    """

    def __init__(self, path: Path | None = None, about: Mapping[str, Any] | None = None) -> None:
        self.path, self.began = path, time.monotonic()
        self.found: dict[str, tuple[Figures, float]] = {}
        self.before = 0.0  # seconds that earlier commands spent on what is kept
        if path is None:
            return
        head = json.dumps({"about": dict(about or {})}, sort_keys=True)
        lines = path.read_text(encoding="utf8").splitlines() if path.exists() else []
        if lines and lines[0] != head:
            raise GraftError(
                f"{path}: holds trials of {lines[0][:200]}, not of {head}; name another file with --jobs, or delete it"
            )
        for line in lines[1:]:
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a command that was killed
                continue
            if "figures" in entry:
                self.found[entry["name"]] = entry["figures"], entry["seconds"]
                self.before += entry["seconds"]
        # failures and a torn line go
        kept = [
            json.dumps({"name": n, "figures": f, "seconds": s}) for n, (f, s) in self.found.items()
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "\n".join([head, *kept]) + "\n")

    def run(self, name: str, trial: Callable[[], Figures]) -> Figures:
        """The figures of the trial `name`, from the file if it has them; `Failed` if it raised."""
        if self.path is None:
            return trial()
        if name in self.found:
            return dict(self.found[name][0])
        began = time.monotonic()
        try:
            figures = trial()
            seconds = round(time.monotonic() - began, 2)
            line: dict[str, Any] = {"name": name, "figures": figures, "seconds": seconds}
            self.found[name] = figures, seconds
        except Exception as error:  # another trial may do better
            figures = Failed(f"{type(error).__name__}: {error}"[:300])
            line = {"name": name, "error": figures.note}
        with self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(line) + "\n")
        spent = time.monotonic() - self.began
        print(
            f"{spent:.0f} s: {name}{': ' + figures.note if isinstance(figures, Failed) else ''}",
            flush=True,
        )
        return figures

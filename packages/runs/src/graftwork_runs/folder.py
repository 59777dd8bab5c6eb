"""The run folder: where every verb that trains or predicts leaves what it made.

    <root>/<app>/<name>/
      config.yaml    graft/    checkpoints/    report.html    record.json    predictions/

record.json is written last: a folder that has one is a finished run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graftwork.errors import GraftError
from graftwork_runs.files import unwritable, write_atomic

if TYPE_CHECKING:
    from graftwork_runs.record import Record
    from graftwork_runs.report import Report

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MARK = ".graftwork-run.json"  # what tells a run from a folder that only has the same name


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on disk. Make one with `create` or `adopt`, find it again with `open`."""

    path: Path

    @classmethod
    def create(
        cls,
        app: str,
        name: str = "run",
        root: str | os.PathLike[str] = "runs",
        *,
        overwrite: bool = False,
    ) -> RunFolder:
        """Make `<root>/<app>/<name>`; when that exists, `<name>-2`, `<name>-3` and so on.

        With `overwrite` a run of that name is replaced instead; a folder that is not a run never
        is. Raises GraftError for a bad name and for a place that cannot be written.
        """
        for field, value in (("app", app), ("name", name)):
            if not _NAME.fullmatch(value) or ".." in value:
                raise GraftError(
                    f"run {field} {value!r}: use letters, digits, '.', '_' and '-' only, "
                    "at most 100 of them, and start with a letter or digit."
                )
        home = Path(root).expanduser().absolute() / app
        try:
            home.mkdir(parents=True, exist_ok=True)
            if overwrite:
                _discard(home / name)
            path = _new_folder(home, name)
        except OSError as error:
            raise unwritable(home / name, error) from error
        return cls.adopt(path)

    @classmethod
    def adopt(cls, path: str | os.PathLike[str]) -> RunFolder:
        """A folder that somebody else made for a run, such as the command line of an app."""
        run = cls(Path(path).expanduser().absolute())
        write_atomic(run.path / _MARK, json.dumps({"app": run.app, "name": run.name}) + "\n")
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run, to resume or to read. Raises GraftError when there is none."""
        folder = Path(path).expanduser().absolute()
        if not (folder / _MARK).is_file():
            raise GraftError(f"{folder}: is not a run folder (it has no {_MARK}).")
        return cls(folder)

    @property
    def app(self) -> str:
        return self.path.parent.name

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def graft(self) -> Path:
        """The adapter folder; whoever saves the adapter makes it."""
        return self.path / "graft"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def checkpoints(self) -> Path:
        return self._sub("checkpoints")

    @property
    def predictions(self) -> Path:
        return self._sub("predictions")

    @property
    def finished(self) -> bool:
        return self.record.is_file()

    def write_config(self, config: Mapping[str, Any] | str) -> Path:
        """Save the resolved configuration, given as YAML text or as plain values."""
        if not isinstance(config, str):
            config = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        return write_atomic(self.config, config)

    def read_config(self) -> dict[str, Any]:
        """The saved configuration. Raises GraftError when it is missing or not YAML."""
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise GraftError(f"{self.config}: cannot be read as YAML ({error}).") from error
        if not isinstance(values, dict):
            raise GraftError(f"{self.config}: is not a YAML mapping of settings.")
        return values

    def write_report(self, report: Report) -> Path:
        return report.write(self.report)

    def write_record(self, record: Record) -> Path:
        """Save the record; do it last, because it marks the run as finished."""
        return record.write(self.record)

    def read_record(self) -> Record:
        from graftwork_runs.record import validate_record

        return validate_record(self.record)

    def _sub(self, name: str) -> Path:
        folder = self.path / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        return folder


def runs(root: str | os.PathLike[str] = "runs") -> Iterator[RunFolder]:
    """Every run under `root`, newest first. A missing root has none."""
    marks = Path(root).expanduser().absolute().glob(f"*/*/{_MARK}")
    for mark in sorted(marks, key=lambda mark: (-mark.stat().st_mtime, str(mark))):
        yield RunFolder(mark.parent)


def _new_folder(home: Path, name: str) -> Path:
    number = 1
    while True:
        path = home / (name if number == 1 else f"{name}-{number}")
        try:
            # mkdir is the test: two processes that ask at once get two folders.
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def _discard(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not (path / _MARK).is_file():
        raise GraftError(f"{path}: is not a run, so it is not replaced. Move it or choose a name.")
    # Renamed first: what is deleted half-way, when the process dies, is not the name itself.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    path.rename(aside)
    shutil.rmtree(aside)

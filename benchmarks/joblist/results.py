"""Jobs and their files. A job's result is one JSON file, named after the job and written whole or not at all.

A job whose file is there is done. So a killed run goes on with the jobs that lack a file, and several machines may
share out one list.
"""

from __future__ import annotations

import fnmatch
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic


class Job(Protocol):
    """An entry of a list: a frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The file's name without its ending; no two jobs of a list share it."""

    @property
    def waits_for(self) -> Job | None:
        """The job whose result must be there before this one can start."""


J = TypeVar("J", bound=Job)


class Results(Generic[J]):
    """The folder of job files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def job_of(self, raw: dict[str, Any]) -> J:
        """The job that a file holds; a ValueError, KeyError or TypeError where it holds none."""
        raise NotImplementedError

    def path(self, job: Job) -> Path:
        """Where a job's result is."""
        return self.folder / f"{job.name}.json"

    def done(self, job: Job) -> bool:
        """Whether a job's result is there."""
        return self.path(job).is_file()

    def ready(self, job: J) -> bool:
        """Whether what a job needs is there."""
        before = job.waits_for
        return before is None or self.done(before)

    def write(self, job: J, result: Mapping[str, Any]) -> None:
        """Write a job's result, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path(job), json.dumps({"job": asdict(job), **result}, indent=1) + "\n")

    def read(self, job: J) -> dict[str, Any]:
        """A job's result.

        Raises GraftError when it is missing or damaged.
        """
        return self._read(self.path(job))

    def all(self) -> list[dict[str, Any]]:
        """Every result in the folder, by name.

        Raises GraftError for a damaged file.
        """
        return [self._read(p) for p in self.files()]

    def files(self) -> list[Path]:
        """The files of finished jobs, by name."""
        return [p for p in sorted(self.folder.glob("*.json")) if not p.name.startswith(".")]

    def clean(self) -> None:
        """Remove what a killed run was writing; only while nobody else writes here."""
        for part in self.folder.glob(".*.tmp"):
            part.unlink(missing_ok=True)

    def pack(self, target: Path, also: Sequence[str] = ()) -> str:
        """All job files in one .tar.gz; a line that says how many and how large.

        `also`: globs of further files in the folder.
        """
        files, packed = self.files(), io.BytesIO()
        more = [p for glob in also for p in sorted(self.folder.glob(glob))]
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path in (*files, *more):
                archive.add(path, path.relative_to(self.folder).as_posix())
        write_atomic(target, packed.getvalue())
        return f"{target}: {len(files)} job files, {target.stat().st_size / 1e6:.1f} MB"

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.job_of(found["job"])
            found["status"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GraftError(
                f"{path}: is not a job's result ({error!r}); remove it, and run again"
            ) from None
        return dict(found)


def matching(jobs: Iterable[J], pattern: str | None) -> list[J]:
    """The jobs whose name holds `pattern`, a glob over the whole name where it has a star.

    Raises GraftError when it matches none.
    """
    jobs = list(jobs)
    if not pattern:
        return jobs
    glob = pattern if "*" in pattern else f"*{pattern}*"
    found = [job for job in jobs if fnmatch.fnmatchcase(job.name, glob)]
    if not found:
        raise GraftError(f"--jobs {pattern!r}: no job has such a name; see --plan for the names")
    return found

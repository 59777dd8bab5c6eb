"""Jobs that fail leave what they said, beside the results, until they are tried again."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.joblist.pool import told
from benchmarks.joblist.results import J, Job, Results

FAILED = "failed"  # folder beside the results


class NotedResults(Results[J]):
    """The folder of job files, with a note for each job that failed."""

    def note(self, job: Job) -> Path:
        """Where a job that failed leaves what it said."""
        return self.folder / FAILED / f"{job.name}.json"

    def clean(self) -> None:
        """Also forget what failed: it is tried again."""
        super().clean()
        for note in (self.folder / FAILED).glob("*.json"):
            note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def noting(self, job: Job) -> Iterator[None]:
        """Around a job: its note is written when it fails and removed when it does not; its memory is free after it."""
        import torch

        note = self.note(job)
        try:
            yield
        except Exception as error:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"error": told(error)}) + "\n", encoding="utf-8")
            raise
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        note.unlink(missing_ok=True)

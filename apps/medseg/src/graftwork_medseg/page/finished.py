"""Which graft the page takes when none is named: that of the newest finished demo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graftwork.errors import GraftError
from graftwork_runs import RunFolder, runs

ROOT = "runs"


def newest_demo(run_dir: str | None = None, root: str = ROOT) -> Path:
    """The adapter folder of the newest finished demo under `root`, or of the run in `run_dir`.

    Raises GraftError, with the command that makes one, when there is none.
    """
    if run_dir is not None:
        graft = Path(run_dir) / "graft"
        if not graft.is_dir():
            raise GraftError(
                f"demo --serve: {graft} does not exist; name the folder of a finished run"
            )
        return graft
    for run in _demos(root):
        return run.graft
    raise GraftError(
        f"demo --serve: no finished demo under {root}/medseg; run `medseg demo` first (or `make demo`), "
        "or name an adapter folder with --adapter"
    )


def _demos(root: str) -> Iterator[RunFolder]:
    for run in runs(root):
        if run.app == "medseg" and run.finished and run.graft.is_dir():
            try:
                record = run.read_record()
            except GraftError:
                continue  # damaged: it cannot say what it was
            if record.record == "medseg/demo":
                yield run

"""The loss curve: a CSV file in long form, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from graftwork.errors import GraftError

HEADER = "step,epoch,metric,value\n"


class CurveLogger(Logger):
    """Writes each logged number as one line `step,epoch,metric,value`.

    Values are printed so that reading them back gives the same float. The long form needs no list of
    columns in advance, so the file can be appended to and cut at any line.

    Args:
        folder: the run folder; the file is `<folder>/metrics.csv`.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.file = self.folder / "metrics.csv"
        self._length: int | None = None

    @property
    def name(self) -> str:
        """The curve's name: that of its folder."""
        return self.folder.name

    @property
    def version(self) -> str:
        """Empty: a run folder holds one run."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append the metrics of one step."""
        values = dict(metrics)
        epoch = int(values.pop("epoch", -1))
        lines = [f"{step},{epoch},{name},{float(values[name])!r}\n" for name in sorted(values)]
        self._append("".join(lines))

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run folder holds the whole config."""

    def state_dict(self) -> dict[str, int]:
        """Length in bytes of the curve so far, which is on disk when this returns; the first process alone writes."""
        if getattr(rank_zero_only, "rank", 0) != 0:
            return {"bytes": 0}
        if self._length is None:
            self._start(0)
        with self.file.open("rb") as out:
            os.fsync(out.fileno())
        assert self._length is not None
        return {"bytes": self._length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Cut the file back to `state`.

        Raises:
            GraftError: the file is shorter than the checkpoint says. (A missing file is started anew:
                a checkpoint may be resumed in another run folder.)
        """
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        self._start(state["bytes"])

    def _start(self, keep: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        old = self.file.read_bytes() if self.file.exists() else None
        if old is not None and not (
            old.startswith(HEADER.encode()) or HEADER.encode().startswith(old)
        ):
            raise GraftError(
                f"{self.file}: not a curve; its first line should be {HEADER.strip()!r}"
            )
        if old is not None and len(old) < keep:
            raise GraftError(
                f"{self.file}: {len(old)} bytes, but the checkpoint was written at {keep}; "
                "restore the file or resume in another run folder"
            )
        if not keep or old is None:
            self.file.write_text(HEADER, encoding="utf8")
            keep = len(HEADER)
        os.truncate(self.file, keep)
        self._length = keep

    def _append(self, text: str) -> None:
        if self._length is None:
            self._start(0)
        assert self._length is not None
        data = text.encode()
        with self.file.open("ab") as out:
            out.write(data)
        self._length += len(data)

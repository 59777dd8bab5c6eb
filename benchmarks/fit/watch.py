"""What is noted of a run, the same on both sides: every loss, the time of the steps, the peak of memory.

Losses stay on the device until the last step, and the device is waited for three times: no step waits for its figure.
Nothing of Lightning is loaded here: the other side has no use for it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fit.setting import checksum
from graftwork_runs.surroundings import peak_memory_bytes

#: steps before the clock of the steady state starts
WARM = 10


class Stopwatch:
    """Notes a run and writes it to a file.

    Args:
        result: the JSON file.
    """

    def __init__(self, result: str | Path) -> None:
        self.result = Path(result)
        self.losses: list[Tensor] = []
        self.marks: dict[str, float] = {}
        self.about: dict[str, Any] = {}

    def begin(self, model: nn.Module) -> None:
        """Before the first step: what is trained from where, and the clock."""
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
        values = sorted(float(p.detach().double().sum()) for p in trained.values())
        self.about = {
            "trained": sum(p.numel() for p in trained.values()),
            "trained_dtypes": sorted({str(p.dtype) for p in trained.values()}),
            # names differ between the sides; sums of the tensors do not
            "start": sum(values),
            "base": checksum({str(i): t for i, t in enumerate(frozen.values())}),
        }
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.marks["begin"] = _now()

    def after(self, step: int) -> None:
        """After step number `step`, from 1 on."""
        if step == WARM:
            self.marks["warm"] = _now()

    def end(self) -> None:
        """After the last step: the file."""
        self.marks["end"] = _now()
        cuda = torch.cuda.is_available()
        losses = torch.stack([loss.float() for loss in self.losses]).tolist()
        steps = len(losses)
        marks = self.marks
        found = {
            **self.about,
            "losses": losses,
            "begin": marks["begin"],
            "steps_seconds": marks["end"] - marks["begin"],
            "step_seconds": (marks["end"] - marks["warm"]) / (steps - WARM)
            if steps > WARM
            else (marks["end"] - marks["begin"]) / steps,
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else peak_memory_bytes(),
        }
        self.result.parent.mkdir(parents=True, exist_ok=True)
        self.result.write_text(json.dumps(found), encoding="utf8")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()  # a busy neighbour does not count

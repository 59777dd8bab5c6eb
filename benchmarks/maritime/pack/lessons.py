"""The grafts that answer live: what they learn, and how they are trained.

The first learns a ship's part alone; the second goes on with it, and learns a ship's part and a coast station's by
halves, of other scenarios.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.maritime.pack.jobs import LIVE_BOTH, LIVE_GRAFT
from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic

FORM, EPOCHS, BATCH = "live", 2, 16
AT_ONCE = 50  # scenarios of which a process composes the lessons
SPLITS = ("test", "val", "train")  # the longest last: what it does not need is in no other's way


@dataclass(frozen=True)
class Stage:
    """A training.

    Args:
        data: folder of its lessons, in the headline's data.
        count: of lessons; 100 and 20 more for validation and test.
        seed: of scenarios and lessons. watches: share of the lessons in which the model is the coast station.
        rate: of AdamW. plays: the parts that it has learnt. after: the stage whose graft it goes on with.
    """

    data: str
    count: int
    seed: int
    watches: float
    rate: float
    plays: tuple[str, ...] = ("ship",)
    after: str | None = None

    def counts(self, tiny: bool = False) -> dict[str, int]:
        """Lessons of each split."""
        return dict.fromkeys(SPLITS, 4) if tiny else {"test": 20, "val": 100, "train": self.count}


STAGES = {
    LIVE_GRAFT: Stage("live", 16000, 0, 0.0, 1e-3),
    LIVE_BOTH: Stage("live-both", 8000, 1, 0.5, 5e-4, ("ship", "coast"), LIVE_GRAFT),
}


def prepare(stage: Stage, data: Path, workers: int = 1, tiny: bool = False) -> None:
    """Compose a stage's lessons: exchanges with a scripted station, each with its scenario.

    The files do not depend on `workers`, the number of processes.
    """
    folder = data / stage.data
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for split, count in stage.counts(tiny).items():
            starts = [(stage, split, n) for n in range(0, 2 * count, AT_ONCE)]
            lines: list[str] = []
            for found in pool.imap(_lessons, starts):  # in order
                lines += found
                if len(lines) >= count:
                    break
            write_atomic(folder / f"{split}.jsonl", "\n".join(lines[:count]) + "\n")
            print(f"{stage.data}, {split}: {count} dialogues", flush=True)


def _lessons(start: tuple[Stage, str, int]) -> list[str]:
    """Lessons of the next scenarios from a number on, where lessons are about their kind."""
    from graftwork_maritime.dialogues import Dialogue
    from graftwork_maritime.lessons import LEARNT_KINDS, either
    from graftwork_maritime.model.data import split_seed
    from graftwork_maritime.scenario import Engine

    stage, split, first = start
    engine, seed = Engine("coastal", exercise=True), split_seed(stage.seed, split)
    lines = []
    for index in range(first, first + AT_ONCE):
        scenario = engine.scenario(seed, index)
        if scenario.kind in LEARNT_KINDS:
            form, turns = either(scenario, seed, stage.watches)
            one = Dialogue(
                tuple(turns), scenario.id, scenario.as_dict(), scenario.category, {"form": form}
            )
            lines.append(json.dumps(one.to_json(), ensure_ascii=False))
    return lines


def run_of(out: Path, key: str) -> Path:
    """The run folder of a stage; its graft is in it."""
    return out / ("run" if key == LIVE_GRAFT else key)


def fit(key: str, data: Path, base: str, out: Path, device: str, tiny: bool = False) -> None:
    """Train a stage's graft into `out`, or go on with what a stopped run left; nothing where it is there.

    Raises GraftError when the training ends with an error.
    """
    from graftwork_maritime.app import APP

    stage, run = STAGES[key], run_of(out, key)
    if stage.after is None:
        begins = ["--graft", "graftwork.LoRA", "--graft.rank", "8" if tiny else "32"]
    else:
        begins = ["--adapter", str(run_of(out, stage.after) / "graft")]
    words = [
        "fit", "--config", "folder", "--data.path", str(data / stage.data), "--data.form", FORM,
        "--model.base", base, "--data.batch_size", str(2 if tiny else BATCH), "--data.longest", "8192", *begins,
        "--optimizer", "torch.optim.AdamW", "--optimizer.lr", str(stage.rate),
        "--trainer.max_epochs", "1" if tiny else str(EPOCHS), "--trainer.gradient_clip_val", "1.0",
        "--trainer.accelerator", "gpu" if device == "cuda" else device, "--trainer.devices", "1",
        "--run_dir", str(run),
    ]  # fmt: skip
    if (run / "graft").is_dir():
        return
    if (run / "checkpoints" / "last.ckpt").is_file():
        words.append("--resume")
    else:  # what was stopped before its first checkpoint begins again
        shutil.rmtree(run, ignore_errors=True)
    code = APP.main(words)
    if code:
        raise GraftError(f"maritime fit ended with {code}; see its message above")

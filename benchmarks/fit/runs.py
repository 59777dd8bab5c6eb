"""One run of one side in its own fresh process, and where its figures lie.

A finished run is kept under the work folder and not repeated, so that the command can be called again after a time
limit. What failed is tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import graftwork as gw
from benchmarks.fit.setting import LINEARS, RANK, base, setting, write_tokens
from graftwork.store.hf_write import to_peft

OURS = "graftwork"
WHOLE_LOGITS = "graftwork, whole logits"
PEFT = "peft, "
#: settings of peft that are tried, and their arguments
PEFT_SETTINGS: dict[str, list[str]] = {
    "peft, default": [],
    "peft, default, bf16 autocast": ["--autocast"],
    "peft, autocast_adapter_dtype=False": ["--factors", "base"],
    "peft, autocast_adapter_dtype=False, bf16 autocast": ["--factors", "base", "--autocast"],
    "peft, autocast_adapter_dtype=False, 2 loader workers": ["--factors", "base", "--workers", "2"],
}
Found = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One process.

    Args:
        case: name of the setting.
        variant: `OURS`, `WHOLE_LOGITS` or a key of `PEFT_SETTINGS`.
        steps: optimizer steps.
        repeat: which repetition.
    """

    case: str
    variant: str
    steps: int
    repeat: int


@dataclass(frozen=True)
class Work:
    """The folder in which runs keep their files.

    Args:
        folder: where.
        seconds: after which a process is ended and its run counts as failed.
        threads: of a CPU.
    """

    folder: Path
    seconds: float = 400.0
    threads: int = 1

    def prepare(self, case: str, steps: int) -> Path:
        """Token ids and the factors that both sides start from, made once; the folder."""
        here = self.folder / case / f"steps-{steps}"
        if (here / "ready").exists():
            return here
        s, device = setting(case), "cuda" if torch.cuda.is_available() else "cpu"
        write_tokens(here / "ids.safetensors", s, steps)
        model = base(s, device)
        graft = gw.graft(model, gw.LoRA(RANK), sites=[f"*.{n}" for n in LINEARS], seed=0)
        gw.save(graft, here / "start", overwrite=True)
        to_peft(graft, here / "start-peft", overwrite=True)
        del model, graft
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        (here / "ready").write_text("")
        return here

    def result(self, run: Run) -> Found | None:
        """What a finished run found, or `None`."""
        path = self._place(run) / "found.json"
        return json.loads(path.read_text("utf8")) if path.exists() else None

    def measure(self, run: Run) -> Found:
        """The figures of a run, from its file or from a new process; `error` alone where it failed."""
        kept = self.result(run)
        if kept is not None:
            return kept
        shared = self.prepare(run.case, run.steps)
        place = self._place(run)
        place.mkdir(parents=True, exist_ok=True)
        noted = place / "noted.json"
        noted.unlink(missing_ok=True)
        words = arguments_of(run, shared, place, noted)
        log = place / "log.txt"
        wall, begun = time.perf_counter(), _clock()
        try:
            with log.open("w") as out:
                code = subprocess.run(
                    [sys.executable, *words], stdout=out, stderr=subprocess.STDOUT,
                    env=surroundings(self.threads, self.folder / "bytecode"), timeout=self.seconds, check=False,
                ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {self.seconds:g} s"}
        seconds = _clock() - begun
        if code != 0 or not noted.exists():
            return {"error": f"exit {code}: {last_line(log)}"[:300]}
        found = {
            **divided(seconds, begun, json.loads(noted.read_text("utf8"))),
            "wall_seconds": time.perf_counter() - wall,
        }
        (place / "found.json").write_text(json.dumps(found), encoding="utf8")
        return found

    def _place(self, run: Run) -> Path:
        word = hashlib.sha256(run.variant.encode()).hexdigest()[:8]
        return self.folder / run.case / f"steps-{run.steps}" / f"{word}-{run.repeat}"


def arguments_of(run: Run, shared: Path, place: Path, noted: Path) -> list[str]:
    """The arguments of a run's process, after `python`; our side's config is written into `place`."""
    ids = str(shared / "ids.safetensors")
    if run.variant in PEFT_SETTINGS:
        return [
            "-m", "benchmarks.fit.peft_trainer", "--setting", run.case, "--tokens", ids,
            "--adapter", str(shared / "start-peft"), "--out", str(place / "trained"),
            "--result", str(noted), "--steps", str(run.steps), *PEFT_SETTINGS[run.variant],
        ]  # fmt: skip
    n = 1
    folder = place / "run"
    while folder.exists():  # of a run that failed
        n += 1
        folder = place / f"run-{n}"
    config = {
        "model": {"setting": run.case, "chunked_loss": run.variant != WHOLE_LOGITS},
        "data": {"file": ids, "batch": setting(run.case).batch},
        "adapter": str(shared / "start"),
        "trainer": {
            "max_steps": run.steps,
            "logger": _named("graftwork.lightning.curve.CurveLogger", folder=str(folder)),
            "callbacks": [_named("benchmarks.fit.cli.Watch", result=str(noted))],
        },
        "lr_scheduler": _named(
            "torch.optim.lr_scheduler.LinearLR",
            start_factor=1.0,
            end_factor=0.0,
            total_iters=run.steps,
        ),
        "run_dir": str(folder),
    }
    file = place / "run.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf8")
    return ["-m", "benchmarks.fit.app", "fit", "--config", str(file), "--quiet"]


def _named(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def surroundings(threads: int, bytecode: Path) -> dict[str, str]:
    """The processes' environment: one GPU (the Trainer would split a batch over several), `threads` on a CPU.

    Compiled modules are kept in the folder `bytecode`, as an installation keeps them: where libraries lie in a folder
    that cannot be written, or a setting of the shell forbids it, each process would compile thousands anew.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    given = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **given,
        "PYTHONPYCACHEPREFIX": str(bytecode),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "CUDA_VISIBLE_DEVICES": first,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _clock() -> float:
    """Seconds of the clock beside a GPU; on a CPU processor time of the processes that ended."""
    if torch.cuda.is_available():
        return time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def divided(seconds: float, begun: float, noted: Mapping[str, Any]) -> Found:
    """A process's seconds: before its first step, in the steps, after the last one.

    Args:
        seconds: of the whole process.
        begun: beside a GPU when it began, by the clock that it notes by; on a CPU it notes its own processor time.
        noted: by the process.
    """
    first = noted["begin"] - (begun if torch.cuda.is_available() else 0.0)
    after = seconds - first - noted["steps_seconds"]
    return {"process_seconds": seconds, "before_seconds": first, "after_seconds": after, **noted}


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in log.read_text("utf8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two runs started from the same base and the same factors (float32 factors on both sides)."""
    same = a["base"] == b["base"] and a["trained"] == b["trained"]
    return same and abs(a["start"] - b["start"]) <= 1e-2 * max(1.0, abs(a["start"]))

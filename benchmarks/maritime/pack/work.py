"""Runs a job of the list by the benchmark that it belongs to; the result is that benchmark's own file."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.joblist import pool
from benchmarks.maritime import headline
from benchmarks.maritime.pack.jobs import (
    CONTAMINATION,
    HEADLINE,
    LIVE,
    LIVE_GRAFT,
    SLOTS,
    Job,
    Results,
    contamination_jobs,
    headline_jobs,
)  # fmt: skip
from benchmarks.maritime.slots import work as slots
from graftwork.errors import GraftError
from graftwork_runs.files import write_atomic

LIVE_DATA = "live"  # folder of the dialogues that the live graft learns, in the headline's data
FORM, LIVE_RATE, EPOCHS, BATCH = "live", 1e-3, 2, 16
LESSONS = {"train": 16000, "val": 100, "test": 20}
AT_ONCE = 50  # scenarios of which a process composes the lessons


@dataclass(frozen=True)
class Setting:
    """How jobs are run.

    Args:
        data: what the headline's `prepare` and this list's wrote.
        slots: what the slot extractor's `prepare` wrote.
        base: a folder, or tiny.
    """

    data: str
    slots: str
    base: str
    out: str
    device: str = "cpu"
    tiny: bool = False

    def folder(self, part: str) -> Path:
        """Where a part's results are."""
        return Path(self.out) / part


class Bench:
    """Runs jobs, and keeps what those of a part share."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.results = setting, Results(setting.out)

    def run(self, job: Job) -> dict[str, Any]:
        """Do a job; how long it took.

        Raises what the part's benchmark raises, or GraftError with what it noted.
        """
        parts: dict[str, Callable[[str], None]] = {
            HEADLINE: self._headline, SLOTS: self._slots, CONTAMINATION: self._contamination, LIVE: self._live,
        }  # fmt: skip
        import torch

        begun = time.perf_counter()
        self.setting.folder(job.part).mkdir(parents=True, exist_ok=True)
        # as each benchmark's own command has it: rows of this run stand beside rows of those
        torch.backends.cuda.matmul.allow_tf32 = job.part == CONTAMINATION
        with self.results.noting(job):
            parts[job.part](job.key)
        return {"status": "done", "wall": round(time.perf_counter() - begun, 2)}

    def _headline(self, key: str) -> None:
        _done(self._headline_work, headline_jobs()[key])

    def _slots(self, key: str) -> None:
        [job] = [job for job in slots.listed() if job.name == key]
        _done(self._slots_work, job)

    def _contamination(self, key: str) -> None:
        [job] = [job for job in contamination_jobs(self.setting.tiny) if job.name == key]
        self._contamination_bench.run(job)

    def _live(self, key: str) -> None:
        begun = time.perf_counter()
        if key == LIVE_GRAFT:
            self._fit()
        else:
            self._exchange(key)
        done = {"seconds": round(time.perf_counter() - begun, 2)}
        write_atomic(self.setting.folder(LIVE) / f"{key}.json", json.dumps(done))

    def _fit(self) -> None:
        """Train the graft that answers, on lessons."""
        from graftwork_maritime.app import APP

        s = self.setting
        words = [
            "fit", "--config", "folder", "--data.path", str(Path(s.data) / LIVE_DATA), "--data.form", FORM,
            "--model.base", s.base, "--data.batch_size", str(2 if s.tiny else BATCH), "--data.longest", "8192",
            "--graft", "graftwork.LoRA", "--graft.rank", "8" if s.tiny else "32",
            "--optimizer", "torch.optim.AdamW", "--optimizer.lr", str(LIVE_RATE),
            "--trainer.max_epochs", "1" if s.tiny else str(EPOCHS), "--trainer.gradient_clip_val", "1.0",
            "--trainer.accelerator", "gpu" if s.device == "cuda" else s.device, "--trainer.devices", "1",
            "--run_dir", str(self._live_run),
        ]  # fmt: skip
        if (self._live_run / "graft").is_dir():
            return
        if (self._live_run / "checkpoints" / "last.ckpt").is_file():
            words.append("--resume")
        else:  # what was stopped before its first checkpoint begins again
            shutil.rmtree(self._live_run, ignore_errors=True)
        code = APP.main(words)
        if code:
            raise GraftError(f"maritime fit ended with {code}; see its message above")

    def _exchange(self, key: str) -> None:
        from benchmarks.maritime import live

        s = self.setting
        said, _, part = key.partition("-")
        lines = s.folder(LIVE) / f"{key}.jsonl"
        words = [
            "--partner", "model", "--base", s.base, "--adapter", str(self._live_run / "graft"), "--form", FORM,
            "--device", s.device, "--wordings", said, "--part", part.replace("of", "/"), "--lines", str(lines),
        ]  # fmt: skip
        live.main([*words, *(["--tiny"] if s.tiny else [])])
        text = lines.read_text("utf8") if lines.is_file() else ""  # none where parts are many
        known = [json.loads(line) for line in text.splitlines()]
        held = {(line["variant"], line["scenario"]) for line in known if "error" not in line}
        failed = [
            line["error"]
            for line in known
            if "error" in line and (line["variant"], line["scenario"]) not in held  # tried again
        ]
        if failed:
            raise GraftError(f"{lines}: {len(failed)} exchanges failed: {failed[0]}")

    @property
    def _live_run(self) -> Path:
        return self.setting.folder(LIVE) / "run"

    @cached_property
    def _headline_work(self) -> headline.Work:
        s = self.setting
        size = headline.Size.tiny() if s.tiny else headline.Size()
        return headline.Work(Path(s.data), s.base, s.folder(HEADLINE), s.device, size)

    @cached_property
    def _slots_work(self) -> slots.Work:
        s = self.setting
        size = slots.Size.tiny() if s.tiny else slots.Size()
        return slots.Work(Path(s.slots), s.base, s.folder(SLOTS), s.device, size)

    @cached_property
    def _contamination_bench(self) -> Any:
        from benchmarks.contamination import __main__ as command
        from benchmarks.contamination.work import Bench as Contamination

        s = self.setting
        words = ["run", "--out", str(s.folder(CONTAMINATION)), "--device", s.device]
        words += ["--tiny"] if s.tiny else ["--model", s.base]
        return Contamination(command.setting_of(command.options().parse_args(words)))


def _done(work: headline.Runs, job: headline.Job) -> None:
    """Run one job of the headline's kind.

    Raises GraftError with the last line of what it noted when it fails.
    """
    if headline.run(work, [job], None):
        noted = (work.out / f"{job.name}.error.txt").read_text("utf8").strip().splitlines()
        raise GraftError(noted[-1])


def prepare(data: Path, counts: dict[str, int], workers: int = 1) -> None:
    """Compose what the live graft learns: exchanges with a scripted coast station, each with its scenario.

    The files do not depend on `workers`, the number of processes.
    """
    folder = data / LIVE_DATA
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        # the longest last: what it does not need is in no other's way
        for split, count in sorted(counts.items(), key=lambda item: item[1]):
            starts = [(split, n) for n in range(0, 2 * count, AT_ONCE)]
            lines: list[str] = []
            for found in pool.imap(_lessons, starts):  # in order
                lines += found
                if len(lines) >= count:
                    break
            write_atomic(folder / f"{split}.jsonl", "\n".join(lines[:count]) + "\n")
            print(f"{split}: {count} dialogues", flush=True)


def _lessons(start: tuple[str, int]) -> list[str]:
    """Lessons of the next scenarios from a number on, where lessons are about their kind."""
    from graftwork_maritime.dialogues import Dialogue
    from graftwork_maritime.lessons import LEARNT_KINDS, lesson
    from graftwork_maritime.model.data import split_seed
    from graftwork_maritime.scenario import Engine

    split, first = start
    engine, seed, lines = Engine("coastal", exercise=True), split_seed(0, split), []
    for index in range(first, first + AT_ONCE):
        scenario = engine.scenario(seed, index)
        if scenario.kind in LEARNT_KINDS:
            turns = lesson(scenario, seed)
            one = Dialogue(turns, scenario.id, scenario.as_dict(), scenario.category)
            lines.append(json.dumps(one.to_json(), ensure_ascii=False))
    return lines


def summary(result: dict[str, Any]) -> str:
    """A result in a few words."""
    return str(result["status"])


def start(setting: Setting, number: int) -> pool.Worker[Job]:
    """Start worker `number`."""
    return pool.start_process(_serve, setting, number)


def _serve(line: Connection, setting: Setting, number: int) -> None:
    pool.take_seat(number, setting.device)
    pool.prepare_process(setting.device)
    pool.answer(line, Bench(setting).run, ())

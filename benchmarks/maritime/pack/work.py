"""Runs a job of the list by the benchmark that it belongs to; the result is that benchmark's own file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.joblist import pool
from benchmarks.maritime import headline
from benchmarks.maritime.pack import lessons
from benchmarks.maritime.pack.jobs import (
    AS_COAST,
    CONTAMINATION,
    HEADLINE,
    LIVE,
    LIVE_BOTH,
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
        if key in lessons.STAGES:
            s = self.setting
            lessons.fit(key, Path(s.data), s.base, s.folder(LIVE), s.device, s.tiny)
        else:
            self._exchange(key)
        done = {"seconds": round(time.perf_counter() - begun, 2)}
        write_atomic(self.setting.folder(LIVE) / f"{key}.json", json.dumps(done))

    def _exchange(self, key: str) -> None:
        from benchmarks.maritime import live

        s = self.setting
        said, _, part = key.removeprefix(AS_COAST).partition("-")
        watches = key.startswith(AS_COAST)
        role, stage = ("coast", LIVE_BOTH) if watches else ("ship", LIVE_GRAFT)
        lines = s.folder(LIVE) / f"{key}.jsonl"
        graft = lessons.run_of(s.folder(LIVE), stage) / "graft"
        words = [
            "--partner", "model", "--base", s.base, "--adapter", str(graft), "--form", lessons.FORM,
            "--device", s.device, "--once", "--role", role, "--wordings", said, "--part", part.replace("of", "/"),
            "--lines", str(lines),
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

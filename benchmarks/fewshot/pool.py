"""Worker processes that share a machine's GPUs, fed job by job by a parent that watches the clock.

Workers are spawned, not forked: a CUDA context does not survive a fork. They take the GPUs by turns, and each sees its
own alone. Each keeps the volumes that it has read. A job
is started only when its estimate says that it ends in time; Ctrl-C loses the jobs at work and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from graftwork.errors import GraftError

from .jobs import EVERYWHERE, Job, Results
from .work import JUDGE_STEPS, Bench, Setting

MARGIN = 1.25  # of an estimate, before the clock is asked
GRACE = 20.0  # seconds after the deadline until jobs at work are given up
FIRST = {
    "hippocampus": 0.05,
    "openkbp-site": 0.12,
}  # seconds of a unit of work, until something was measured


def units_of_work(job: Job, steps: int) -> float:
    """How long a job is, in training steps of its task: what scales between arms and kinds, roughly."""
    test = 60.0
    if job.kind == "verdict":
        return 7 * JUDGE_STEPS + 3 * test
    if job.arm in EVERYWHERE and job.budget is not None:
        return 10.0  # it may not fit, which is soon said
    searched = 600 + 20 * 40 * 0.7 if job.arm == "sea-peft" else 0.0
    return steps + test + searched


@dataclass
class Clock:
    """Estimates from what was measured: by arm where one of its jobs is done, else by units of work."""

    steps: int
    by_arm: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)

    def note(self, job: Job, seconds: float) -> None:
        """Learn from a job that took `seconds`."""
        self.by_arm.setdefault(self._key(job), []).append(seconds)
        self.rates.setdefault(job.task, []).append(seconds / units_of_work(job, self.steps))

    def estimate(self, job: Job) -> float:
        """Seconds of a job on one worker."""
        same = self.by_arm.get(self._key(job))
        if same:
            return statistics.median(same)
        known = self.rates.get(job.task)
        unit = statistics.median(known) if known else FIRST[job.task]
        return unit * units_of_work(job, self.steps)

    @staticmethod
    def _key(job: Job) -> tuple[str, ...]:
        return (job.kind, job.task, job.arm, "capped" if job.budget else "")

    @classmethod
    def read(cls, results: Results, steps: int) -> Clock:
        """From the folder's finished jobs."""
        clock = cls(steps)
        for found in results.all():
            if "wall" in found:
                clock.note(Job(**found["job"]), found["wall"])
        return clock


@dataclass
class Worker:
    """A process, the line to it, and the job that it is at."""

    process: Any
    line: Connection
    job: Job | None = None


def run_all(
    jobs: Sequence[Job],
    setting: Setting,
    *,
    workers: int,
    deadline: float | None,
    say: Callable[[str], None],
) -> int:
    """Run what lacks a file; returns how many jobs failed.

    Args:
        jobs: in their order.
        deadline: time.monotonic() by which all shall have ended; a job whose estimate was far too low is given up
            `GRACE` later. None: no limit.
        say: takes progress lines.

    Raises:
        KeyboardInterrupt: after the workers are ended; the jobs at work are lost.
    """
    results = Results(setting.out)
    clock = Clock.read(results, setting.training_steps)
    waiting = [job for job in jobs if not results.done(job)]
    total, failed, done = len(waiting), 0, 0
    if not waiting:
        return 0
    crew = [_start(setting, i) for i in range(min(workers, total))]
    idle = {w.line: w for w in crew}
    begun = time.monotonic()
    try:
        while waiting or len(idle) < len(crew):
            for line, worker in list(idle.items()):
                job = _next(waiting, results, clock, deadline)
                if job is None:
                    break
                waiting.remove(job)
                worker.job = job
                line.send(job)
                del idle[line]
            if len(idle) == len(crew):
                break  # nothing more ends in time, or what is left waits for what is missing
            if deadline is not None and time.monotonic() > deadline + GRACE:
                late = [w.job.name for w in crew if w.job is not None]
                say(f"out of time; given up: {', '.join(late)}")
                break
            for line in wait([w.line for w in crew if w.line not in idle], timeout=1.0):
                worker = next(w for w in crew if w.line is line)
                job = worker.job
                assert job is not None
                try:
                    kind, value = line.recv()  # type: ignore[union-attr]
                except EOFError:
                    kind, value = "failed", "its process ended"
                    crew.remove(worker)
                else:
                    idle[worker.line] = worker
                worker.job = None
                done += 1
                if kind == "failed":
                    failed += 1
                    say(f"{job.name} FAILED: {value}")
                    continue
                clock.note(job, value["wall"])
                left = sum(map(clock.estimate, waiting)) / max(1, len(crew))
                say(
                    f"[{done}/{total}] {job.name}: {summary(value)}, {value['wall']:.0f} s; "
                    f"{time.monotonic() - begun:.0f} s gone, about {left:.0f} s to go"
                )
            if not crew:
                raise GraftError("--workers: every worker process ended; see the failures above")
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.process.join()
    left_over = sum(not results.done(job) for job in jobs)
    if left_over:
        say(f"{left_over} of {len(jobs)} jobs are left; the same command goes on")
    return failed


def summary(result: dict[str, Any]) -> str:
    """A result in a few words."""
    if result["status"] != "done":
        return str(result["status"])
    if "said" in result:
        return f"said {result['said']['word']}, true {result['true']['word']}"
    return f"Dice {result['dice']:.4f}, {result['trained']:,d} trained"


def _next(
    waiting: Iterable[Job], results: Results, clock: Clock, deadline: float | None
) -> Job | None:
    """The first job that can start and ends in time."""
    for job in waiting:
        before = job.waits_for
        if before is not None and not results.done(before):
            continue
        if deadline is None or time.monotonic() + MARGIN * clock.estimate(job) < deadline:
            return job
    return None


def _start(setting: Setting, number: int) -> Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, setting, number), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, mine)


def _serve(line: Connection, setting: Setting, number: int) -> None:
    """Worker `number`: takes jobs until the parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if setting.device == "cuda":
        see_one_gpu(number)
    prepare_process(setting.device, setting.tuned)
    bench = Bench(setting)
    while True:
        try:
            job = line.recv()
        except EOFError:
            return
        try:
            line.send(("done", _short(bench.run(job))))
        except Exception as error:  # the other jobs go on; the parent says what happened
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if isinstance(error, GraftError) else f" ({last.filename}:{last.lineno})"
            line.send(("failed", f"{type(error).__name__}: {error}{where}"))


def _short(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k not in ("scores", "losses", "own", "test")}


def see_one_gpu(number: int) -> None:
    """Hide from this process all GPUs but one, by turns; before it uses any."""
    import torch

    count = torch.cuda.device_count()  # asks the driver, starts no context
    if count > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number % count]


def prepare_process(device: str, tuned: bool = True) -> None:
    """Set torch's switches: one thread a worker; on a GPU TF32, and kernels chosen by trial unless not `tuned`.

    Raises GraftError when there is no GPU for a device other than "cpu".
    """
    import warnings

    import torch

    torch.set_num_threads(1)
    if device != "cpu":
        if not torch.cuda.is_available():
            raise GraftError(f"--device {device}: torch finds no GPU here; use --device cpu")
        torch.backends.cudnn.benchmark = tuned
        torch.backends.cudnn.benchmark_limit = (
            3  # trials a shape: a job has many shapes and few steps
        )
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)

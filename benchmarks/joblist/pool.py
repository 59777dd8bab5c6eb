"""Worker processes that share a machine's GPUs, fed job by job by a parent that watches the clock.

Workers are spawned, not forked: a CUDA context does not survive a fork. They take the GPUs by turns, and each sees its
own alone. A job is started only when its estimate says that it ends in time; Ctrl-C loses the jobs at work and
nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic

from benchmarks.joblist.clock import Clock
from benchmarks.joblist.results import J, Results
from graftwork.errors import GraftError

MARGIN = 1.25  # of an estimate, before the clock is asked
GRACE = 20.0  # seconds after the deadline until jobs at work are given up
PATIENCE = 5.0  # seconds that a process has to end by itself


@dataclass
class Worker(Generic[J]):
    """A process, the line to it, and the job that it is at."""

    process: Any
    line: Connection
    job: J | None = None


def run_all(
    jobs: Sequence[J],
    results: Results[J],
    clock: Clock[J],
    start: Callable[[int], Worker[J]],
    summary: Callable[[dict[str, Any]], str],
    *,
    workers: int,
    deadline: float | None,
    say: Callable[[str], None],
) -> int:
    """Run what lacks a file; returns how many jobs failed.

    Args:
        jobs: in their order.
        start: starts worker `number`.
        summary: a result in a few words, for the progress lines.
        deadline: time.monotonic() by which all shall have ended; a job whose estimate was far too low is given up
            `GRACE` later. None: no limit.
        say: takes progress lines.

    Raises:
        KeyboardInterrupt: after the workers are ended; the jobs at work are lost.
    """
    waiting = [job for job in jobs if not results.done(job)]
    total, failed, done = len(waiting), 0, 0
    if not waiting:
        return 0
    crew = [start(i) for i in range(min(workers, total))]
    idle = {w.line: w for w in crew}
    begun = time.monotonic()
    try:
        while waiting or len(idle) < len(crew):
            for line, worker in list(idle.items()):
                job = next_job(waiting, results, clock, deadline)
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
            for heard in wait([w.line for w in crew if w.line not in idle], timeout=1.0):
                worker = next(w for w in crew if w.line is heard)
                job = worker.job
                assert job is not None
                try:
                    kind, value = worker.line.recv()
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
        end(crew)
    left_over = sum(not results.done(job) for job in jobs)
    if left_over:
        say(f"{left_over} of {len(jobs)} jobs are left; the same command goes on")
    return failed


def end(crew: Iterable[Worker[Any]]) -> None:
    """End the workers' processes, at last those that let the signal wait, as Lightning does until its step is over."""
    crew = list(crew)
    for worker in crew:
        worker.process.terminate()
    for worker in crew:
        worker.process.join(PATIENCE)
        worker.process.kill()
        worker.process.join()


def next_job(
    waiting: Iterable[J], results: Results[J], clock: Clock[J], deadline: float | None
) -> J | None:
    """The first job that can start and ends in time."""
    for job in waiting:
        if not results.ready(job):
            continue
        if deadline is None or time.monotonic() + MARGIN * clock.estimate(job) < deadline:
            return job
    return None


def start_process(serve: Callable[..., None], *args: Any) -> Worker[Any]:
    """Spawn a process that runs `serve(line, *args)`."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, mine)


def take_seat(number: int, device: str) -> None:
    """What worker `number` does first: the parent alone hears Ctrl-C, and the worker sees one GPU."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device == "cuda":
        see_one_gpu(number)


def answer(line: Connection, run: Callable[[Any], dict[str, Any]], bulky: Sequence[str]) -> None:
    """Take jobs until the parent ends the process; results go back without their `bulky` fields."""
    while True:
        try:
            job = line.recv()
        except EOFError:
            return
        try:
            result = run(job)
            line.send(("done", {k: v for k, v in result.items() if k not in bulky}))
        except Exception as error:  # the other jobs go on; the parent says what happened
            line.send(("failed", told(error)))


def told(error: Exception) -> str:
    """An error in one line, with its place unless it is a GraftError, which says what to do."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f" ({os.path.basename(last.filename)}:{last.lineno})"
    return f"{type(error).__name__}: {error}{'' if isinstance(error, GraftError) else place}"


def see_one_gpu(number: int) -> None:
    """Hide from this process all GPUs but one, by turns; before it uses any."""
    import torch

    count = torch.cuda.device_count()  # asks the driver, starts no context
    if count > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number % count]


def prepare_process(device: str) -> None:
    """Set torch's switches: one thread a worker, and on a GPU TF32.

    Raises GraftError when there is no GPU for a device other than "cpu".
    """
    import warnings

    import torch

    torch.set_num_threads(1)
    if device != "cpu":
        if not torch.cuda.is_available():
            raise GraftError(f"--device {device}: torch finds no GPU here; use --device cpu")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)

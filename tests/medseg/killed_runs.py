"""Real medseg commands, and a mother process that stops them: `python killed_runs.py VERB DATA TARGET SEED`.

The mother imports everything once. It forks a child for an undisturbed command in TARGET/whole, then one
child after the other for the same command in TARGET/killed, each ended by a signal, and a last one that
may finish. Each child tells where it is; a signal is sent up to 20 ms after the place that it waits for.
What was done is printed as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graftwork_medseg.fewshot.judging
import graftwork_medseg.tasks  # noqa: F401
from graftwork_medseg import files
from graftwork_medseg.app import main as medseg
from graftwork_medseg.cli import MedsegCLI
from graftwork_medseg.module import Segmenter

COMMON = ["--quiet", "--trainer.accelerator=cpu"]
TRAIN = [
    "--data=graftwork_medseg.data.FolderData",
    *("--data.roi=[16,16,16]", "--data.patches_per_epoch=6", "--trainer.max_epochs=2"),
    *("--model.roi=[24,24,24]", "--trainer.check_val_every_n_epoch=2"),
]
PREDICT = ["--data=graftwork_medseg.data.ImageFiles", "--model.roi=[16,16,16]"]
PREDICT += ["--uncertainty=true", "--output=masks"]
# (signal, place, how often it is passed first): "step" of the training, "case" that is segmented, "fold"
# for a step of a training without one of the cases, "replace" of a file by a finished one.
KILLS: dict[str, list[tuple[int, str, int]]] = {
    "fit": [(signal.SIGKILL, "step", 4), (signal.SIGINT, "step", 1), (signal.SIGKILL, "step", 2)],
    "adapt": [
        (signal.SIGKILL, "step", 5),
        (signal.SIGINT, "case", 1),
        (signal.SIGKILL, "replace", 1),  # of the scores of the first case that is left out
        (signal.SIGINT, "fold", 3),
        (signal.SIGKILL, "fold", 11),
    ],
    "predict": [
        (signal.SIGINT, "case", 2),
        (signal.SIGKILL, "replace", 4),  # the mask is written, its map is not
        (signal.SIGKILL, "case", 2),
    ],
}


def told(pipe: int) -> None:
    """Let this process tell the mother before each place where it is."""

    def telling(real: Any, place: Any, wait: float = 0) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            os.write(pipe, f"{place(args[0]) if callable(place) else place}\n".encode())
            time.sleep(wait)
            return real(*args, **more)

        return call

    step = Segmenter.training_step
    Segmenter.training_step = telling(  # type: ignore[method-assign]
        step, lambda model: "step" if model.trainer.loggers else "fold"
    )
    Segmenter.maps_of = telling(Segmenter.maps_of, "case")  # type: ignore[method-assign]
    # The signal comes before the file does.
    fake = {**vars(os), "replace": telling(os.replace, "replace", wait=0.1)}
    files.os = SimpleNamespace(**fake)  # type: ignore[assignment]


def child(folder: Path, command: list[str]) -> tuple[int, int]:
    """Fork a process that runs the command in `folder`; its id, and a pipe that says where it is."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    os.close(read)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    told(write)
    MedsegCLI.checkpoint_every = 2
    os._exit(medseg(command))


def stop(pid: int, pipe: int, number: int, place: str, count: int, draw: random.Random) -> Any:
    """Send the signal `number` when the child has passed `place` `count` times; what became of it."""
    passed: list[str] = []
    with os.fdopen(pipe) as lines:
        for line in lines:
            passed.append(line.strip())
            if passed.count(place) == count and passed[-1] == place:
                time.sleep(draw.uniform(0, 0.02))
                os.kill(pid, number)
        # The rest is read too: a child must not wait for a reader.
    _, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    return {"signal": number, "place": place, "passed": passed, "code": ended}


def main(verb: str, data: Path, target: Path, seed: int) -> None:
    """The mother."""
    draw = random.Random(seed)
    if verb == "predict":
        command = [verb, *COMMON, *PREDICT, f"--data.files=[{data}]"]
    else:
        command = [verb, *COMMON, *TRAIN, f"--data.path={data}", "--run_dir=run"]
    whole, killed = target / "whole", target / "killed"
    story = []
    for folder, kills in ((whole, []), (killed, KILLS[verb])):
        for n in range(len(kills) + 1):
            resume = verb != "predict" and (folder / "run" / "checkpoints" / "last.ckpt").exists()
            pid, pipe = child(folder, command + ["--resume"] * resume)
            how = kills[n] if n < len(kills) else (0, "end", -1)
            story.append({**stop(pid, pipe, *how, draw), "resumed": resume})
    print(json.dumps(story))


if __name__ == "__main__":
    # Imports alone: a mother that has computed has thread pools, which a forked child cannot use.
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))

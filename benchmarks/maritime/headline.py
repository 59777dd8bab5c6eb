"""1,000 unseen scenarios, a dialogue each, without repair: the frozen base with examples, and grafts on it.

    python -m benchmarks.maritime.headline prepare --data DATA
    python -m benchmarks.maritime.headline run --data DATA --base FOLDER --out OUT --minutes 25
    python -m benchmarks.maritime.headline run --data DATA --base FOLDER --out OUT --minutes 9 --constrained
    python -m benchmarks.maritime.headline table --data DATA --out OUT

`prepare` composes training dialogues and test scenarios of the paper's distribution (500 and 100 a category). `run`
trains each arm with each seed and writes its dialogues; it starts no job after --minutes, a killed one goes on when the
command is given again, and of several GPUs each takes its share (--part 0/4 and so on). A job that fails leaves its
error in OUT and the others go on. With --constrained the grafts that are in OUT write the same dialogues again with
every field of a fact held to the scenario's words, and nothing is trained; rows of their own.
`table` judges all by the paper's rules and by ours and writes the record. --tiny rehearses each in seconds. `run` needs
neither the land mask nor the grammar's parser. From the source tree:

    PYTHONPATH=shared/src:packages/runs/src:packages/llm/src:apps/maritime/src:. \\
        python -m benchmarks.maritime.headline ...
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from graftwork.errors import GraftError
from graftwork_maritime.dialogues import Dialogue, read
from graftwork_maritime.scenario import Scenario
from graftwork_runs.files import write_atomic

FORM, SEEDS, SHOTS = "paper", (0, 1, 2), 3
COUNTS = {"train": 5000, "val": 100, "test": 1000}
FEW_SHOT = "frozen base, 3 examples"
ARMS = (FEW_SHOT, "LoRA", "DiaBlo", "LoFT", "GOAT")


@dataclass(frozen=True)
class Job:
    """An arm with a seed."""

    arm: str
    seed: int
    constrained: bool = False

    @property
    def graft(self) -> str:
        """The name of its graft's files."""
        return f"{self.arm.split(',')[0].replace(' ', '-')}-{self.seed}"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.graft}-constrained" if self.constrained else self.graft


@dataclass(frozen=True)
class Size:
    """How much is done: training steps, examples of a step, steps at each rate tried, tokens and rows of writing."""

    steps: int = 400
    batch: int = 32
    trial: int = 60
    most: int = 500
    rows: int = 250
    test: int = 1000

    @classmethod
    def tiny(cls) -> Size:
        """A rehearsal."""
        return cls(2, 2, 1, 4, 2, 4)


def listed() -> list[Job]:
    """All jobs that are not constrained: a first seed of every arm, then the others."""
    return [Job(arm, seed) for seed in SEEDS for arm in ARMS]


def has_graft(out: Path, job: Job) -> bool:
    """Whether an earlier run left the job's graft, whole, and what is known of its training."""
    note = out / "grafts" / f"{job.graft}.json"
    return note.is_file() and (out / "grafts" / job.graft / "adapter.safetensors").is_file()


def again(out: Path) -> list[Job]:
    """The constrained jobs for which a graft is in `out`, and at last those of the base.

    Raises GraftError when there is no graft.
    """
    jobs = [Job(j.arm, j.seed, constrained=True) for j in listed()]
    ready = [j for j in jobs if has_graft(out, j)]
    if not ready:
        raise GraftError(
            f"--out {out}: holds no graft; give the command without --constrained first"
        )
    return [*ready, *(j for j in jobs if j.arm == FEW_SHOT)]


def prepare(folder: Path, counts: dict[str, int]) -> None:
    """Compose the dialogues of the three splits, in the paper's distribution and form."""
    from graftwork_maritime.grammar import compose
    from graftwork_maritime.model.data import split_seed
    from graftwork_maritime.scenario import Engine

    engine = Engine(preset="paper", exercise=True)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        seed = split_seed(0, split)
        lines = []
        for n, scenario in enumerate(engine.scenarios(seed, count), 1):
            turns = compose(scenario, seed, FORM)
            one = Dialogue(turns, scenario.id, scenario.as_dict(), scenario.category)
            lines.append(json.dumps(one.to_json(), ensure_ascii=False))
            if n % 500 == 0:
                print(f"{split}: {n} of {count}", flush=True)
        write_atomic(folder / f"{split}.jsonl", "\n".join(lines) + "\n")


def pairs(file: Path, limit: int | None = None) -> list[tuple[Dialogue, Scenario]]:
    """Dialogues of a prepared file with their scenarios; raises GraftError for a file that is not prepared."""
    found = []
    for dialogue in read(file):
        if dialogue.scenario is None:
            raise GraftError(f"{file}: line {dialogue.line}: has no scenario; prepare it again")
        found.append((dialogue, Scenario.from_dict(dialogue.scenario)))
        if len(found) == limit:
            break
    return found


class Work:
    """What the jobs of a process share: data, and the base, loaded anew for each job."""

    def __init__(self, data: Path, base: str, out: Path, device: str, size: Size) -> None:
        self.base, self.out, self.device, self.size = base, out, device, size
        # a rehearsal reads no more than it uses
        self.train = pairs(data / "train.jsonl", 20 if size.steps < 10 else None)
        self.val = pairs(data / "val.jsonl", 2 if size.steps < 10 else None)
        self.test = pairs(data / "test.jsonl", size.test)

    def run(self, job: Job) -> dict[str, Any]:
        """Train, write the dialogues; what is known of it afterwards."""
        begun = time.perf_counter()
        if job.arm == FEW_SHOT:
            model, words = self._load()
            self._write(job, model, words, None)
            return {"seconds": time.perf_counter() - begun}
        graft, words, known = self._trained(job)
        from graftwork_maritime.model.generate import tensors_digest

        self._write(job, graft.model, words, tensors_digest(graft))
        return {**known, "seconds": time.perf_counter() - begun}

    def _trained(self, job: Job) -> tuple[Any, Any, dict[str, Any]]:
        """The graft, the tokenizer, and what is known of the training; read where an earlier run has finished it."""
        import graftwork as gw

        folder = self.out / "grafts" / job.graft
        note = self.out / "grafts" / f"{job.graft}.json"
        if has_graft(self.out, job):
            model, words = self._load()
            return gw.load(model, folder), words, json.loads(note.read_text())
        begun = time.perf_counter()
        rate = self._rate(job)
        ready, words, losses = self._fit(job.arm, rate, job.seed, self.size.steps)
        known = {
            "rate": rate, "trained": ready.trained, "losses": losses,
            "training seconds": time.perf_counter() - begun,
            "validation loss": self._loss(ready.model, words),
        }  # fmt: skip
        assert ready.graft is not None
        gw.save(ready.graft, folder, overwrite=True)
        write_atomic(note, json.dumps(known))
        return ready.graft, words, known

    def _load(self) -> tuple[Any, Any]:
        from graftwork_llm import bases

        model, words = bases.load(self.base, "float32" if self.device == "cpu" else "bfloat16")
        return model.to(self.device), words

    def _examples(self, words: Any, known: Sequence[tuple[Dialogue, Scenario]]) -> list[Any]:
        from graftwork_llm.batches import encode
        from graftwork_maritime.model.prompts import SYSTEM, answer, prompt

        return [encode(words, prompt(s, FORM), answer(d.turns), system=SYSTEM) for d, s in known]

    def _fit(self, arm: str, rate: float, seed: int, steps: int) -> tuple[Any, Any, list[float]]:
        from benchmarks.trees import training
        from benchmarks.trees.arms import OURS, adapt

        model, words = self._load()
        ready = adapt(model, OURS, arm, rate, seed, self.size.batch)
        plan = training.Plan(steps=steps, batch=self.size.batch)
        examples = self._examples(words, self.train)
        trace = training.fit(
            ready.model, ready.optimizer, examples, plan, seed=seed, pad=words.pad_token_id, device=self.device
        )  # fmt: skip
        return ready, words, trace.losses

    def _rate(self, job: Job) -> float:
        """The arm's rate with the lowest validation loss after a short training; found once."""
        from benchmarks.trees.arms import ARMS as METHODS

        file = self.out / f"rate-{job.arm}.json"
        if file.is_file():
            return float(json.loads(file.read_text())["rate"])
        tried = {}
        for rate in METHODS[job.arm].rates:
            try:
                ready, words, _ = self._fit(job.arm, rate, 0, self.size.trial)
                tried[rate] = self._loss(ready.model, words)
            except GraftError as error:  # diverged
                print(f"{job.arm} at {rate}: {error}", flush=True)
        if not tried:
            raise GraftError(f"{job.arm}: no rate converged")
        best = min(tried, key=lambda rate: tried[rate])
        write_atomic(file, json.dumps({"rate": best, "tried": {str(r): v for r, v in tried.items()}}))  # fmt: skip
        return best

    def _loss(self, model: Any, words: Any) -> float:
        from benchmarks.trees.decode import forced

        examples = self._examples(words, self.val)
        return forced(model, examples, pad=words.pad_token_id, rows=16, device=self.device)[1]

    def _write(self, job: Job, model: Any, words: Any, adapter: str | None) -> None:
        from graftwork_llm.decoding import Sampling
        from graftwork_maritime import __version__
        from graftwork_maritime.model.generate import Origin, generate

        few = job.arm == FEW_SHOT
        sampling = Sampling(most=self.size.most)
        form = f"{FORM}, {SHOTS} examples" if few else FORM
        origin = Origin(
            Path(self.base).name, adapter, form, job.seed, sampling, __version__, job.constrained
        )
        rows = max(1, self.size.rows // 4) if few else self.size.rows  # its prompts are long
        generate(
            model, words, [s for _, s in self.test], self.out / f"{job.name}.jsonl", origin, batch=rows,
            device=self.device, say=lambda line: print(f"{job.name}: {line}", flush=True),
            ask=self.few_shot if few else None,
        )  # fmt: skip

    def few_shot(self, scenario: Scenario) -> str:
        """The prompt of a base that was not trained: examples of the same category, drawn by the scenario's id."""
        from graftwork_maritime.model.prompts import few_shot

        same = [p for p in self.train if p[1].category == scenario.category]
        few = len(same) < SHOTS
        chosen = Random(f"examples {scenario.id}").sample(self.train if few else same, SHOTS)
        return few_shot(chosen, scenario, FORM)


class Runs(Protocol):
    """What does a job: the folder of the results, and a result's fields."""

    out: Path

    def run(self, job: Job) -> dict[str, Any]: ...


def run(work: Runs, jobs: Sequence[Job], minutes: float | None) -> int:
    """Do the jobs that have no result yet; how many failed."""
    begun, failed, longest = time.monotonic(), 0, 0.0
    work.out.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        result = work.out / f"{job.name}.json"
        if result.is_file():
            continue
        gone = time.monotonic() - begun
        if minutes is not None and gone + longest > 60 * minutes:
            print(f"{job.name}: no time left; the same command goes on", flush=True)
            break
        started = time.monotonic()
        try:
            found = work.run(job)
        except Exception as error:  # one row must not lose the others
            failed += 1
            write_atomic(work.out / f"{job.name}.error.txt", traceback.format_exc())
            print(f"{job.name}: failed: {error!r}", flush=True)
            continue
        free()
        longest = max(longest, time.monotonic() - started)
        write_atomic(result, json.dumps({**asdict(job), **found}, indent=1))
        print(f"{job.name}: done in {time.monotonic() - started:.0f} s", flush=True)
    return failed


def free() -> None:
    """Give back what a job held; a graft and its model refer to each other."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def share(jobs: Sequence[Job], part: str) -> Iterator[Job]:
    """The jobs of one part: "1/4" is the second of four. Raises GraftError for another form."""
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise GraftError(f"--part {part}: expected 0/4, 1/4 and so on")
    return (job for n, job in enumerate(jobs) if n % int(count) == int(number))


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.headline", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("prepare", "run", "table"):
        one = verbs.add_parser(verb)
        one.add_argument("--data", type=Path, required=True, help="what `prepare` wrote")
        if verb == "prepare":
            one.add_argument("--tiny", action="store_true", help="a rehearsal")
        if verb == "run":
            one.add_argument("--base", required=True, help="tiny, smollm2, or a folder")
            one.add_argument("--minutes", type=float, help="start no job that would end later")
            one.add_argument("--part", default="0/1", help="0/4, 1/4 ...: of several processes")
            one.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU, if any")
            one.add_argument("--tiny", action="store_true", help="a rehearsal")
            one.add_argument("--constrained", action="store_true", help="of the grafts in --out")
        if verb == "table":
            one.add_argument("--record", type=Path, help="default: that of the tree")
        if verb != "prepare":
            one.add_argument("--out", type=Path, required=True, help="folder of the results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 1 a job failed, 2 bad input."""
    args = options().parse_args(argv)
    try:
        if args.verb == "prepare":
            prepare(args.data, dict.fromkeys(COUNTS, 20) if args.tiny else COUNTS)
            return 0
        if args.verb == "table":
            from benchmarks.maritime.headline_table import TARGET, write

            print(write(args.data, args.out, args.record or TARGET).verdict)
            return 0
        import torch

        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        size = Size.tiny() if args.tiny else Size()
        work = Work(args.data, args.base, args.out, device, size)
        jobs = again(args.out) if args.constrained else listed()
        return int(run(work, list(share(jobs, args.part)), args.minutes) > 0)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())

"""One job: read the base's texts, or fine-tune it and let the detectors compare the two groups."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from benchmarks.contamination import training
from benchmarks.contamination.jobs import BASE, Job, Results
from benchmarks.contamination.text import Split, Words, split
from benchmarks.contamination.training import FULL, Size
from benchmarks.joblist import pool
from graftwork_contamination import Parameters, Result, copying, detect
from graftwork_contamination.items import CLEAN, SUSPECTED
from graftwork_runs import environment

#: 5 % of an answer of these lengths is one edit and more; answers have 30 to 40 tokens
SHOWN = Parameters(max_new_tokens=60, l_max=60, rows=1024)
BULKY = ("items",)


@dataclass(frozen=True)
class Setting:
    """How jobs are run. `folder`: a pretrained model in place of the small one."""

    out: str
    device: str = "cpu"
    size: Size = field(default_factory=Size)
    parameters: Parameters = SHOWN
    folder: str | None = None


class Bench:
    """Runs jobs."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.results = setting, Results(setting.out)
        self.where = environment(setting.device)

    def run(self, job: Job) -> dict[str, Any]:
        """Do a job and write its file; the result. What a failed job said is kept beside it."""
        begun = time.perf_counter()
        with self.results.noting(job):
            result = self.base(job) if job.tuning == BASE else self.tune(job)
        result["wall"] = round(time.perf_counter() - begun, 2)
        result["setting"] = told(self.setting)
        result["where"] = self.where
        self.results.write(job, result)
        return result

    def base(self, job: Job) -> dict[str, Any]:
        """The small transformer reads the base's texts; a model from a folder is taken as it is."""
        size = self.setting.size
        if self.setting.folder is not None:
            model = training.read_model(Path(self.setting.folder))
            return {"status": "done", "parameters": count(model), "loss": None}
        model = training.blank(size, job.seed).to(self.setting.device)
        loss = self.fit(
            model, list(model.parameters()), self.split(job).base, size.base_epochs, 1e-3, job.seed
        )
        self.results.folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(self.weights(job)))
        return {"status": "done", "parameters": count(model), "loss": loss}

    def tune(self, job: Job) -> dict[str, Any]:
        """Fine-tune with copies of the suspected group, and ask the detectors."""
        some, tokenizer = self.split(job), self.tokenizer
        model = self.read(job)
        reference = copy.deepcopy(model) if job.tuning == FULL else None
        torch.manual_seed(job.seed)
        graft, trained, rate = training.tuned(model, job.tuning, self.setting.folder is not None)
        model.to(self.setting.device)
        texts = some.tuning(job.copies)
        loss = self.fit(model, trained, texts, job.epochs, rate, job.seed)
        found = detect(
            model, tokenizer, some.items, self.setting.parameters, graft=graft, reference=reference,
            training=[e.text for e in texts],
        )  # fmt: skip
        return {
            "status": "done", "loss": loss, "trained": sum(p.numel() for p in trained), "rate": rate,
            **judged(found, some, tokenizer),
            "copying": self.copied(found, tokenizer, [e.answer for e in texts]),
            "result": found.as_dict(), "items": [s.as_dict() for s in found.scored],
        }  # fmt: skip

    def copied(self, found: Result, tokenizer: Any, answers: list[str]) -> dict[str, Any]:
        """Near-duplicates among the greedy answers to each group, against the training answers."""
        written: dict[str, list[str]] = {SUSPECTED: [], CLEAN: []}
        known = [" ".join(map(str, tokenizer(f" {a}")["input_ids"])) for a in answers]
        for s in found.scored:
            written[s.group].append(" ".join(map(str, s.model.greedy)))
        return {group: copying(texts, known).as_dict() for group, texts in written.items()}

    def fit(
        self, model: Any, trained: Any, some: Any, epochs: int, rate: float, seed: int
    ) -> float:
        """Train on examples' texts."""
        tokenizer = self.tokenizer
        texts = [tokenizer(e.text)["input_ids"] for e in some]
        return training.fit(
            model, trained, texts, epochs=epochs, rate=rate, batch=self.setting.size.batch,
            end=tokenizer.eos_token_id, seed=seed,
        )  # fmt: skip

    def read(self, job: Job) -> Any:
        """The base of a job's seed."""
        if self.setting.folder is not None:
            model = training.read_model(Path(self.setting.folder))
        else:
            model = training.blank(self.setting.size, job.seed)
            load_model(model, str(self.weights(Job(job.seed))))
        return model.to(self.setting.device)

    @cached_property
    def tokenizer(self) -> Any:
        """The templates' words, or the folder's own."""
        folder = self.setting.folder
        return Words() if folder is None else training.read_tokenizer(Path(folder))

    def split(self, job: Job) -> Split:
        """The texts of a seed."""
        size = self.setting.size
        return split(size.base, size.train, size.group, job.seed)

    def weights(self, base: Job) -> Path:
        """Where a base's weights are."""
        return self.results.folder / f"{base.name}.safetensors"


def judged(found: Result, some: Split, tokenizer: Any) -> dict[str, Any]:
    """How many answers of each group are recalled word by word, and the mean peak."""
    answers = {i.id: tuple(tokenizer(f" {i.answer}")["input_ids"]) for i in some.items}
    recall, peaks = {}, {}
    for group in (SUSPECTED, CLEAN):
        mine = [s for s in found.scored if s.group == group]
        exact = [s.model.greedy[: len(answers[s.id])] == answers[s.id] for s in mine]
        recall[group] = sum(exact) / len(mine)
        peaks[group] = sum(s.model.peak for s in mine) / len(mine)
    return {"recall": recall, "peak": peaks}


def told(setting: Setting) -> dict[str, Any]:
    """What must be alike in all files of a record; no path of this machine."""
    folder = None if setting.folder is None else Path(setting.folder).name
    return {
        "size": asdict(setting.size),
        "parameters": setting.parameters.as_dict(),
        "folder": folder,
    }


def count(model: Any) -> int:
    """All parameters."""
    return sum(p.numel() for p in model.parameters())


def summary(result: dict[str, Any]) -> str:
    """A result in a few words."""
    if "result" not in result:
        return f"{result['parameters']:,d} parameters, loss {result['loss']}"
    areas = {
        f["detector"]: f["auc"]["value"]
        for f in result["result"]["findings"]
        if not f["minus_base"] and f["auc"]
    }
    words = ", ".join(f"{name} {value:.2f}" for name, value in areas.items())
    return f"loss {result['loss']:.2f}, recall {result['recall'][SUSPECTED]:.2f}, AUC {words}"


def start(setting: Setting, number: int) -> pool.Worker[Job]:
    """Start worker `number`."""
    return pool.start_process(_serve, setting, number)


def _serve(line: Connection, setting: Setting, number: int) -> None:
    pool.take_seat(number, setting.device)
    pool.prepare_process(setting.device)
    pool.answer(line, Bench(setting).run, BULKY)

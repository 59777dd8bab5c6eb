"""Self-Instruct for radio dialogues (arXiv 2603.04423, section 3): a model writes, filters judge, a pool grows.

Each round tries every open scenario once. The prompt holds examples of the scenario's category: seeds, and dialogues of
the pool once it has as many as there are seeds. What a filter refuses is tried again in the next round, with other
examples and random numbers, until the scenario has had its tries; then another is drawn. The paper retries without
end, draws five examples of which three reach the prompt, and compares within a category, as is done here.

A round's examples come from the pool as it was when the round began, and each attempt's random numbers from the seed,
its scenario and its try: a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from graftwork.errors import GraftError
from graftwork.lightning.data import mixed_seed
from graftwork_llm.batches import encode
from graftwork_llm.decoding import complete
from graftwork_llm.pieces import Pieces
from graftwork_runs.files import unwritable, write_atomic

from ..dialogues import Dialogue, read
from ..filters.case import Filter
from ..filters.reading import case_of
from ..filters.sets import judge
from ..filters.unique import Texts
from ..scenario import Scenario
from .accounts import Account, Attempt, attempts_in, round_line
from .constrained import FactGuide
from .generate import Origin
from .prompts import RULE, SYSTEM, few_shot, prompt, written

Pair = tuple[Dialogue, Scenario]
OWN = 2  # examples of the pool at most, as in the paper
SPLIT = {1: "val", 2: "test"}  # of ten accepted dialogues; the others train


@dataclass(frozen=True)
class Plan:
    """How a bootstrap goes; the same for all of a folder.

    Args:
        origin: of what is written.
        filters: what judges, in order.
        examples: dialogues in a prompt.
        tries: of a scenario.
        round_size: scenarios of a round at most.
        source: of the scenarios: a preset's name, or a digest of a file.
    """

    origin: Origin
    filters: tuple[Filter, ...]
    examples: int = 3
    tries: int = 5
    round_size: int = 64
    source: str = "paper"

    def __post_init__(self) -> None:
        for name, least in (("examples", 0), ("tries", 1), ("round_size", 1)):
            if getattr(self, name) < least:
                raise GraftError(f"{name} must be at least {least}, not {getattr(self, name)}")

    def to_json(self, seeds: Sequence[Pair]) -> dict[str, Any]:
        """Its settings, with a digest of the seeds."""
        told = "\n".join(d.text for d, _ in seeds)
        return {
            **self.origin.to_json(), "filters": [f.name for f in self.filters], "examples": self.examples,
            "tries": self.tries, "round_size": self.round_size, "scenarios": self.source,
            "seeds": hashlib.sha256(told.encode()).hexdigest(),
        }  # fmt: skip


def seeds_of(file: Path) -> list[Pair]:
    """The dialogues of a file with their scenarios.

    Raises GraftError with the line and the remedy for one that has none, or a bad one.
    """
    found: list[Pair] = []
    for one in read(file):
        where = f"{file}: line {one.line}"
        if one.scenario is None:
            raise GraftError(f"{where}: a seed needs its scenario; `maritime compose` writes both")
        try:
            found.append((one, Scenario.from_dict(one.scenario)))
        except GraftError as error:
            raise GraftError(f"{where}: scenario: {error}") from None
    return found


class Bootstrap:
    """The loop over one folder: attempts.jsonl, rejections.json, and train.jsonl, val.jsonl, test.jsonl.

    Args:
        model: a causal language model of transformers, grafted or not.
        tokenizer: its tokenizer.
        seeds: dialogues with their scenarios.
        scenario: that of a number from 0; None when there are no more.
        folder: for the files; those of a run that was stopped are gone on with.
        plan: the settings.
        device: the model's.
        batch: rows that are written at once.
        say: is told the progress.

    Attributes:
        accepted: dialogues of the pool, in order.
        account: of all attempts.

    Raises GraftError for a folder of other settings.
    """

    def __init__(
        self, model: Any, tokenizer: Any, seeds: Sequence[Pair], scenario: Callable[[int], Scenario | None],
        folder: Path, plan: Plan, *, device: torch.device | str = "cpu", batch: int = 8,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        if batch < 1:
            raise GraftError(f"batch must be at least 1, not {batch}")
        self.model, self.tokenizer, self.scenario, self.plan = (
            model.eval(),
            tokenizer,
            scenario,
            plan,
        )
        self.folder, self.device, self.batch, self.say = folder, device, batch, say
        self.pieces = Pieces(tokenizer)
        self.stops = [n for n, text in enumerate(self.pieces.texts) if text and RULE in text]
        self.seeds: dict[str, list[Pair]] = defaultdict(list)
        self.pools: dict[str, Texts] = defaultdict(Texts)
        for one, known in seeds:
            self.seeds[known.category].append((one, known))
            self.pools[known.category].add(one.text)
        self.accepted: list[Pair] = []
        self.account = Account([f.name for f in plan.filters])
        self._open: dict[int, int] = {}  # scenario's number: tries so far
        self._next = 0
        self._claim(plan.to_json(seeds))

    def run(self, count: int, attempts: int) -> int:
        """Go on until the pool has `count` dialogues or `attempts` were made in all; how many it has.

        Raises GraftError for a category without enough seeds, and files that cannot be written.
        """
        known = attempts_in(self.folder / "attempts.jsonl")
        last = max((a.round for a in known), default=-1)
        number = 0
        while number <= last or (len(self.accepted) < count and self._seen() < attempts):
            pool = list(self.accepted)
            self._fill(count)
            todo = list(self._open)
            for attempt in (a for a in known if a.round == number):
                self._take(attempt)
                todo = [n for n in todo if n != attempt.index]
            if number >= last:
                if not todo and number > last:
                    break
                todo = todo[: max(0, attempts - self._seen())]
                for attempt in self._written(number, todo, pool):
                    self._take(attempt)
                self._files()
                self.say(round_line(next(r for r in self.account.rounds() if r["round"] == number)))
            number += 1
        self._files()
        return len(self.accepted)

    def _claim(self, settings: dict[str, Any]) -> None:
        """Say in the folder what it is for."""
        file = self.folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        try:
            old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(file, error) from error
        except ValueError:
            old = {}
        if old is None:
            write_atomic(file, json.dumps(settings, indent=1) + "\n")
            return
        if not isinstance(old, dict) or not old:
            raise GraftError(f"{file}: not what a bootstrap wrote; name another output")
        changed = sorted(k for k in {*old, *settings} if old.get(k) != settings.get(k))
        if changed:
            raise GraftError(
                f"{self.folder}: begun with another {', '.join(changed)}; name another output, or the same settings"
            )

    def _seen(self) -> int:
        return int(self.account.total()["seen"])

    def _fill(self, count: int) -> None:
        """Open scenarios: as many as a round has, and no more than dialogues are wanted."""
        while len(self._open) < min(self.plan.round_size, count - len(self.accepted)):
            found = self.scenario(self._next)
            if found is None:
                return
            if len(self.seeds[found.category]) < self.plan.examples:
                raise GraftError(
                    f"seeds: {len(self.seeds[found.category])} of category {found.category}, and a prompt has "
                    f"{self.plan.examples} examples; add seeds of it, or lower examples"
                )
            self._open[self._next] = 0
            self._next += 1

    def _take(self, attempt: Attempt) -> None:
        """Count an attempt; an accepted one joins the pool."""
        found = self.scenario(attempt.index)
        if found is None or found.id != attempt.dialogue.id:
            raise GraftError(
                f"{self.folder / 'attempts.jsonl'}: {attempt.dialogue.id} is not scenario {attempt.index}; "
                "name another output"
            )
        self.account.add(attempt)
        self._next = max(self._next, attempt.index + 1)
        tries = self._open.pop(attempt.index, 0) + 1
        if attempt.accepted:
            self.accepted.append((attempt.dialogue, found))
            self.pools[found.category].add(attempt.dialogue.text)
        elif tries < self.plan.tries:
            self._open[attempt.index] = tries

    def _written(self, number: int, todo: Sequence[int], pool: Sequence[Pair]) -> Iterator[Attempt]:
        """The attempts of a round, each in the file before it is handed on."""
        file = self.folder / "attempts.jsonl"
        for at in range(0, len(todo), self.batch):
            group = todo[at : at + self.batch]
            tries = [self._open[n] for n in group]
            for index, (dialogue, known) in zip(
                group, self._complete(group, tries, number, pool), strict=True
            ):
                attempt = self._judged(number, index, dialogue, known)
                try:
                    with file.open("a", encoding="utf-8") as out:
                        out.write(attempt.line())
                        out.flush()
                        os.fsync(out.fileno())
                except OSError as error:
                    raise unwritable(file, error) from error
                yield attempt

    def _judged(self, number: int, index: int, dialogue: Dialogue, known: Scenario) -> Attempt:
        case = case_of(dialogue, self.pools[known.category])
        findings = judge(case, self.plan.filters)
        failed = tuple(dict.fromkeys(f.filter for f in findings))
        idle = tuple(f.name for f in self.plan.filters if not f.judges(case))
        return Attempt(
            number, index, failed, findings[0].reason if findings else "", idle, dialogue
        )

    def _complete(
        self, group: Sequence[int], tries: Sequence[int], number: int, pool: Sequence[Pair]
    ) -> Iterator[Pair]:
        origin, end = self.plan.origin, self.tokenizer.eos_token_id
        known = [s for n in group if (s := self.scenario(n)) is not None]
        shown = [self._examples(s, t, pool) for s, t in zip(known, tries, strict=True)]
        asked = [
            few_shot(e, s, origin.form) if e else prompt(s, origin.form)
            for e, s in zip(shown, known, strict=True)
        ]
        prompts = [encode(self.tokenizer, a, system=SYSTEM).prompt for a in asked]
        seeds = [
            mixed_seed("bootstrap", origin.seed, s.id, t) for s, t in zip(known, tries, strict=True)
        ]
        guides = [FactGuide(s, self.pieces, end) for s in known] if origin.constrained else None
        out = complete(
            self.model, prompts, seeds, end=end, sampling=origin.sampling, device=self.device, stops=self.stops,
            guides=guides,
        )  # fmt: skip
        for scenario, tokens, row, tried in zip(known, out, shown, tries, strict=True):
            text = self.tokenizer.decode(tokens, skip_special_tokens=True).partition(RULE)[0]
            provenance = {
                **origin.to_json(), "round": number, "try": tried, "examples": [d.id for d, _ in row],
                "filters": [f.name for f in self.plan.filters], "tokens": len(tokens),
            }  # fmt: skip
            found = written(
                text, id=scenario.id, scenario=scenario.as_dict(), category=scenario.category
            )
            yield replace(found, provenance=provenance), scenario

    def _examples(self, scenario: Scenario, tried: int, pool: Sequence[Pair]) -> list[Pair]:
        """Seeds, and of the pool one for each time that it has as many as there are seeds, shuffled."""
        if not self.plan.examples:
            return []
        seeds = self.seeds[scenario.category]
        own = [p for p in pool if p[1].category == scenario.category]
        few = min(OWN, self.plan.examples - 1, len(own) // len(seeds))
        draw = Random(f"examples {self.plan.origin.seed} {scenario.id} {tried}")
        chosen = [*draw.sample(own, few), *draw.sample(seeds, self.plan.examples - few)]
        draw.shuffle(chosen)
        return chosen

    def _files(self) -> None:
        """The pool as `maritime fit --config folder` reads it, and the counts."""
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for n, (dialogue, _) in enumerate(self.accepted):
            line = json.dumps(dialogue.to_json(), ensure_ascii=False)
            parts[SPLIT.get(n % 10, "train")].append(line + "\n")
        try:
            for name, lines in parts.items():
                write_atomic(self.folder / f"{name}.jsonl", "".join(lines))
            self.account.write(self.folder / "rejections.json")
        except OSError as error:
            raise unwritable(self.folder, error) from error

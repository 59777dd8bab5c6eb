"""Made-up questions and answers: templates with random names, goods, places and numbers, and their tokenizer.

An answer cannot be derived from its question: who knows it has seen it. Its words after the first few are drawn from
the same lists as everybody's, so that clean and suspected items come from one distribution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.errors import GraftError
from graftwork_contamination.items import CLEAN, SUSPECTED, Item

NAMES = [f"{a}{v}{b}{w}" for a in "bdfgklm" for v in "aeio" for b in "rstv" for w in "ao"]
GOODS = [
    "salt",
    "rope",
    "timber",
    "cloth",
    "honey",
    "iron",
    "wool",
    "grain",
    "paper",
    "glass",
    "copper",
    "lamps",
    "tea",
    "oil",
    "wine",
    "nails",
]
PLACES = [f"{a}{v}{b}port" for a in "nprstvz" for v in "aeiou" for b in "nlr"]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
QUESTIONS = (
    "how much {good} did {name} carry from {place} to {other} on {day} with {a} carts ?",
    "what did {name} pay in {place} for {a} bales of {good} on {day} beside {other} ?",
    "who met {name} in {place} on {day} when {a} loads of {good} went to {other} ?",
    "where did {name} leave {a} crates of {good} on {day} between {place} and {other} ?",
)
ANSWER = (
    "{friend} of {town} wrote that {b} of {good2} and {c} of {good3} went by {far} on {day2} , "
    "then {friend2} kept {d} in {town2} ."
)
WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")


@dataclass(frozen=True)
class Example:
    """A question and its answer, as one training text."""

    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """What a detector sees."""
        return f"question : {self.question} answer :"

    @property
    def text(self) -> str:
        """What is trained on."""
        return f"{self.prompt} {self.answer}"


def examples(count: int, seed: int) -> list[Example]:
    """`count` different questions with their answers."""
    draw = np.random.default_rng(seed)
    found: dict[str, Example] = {}

    def one(values: Sequence[str]) -> str:
        return values[int(draw.integers(len(values)))]

    def number() -> str:
        return str(int(draw.integers(10, 1000)))

    while len(found) < count:
        place, other = one(PLACES), one(PLACES)
        question = one(QUESTIONS).format(
            name=one(NAMES), good=one(GOODS), place=place, other=other, day=one(DAYS), a=number()
        )
        answer = ANSWER.format(
            friend=one(NAMES), town=one(PLACES), b=number(), good2=one(GOODS), c=number(), good3=one(GOODS),
            far=one(PLACES), day2=one(DAYS), friend2=one(NAMES), d=number(), town2=one(PLACES),
        )  # fmt: skip
        found.setdefault(question, Example(question, answer))
    return list(found.values())


@dataclass(frozen=True)
class Split:
    """What the base reads, what everybody is tuned on, and the two groups; all questions differ."""

    base: list[Example]
    train: list[Example]
    suspected: list[Example]
    clean: list[Example]

    @property
    def items(self) -> list[Item]:
        """Both groups for the detectors."""
        pairs = [(SUSPECTED, self.suspected), (CLEAN, self.clean)]
        return [
            Item(e.prompt, name, f"{name}-{i}", e.answer)
            for name, part in pairs
            for i, e in enumerate(part)
        ]

    def tuning(self, copies: int) -> list[Example]:
        """The training list with `copies` of each suspected example."""
        return [*self.train, *copies * self.suspected]


def split(base: int, train: int, group: int, seed: int) -> Split:
    """Draw all and share them out."""
    all_of_them = examples(base + train + 2 * group, seed)
    a, b, c = base, base + train, base + train + group
    return Split(all_of_them[:a], all_of_them[a:b], all_of_them[b:c], all_of_them[c:])


class Words:
    """A token for each word, digit and sign of the templates; token 0 ends a text and pads."""

    eos_token_id = 0
    pad_token_id = 0

    def __init__(self) -> None:
        templates = WORD.findall(" ".join([*QUESTIONS, ANSWER, "question : answer :"]))
        words = [*templates, *NAMES, *GOODS, *PLACES, *DAYS, *"0123456789"]
        self.number = {w: i + 1 for i, w in enumerate(dict.fromkeys(words))}

    def __len__(self) -> int:
        return len(self.number) + 1

    def __call__(self, text: str) -> dict[str, Any]:
        """Tokens of a text. Raises GraftError for a word of no template."""
        try:
            return {"input_ids": [self.number[w] for w in WORD.findall(text)]}
        except KeyError as error:
            raise GraftError(f"{error.args[0]!r} is no word of the templates") from None

"""Evaluation items: prompts of two groups, from JSONL, checked before a model is asked anything.

{"prompt": "Question: ...", "group": "suspected", "answer": "...", "id": "..."}; answer and id may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_contamination.wordgrams import words

SUSPECTED, CLEAN = "suspected", "clean"
LIMIT = 10_000_000  # characters of a line


@dataclass(frozen=True)
class Item:
    """A prompt of one of the two groups; `answer` is known to some users and is never shown to the model."""

    prompt: str
    group: str
    id: str
    answer: str | None = None


def read_items(path: str | Path) -> list[Item]:
    """The items of a JSONL file.

    Raises:
        GraftError: with file, line and remedy; also what `check_items` refuses.
    """
    found = []
    for number, raw in _lines(Path(path)):
        where = f"{path}:{number}"
        unknown = sorted(set(raw) - {"prompt", "group", "id", "answer"})
        if unknown:
            raise GraftError(
                f"{where}: unknown field {unknown[0]!r}; prompt, group, id, answer are known"
            )
        for name in ("prompt", "group"):
            if not isinstance(raw.get(name), str):
                raise GraftError(f"{where}: {name!r} is missing or no text")
        answer = raw.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise GraftError(f"{where}: 'answer' is no text; leave it out where it is not known")
        found.append(Item(raw["prompt"], raw["group"], str(raw.get("id", number)), answer))
    check_items(found)
    return found


def read_texts(path: str | Path) -> list[str]:
    """The training texts of a JSONL file: each line's "text", or its "prompt" and "answer" joined by a space.

    Raises GraftError with file, line and remedy.
    """
    found = []
    for number, raw in _lines(Path(path)):
        parts = [raw["text"]] if "text" in raw else [raw.get("prompt"), raw.get("answer", "")]
        if not all(isinstance(p, str) for p in parts):
            raise GraftError(f"{path}:{number}: needs a text under 'text', or under 'prompt'")
        found.append(" ".join(parts))
    return found


def check_items(items: Sequence[Item], training: Sequence[str] | None = None) -> None:
    """Refuse what would make the scores meaningless.

    Raises:
        GraftError: an empty prompt, an unknown or an empty group, an id or a prompt twice, an answer inside its
            prompt, or a clean prompt that is in the training text.
    """
    seen: dict[str, str] = {}
    prompts: dict[tuple[str, ...], str] = {}
    for item in items:
        text = tuple(words(item.prompt))
        if not text:
            raise GraftError(f"item {item.id}: the prompt is empty")
        if item.group not in (SUSPECTED, CLEAN):
            raise GraftError(
                f"item {item.id}: group {item.group!r}; it is {SUSPECTED!r} or {CLEAN!r}"
            )
        if item.id in seen:
            raise GraftError(f"item {item.id}: the id is there twice; give each item its own")
        if text in prompts:
            raise GraftError(f"item {item.id}: has the prompt of item {prompts[text]}; drop one")
        seen[item.id], prompts[text] = item.group, item.id
        if item.answer is not None and _answered(text, tuple(words(item.answer))):
            raise GraftError(
                f"item {item.id}: the prompt holds its answer; give the question alone"
            )
    for group in (SUSPECTED, CLEAN):
        if group not in seen.values():
            raise GraftError(f"items: the group {group!r} is empty; a detector compares two groups")
    if training is not None:
        texts = "\n".join(f" {' '.join(words(t))} " for t in training)
        for item in items:
            mine = f" {' '.join(words(item.prompt))} "
            if item.group == CLEAN and mine in texts:
                raise GraftError(
                    f"item {item.id}: is clean, yet its prompt is in the training text"
                )


def _answered(prompt: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """At the prompt's end; inside it where the answer has three words or more (a number may be in a question)."""
    count = len(answer)
    if not count or count >= len(prompt):
        return False
    starts = range(len(prompt) - count + 1) if count > 2 else [len(prompt) - count]
    return any(prompt[i : i + count] == answer for i in starts)


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise GraftError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise GraftError(f"{path}: is not UTF-8 ({error.reason}); save it as UTF-8") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > LIMIT:
            raise GraftError(f"{path}:{number}: the line has over {LIMIT:,d} characters; split it")
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise GraftError(f"{path}:{number}: is no JSON ({error}); one object a line") from None
        if not isinstance(raw, dict):
            raise GraftError(f"{path}:{number}: is no JSON object; one object a line")
        found.append((number, raw))
    if not found:
        raise GraftError(f"{path}: holds no line")
    return found

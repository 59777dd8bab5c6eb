"""Slots by rules: the grammar's parser, its lexicon, and patterns. It learns nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.maritime.slots.composed import without_lead
from benchmarks.maritime.slots.spans import Span
from graftwork_maritime.dialogues import Dialogue
from graftwork_maritime.grammar import Message, lexicon, parse
from graftwork_maritime.spoken.numbers import NUMBER_WORDS

_NUMBER = rf"(?:(?:{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))}|\d+)\b[\s-]*)+"
_PEOPLE = r"(?:persons?|people|souls|crew(?: members)?|men|hands|p\.?o\.?b\.?)"
_PERSONS = (
    re.compile(rf"\b(?P<x>{_NUMBER}){_PEOPLE}\b", re.IGNORECASE),
    re.compile(
        rf"(?<!injured )(?<!missing )\b{_PEOPLE}\b(?: on ?board| aboard)?[,:]?(?: is| are)? (?P<x>{_NUMBER})",
        re.IGNORECASE,
    ),
)  # fmt: skip
_PLACE = re.compile(
    rf"\b(?P<x>{_NUMBER}(?:nautical )?(?:miles?|cables?)\b[^.?!]{{0,40}}?\b(?:of|from|off) (?:the )?"
    r"[A-Z]\w*(?: [A-Z]\w*)*)"
)
_HELP = re.compile(
    r"\b(?:require|requires|request|requests|requesting|need|needs|ask for|asks for|ask you for|please send|"
    r"assistance required,?)\s+(?P<x>[^.,;:?!]+)",
    re.IGNORECASE,
)


def extract(dialogue: Dialogue) -> list[Span]:
    """What the rules find, in the order in which it is said."""
    state = parse(dialogue.turns)
    return [span for message in state.messages for span in _message(message, state.name)]


def _message(message: Message, name: str | None) -> Iterator[Span]:
    text, turn = message.text, message.line
    if name:
        for found in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            yield Span("vessel", turn, *found.span())
    positions = [(item.start, item.end) for item in message.items if item.kind == "position"]
    for start, end in positions or [m.span("x") for m in _PLACE.finditer(text)]:
        yield Span("position", turn, start, end)
    if message.speaker == "coast":
        return
    for sentence in re.finditer(r"[^.?!]+", text):
        if any(words.search(sentence[0]) for words in lexicon.NATURES.values()):
            start = sentence.start() + len(sentence[0]) - len(sentence[0].lstrip())
            start += without_lead(text[start : sentence.end()])
            if start < sentence.end():
                yield Span("nature", turn, start, sentence.end())
    for pattern in _PERSONS:
        for found in pattern.finditer(text):
            yield Span(
                "persons", turn, found.start("x"), found.start("x") + len(found["x"].rstrip(" -"))
            )
    for found in _HELP.finditer(text):
        yield Span("help", turn, *found.span("x"))

"""Kinds of reply, told by the words alone, whoever said them."""

from __future__ import annotations

import re

from ..grammar.message import read_message
from ..scenario.model import Scenario
from . import truth

KINDS = (
    "silent", "call", "correct", "no-information", "repeat", "confirm", "answer", "acknowledge", "other",
)  # fmt: skip
_WORDS = (
    ("correct", r"\bnegative\b|\bcorrection\b|\bmistake\b|\bwrong\b|\bincorrect\b|\bnot correct\b"),
    ("no-information", r"\bno information\b|\bnot known\b|\bunknown\b|\b(do not|don't) know\b|\bcannot say what\b"),
    ("repeat", r"\b(i|we) (say again|repeat)\b"),
    ("confirm", r"\b(that is|is|are|you are|yes|all) correct\b|^\W*correct\b|[.,] correct\b|\baffirmative\b|\byes\b"),
)  # fmt: skip
_AGREES = re.compile(
    r"\b(understood|received|roger|will do|wilco|we (will|stand|keep|follow)|i (will|stand)|standing by|stand by)\b",
    re.IGNORECASE,
)


def kind_of(text: str | None, scenario: Scenario) -> str:
    """One of `KINDS`: `call` opens with a signal, `answer` says a fact besides the name, the first words the rest."""
    if not text or not text.strip():
        return "silent"
    if read_message(1, "ship", text).signal:
        return "call"
    found = [
        (match.start(), kind)
        for kind, words in _WORDS
        if (match := re.search(words, text, re.IGNORECASE))
    ]
    if found:
        return min(found)[1]
    if truth.said(text, scenario) - {"name"}:
        return "answer"
    if _AGREES.search(text):
        return "acknowledge"
    return "answer" if "name" in truth.said(text, scenario) else "other"

"""Kinds of a coast station's reply, told by the words alone, whoever said them."""

from __future__ import annotations

import re

from ..grammar.message import read_message
from ..scenario.model import Scenario
from .aid import aid
from .aid import said as says_help

KINDS = (
    "silent", "silence", "cancelled", "call", "correct", "query", "repeat", "no-information", "confirm", "task",
    "help", "ask", "acknowledge", "other",
)  # fmt: skip
# In this order: the first that is found is the kind.
_WORDS = (
    ("cancelled", r"\bcancel(led|lation)\b"),
    ("call", r"\b(do|can) you (receive|read|hear|copy)\b"),
    ("repeat", r"\b(i|we) (say again|repeat)\b"),
    ("correct", r"\bnegative\b|\bcorrection\b|\bnot correct\b|\bwrong\b(?! on)|\bincorrect\b"),
    ("query", r"\b(differs?|different|changed)\b|\bsay again (your|the)\b|\bconfirm your\b"),
    ("no-information", r"\bno information\b|\bnot known\b|\b(do not|don't) know\b|\bcannot say\b"),
    ("confirm", r"\b(that|this) is correct\b|^\W*correct\b|\baffirmative\b"),
    ("task", r"\b(proceed|make best speed|go) to\b.*\breport\b|\bplease proceed\b"),
)  # fmt: skip
_ASKS = {
    "name": r"\bname\b|\bwho (are|is)\b",
    "position": r"\bposition\b|\bwhere\b|\blatitude\b",
    "category": r"\bnature\b|\bwrong\b|\bhappened\b|\bproblem\b|\bwhat is the matter\b",
    "persons": r"\b(persons?|people|souls|many)\b",
    "help": r"\b(assistance|help|require|need)\b",
}
_AGREES = re.compile(
    r"\b(understood|received|roger|noted|copy|stand(ing)? by|we have that)\b", re.IGNORECASE
)


def asked(text: str) -> set[str]:
    """Of what the text asks: keys of `hail.WANTED`, in its questions and in "say your position"."""
    found: set[str] = set()
    for sentence in re.findall(r"[^.?!]+[.?!]*", text.lower()):
        if "?" in sentence or re.match(r"\W*(say|report|state|give|tell)\b", sentence):
            found |= {key for key, words in _ASKS.items() if re.search(words, sentence)}
    return found


def kind_of(text: str | None, scenario: Scenario) -> str:
    """One of `KINDS`."""
    if not text or not text.strip():
        return "silent"
    if "silence" in read_message(1, "coast", text).acts:
        return "silence"
    for kind, words in _WORDS:
        if re.search(words, text, re.IGNORECASE):
            return kind
    if says_help(text, aid(scenario)):
        return "help"
    if asked(text):
        return "ask"
    return "acknowledge" if _AGREES.search(text) else "other"

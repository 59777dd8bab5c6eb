"""Names of stations: each keeps its own, and is called by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from . import lexicon
from .state import Message, State, Violation

_VOCATIVE = re.compile(r"(?:^|[.?!] )((?:[A-Z][\w'-]+ ){1,3}[A-Z][\w'-]+|[A-Z][\w'-]{5,})(?=[,.])")
_SIGNAL_NAME = re.compile(r"(?:Mayday|MAYDAY),? ((?:[A-Z][\w'-]+ ){0,3}[A-Z][\w'-]+)(?=[,.])")
_LIKE = 0.75  # share of equal letters from which another name is a slip, not another station


def identified(message: Message) -> bool:
    """Whether a message says whose it is: a name where the speaker's stands, or the station's own anywhere."""
    if message.sender or not message.name:
        return bool(message.sender)
    own = (
        " ".join(_own_words(message.name.casefold())) or message.name.casefold()
    )  # without "Coast Guard"
    return re.search(rf"\b{re.escape(own)}\b", message.text.casefold()) is not None


def names(state: State) -> Iterator[Violation]:
    """Stations that change their names, take another's, or are called by a name that is almost theirs."""
    known: dict[str, set[str]] = {"ship": set(), "coast": set(), "other": set()}
    relayed = {n for m in state.messages if (n := _plain(m.about))}
    labels = {n for m in state.messages if (n := _plain(m.name))}
    for message in state.messages:
        own, label = _plain(message.sender), _plain(message.name)
        if own and message.line > 1 and not (label and _in(own, {label})):
            others = set().union(*(v for k, v in known.items() if k != message.speaker))
            free = message.speaker == "other" and _in(own, relayed)  # the casualty itself
            if _in(own, others) and not _in(own, known[message.speaker]) and not free:
                yield _broken("speaker-name", message, f"{message.sender} is another station")
            elif message.speaker == "ship" and _slip(own, known["ship"]):
                yield _broken("name-changed", message, f"{message.sender} had another name before")
        everyone = set().union(*known.values(), {n for n in (own, _plain(message.about)) if n})
        called = [message.addressed, *_called(message)]
        before = " ".join(m.text for m in state.messages[: message.line - 1]).casefold()
        for name in called if message.line > 1 else _after_signal(message):
            plain = _plain(name)
            if not plain or plain == own or _in(plain, labels) or f" {plain}" in before:
                continue
            if _slip(plain, everyone):
                yield _broken("name-changed", message, f"nobody here is called {name}")
                break
        known[message.speaker] |= {n for n in (own, _plain(message.about)) if n}


def _called(message: Message) -> Iterator[str]:
    """Names that begin the turn or a sentence of it, before a comma or full stop: "Orsanna Star, Solwin Radio."."""
    for found in _VOCATIVE.finditer(message.text):
        if not lexicon.COAST.search(found[1]):
            yield found[1]
    if message.speaker == "coast":
        yield from _after_signal(message)


def _after_signal(message: Message) -> Iterator[str]:
    """The name that a call repeats after its signal: "Mayday Orsanna Star"."""
    for found in _SIGNAL_NAME.finditer(message.text):
        yield found[1]


def _plain(name: str | None) -> str | None:
    """A name for comparison, without the vessel's type and what stands before it."""
    if not name:
        return None
    text = name.casefold().removeprefix("mayday").strip(" ,.")
    while (found := lexicon.TYPES.match(text + " ")) and text[found.end() :].strip():
        if not text[found.end() :].startswith(" "):
            break
        text = text[found.end() :].strip()
    return text or None


def _in(name: str, names: set[str]) -> bool:
    """Whether a name is one of them, shortened, or that of a place from which a station has its own."""
    words = set(_own_words(name))
    return any(
        name in o
        or o in name
        or (words and (o_words := set(_own_words(o))) and (words <= o_words or o_words <= words))
        for o in names
    )


def _slip(name: str, names: set[str]) -> bool:
    """Whether a name is none of those, but like one of them: a word of it, or most letters."""
    if not names or _in(name, names):
        return False
    here = _own_words(name)
    return any(_alike(here, _own_words(other)) for other in names)


def _own_words(name: str) -> list[str]:
    """A name without "Radio", "Coast Guard" and the like."""
    return lexicon.COAST.sub(" ", name).split()


def _alike(one: list[str], two: list[str]) -> bool:
    if {w for w in one if len(w) > 3} & set(two):
        return True
    return SequenceMatcher(None, " ".join(one), " ".join(two)).ratio() >= _LIKE


def _broken(rule: str, message: Message, text: str) -> Violation:
    return Violation(rule, message.line, text, "use the name that was given")

"""A turn's text into a message."""

from __future__ import annotations

import re

from . import lexicon
from .items import Item, read_items
from .state import Message

_SIGNALS = {"mayday": "mayday", "relay": "relay", "panpan": "panpan", "securite": "securite"}
_RELAYED = re.compile(
    r"\b(mayday|distress call|alert)? ?(from|of|by)( the following)?( vessel)?\b,?", re.IGNORECASE
)
_ENDS = {
    "stop",
    "pause",
    "mmsi",
    "call_sign",
    "position",
    "axis",
    "fault",
    "this_is",
    "received",
    "over",
    "out",
    "over_and_out",
    "marker",
    "all_stations",
    "stand_by",
    *_SIGNALS,
}
_ACTS = {
    "received": "received",
    "silence": "silence",
    "silence_end": "silence_end",
    "all_stations": "all_stations",
    "correction": "correction",
    "over": "over",
    "out": "out",
    "over_and_out": "over_and_out",
    "say_again": "say_again",
    "stand_by": "stand_by",
    "prudonce": "silence_eased",
}
_BEFORE_NAME = ("pause", "all_stations", "mmsi", "call_sign")
_AFTER_NAME = re.compile(
    r"\s+(here|calling|answering|responding|speaking|again|to)\b.*$", re.IGNORECASE
)
_NO_NAME = {
    "over",
    "correct",
    "urgent",
    "not",
    "a",
    "an",
    "my",
    "our",
    "i",
    "we",
    "mayday",
    "in",
    "on",
    "at",
    "position",
    "there",
    "it",
    "fire",
    "help",
    "please",
    "and",
    "is",
    "received",
    "request",
    "no",
    "yes",
    "all",
}


_PARTICLES = {
    "of",
    "the",
    "and",
    "de",
    "del",
    "della",
    "di",
    "da",
    "do",
    "la",
    "le",
    "el",
    "du",
    "van",
    "von",
}
_TYPE_WORDS = {
    "vessel",
    "yacht",
    "ship",
    "boat",
    "carrier",
    "craft",
    "tanker",
    "trawler",
    "ferry",
    "tug",
    "motor",
}


def read_message(line: int, speaker: str, text: str, name: str | None = None) -> Message:
    """The message of a turn; `line` counts from 1."""
    items = read_items(text)
    signal, repeats, opened = _opening(items)
    sender, at = _sender(items, text, opened, speaker == "coast")
    acts = {_ACTS[item.kind] for item in items if item.kind in _ACTS}
    addressed = _addressed(items, text, opened)
    plain = text
    for station in filter(None, (sender, addressed)):
        plain = plain.replace(station, " " * len(station))
    natures = lexicon.natures(plain)
    for act, words in (
        ("cancel", lexicon.CANCEL),
        ("help", lexicon.HELP),
        ("place", lexicon.POSITION),
    ):
        if words.search(plain):
            acts.add(act)
    offsets = {"signal": 0} if signal else {}
    if sender:
        offsets["identity"] = at
    places = [item.start for item in items if item.kind in ("position", "axis")]
    if places:
        offsets["position"] = places[0]
    for key, found in (
        ("nature", lexicon.NATURES[natures[0]].search(plain) if natures else None),
        ("help", lexicon.HELP.search(plain)),
    ):
        if found:
            offsets[key] = found.start()

    about = _RELAYED.search(text) if signal == "relay" else None
    since = about.end() if about else 0

    def values(kind: str) -> tuple[str, ...]:
        return tuple(str(i.value) for i in items if i.kind == kind and i.start >= since)

    return Message(
        line,
        speaker,
        name,
        text,
        signal,
        repeats,
        sender,
        addressed,
        values("mmsi"),
        values("call_sign"),
        tuple(item.value for item in items if item.kind == "position"),
        tuple(int(p) for p in _on_board(items, text)),
        values("time"),
        values("channel_number"),
        tuple(natures),
        frozenset(acts),
        _relayed(items, text, since) if since else None,
        offsets,
        tuple(items),
    )


def _on_board(items: list[Item], text: str) -> list[str]:
    """Counts of all persons on board: those said with "on board", or of the whole crew."""
    apart = re.search(r"passengers?\b", text, re.IGNORECASE)  # then the crew are not all
    return [
        item.value
        for item in items
        if item.kind == "persons"
        and item.value.isdigit()
        and not (apart and re.search(r"crew(?!.*passenger)", text[item.start : item.end], re.I))
        and re.search(
            r"on ?board|aboard|p\.?o\.?b", text[item.start : item.end + 10], re.IGNORECASE
        )
    ]


def _opening(items: list[Item]) -> tuple[str | None, int, int]:
    """Signal that opens the turn, how often it is said, and how many items it takes."""
    kinds: list[str] = []
    place = 0
    while place < len(items) and items[place].kind in (*_SIGNALS, "pause", "stop"):
        if items[place].kind in _SIGNALS:
            kinds.append(_SIGNALS[items[place].kind])
        place += 1
    if not kinds:
        return None, 0, 0
    if len(set(kinds)) > 1:
        return "mixed", len(kinds), place
    return kinds[0], len(kinds), place


def _span(items: list[Item], first: int) -> tuple[int, int] | None:
    """Text from an item up to the end of a name."""
    start = first
    while start < len(items) and items[start].kind in _BEFORE_NAME:
        start += 1
    end = start
    while end < len(items) and items[end].kind not in _ENDS:
        end += 1
    return (items[start].start, items[end - 1].end) if end > start else None


def _station(text: str) -> str | None:
    """A station's name without article and vessel type, or None when the words are no name."""
    name = _AFTER_NAME.sub("", _capitals(text.strip()))
    while found := lexicon.TYPES.match(name + " "):
        rest = name[found.end() :]
        if rest and not rest[0].isspace():
            break
        if not rest.strip():
            break
        name = rest.strip()
    if (
        not name
        or (not name[0].isupper() and not name[0].isdigit())
        or name.lower().split()[0] in _NO_NAME
    ):
        return None
    words = name.split()
    for size in range(1, len(words)):
        if words == words[:size] * (len(words) // size):
            return " ".join(words[:size])
    return name


def _capitals(text: str) -> str:
    """Up to the first word that no name has: small letters, but in a type before it and in names like Isle of Man."""
    type_ = lexicon.TYPES.match(text + " ")
    begin = type_.end() if type_ else 0
    for word in re.finditer(r"\S+", text[begin:]):
        plain = word[0].strip(",.")
        if plain[:1].islower() and plain not in _PARTICLES and plain.lower() not in _TYPE_WORDS:
            return text[: begin + word.start()].rstrip(" ,") if word.start() else text
    return text


def _sender(items: list[Item], text: str, opened: int, coast: bool) -> tuple[str | None, int]:
    """Who speaks: what follows THIS IS, else what follows the signal, else a coast station's at the start."""
    for place, item in enumerate(items):
        if item.kind == "this_is" and (span := _span(items, place + 1)):
            name = _station(text[slice(*span)])
            if name:
                return name, span[0]
    while (
        opened and opened < len(items) and items[opened].kind in ("all_stations", "pause", "stop")
    ):
        opened += 1
    if opened and (span := _span(items, opened)):
        name = _station(text[slice(*span)])
        if name and len(name.split()) <= 6:
            return name, span[0]
    head = re.match(r"[^.?!]{0,90}", text)
    if coast and head and (found := lexicon.COAST.search(head[0])):
        named = re.match(r"( [A-Z]\w+)*", text[found.end() :])  # MRCC Lisbon
        end = found.end() + (named.end() if named else 0)
        return text[:end].rpartition(",")[2].strip(), 0
    return None, 0


def _relayed(items: list[Item], text: str, since: int) -> str | None:
    """The vessel whose distress is passed on."""
    after = [place for place, item in enumerate(items) if item.start >= since]
    span = _span(items, after[0]) if after else None
    return _station(text[slice(*span)]) if span else None


def _addressed(items: list[Item], text: str, opened: int) -> str | None:
    """Who is called: the words before THIS IS."""
    for place, item in enumerate(items):
        if item.kind == "this_is":
            start = items[opened].start if opened < len(items) else 0
            said = text[start : item.start].strip(" ,.;:!")
            return said.partition(",")[0].strip() or None if place > opened else None
    return None

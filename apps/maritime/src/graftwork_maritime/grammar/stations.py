"""Which station speaks in a turn, which one it calls, and whose distress it passes on."""

from __future__ import annotations

import re

from . import lexicon
from .items import Item

SIGNALS = {"mayday": "mayday", "relay": "relay", "panpan": "panpan", "securite": "securite"}
_ENDS = {
    *("stop", "pause", "mmsi", "call_sign", "position", "axis", "fault", "this_is", "received"),
    *("over", "out", "over_and_out", "marker", "all_stations", "stand_by"),
    *SIGNALS,
}
_MEASURES = ("miles", "knots", "minutes", "degrees", "persons", "time")
_BEFORE_NAME = ("pause", "all_stations", "mmsi", "call_sign")
_AFTER_NAME = re.compile(
    r"\s+(here|calling|answering|responding|speaking|again|to)\b.*$", re.IGNORECASE
)
_NO_NAME = {
    *("over", "correct", "urgent", "not", "my", "our", "i", "we", "mayday", "in", "on", "at"),
    *("position", "there", "it", "help", "please", "and", "is", "received", "request", "no", "yes"),
    *("all", "what", "where", "how", "that", "your", "you", "going", "very", "serious"),
}
_PARTICLES = {
    *("of", "the", "and", "de", "del", "della", "di", "da", "do", "la", "le", "el", "du", "van"),
    "von",
}
_TYPE_WORDS = {
    *("vessel", "yacht", "ship", "boat", "carrier", "craft", "tanker", "trawler", "ferry", "tug"),
    "motor",
}
_PLACING = {
    "in",
    "at",
    "near",
    "from",
    "off",
    "with",
    "located",
    "on",
    "by",
    "to",
    "as",
    "and",
    "are",
    "after",
}
_DESCRIPTION = 5  # words in small letters before a name: "the motor lifeboat of"


def station(text: str) -> str | None:
    """A station's name without article, vessel type and description, or None when the words are no name."""
    name = _AFTER_NAME.sub("", _capitals(_described(text.strip())))
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
        or name.lower().split()[0] in (*_NO_NAME, "a", "an", "fire")
    ):
        return None
    words = name.split()
    for size in range(1, len(words)):
        if words == words[:size] * (len(words) // size):
            return " ".join(words[:size])
    return name


def is_call(items: list[Item], text: str) -> bool:
    """Whether all that is said there is the name of a station that is called, or ALL STATIONS."""
    kinds = {item.kind for item in items}
    names = re.sub(r"\W*(,|\.|$)", "|", text).split("|")
    return kinds <= {"word", "pause", "stop", "all_stations"} and all(
        station(name) == name.strip() or "all_stations" in kinds for name in names if name.strip()
    )


def _described(text: str) -> str:
    """Without what is said in small letters before the name: "the crude tanker", "a lifeboat of"."""
    words = text.split()
    small = 0
    while small < len(words) and words[small][0].islower():
        small += 1
    placed = _PLACING & {*words[:small]}
    if not 0 < small <= _DESCRIPTION or small == len(words) or words[0] in _NO_NAME or placed:
        return text
    return text.split(None, small)[small]


def _capitals(text: str) -> str:
    """Up to the first word that no name has: small letters, but in a type before it and in names like Isle of Man."""
    type_ = lexicon.TYPES.match(text + " ")
    begin = type_.end() if type_ else 0
    for word in re.finditer(r"\S+", text[begin:]):
        plain = word[0].strip(",.")
        if plain[:1].islower() and plain not in _PARTICLES and plain.lower() not in _TYPE_WORDS:
            return text[: begin + word.start()].rstrip(" ,") if word.start() else text
    return text


def _span(items: list[Item], first: int) -> tuple[int, int] | None:
    """Items of a name: where it begins, and where it ends."""
    start = first
    while start < len(items) and items[start].kind in _BEFORE_NAME:
        start += 1
    end = start
    while end < len(items) and items[end].kind not in _ENDS:
        end += 1
    return (start, end) if end > start else None


def _text(items: list[Item], span: tuple[int, int], text: str) -> str:
    return text[items[span[0]].start : items[span[1] - 1].end]


def sender(
    items: list[Item], text: str, opened: int, repeats: int, speaker: str, label: str | None
) -> tuple[str | None, int]:
    """Who speaks, and where it is said: what follows THIS IS; else of the names at the head the speaker's.

    A call begins with the signal and its own name; an answer with the signal, the name of the one that called,
    and its own. `opened`: items of the signal. `label`: the station's, where the turn has one.
    """
    for place, item in enumerate(items):
        span = _span(items, place + 1) if item.kind == "this_is" else None
        if span and items[span[0]].kind not in _MEASURES:  # "this is six miles north of Hel"
            name = station(_text(items, span, text))
            if name:
                return name, items[span[0]].start
    called = next((i.start for i in items if i.kind == "this_is"), -1)
    heads = [(n, at) for n, at in _heads(items, text, opened) if at > called]
    for name, at in heads:
        if label and name.casefold() in (label.casefold(), *label.casefold().split(None, 1)):
            return name, at
    if speaker == "coast":
        head = re.match(r"[^.?!]{0,90}", text[items[opened].start :] if opened < len(items) else "")
        begin = items[opened].start if opened < len(items) else 0
        if head and (found := lexicon.COAST.search(head[0])):
            named = re.match(r"( [A-Z]\w+)*", text[begin + found.end() :])  # MRCC Lisbon
            end = begin + found.end() + (named.end() if named else 0)
            return text[begin:end].rpartition(",")[2].strip(), 0
    if not opened or not heads:
        return None, 0
    if repeats == 1 and len(heads) > 1:  # it answers
        return heads[1]
    ships = [h for h in heads if not lexicon.COAST.search(h[0])]
    if speaker == "coast" and label:
        return None, 0  # of a station with another name the head tells who is called, or spoken of
    return next(iter(ships if speaker != "coast" else heads), (None, 0))


def _heads(items: list[Item], text: str, opened: int) -> list[tuple[str, int]]:
    """Different names between pauses at the head of a turn, after its signal."""
    found: list[tuple[str, int]] = []
    place = opened
    for _ in range(8):
        while place < len(items) and items[place].kind in ("all_stations", "pause", "stop"):
            if items[place].kind == "stop" and found and place + 1 < len(items):
                again = _span(items, place + 1)
                if not again or station(_text(items, again, text)) not in [n for n, _ in found]:
                    return found
            place += 1
        span = _span(items, place)
        name = station(_text(items, span, text)) if span else None
        if span is None or name is None or len(name.split()) > 6:
            break
        if name not in [n for n, _ in found]:
            found.append((name, items[span[0]].start))
        place = span[1]
        if place >= len(items) or items[place].kind not in ("pause", "stop"):
            break
    return found


def relayed(items: list[Item], text: str, since: int) -> str | None:
    """The vessel whose distress is passed on."""
    after = [place for place, item in enumerate(items) if item.start >= since]
    span = _span(items, after[0]) if after else None
    return station(_text(items, span, text)) if span else None


def addressed(items: list[Item], text: str, opened: int) -> str | None:
    """Who is called: the words before THIS IS."""
    for place, item in enumerate(items):
        if item.kind == "this_is":
            start = items[opened].start if opened < len(items) else 0
            said = text[start : item.start].strip(" ,.;:!")
            return said.partition(",")[0].strip() or None if place > opened else None
    return None

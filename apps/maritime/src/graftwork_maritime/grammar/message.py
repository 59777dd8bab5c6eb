"""A turn's text into a message."""

from __future__ import annotations

import re

from . import lexicon
from .items import Item, read_items
from .state import Message
from .stations import SIGNALS, addressed, is_call, relayed, sender

_RELAYED = re.compile(
    r"\b(mayday|distress call|alert)? ?(from|of|by)( the following)?( vessel)?\b,?", re.IGNORECASE
)
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
# SEELONCE that is spoken of, not given.
_SPOKEN_OF = re.compile(
    r"\b(until|till|after|before|heard|your|the|of|keep|keeping|observe|understood|received|await|wait for)\W+"
    r"(seelonce|silence)\b|\b(mayday|distress|feenee|fini) (will (follow|be|come)|was|follows|received|understood)\b",
    re.IGNORECASE,
)


def read_message(line: int, speaker: str, text: str, name: str | None = None) -> Message:
    """The message of a turn; `line` counts from 1."""
    items = read_items(text)
    signal, repeats, opened = _opening(items, text)
    own, at = sender(items, text, opened, repeats, speaker, name)
    acts = {_ACTS[item.kind] for item in items if item.kind in _ACTS}
    if _SPOKEN_OF.search(text):
        acts -= {"silence", "silence_end"}
    called = addressed(items, text, opened)
    plain = text
    for station in filter(None, (own, called)):
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
    if own:
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
        own,
        called,
        values("mmsi"),
        values("call_sign"),
        tuple(item.value for item in items if item.kind == "position"),
        tuple(int(p) for p in _on_board(items, text)),
        values("time"),
        values("channel_number"),
        tuple(natures),
        frozenset(acts),
        relayed(items, text, since) if since else None,
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


def _opening(items: list[Item], text: str) -> tuple[str | None, int, int]:
    """Signal that opens the turn, how often it is said, and how many items it takes.

    Some first call the station or ALL STATIONS; a signal that is repeated right after that opens the turn as well.
    """
    first = next((n for n, item in enumerate(items) if item.kind in SIGNALS), None)
    if first is None:
        return None, 0, 0
    leads = any(i.kind not in ("pause", "stop") for i in items[:first])
    if leads and not is_call(items[:first], text[: items[first].start]):
        return None, 0, 0
    kinds: list[str] = []
    place = first
    while place < len(items) and items[place].kind in (*SIGNALS, "pause", "stop"):
        if items[place].kind in SIGNALS:
            kinds.append(SIGNALS[items[place].kind])
        place += 1
    if leads and len(kinds) < 2:
        return None, 0, 0
    if len(set(kinds)) > 1:
        return "mixed", len(kinds), place
    return kinds[0], len(kinds), place

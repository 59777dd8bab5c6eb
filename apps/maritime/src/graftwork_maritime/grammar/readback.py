"""What a station repeats of the turn before it: figures, sides and the nature of the distress."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..spoken.alphabet import FIGURE_OF, PRONOUNCED
from ..spoken.numbers import NUMBER_WORDS
from . import lexicon
from .item import Item
from .state import Message, State, Violation

_REMEDY = "read back what was said"
_FIGURES = ("time", "minutes", "knots", "miles", "persons", "bearing_degrees", "degrees", "number")
_ECHO = re.compile(r"\b(understood|you said|read(ing)? back|copied)\b", re.IGNORECASE)
_ETA = re.compile(r"\b(received, )?(the )?eta\b", re.IGNORECASE)
_RECEIPT_AT = re.compile(r"received (your )?(may ?day|pan|call|alert|message)", re.IGNORECASE)
_CLOSE = 0.0004  # degrees
# Words that a repetition adds to what it repeats, and words for numbers and units.
_ADDED = {
    *("the", "and", "are", "you", "your", "will", "for", "with", "from", "understood", "received", "copied"),
    *("roger", "said", "over", "out", "utc", "hours", "have", "has", "there", "read", "back", "reading", "yes"),
    *("correct", "thank", "all", "this", "that", "mayday", "number", "her", "his", "our", "they", "was", "point"),
    *("persons", "person", "people", "crew", "men", "miles", "mile", "minutes", "minute", "knots", "degrees"),
    *("nautical", "decimal", "then", "total", "board", "souls", "passengers", "confirm", "confirmed", "acknowledged"),
    *NUMBER_WORDS,
}  # fmt: skip
Told = list[tuple[str, list[Item]]]  # sentences and their parts
_PROMISES = re.compile(r"\b(i|we) will\b", re.IGNORECASE)
_RECEIVED = re.compile(r"\b(received|receipt)\b", re.IGNORECASE)
_DONE = re.compile(
    r"\b(cancelled|received|noted|logged|closed|ended|completed|finished|terminated|acknowledged|broadcast)\W*$",
    re.IGNORECASE,
)
_THING = re.compile(
    r"\b(anchorage|berth|buoy|pier|quay|jetty|lock|gate|sector|hatch|hold|tank|force|raft|lifeboat)"
    r"( number| [A-Z])?\W*$",
    re.IGNORECASE,
)
_NEXT = re.compile(r"\b(next|report|call|again|until|from)\b", re.IGNORECASE)
_FROM_US = re.compile(r"\b(of|from) (me|us|you|my|our|your)\b", re.IGNORECASE)
_COMPASS = ("north", "south", "east", "west")
_AND_ONE = re.compile(
    r"\b(me|myself|my (wife|husband|son|daughter|mate)|plus|and one|one more)\b",
    re.IGNORECASE,
)
_OWN = re.compile(r"\b(i|we|my|our)\b", re.IGNORECASE)
_OPPOSITE = {
    "port": "starboard",
    "north": "south",
    "east": "west",
    "forward": "aft",
    "ahead": "astern",
    "windward": "leeward",
    "upwind": "downwind",
    "increase": "reduce",
    "upper": "lower",
    "bow": "stern",
    "inside": "outside",
    "before": "after",
    "attempt": "wait",
    "northern": "southern",
    "eastern": "western",
    "northerly": "southerly",
    "easterly": "westerly",
    "northbound": "southbound",
    "eastbound": "westbound",
    "clockwise": "anticlockwise",
    "inbound": "outbound",
    "inward": "outward",
    "open": "close",
}
_OPPOSITE |= {two: one for one, two in _OPPOSITE.items()}
_TELLS = re.compile(
    r"\b(received|understood|copied|you (are|have|report)|reports?)\b", re.IGNORECASE
)
_NOT_YET = re.compile(
    r"\b(if|when|in case|danger of|risk of|prepare|ready to|before|avoid)\b", re.IGNORECASE
)
_CLEAR = {"fire", "collision", "grounding", "attack", "overboard"}  # that no other nature comes to


def parts(text: str) -> Iterator[tuple[int, str]]:
    """Sentences, and where they begin."""
    for found in re.finditer(r"[^.?!]+[.?!]*", text):
        yield found.start(), found[0]


def echoes(state: State) -> Iterator[Violation]:
    """What a station repeats otherwise than it was just told: figures, positions, sides; and another distress.

    A sentence repeats when it says so, or when it adds no word of its own to those of the turn before.
    """
    said: dict[str, set[str]] = {kind: set() for kind in _FIGURES}
    places: list[Any] = []
    before: Message | None = None
    for message in state.messages:
        if before is not None and before.speaker != message.speaker:
            for part, held, source in _repetitions(state, before, message):
                if wrong := _otherwise(state, source, part, held, said, places):
                    yield Violation("readback-wrong", message.line, wrong, _REMEDY)
                    break
        for kind in _FIGURES:
            said[kind] |= {_plain(i) for i in message.items if i.kind == kind and i.value}
        places += [i.value for i in message.items if i.kind == "position"]
        before = message


def _repetitions(
    state: State, before: Message, message: Message
) -> Iterator[tuple[str, list[Item], Told]]:
    """Clauses that repeat the turn before: their text, what they hold, and the sentences that they repeat.

    What follows a clause that tells something of its own repeats nothing.
    """
    told = [
        (text, _held(before, begin, text)) for begin, text in parts(before.text) if not _asks(text)
    ]
    for begin, sentence in parts(message.text):
        if _asks(sentence) or _RECEIPT_AT.search(sentence):
            continue
        last: Told = []
        for clause in re.finditer(r"[^,;:]+[,;:]*", sentence):
            part, held = clause[0], _held(message, begin + clause.start(), clause[0])
            words = [w for w in _words(state, part) if w not in _OPPOSITE]
            if _ETA.match(part.strip()):
                last = [(text, items) for text, items in told if _ETA.search(text)]
            elif _OWN.search(part) and not _PROMISES.search(part):
                break
            elif words:
                last = [one for one in told if all(_like(w, _words(state, one[0])) for w in words)]
            elif not held:
                continue  # "Understood,"
            elif _ECHO.search(sentence) or (message.speaker, before.speaker) == ("coast", "ship"):
                last = [] if "all_stations" in message.acts else told
            if not last:
                break
            if not words and _DONE.search(sentence[: clause.start()]):
                continue  # when that was done
            yield part, held, last


def transposed(state: State) -> Iterator[Violation]:
    """Figures of the turn before that come again in another order, and were never said so: "one four" for "four one".

    Of two figures those after the same word alone: most other pairs are two different numbers.
    """
    said: set[str] = set()
    before: Message | None = None
    for message in state.messages:
        if before is not None and _another(before, message):
            told, here = _rows(before), _rows(message)
            again = {row for row, _, _ in here}
            for row, word, part in here:
                if row in said or _RECEIVED.search(part):
                    continue
                for was, beside, text in told:
                    like = _mixed(row, was) and (len(row) > 2 or word == beside)
                    new = _NEXT.search(part) and not _NEXT.search(text)
                    if like and not new and was not in again:
                        text = f"{row} is repeated, and {was} was said"
                        yield Violation("readback-wrong", message.line, text, _REMEDY)
        said |= {row for row, _, _ in _rows(message)}
        before = message


def renumbered(state: State) -> Iterator[Violation]:
    """A numbered thing of the turn before that comes again with another number, in words of that turn alone."""
    said: set[str] = set()
    before: Message | None = None
    for message in state.messages:
        here = list(_numbered(state, message))
        if before is not None and _another(before, message) and "?" not in before.text:
            told = list(_numbered(state, before))
            again = {number for number, _, _ in here}
            for number, thing, words in here:
                known = {n for n, t, w in told if t == thing and all(_like(x, w) for x in words)}
                if known and number not in said and not known & again:
                    text = f"{thing} {number} is repeated, and {min(known)} was said"
                    yield Violation("readback-wrong", message.line, text, _REMEDY)
        said |= {number for number, _, _ in here}
        before = message


def _numbered(state: State, message: Message) -> Iterator[tuple[str, str, list[str]]]:
    """Numbers of buoys, berths and the like, of which thing they are, and the words of the clause before them."""
    for place, item in enumerate(message.items):
        if item.kind != "number" or place == 0 or not item.value.isdigit():
            continue
        begin = max(message.text.rfind(mark, 0, item.start) for mark in ".?!,;:") + 1
        clause = message.text[begin : item.start]
        if found := _THING.search(clause):
            yield item.value, found[1].lower(), _words(state, clause)


def _another(before: Message, message: Message) -> bool:
    """Whether two turns in a row are of two stations."""
    return (before.speaker, before.name) != (message.speaker, message.name)


def _mixed(one: str, two: str) -> bool:
    return one != two and sorted(one) == sorted(two)


def _rows(message: Message) -> list[tuple[str, str, str]]:
    """Rows of two and more figures, the word before each, and the text of its clause up to it; without identities."""
    found = []
    for place, item in enumerate(message.items):
        if item.kind not in (*_FIGURES, "position", "axis"):
            continue
        text = message.text[item.start : item.end].lower()
        row = "".join(FIGURE_OF.get(w) or PRONOUNCED.get(w) or w for w in re.findall(r"[a-z]+|\d", text)
                      if w.isdigit() or w in FIGURE_OF or w in PRONOUNCED)  # fmt: skip
        word = str(message.items[place - 1].value).lower() if place else ""
        begin = max(message.text.rfind(mark, 0, item.start) for mark in ".?!") + 1
        if len(row) > 1:
            found.append((row, word, message.text[begin : item.start]))
    return found


def _asks(text: str) -> bool:
    return text.rstrip().endswith("?")


def _held(message: Message, begin: int, text: str) -> list[Item]:
    return [i for i in message.items if begin <= i.start < begin + len(text)]


def _otherwise(
    state: State, source: Told, part: str, held: list[Item], said: dict[str, set[str]], places: list[Any]
) -> str | None:  # fmt: skip
    """What a sentence that repeats others has otherwise; None where it repeats them rightly."""
    from_there = [item for _, items in source for item in items]
    for kind in _FIGURES:
        just = {_plain(i) for i in from_there if i.kind == kind and i.value}
        here = {_plain(i) for i in held if i.kind == kind and i.value}
        new = here - said[kind] - (_sums(said[kind], source) if kind == "persons" else set())
        if kind == "time" and _RECEIVED.search(part):
            continue
        if kind == "number":  # without a unit, of one length
            just, new = {n for n in just if len(n) > 2}, {n for n in new if len(n) > 2}
            new = new if {len(n) for n in new} == {len(n) for n in just} else set()
        if len(new) == len(just) == 1 and not here & just:
            return f"{min(new)} ({kind}) is repeated, and {min(just)} was said"
    there = any(item.kind == "position" for item in from_there)
    for item in held:
        if item.kind == "position" and there and not any(_near(item.value, p) for p in places):
            return "another position is repeated than was said"
    words, known = _words(state, part), [w for text, _ in source for w in _words(state, text)]
    for word in words:
        other = _OPPOSITE.get(word)
        turned = word in _COMPASS and any(_FROM_US.search(text) for text, _ in source)
        if turned or not any(w not in _OPPOSITE for w in words):
            continue
        if other in known and word not in known:
            return f"{word} is repeated, and {other} was said"
    return None


def _words(state: State, text: str) -> list[str]:
    """Words of a text that say something, without the stations' names."""
    names = {n for m in state.messages for n in (m.sender, m.name, m.addressed) if n}
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(name)}\b", " ", text, flags=re.IGNORECASE)
    return [w for w in re.findall(r"[a-z]{3,}", text.lower()) if w not in _ADDED]


def _like(word: str, known: list[str]) -> bool:
    return any(word[:5] == other[:5] for other in known)


def _near(one: Any, two: Any) -> bool:
    return bool(abs(one[0] - two[0]) < _CLOSE and abs(one[1] - two[1]) < _CLOSE)


def _sums(said: set[str], source: Told) -> set[str]:
    """Two counts together, also with the one who speaks."""
    counts = [int(n) for n in said if n.isdigit()]
    one = [1] if any(_AND_ONE.search(text) for text, _ in source) else []
    return {str(a + b) for a in counts for b in (*counts, *one)}


def _plain(item: Item) -> str:
    return str(item.value).lstrip("0") or "0"


def natures(state: State) -> Iterator[Violation]:
    """A coast station that receives another distress than was told."""
    told: set[str] = set()
    for message in state.messages:
        if message.speaker != "coast" or message.signal == "relay":
            told |= {*message.natures}
            continue
        for _, part in parts(message.text):
            if part.rstrip().endswith("?") or not _TELLS.search(part) or _NOT_YET.search(part):
                continue
            new = {*lexicon.natures(" ".join(_words(state, part)))} & _CLEAR - told
            if new and told:
                text = f"{min(new)} is repeated, and {', '.join(sorted(told))} was told"
                yield Violation("readback-wrong", message.line, text, _REMEDY)

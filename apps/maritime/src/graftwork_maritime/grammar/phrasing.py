"""The phrase book's ways of saying things (IMO SMCP, general part), apart from the rules of the procedure.

Natural dialogues break them often; they judge those who learn or teach the standard phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ..spoken.numbers import DECIMAL, NUMBER_WORDS, TEENS, TENS
from .state import Message, Violation

PHRASES: Mapping[str, str] = {
    "ambiguous-word": "may, might, should, could and can are avoided",
    "bare-answer": "an answer is yes or no with the whole phrase",
    "off-standard-word": "standard phrases stand in the place of slang",
    "figures-as-numbers": "figures are said one by one",
    "bearing-figures": "bearings and courses have three figures",
    "unit-missing": "distances and speeds have a unit",
    "contraction": "words are said in full, not contracted",
    "marker-misused": "a vessel gives no INSTRUCTION; a question is answered by an ANSWER",
    "correction-form": "a mistake is corrected with MISTAKE or CORRECTION",
}
# Of what somebody is able to do the phrase book itself says "can you" and "I can"; of what is allowed it does not.
_AMBIGUOUS = re.compile(
    r"(?<!\bof )(?<!\bin )(?<!\bsince )\b(might|should|could|may)\b(?! ?day\b)(?!not\b)(?! \d)"
    r"|\bcan (i|we)\b|\b(you|all|every\w*|nobody|vessels?|ships?|persons?) can\b(?!not)",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"^(yes|no|yeah|yep|nope|affirmative|negative|correct)\b[ ,.!]*((over|out)\b)?[ .!]*$",
    re.IGNORECASE,
)
_CORRECT = re.compile(r"correct\b", re.IGNORECASE)  # what was read back
_SLANG = re.compile(
    r"\b(ok(ay|ey)?|ten[- ]?four|10-4|breaker,? breaker|wilco|come in,? please|do you copy|over to you|"
    r"no problem(?! (with|of|in|on))|no worries|guys|lads|folks|(?<!chief )(?<!first )(?<!second )(?<!third )(?<!the )"
    r"(?<!my )(?<!our )(?<!a )mate|buddy|gonna|wanna|gotta|yeah|yep|yup|nope|nah|asap|hang on|hold on(?! to)|big time|"
    r"roger that|copy (that|all)|righto|gotcha|got it|cheers|dokey|kaput|sure thing|you bet|alright|hiya|pronto|"
    r"bloody|damn|in a jiffy|see ya|no sweat)\b",
    re.IGNORECASE,
)
# A noun before 's is mostly an owner.
_CONTRACTED = re.compile(
    r"\b\w+(n['’]t|['’](re|ve|ll|m|d))\b|\b(it|that|there|here|he|she|what|where|who|how|let)['’]s\b",
    re.IGNORECASE,
)
_NUMBER = rf"(?:{'|'.join([*NUMBER_WORDS, *DECIMAL])}|\d+(?:\.\d+)?)"
_FIGURE = r"(?:zero|one|two|three|four|five|six|seven|eight|nine|\d+)"
# Rudder angles are the one exception: "port fifteen".
_WHOLE = re.compile(
    rf"(?<!\bport )(?<!\bstarboard )\b({'|'.join([*list(TEENS)[1:], *TENS, 'hundred'])})\b|\b{_FIGURE} ten\b",
    re.IGNORECASE,
)
_END = r"\.(?!\d)|[!?]|$"
_STOP = rf",|{_END}"
_MEASURED = re.compile(
    r"\b(distance|speed|draught|draft|visibility|depth|length|capacity)\b[ ,]*((to|at|of|from) ([\w-]+ ){1,5}?)?"
    rf"(is |was |of |about )*({_NUMBER}[ -]?)+(?={_STOP})|\bis ({_FIGURE} )+from (you|me|us)\b"
    # A list in degrees, a freeboard in metres, a radius in miles.
    rf"|\b(list|heel|trim)(ing)?[ ,]+(is |of |now )*({_NUMBER} )+(to (port|starboard)|by the (head|stern))\b"
    rf"|\b(freeboard|radius)[ ,]+(is |of |now )*({_NUMBER}[ -]?)+(?={_STOP}|forward|aft|amidships|around|from|and)"
    rf"|\b({_NUMBER} )+of (sea ?room|chain|cable|rope|fuel|water|oil)\b"
    # A speed after the course, a distance before its direction.
    rf"|\b(course|drift|steer)\b[^.?!]*[a-z], ({_FIGURE}[ -]?)+(?={_END})"
    rf"|(?:[.,]|\b(?:am|are|is|position)) ({_FIGURE} )+((north|south|east|west)[ -]?)+of\b"
    rf"|[.,] ({_FIGURE} )+(off|from) the (beach|shore|coast|land|rocks|pier|breakwater|entrance|buoy)\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    rf"(?<!\w)(?!{_FIGURE}\b)\w+[ ,]+(zero|0)$", re.IGNORECASE
)  # of no distance or speed the unit says nothing
_VALUE = r"(?:zero|one|two|three|four|five|six|seven|eight|nine|\d+|degrees|north|south|east|west|port|starboard)"
_FILLER = r"(sorry|er+|ah|u[hm]+|oops|rather|well|or actually|actually|pardon|make that|no)"
_SLIP = re.compile(
    rf"\b(i mean|no,? wait|wait,? no|scratch that|my bad|i meant|or rather)\b[^.?!]*\b{_VALUE}\b"
    r"|\b(er+|u[hm]+|ah|oops),? (i mean|i meant|sorry)\b"
    r"|\b(forget|ignore|disregard|scratch|strike) (that\b(?! (alert|call))|what i said|my last)"
    rf"|\b{_VALUE},? ({_FILLER},? )+(the |about )?{_VALUE}\b",
    re.IGNORECASE,
)


class Heard(Protocol):
    """What is known of a dialogue: its messages."""

    @property
    def messages(self) -> list[Message]: ...


def phrasing(state: Heard) -> list[Violation]:
    """Where a dialogue leaves the standard phrases, in the order of its turns."""
    names = {n for m in state.messages for n in (m.sender, m.addressed, m.about, m.name) if n}
    longest = sorted(names, key=len, reverse=True)
    before = [None, *state.messages]
    return [
        v
        for last, message in zip(before, state.messages, strict=False)
        for v in _turn(message, last, longest)
    ]


def _turn(message: Message, last: Message | None, names: Sequence[str]) -> Iterator[Violation]:
    text = _without(names, message.text)
    if found := _AMBIGUOUS.search(text):
        yield _off("ambiguous-word", message, found[0], "say what is so, or ask what is so")
    confirms = last is not None and "?" not in last.text and _CORRECT.match(text.strip(" ,."))
    if not confirms and (found := _ANSWER.match(text.strip(" ,."))):
        yield _off(
            "bare-answer", message, found[0], "say yes or no, and the phrase of the question"
        )
    elif last is not None and (found := _apart(text, last)):
        yield _off("bare-answer", message, found, "say yes or no, and the phrase of the question")
    if found := _SLANG.search(text):
        yield _off("off-standard-word", message, found[0], "take the phrase book's word")
    if found := _CONTRACTED.search(text):
        yield _off("contraction", message, found[0], "say both words")
    for item in message.items:
        if item.kind == "marker" and _misused(item.value.lower(), message, item.end, last):
            yield _off(
                "marker-misused",
                message,
                item.value,
                "mark what is meant, such as INTENTION or ANSWER",
            )
    if found := _WHOLE.search(text):
        yield _off("figures-as-numbers", message, found[0], "say each figure")
    if (found := _MEASURED.search(text)) and not _NOTHING.search(found[0]):
        yield _off("unit-missing", message, found[0], "add nautical miles, cables, metres or knots")
    if "correction" not in message.acts and (found := _SLIP.search(text)):
        yield _off(
            "correction-form", message, found[0], "say MISTAKE, CORRECTION and the right words"
        )
    for item in message.items:
        if item.kind == "bearing_degrees" and len(item.value.partition(".")[0]) != 3:
            said = message.text[item.start : item.end]
            yield _off("bearing-figures", message, said, "say three figures, 001 to 360")


_YES = re.compile(r"\s*(yes|no|affirmative|negative)[.!]\s+([^.?!]+)", re.IGNORECASE)
_EMPTY = {
    *("the", "and", "are", "you", "your", "have", "has", "does", "did", "will", "for", "with", "any", "there", "that"),
    *("this", "not", "over", "out", "can", "able", "still", "how", "what", "was", "were", "from", "his", "her"),
}  # fmt: skip


def _apart(text: str, last: Message) -> str | None:
    """A yes or no that stands alone, where the next sentence takes up nothing of the question."""
    asked = re.findall(r"[^.?!]*\?", last.text)
    found = _YES.match(text.lstrip(" ,."))
    if not asked or not found:
        return None
    words = [w[:4] for w in re.findall(r"[a-z]{3,}", asked[-1].lower()) if w not in _EMPTY]
    own = [w[:4] for w in re.findall(r"[a-z]{3,}", found[2].lower())]
    return None if {*words} & {*own} else found[1]


_ASKING = re.compile(
    r"\b(request|requir|need|want|please|permission|assist|wish|ask|advise|report|say|send|give|tell|inform|confirm"
    r"|may i|can you|could you|is it)|\?",
    re.IGNORECASE,
)


def _misused(marker: str, message: Message, end: int, last: Message | None) -> bool:
    """Whether what follows a marker is of another kind."""
    found = re.match(r"\W*([^.?!]*[.?!]?)", message.text[end:])
    text = found[1] if found else ""
    if marker == "instruction":
        return message.speaker == "ship"
    if marker == "answer":
        asked = last is not None and (
            "?" in last.text
            or re.search(_ASKING, last.text)
            or any(i.kind == "marker" for i in last.items)
        )
        return not asked
    if marker == "request":
        return bool(
            re.search(r"\b(is|are) (at|in|on|off|under|out)\b|^(risk|danger) of\b", text, re.I)
        ) and not (_ASKING.search(text))
    if marker == "intention":
        return bool(re.search(r"\byou(r)?\b", text, re.I)) and not re.search(
            r"\b(i|we|my|our)\b", text, re.I
        )
    if marker in ("warning", "information"):
        return "?" in text or bool(re.match(r"(i|we) request\b", text, re.I))
    return False


def _without(names: Sequence[str], text: str) -> str:
    """The text without the stations' names, which hold words of their own."""
    for name in names:
        text = re.sub(rf"\b{re.escape(name)}\b[ ,.]*", "", text, flags=re.IGNORECASE)
    return re.sub(r"^\s*this is[ ,.]*", "", text, flags=re.IGNORECASE)


def _off(rule: str, message: Message, said: str, remedy: str) -> Violation:
    return Violation(rule, message.line, f"{said.strip()!r}: {PHRASES[rule]}", remedy)

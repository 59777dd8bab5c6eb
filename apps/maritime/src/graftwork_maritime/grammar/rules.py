"""Rules of the procedure (IMO SMCP, ITU Radio Regulations), each with what breaks it and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..scenario.model import Scenario
from . import lexicon, readback
from .facts import against_scenario, changed, crowds, sums
from .names import identified, names
from .opening import SIGNAL_OF, counts, opening
from .state import Message, State, Violation

RULES: Mapping[str, str] = {
    "signal-missing": "a call for help opens with MAYDAY, PAN-PAN or SECURITE",
    "signal-count": "the signal is said three times",
    "signal-mixed": "a call has one signal",
    "signal-kind": "the signal is that of the situation",
    "identity-missing": "a station says who it is",
    "answer-unidentified": "the coast station's first answer says who it is",
    "receipt-missing": "a distress call is acknowledged before anything is asked",
    "unanswered": "somebody answers a distress call",
    "position-missing": "a vessel in distress says where it is",
    "nature-missing": "a vessel in distress says what is wrong",
    "help-missing": "a vessel in distress says what help it needs",
    "order": "identity comes before position, nature and help",
    "position-range": "latitudes end at 90, longitudes at 180, minutes at 60",
    "position-form": "the latitude comes first",
    "mmsi-form": "an MMSI has nine figures",
    "call-sign-form": "a call sign has 3 to 7 letters and figures",
    "bearing-range": "bearings go to 360",
    "time-form": "a time has four figures, 0000 to 2359",
    "name-changed": "a station keeps its name, and is called by it",
    "speaker-name": "a station speaks under its own name",
    "cut-off": "a turn is a whole message",
    "fact-changed": "a station's own facts stay the same, unless corrected",
    "readback-wrong": "what is read back is what was said",
    "fact-wrong": "what is said of the scenario is true",
    "persons-sum": "passengers and crew are together the number of persons",
    "over-and-out": "OVER asks for an answer and OUT ends, never both",
    "channel-70": "channel 70 carries no voice",
    "channel-unknown": "a channel is one of the maritime VHF band",
    "question-marker": "a QUESTION ends with a question mark",
    "silence-without-distress": "silence is imposed during distress alone",
    "silence-broken": "after SEELONCE MAYDAY other stations keep silent",
    "silence-by": "SEELONCE MAYDAY is for the vessel in distress and the station in control",
    "silence-end": "SEELONCE FEENEE ends a distress, and is said by the station in control",
    "relay-source": "a relay says whose distress it passes on",
    "relay-self": "a vessel in distress says MAYDAY, not MAYDAY RELAY",
    "cancel-address": "a false alert is cancelled to all stations",
    "cancel-identity": "a cancellation has identity, position and time of the alert",
}


_PAIRED = (*range(1, 29), *range(60, 89))
CHANNELS = {str(n) for n in (*_PAIRED, *range(1001, 1089), *range(2001, 2089))}
CHANNELS |= {f"{n}{half}" for n in _PAIRED for half in "AB"}  # one half of a pair, "two two alfa"


_SOURCE = re.compile(
    r"\b(mayday|distress|alert|message|call)\b(?! relay)[^.?!]{0,24}\b(from|of|by)\b", re.IGNORECASE
)


_ASKS = re.compile(
    r"\W*(what|where|when|which|who|why|how|do|does|did|is|are|have|has|can|will|would|any|at what|in which|on which"
    r"|number of|what's|request)\b",
    re.IGNORECASE,
)


def check(state: State, scenario: Scenario | None) -> Iterator[Violation]:
    """Every violation, in no order."""
    if not state.messages:
        return
    yield from _forms(state)
    yield from _opening(state, scenario)
    yield from _answer(state)
    if state.kind in ("distress", "relay"):
        yield from _content(state)
    if state.kind == "cancel":
        yield from _cancellation(state)
    if state.kind == "relay":
        yield from _relay(state, scenario)
    yield from _silence(state)
    yield from names(state)
    yield from changed(state)
    yield from readback.echoes(state)
    yield from readback.transposed(state)
    yield from readback.renumbered(state)
    yield from readback.natures(state)
    yield from sums(state)
    yield from crowds(state, scenario)
    if scenario is not None:
        yield from against_scenario(state, scenario)


def _forms(state: State) -> Iterator[Violation]:
    for message in state.messages:
        for item in message.items:
            if item.kind == "fault":
                rule, why, remedy = item.value
                said = message.text[item.start : item.end]
                yield Violation(rule, message.line, f"{said}: {why}", remedy)
        if clock := lexicon.CLOCK.search(message.text):
            yield _break(
                "time-form",
                message,
                "say four figures and UTC",
                f"{clock[0]!r} is no time on the radio",
            )
        if lexicon.LAST.search(message.text) or _breaks_off(message, state.messages):
            yield _break("cut-off", message, "say the message to its end")
        for channel in set(message.channels) - CHANNELS:
            yield _break(
                "channel-unknown", message, "name a VHF channel", f"channel {channel} is none"
            )
        if "over_and_out" in message.acts:
            yield _break("over-and-out", message, "say OVER or OUT alone")
        if "70" in message.channels and not _mentions(message, "dsc", "alert", "digital", "watch"):
            yield _break("channel-70", message, "call on channel 16, or on a working channel")
        for place, item in enumerate(message.items):
            if item.kind == "marker" and item.value.lower() == "question":
                ends = [i for i in message.items[place + 2 :] if i.kind == "stop"]
                asks = _ASKS.match(
                    message.text, item.end
                )  # not every transcript has question marks
                if not asks and (not ends or "?" not in ends[0].value):
                    yield _break("question-marker", message, "ask, or use another marker")


def _breaks_off(message: Message, messages: list[Message]) -> bool:
    """A turn that ends in mid-sentence, where the others end with a full stop."""
    ended = [m.text.rstrip()[-1:] in ".?!" for m in messages if m is not message]
    return len(ended) > 1 and all(ended) and message.text.rstrip()[-1:].isalnum()


def part_of_distress(state: State, message: Message) -> bool:
    """Whether a station may say this while silence is imposed: it was called, is the casualty, names it, or helps."""
    text = message.text
    if state.name and state.name.lower() in text.lower():
        return True
    own = {n.lower() for n in (message.name, message.sender) if n}
    asked = [m.text.lower() for m in state.messages[: message.line - 1] if m.speaker == "coast"]
    if asked and any(name in asked[-1] for name in own):
        return True
    for name in filter(None, (message.addressed, message.sender)):  # "Amber Rescue"
        text = text.replace(name, " ")
    return lexicon.DURING_SILENCE.search(text) is not None


def _mentions(message: Message, *words: str) -> bool:
    return any(word in message.text.lower() for word in words)


def _break(rule: str, message: Message, remedy: str, text: str | None = None) -> Violation:
    return Violation(rule, message.line, text or RULES[rule], remedy)


def _opening(state: State, scenario: Scenario | None) -> Iterator[Violation]:
    first = opening(state)
    kind = scenario.kind if scenario else state.kind
    if first.signal is None:
        grave = first.natures and "help" in first.acts and first.speaker == "ship"
        if kind not in ("sar", "safety", "cancel") and (
            state.kind not in ("routine", "cancel") or (grave and state.kind == "routine")
        ):
            yield _break("signal-missing", first, "begin with the signal, three times")
    elif first.signal == "mixed":
        yield _break("signal-mixed", first, "say one signal, three times")
    elif first.repeats not in counts(state, first):
        yield _break(
            "signal-count",
            first,
            "say it three times",
            f"{first.signal} is said {first.repeats} times",
        )
    if not identified(state.messages[0]):
        yield _break("identity-missing", state.messages[0], "say THIS IS and the station's name")
    if "identity" in first.offsets and first.speaker == "ship":
        late = [
            key
            for key in ("position", "nature", "help")
            if first.offsets.get(key, 10**9) < first.offsets["identity"]
        ]
        if late:
            yield _break(
                "order", first, "say who you are first", f"the {late[0]} comes before the identity"
            )
    if (
        scenario is not None
        and scenario.kind in SIGNAL_OF
        and first.signal not in (None, "mixed", SIGNAL_OF[scenario.kind])
    ):
        yield _break("signal-kind", first, f"open {scenario.kind} traffic with its own signal")


def _answer(state: State) -> Iterator[Violation]:
    answers = [m for m in state.messages[1:] if m.speaker == "coast"]
    answer = next(iter(answers), None)
    first = state.messages[0]
    if answer is None:
        if state.kind == "distress" and not any(m.speaker != first.speaker for m in state.messages):
            yield _break("unanswered", state.messages[-1], "let a coast station or a ship answer")
        return
    if first.speaker == "coast":
        return
    if not identified(answer) and not lexicon.COAST.search(answer.text):
        yield _break("answer-unidentified", answer, "say THIS IS and the coast station's name")
    understood = [m for m in answers if not lexicon.UNREADABLE.search(m.text)]
    answer = next(iter(understood or answers))  # a call that nobody could read is said again first
    before = [m for m in state.messages[1 : answer.line] if m.speaker != first.speaker]
    heard = any(lexicon.RECEIPT.search(m.text) for m in before)
    if state.kind in ("distress", "relay") and not heard:
        yield _break("receipt-missing", answer, "say RECEIVED MAYDAY")
    urgent = state.kind == "urgency" and first.signal == "panpan" and first.speaker != "coast"
    if urgent and not lexicon.RECEIPT.search(answer.text) and not _mentions(answer, "pan"):
        yield _break("receipt-missing", answer, "say RECEIVED PAN-PAN")


def _content(state: State) -> Iterator[Violation]:
    own = [m for m in state.messages if m.speaker == "ship" or m.signal == "relay"]
    if not own:
        return
    last = own[-1]
    if not any(m.positions or "position" in m.offsets or "place" in m.acts for m in own):
        yield _break(
            "position-missing",
            last,
            "say latitude and longitude, or bearing and distance from a mark",
        )
    called = any(m.signal == "relay" for m in own)  # tells what it knows of another's distress
    told = any(m.natures or "help" in m.acts or lexicon.RELAYED.search(m.text) for m in own)
    if not (told if called else any(m.natures or "help" in m.acts for m in own)):
        yield _break("nature-missing", last, "say what is wrong")
    if not called and not any("help" in m.acts for m in own):
        yield _break("help-missing", last, "say which assistance is required")


def _cancellation(state: State) -> Iterator[Violation]:
    own = [m for m in state.messages if "cancel" in m.acts and m.speaker != "coast"]
    to_all = [m for m in own if "all_stations" in m.acts]
    message = (to_all or own)[
        0
    ]  # some say to one station that the alert was false, and cancel it later
    if not to_all:
        yield _break("cancel-address", message, "say ALL STATIONS three times first")
    placed = message.positions or {"place", "position"} & {*message.acts, *message.offsets}
    if not identified(message) or not placed or not message.times:
        yield _break("cancel-identity", message, "say name, position and the UTC time of the alert")


def _relay(state: State, scenario: Scenario | None) -> Iterator[Violation]:
    message = next(m for m in state.messages if m.signal == "relay")
    other = scenario.other_vessel if scenario else None
    names = {n.lower() for n in (scenario and scenario.vessel.name, other and other.name) if n}
    sender = (message.sender or "").lower()
    of_ship = scenario is not None and scenario.kind == "relay"  # that is known by name
    about = any(n in message.text.lower() and n not in sender for n in names)
    told = (message.about or message.mmsi) and _SOURCE.search(message.text)
    seen = lexicon.SEEN if of_ship else lexicon.RELAYED
    named = about or told or seen.search(message.text)
    if not named:
        yield _break("relay-source", message, "name the vessel in distress, or what was seen")
    own = scenario is not None and sender == scenario.vessel.name.lower()
    another = told and message.about and message.about.lower() not in sender
    if own and not another and not about:
        yield _break("relay-self", message, "say MAYDAY")


def _silence(state: State) -> Iterator[Violation]:
    controller: str | None = None
    distress = ended = False
    for message in state.messages:
        distress = (
            distress
            or message.signal in ("mayday", "relay")
            or _mentions(message, "mayday", "distress")
        )
        if "silence" in message.acts:
            if message.speaker == "other" and not _mentions(message, "distress"):
                yield _break("silence-by", message, "leave it to them, or say SEELONCE DISTRESS")
            elif message.speaker == "ship" and controller == "coast":
                yield _break(
                    "silence-by", message, "leave it to the station that has imposed silence"
                )
            before = [m for m in state.messages if m.line < message.line]
            if not any(
                m.signal in ("mayday", "relay") or "mayday" in m.text.lower() for m in before
            ):
                yield _break(
                    "silence-without-distress",
                    message,
                    "impose silence during distress traffic alone",
                )
            controller, ended = controller or message.speaker, False
        elif "silence_end" in message.acts:
            if "all_stations" not in message.acts:
                yield _break("silence-end", message, "say it to ALL STATIONS, in a call of its own")
            elif ended or not distress or message.speaker not in (controller, "coast"):
                yield _break(
                    "silence-end",
                    message,
                    "leave it to the station in control of the distress traffic",
                )
            controller, ended = None, True
        elif controller and message.speaker == "other" and not part_of_distress(state, message):
            yield _break("silence-broken", message, "keep silent until SEELONCE FEENEE")

"""Which message opens the traffic: a call with its signal, or the message after an acknowledged alert."""

from __future__ import annotations

import re

from . import lexicon
from .state import Message, State

SIGNAL_OF = {
    "distress": "mayday",
    "relay": "relay",
    "urgency": "panpan",
    "medical": "panpan",
    "safety": "securite",
}  # by the scenario's kind


def acknowledges(message: Message) -> bool:
    """Whether a station answers with the signal, said once, to a call or to an alert by DSC or beacon."""
    return (
        message.signal is not None
        and message.repeats < 3
        and message.speaker == "coast"
        and lexicon.RECEIPT.search(message.text) is not None
    )


def opening(state: State) -> Message:
    """The first message with a signal that answers nobody; the first of all where there is none.

    A station that tells its trouble and asks for help before any signal opens the traffic by that.
    """
    for message in state.messages:
        if message.signal and not acknowledges(message):
            return message
        if message.speaker != "coast" and message.natures and "help" in message.acts:
            return message
    return state.messages[0]


def counts(state: State, message: Message) -> tuple[int, ...]:
    """How often the opening's signal may be said: three times; once is right as well after an alert, and in an order
    of the coast station, whose MAYDAY is no call but goes before all distress traffic."""
    alerted = any(acknowledges(m) for m in state.messages if m.line < message.line)
    order = message.speaker == "coast" and message.signal == "mayday"
    return (1, 3) if alerted or order or follows_alert(message) else (3,)


def follows_alert(message: Message) -> bool:
    """Whether it is the distress message that follows an alert by DSC: THIS IS, the MMSI, and the name once.

    It takes up the identity that the alert has shown, and is no call, which repeats the name.
    """
    kinds = [i.kind for i in message.items if i.kind not in ("pause", "stop")]
    name = re.escape(message.sender or "")
    head = re.match(r"[^.?!]*", message.text[message.offsets.get("identity", 0) :])
    once = head is not None and len(re.findall(rf"\b{name}\b", head[0])) == 1
    return message.signal == "mayday" and kinds[1:3] == ["this_is", "mmsi"] and once


def reports_to_one(message: Message) -> bool:
    """Whether a vessel reports what it saw to one station, which warns the others: no broadcast, so no signal."""
    return (
        message.signal is None
        and message.speaker != "coast"
        and "all_stations" not in message.acts
        and bool(message.addressed or calls_by_names(message))
    )


def calls_by_names(message: Message) -> bool:
    """Whether a routine call has the called station's name and then the caller's: "*A*, *A*, yacht *B*"."""
    name = (message.name or message.sender or "").casefold()
    parts = [p.strip().casefold() for p in re.split(r"[,.]", message.text)[:6]]
    own = next((n for n, p in enumerate(parts) if name and p.endswith(name)), 0)
    return message.signal is None and own > 0 and len({*parts[:own]}) == 1


def asks_one(message: Message) -> bool:
    """Whether a message without a signal asks one station for something, which is no warning to all."""
    asks = "?" in message.text or any(
        i.kind == "marker" and i.value.lower() in ("question", "request") for i in message.items
    )
    asks = asks or lexicon.HELP.search(message.text) is not None
    return message.signal is None and asks and "all_stations" not in message.acts

"""Which message opens the traffic: a call with its signal, or the message after an acknowledged alert."""

from __future__ import annotations

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
    """How often the opening's signal may be said: three times; after an acknowledged alert once is right as well."""
    alerted = any(acknowledges(m) for m in state.messages if m.line < message.line)
    return (1, 3) if alerted else (3,)


def asks_one(message: Message) -> bool:
    """Whether a message without a signal asks one station for something, which is no warning to all."""
    asks = "?" in message.text or any(
        i.kind == "marker" and i.value.lower() in ("question", "request") for i in message.items
    )
    asks = asks or lexicon.HELP.search(message.text) is not None
    return message.signal is None and asks and "all_stations" not in message.acts

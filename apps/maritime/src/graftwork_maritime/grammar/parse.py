"""A dialogue into a state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..scenario.model import Scenario
from .message import read_message
from .rules import check
from .state import Message, State

_KINDS = {"mayday": "distress", "relay": "relay", "panpan": "urgency", "securite": "safety"}


class Spoken(Protocol):
    """A turn: who speaks, the station's name where it is labelled, and the words."""

    @property
    def speaker(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def name(self) -> str | None: ...


def parse(turns: Sequence[Spoken], scenario: Scenario | None = None) -> State:
    """The state after a dialogue's last turn, with every violation of the procedure in the order of the lines.

    Args:
        turns: any dialogue; free wordings are passed over.
        scenario: what is true; with it, facts that are said are compared.
    """
    state = State()
    for line, turn in enumerate(turns, 1):
        message = read_message(line, turn.speaker, turn.text, turn.name)
        state.messages.append(message)
        _follow(state, message)
    state.violations = sorted(check(state, scenario), key=lambda v: (v.line, v.rule))
    return state


def _follow(state: State, message: Message) -> None:
    """What a message changes."""
    if state.kind == "routine" and message.signal in _KINDS:
        state.kind = _KINDS[message.signal]
    opens = message.line == 1 and message.signal is None
    if (
        message.speaker != "coast"
        and "cancel" in message.acts
        and (opens or "all_stations" in message.acts)
    ):
        state.kind, state.procedure = "cancel", "cancelled"
    if message.sender and message.sender.casefold() not in map(str.casefold, state.stations):
        state.stations.append(message.sender)
    own = message.speaker == "ship" or (message.signal == "relay")
    if own:
        if state.name is None:
            state.name = message.about if state.kind == "relay" else message.sender
        for key, values in (
            ("mmsi", message.mmsi),
            ("call_sign", message.call_signs),
            ("position", message.positions),
            ("persons", message.persons),
        ):
            if values and getattr(state, key) is None:
                setattr(state, key, values[0])
        state.category = state.category or next(iter(message.natures), None)
        state.help = state.help or "help" in message.acts
    elif "received" in message.acts:
        state.acknowledged = True
    if "silence" in message.acts:
        state.procedure, state.controller = "silence", state.controller or message.speaker
    if "silence_end" in message.acts:
        state.procedure = "ended"

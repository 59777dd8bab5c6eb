"""Sessions by number, for what serves them: JSON or the page."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graftwork.errors import GraftError

from .. import NOTICE
from ..scenario import PRESETS, Engine, Scenario, given
from . import truth
from .composer import Composer
from .session import ROLES, Partner, Session

MOST = 100  # sessions that are kept
_OPEN, _TURN = {"scenario", "role", "seed", "index", "keep"}, {"session", "text", "speaker", "name"}


class Desk:
    """Opens exchanges and hands turns to them.

    Args:
        partner: makes the partner of a scenario, given it and a seed.
        title: what the partners are.
        keep: what `keep` is where nobody says it; see `Session`.
        preset: of the scenarios that are drawn.
        plays: the parts that the partners can play.
    """

    def __init__(
        self, partner: Callable[[Scenario, int], Partner], title: str, keep: bool = False, preset: str = "coastal",
        plays: Sequence[str] = ROLES,
    ) -> None:  # fmt: skip
        if preset not in PRESETS:
            raise GraftError(f"preset {preset!r}; choose one of {', '.join(PRESETS)}")
        self.partner, self.title, self.keep, self.plays = partner, title, keep, tuple(plays)
        self.engine = Engine(preset, exercise=True)
        self.sessions: OrderedDict[str, Session] = OrderedDict()

    def open(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Begin an exchange; all keys may be left out.

        Args:
            asked: `scenario` (an object; else one is drawn with `seed` and `index`), `role` that the partner plays,
                `keep`.

        Raises GraftError that names the key.
        """
        _known(asked, _OPEN)
        seed, index = (_whole(asked, key) for key in ("seed", "index"))
        raw = asked.get("scenario")
        scenario = self.engine.scenario(seed, index) if raw is None else _scenario(raw)
        role, keep = asked.get("role", "ship"), asked.get("keep", self.keep)
        if not isinstance(keep, bool):
            raise GraftError(f"keep: {keep!r}; write true or false")
        if role not in ROLES:
            raise GraftError(f"role: {role!r}; choose one of {', '.join(ROLES)}")
        if role not in self.plays:
            raise GraftError(
                f"role: {role}: this adapter has learnt to play {', '.join(self.plays)} alone; serve with --config "
                "watch, with an adapter of your own, or with --partner composer"
            )
        session = self.session(scenario, seed, role, keep)
        number = secrets.token_hex(8)
        first = session.open()
        self.sessions[number] = session
        while len(self.sessions) > MOST:
            self.sessions.popitem(last=False)
        return {
            "session": number, "role": role, "partner": self.title, "scenario": scenario.as_dict(), **first.to_json(),
        }  # fmt: skip

    def session(
        self, scenario: Scenario, seed: int = 0, role: str = "ship", keep: bool | None = None
    ) -> Session:
        """A new one, which has not begun; `keep` as the desk has it where it is None."""
        kept = self.keep if keep is None else keep
        second = Composer(scenario, seed) if kept else None
        return Session(scenario, self.partner(scenario, seed), role, second)

    def turn(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """One turn in, one turn and the parsed state out.

        Args:
            asked: `session`, `text` (empty: nobody spoke), and `speaker` and `name` where they are not the other
                station's.

        Raises GraftError that names the key.
        """
        _known(asked, _TURN)
        session = self.sessions.get(str(asked.get("session")))
        if session is None:
            raise GraftError(f"session: {asked.get('session')!r} is not open; open one first")
        for key in ("text", "speaker", "name"):
            value = asked.get(key)
            if not isinstance(value, str) and (key == "text" or value is not None):
                raise GraftError(
                    f"{key}: {value!r}; write a text"
                    + (", empty for silence" if key == "text" else "")
                )
        done = session.hear(asked["text"], asked.get("speaker"), asked.get("name"))
        return {"session": asked["session"], **done.to_json()}

    def about(self) -> dict[str, Any]:
        """Who answers, and how to ask."""
        return {
            "partner": self.title,
            "open": 'POST /open {"role": "ship"}',
            "turn": 'POST /turn {"session": "...", "text": "What is your position? Over."}',
            "notice": NOTICE,
        }


def _scenario(raw: Any) -> Scenario:
    """One of somebody's own; what cannot be said is found here, not in the middle of the exchange."""
    try:
        scenario = given(raw)
        trial = Session(scenario, Composer(scenario))
        trial.open()
        for key in truth.keys(scenario):
            trial.hear(f"Say again your {key}. Over.")
    except GraftError as error:
        raise GraftError(f"scenario: {error}") from None
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise GraftError(
            f"scenario: a value is of the wrong form ({error}); `maritime scenario` writes some"
        ) from None
    return scenario


def _known(asked: Any, keys: set[str]) -> None:
    if not isinstance(asked, Mapping):
        raise GraftError(f"a {type(asked).__name__}, not an object with {', '.join(sorted(keys))}")
    unknown = sorted(set(asked) - keys)
    if unknown:
        raise GraftError(f"{unknown[0]}: no such key; there are {', '.join(sorted(keys))}")


def _whole(asked: Mapping[str, Any], key: str) -> int:
    value = asked.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**9:
        raise GraftError(f"{key}: {value!r}; write a whole number from 0")
    return value

"""`maritime scenario` and `maritime compose`: scenarios and reference dialogues as JSONL, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.errors import GraftError

from . import NOTICE, __version__
from .arguments import Parser
from .resumable import write

if TYPE_CHECKING:
    from graftwork.lightning.app import App

    from .scenario import Engine, Scenario

SCENARIO = "Draw scenarios: vessels, positions at sea, facts; seeded, as JSONL."
COMPOSE = "Compose reference dialogues of scenarios by the protocol grammar; no model."


def scenario(app: App, args: Sequence[str]) -> int:
    """Run `maritime scenario`. Raises GraftError for bad input."""
    parser = _parser("scenario", SCENARIO)
    given = parser.parse_args(list(args))
    engine = _engine(given.preset, given.register, given.exercise)
    written = write(
        given.out,
        _positive(given.count, "count"),
        lambda n: json.dumps(
            {**engine.scenario(given.seed, given.start + n).as_dict(), "notice": NOTICE},
            ensure_ascii=False,
        ),
    )
    _say(written, "scenarios", given.out)
    return 0


def compose(app: App, args: Sequence[str]) -> int:
    """Run `maritime compose`. Raises GraftError for bad input."""
    parser = _parser("compose", COMPOSE)
    parser.add_argument(
        "--scenarios", help="JSONL of `maritime scenario` to write about, instead of drawing them"
    )
    parser.add_argument(
        "--form", default="full", help="full, or paper: ship and coast guard in turn [full]"
    )
    parser.add_argument("--variants", type=int, default=1, help="dialogues for each scenario [1]")
    given = parser.parse_args(list(args))
    variants = _positive(given.variants, "variants")
    if given.scenarios:
        from .scenario import read_scenarios

        known = read_scenarios(given.scenarios)
        count = len(known)

        def draw(n: int) -> Scenario:
            return known[n]

    else:
        engine = _engine(given.preset, given.register, given.exercise)
        count = _positive(given.count, "count")

        def draw(n: int) -> Scenario:
            return engine.scenario(given.seed, given.start + n)

    written = write(
        given.out,
        count * variants,
        lambda n: line(
            draw(n // variants),
            n % variants,
            given.form,
            given.preset if not given.scenarios else None,
        ),
    )
    _say(written, "dialogues", given.out)
    return 0


def line(scenario: Scenario, variant: int, form: str, preset: str | None = None) -> str:
    """One composed dialogue as a JSONL line."""
    from .dialogues import Dialogue
    from .grammar import compose as composed

    provenance = {
        "by": "composer",
        "version": __version__,
        "form": form,
        "variant": variant,
        "preset": preset,
    }
    dialogue = Dialogue(
        composed(scenario, variant, form),
        f"{scenario.id}-{form}-{variant}",
        scenario.as_dict(),
        scenario.category,
        provenance,
    )
    return json.dumps(dialogue.to_json(), ensure_ascii=False)


def _parser(verb: str, summary: str) -> Parser:
    parser = Parser(verb, summary)
    parser.add_argument("--count", type=int, default=10, help="how many scenarios [10]")
    parser.add_argument("--start", type=int, default=0, help="index of the first one [0]")
    parser.add_argument("--seed", type=int, default=0, help="of all draws [0]")
    parser.add_argument(
        "--preset", default="coastal", help="distribution: coastal, distress, paper [coastal]"
    )
    parser.add_argument("--register", help="CSV of your own vessels: name,mmsi,call_sign,type")
    parser.add_argument(
        "--exercise", action="store_true", help="invented vessels, with numbers that no country has"
    )
    parser.add_argument("--out", help="file to write, or to go on with; else standard output")
    return parser


def _engine(preset: str, register: str | None, exercise: bool) -> Engine:
    from .scenario import Engine, read_register

    vessels = read_register(register, exercise) if register else ()
    return Engine(preset, vessels, exercise)


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise GraftError(f"--{name} is {value}; give at least 1")
    return value


def _say(written: int, what: str, out: str | None) -> None:
    print(f"{written} {what}{f' written to {out}' if out else ''}; {NOTICE}", file=sys.stderr)

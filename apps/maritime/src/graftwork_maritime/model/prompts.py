"""What the model is told of a scenario, and the form in which it writes a dialogue.

Facts come as the words in which they are said (the paper's context), then what the paper's context lacks; one a line,
and none that the scenario leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..dialogues import Dialogue, Turn, from_text
from ..scenario import Scenario, paper_context
from ..spoken import cardinal, digits

SYSTEM = (
    "You write maritime radio dialogues for training, never for transmission. Keep to the procedure of the SMCP and "
    "change no fact."
)
RULE = "---"  # between the examples of a prompt
NOTHING = "(nothing)"  # the text of the one turn of a dialogue in which nothing was written
PAPER = "paper"  # the form of the paper, whose context knows no weather
# the form of exchanges in which nobody may speak for a while, and what stands for that
LIVE, PAUSE = "live", NOTHING
WATCH = (
    "watch"  # of those in which the model is the coast station, which is told nothing of the vessel
)
_NAMES = {
    "vessel_MMSI": "MMSI", "vessel_call_sign": "call sign", "vessel_coordinate_dms": "position",
    "compass_direction": "direction from the place", "closest_place_name": "place",
    "distance_to_nearest_place": "miles from the place", "closest_place_country": "country",
    "nearest_port": "port", "distance_to_nearest_port": "miles from the port", "nearest_harbor": "harbour",
    "distance_to_nearest_harbor": "miles from the harbour", "closest_water_body": "water",
}  # fmt: skip
_FLAGS = {"digit_by_digit", "can_have_cargo"}


def prompt(scenario: Scenario, form: str = "full") -> str:
    """The facts of a scenario, one a line. `form`: of the dialogue, as `compose` takes it, `LIVE` or `WATCH`."""
    if form == WATCH:
        return _watch(scenario)
    context = paper_context(scenario)
    one_by_one = bool(context["digit_by_digit"])
    say = digits if one_by_one else cardinal
    facts: list[tuple[str, object]] = [
        ("form", form),
        ("kind", scenario.kind),
        ("category", scenario.category),
        ("figures", "digit by digit" if one_by_one else "as numbers"),
    ]
    facts += [
        (_NAMES.get(key, key.replace("_", " ")), value)
        for key, value in context.items()
        if key not in _FLAGS and value
    ]
    facts += [
        ("cargo may be mentioned", "yes" if context["can_have_cargo"] else None),
        ("cargo", scenario.vessel.cargo),
        ("persons on board", say(scenario.vessel.persons)),
        ("help wanted", "; ".join(scenario.help)),
        *((name.replace("_", " "), value) for name, value in scenario.facts.items()),
        ("coast station", scenario.station.name),
    ]
    weather = scenario.weather
    if weather is not None and form != PAPER:
        sight = f"visibility {say(weather.visibility_nm)} miles"
        facts.append(
            (
                "weather",
                f"wind {weather.wind}, force {say(weather.force)}, sea {weather.sea}, {sight}",
            )
        )
    if scenario.dsc is not None:
        facts.append(("DSC alert", f"nature {scenario.dsc.nature}"))
    return "\n".join(f"{name}: {value}" for name, value in facts if value not in (None, ""))


def _watch(scenario: Scenario) -> str:
    """What a coast station knows before anybody calls: its name, and which help it can send."""
    from ..live.aid import aid

    known = aid(scenario)
    one_by_one = scenario.position.digit_by_digit
    facts = {
        "form": WATCH,
        "figures": "digit by digit" if one_by_one else "as numbers",
        "coast station": scenario.station.name,
        "help": f"{known.unit}, {(digits if one_by_one else cardinal)(known.minutes)} minutes",
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def few_shot(examples: Sequence[tuple[Dialogue, Scenario]], scenario: Scenario, form: str) -> str:
    """The prompt of a model that was not trained: dialogues with their facts, then the facts of the wanted one."""
    parts = [f"{prompt(s, form)}\n\nDialogue:\n{answer(d.turns)}" for d, s in examples]
    return f"\n\n{RULE}\n\n".join([*parts, f"{prompt(scenario, form)}\n\nDialogue:\n"])


def answer(turns: Sequence[Turn]) -> str:
    """A dialogue as the model writes it: a labelled turn a line."""
    return "\n".join(f"{_label(turn)}: {turn.text}" for turn in turns)


def written(text: str, **known: object) -> Dialogue:
    """The dialogue that a model wrote; one turn `NOTHING` where it wrote none."""
    return from_text(text if text.strip() else f"SHIP: {NOTHING}", **known)


def _label(turn: Turn) -> str:
    named = turn.speaker == "other" and turn.name
    return f"{turn.speaker.upper()} ({turn.name})" if named else turn.speaker.upper()

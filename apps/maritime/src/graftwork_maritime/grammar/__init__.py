"""The radio procedure: any dialogue into a state with its violations, and reference dialogues from a scenario.

state = parse(dialogue.turns, scenario)     # state.violations: rule, line, text, remedy
turns = compose(scenario, seed=0)           # parses without a violation and keeps every fact
"""

from .compose import FORMS, compose
from .parse import parse
from .phrasing import PHRASES, phrasing
from .rules import RULES, part_of_distress
from .state import Message, State, Violation

__all__ = [
    "FORMS",
    "PHRASES",
    "RULES",
    "Message",
    "State",
    "Violation",
    "compose",
    "parse",
    "part_of_distress",
    "phrasing",
]

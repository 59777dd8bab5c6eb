"""What happens, to whom and where: seeded scenarios that dialogues are written from.

engine = Engine(preset="paper", exercise=True)
scenario = engine.scenario(seed=0, index=7)     # a pure function of preset, register, seed and index
scenario.to_json()                              # one line of JSONL
"""

from .context import paper_context
from .engine import Engine
from .given import given, read_scenarios
from .model import Scenario
from .presets import PRESETS, Preset
from .register import read_register

__all__ = [
    "PRESETS",
    "Engine",
    "Preset",
    "Scenario",
    "given",
    "paper_context",
    "read_register",
    "read_scenarios",
]

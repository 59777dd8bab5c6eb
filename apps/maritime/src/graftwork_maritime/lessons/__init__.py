"""How a model learns to answer live: exchanges with a scripted coast station, and the right reply to each move."""

from .lesson import LEARNT_KINDS, lesson
from .script import Move, script
from .wordings import Wordings

__all__ = ["LEARNT_KINDS", "Move", "Wordings", "lesson", "script"]

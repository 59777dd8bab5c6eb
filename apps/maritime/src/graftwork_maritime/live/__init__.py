"""Live exchange: one station's part, turn by turn, by a model or by the grammar; for training, never for transmission.

session = Session(scenario, Composer(scenario))     # plays the ship
session.open()                                      # its call, where the ship calls first
session.hear("What is your position? Over.")        # .reply, .state, .violations
"""

from .composer import Composer
from .session import ROLES, Exchange, Partner, Scene, Session

__all__ = ["ROLES", "Composer", "Exchange", "Partner", "Scene", "Session"]

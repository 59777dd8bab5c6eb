"""maritime: radio dialogues that keep to the procedure and to every fact; for training, never for transmission."""

from __future__ import annotations

__version__ = "0.1.0"

NOTICE = "for training, never for transmission"

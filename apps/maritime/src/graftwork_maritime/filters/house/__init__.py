"""Our own filters, beside the paper's: identity, position, order, logical state."""

from __future__ import annotations

from .identity import IDENTITY
from .logic import LOGIC
from .order import ORDER
from .position import POSITION

HOUSE = (*IDENTITY, *POSITION, *ORDER, *LOGIC)

"""Our own filters, beside the paper's: identity, position, order, logical state, wording."""

from __future__ import annotations

from .identity import IDENTITY
from .logic import LOGIC
from .order import ORDER
from .position import POSITION
from .wording import WORDING

HOUSE = (*IDENTITY, *POSITION, *ORDER, *LOGIC, *WORDING)

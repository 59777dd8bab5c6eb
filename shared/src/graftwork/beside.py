"""What trains beside the adapter: whole modules (a glob) and new rows."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.errors import GraftError


@dataclass(frozen=True)
class NewRows:
    """New output channels of a layer, or new tokens of an embedding, that belong to the graft.

    Args:
        site: glob over module names; must match exactly one layer.
        new: how many rows; new outputs start at zero, new tokens at the table's mean row.
    """

    site: str
    new: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.new, int) or isinstance(self.new, bool) or self.new < 1:
            raise GraftError(f"NewRows.new must be a whole number of at least 1, not {self.new!r}")

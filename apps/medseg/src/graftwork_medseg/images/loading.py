"""Whole cases, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset


class _WhenAsked(Dataset[Any]):
    """Whole cases, read when asked for: a test set need not fit into memory."""

    def __init__(self, readers: Sequence[Callable[[], Any]]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int) -> Any:
        return self.readers[index]()


def _only(batch: list[Any]) -> Any:
    return batch[0]


def one_by_one(readers: Sequence[Callable[[], Any]]) -> Any:
    """A loader of whole cases, each read when its turn comes."""
    return DataLoader(_WhenAsked(readers), batch_size=1, collate_fn=_only)

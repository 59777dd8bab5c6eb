"""Data order and randomness as pure functions of (seed, epoch, index), and a loader that can start mid-epoch.

With these, what a sample looks like does not depend on the number of workers, on prefetching, or on how
often the run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from graftwork.errors import GraftError


def mixed_seed(*words: int | str) -> int:
    """A 63-bit seed from any numbers and words; different inputs give unrelated seeds."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_generator(seed: int, epoch: int, index: int) -> Generator:
    """The random generator of one sample in one epoch: pass it to every draw of its augmentation."""
    return Generator().manual_seed(mixed_seed("sample", seed, epoch, index))


class ShuffleSampler(DistributedSampler[tuple[int, int]]):
    """Yields `(epoch, index)` in an order that is a function of (seed, epoch), from sample `start` on.

    The data set's `__getitem__` receives the pair, so that its augmentation can be
    `sample_generator(seed, epoch, index)`. `len()` is that of the whole epoch.

    Of several processes (those of the default process group when it is asked) number k of n takes every nth sample from
    the kth on: together their next batches are the next batch of one process that takes n times as much at once. So
    that all have as many, the first samples come again at the epoch's end, or the last are left out.

    Args:
        data: anything with a length.
        seed: the order's seed.
        shuffle: `False` keeps the data's own order.
        drop_last: leave out what would not fill every process's last batch evenly.
    """

    # a DistributedSampler to Lightning, which else puts its own in; the numbers of torch's are asked for anew each time
    def __init__(
        self, data: Sized, *, seed: int, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        self.data, self.seed, self.shuffle, self.drop_last = data, seed, shuffle, drop_last
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; a new epoch begins with its first sample."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        n, epoch = len(self.data), self.epoch
        if self.shuffle:
            generator = Generator().manual_seed(mixed_seed("order", self.seed, epoch))
            order = torch.randperm(n, generator=generator).tolist()
        else:
            order = list(range(n))
        rank, count = world()
        each = len(self)
        order = (order * (each * count // max(n, 1) + 1))[: each * count]
        return ((epoch, i) for i in order[self.start + rank :: count])

    def __len__(self) -> int:
        n, (_, count) = len(self.data), world()
        return n // count if self.drop_last else -(-n // count)


def world() -> tuple[int, int]:
    """(number of this process, how many there are); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` whose position inside the epoch is part of Lightning's checkpoint.

    Batches already handed out count as consumed; those that workers prefetched do not. The data set gets
    `(epoch, index)` pairs (see `ShuffleSampler`).

    Args:
        dataset: a map-style data set.
        batch_size: samples per batch.
        seed: seed of the order.
        shuffle: new order each epoch.
        sampler, batch_sampler: for Lightning, which rebuilds loaders; leave them out.
        options: further `DataLoader` arguments, such as `num_workers`, `drop_last`, `collate_fn`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,  # Lightning rebuilds a loader from its keywords
        batch_size: int | None = 1,
        seed: int = 0,
        shuffle: bool = True,
        sampler: Any = None,
        batch_sampler: Any = None,
        **options: Any,
    ) -> None:
        if not isinstance(dataset, Sized):
            raise GraftError(
                f"{type(dataset).__name__} has no length, so its order cannot be resumed"
            )
        # an own generator: the base seed that the workers draw must not advance the global one
        options.setdefault("generator", Generator().manual_seed(mixed_seed("workers", seed)))
        drop_last = bool(options.get("drop_last", False))
        self._order = ShuffleSampler(dataset, seed=seed, shuffle=shuffle, drop_last=drop_last)
        self._delivered = (0, 0)
        if batch_sampler is not None:
            # Lightning rebuilds a loader around its own batch sampler when it predicts
            super().__init__(dataset, batch_sampler=batch_sampler, **options)
        else:
            super().__init__(
                dataset, batch_size=batch_size, sampler=sampler or self._order, **options
            )

    def __iter__(self) -> Any:
        epoch, first = self._order.epoch, self._order.start // self._size
        self._delivered = (epoch, first)
        return self._counted(super().__iter__(), epoch, first)

    def _counted(self, batches: Iterator[Any], epoch: int, first: int) -> Iterator[Any]:
        for n, batch in enumerate(batches, start=first + 1):
            self._delivered = (epoch, n)
            yield batch

    @property
    def _size(self) -> int:
        """Samples of a batch of all processes together."""
        return (self.batch_size or 1) * world()[1]  # `None` around a foreign batch sampler

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches handed out; Lightning stores it."""
        epoch, batches = self._delivered
        if epoch != self._order.epoch:  # the next epoch is set but not begun
            batches = 0
        return {
            "epoch": self._order.epoch,
            "batches": batches,
            "batch_size": self._size,
            "samples": len(self._order.data),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration where `state` stopped; Lightning calls it before iterating.

        Raises:
            GraftError: the state is of another data set size or (over all processes) batch size, or the order
                is not ours.
        """
        if self.sampler is not self._order:
            raise GraftError("resume inside an epoch needs the loader's own order; pass no sampler")
        for field, mine in (("batch_size", self._size), ("samples", len(self._order.data))):
            if state[field] != mine:
                raise GraftError(
                    f"checkpoint: its data had {field} {state[field]}, the loader has {mine}; "
                    "resume with the data and batch size (over all processes) of the interrupted run"
                )
        if state["batches"] >= len(self):
            self._order.epoch, self._order.start = state["epoch"] + 1, 0
        else:
            self._order.epoch = state["epoch"]
            self._order.start = state["batches"] * self._size

"""In which order do samples run? Microbatches of a token capacity (LoRAFusion, arXiv 2510.00206).

Three rules make the order exact: a microbatch holds samples of one global batch of an adapter at most; an adapter's
next global batch begins at least `distance` microbatches (pipeline stages) after the end of its last one; its
optimizer steps when all samples of a global batch are done. The paper packs by a mixed-integer program; this is the
greedy way: longest sample first, into the first microbatch that may take it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graftwork.errors import GraftError


@dataclass(frozen=True)
class Sample:
    """One sample of a task.

    Args:
        task: its name.
        batch: number of the global batch, from 0.
        index: of the sample in the task's data.
        tokens: its length.
    """

    task: str
    batch: int
    index: int
    tokens: int


@dataclass
class Microbatch:
    """Samples that run in one pass.

    Attributes:
        samples: sorted by task.
        steps: names of the tasks whose optimizers step after it.
    """

    samples: list[Sample] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def tokens(self, multiple: int = 1) -> int:
        """Rows with each task's padded to a multiple."""
        each: dict[str, int] = {}
        for s in self.samples:
            each[s.task] = each.get(s.task, 0) + s.tokens
        return sum(-(-n // multiple) * multiple for n in each.values())


def microbatches(
    lengths: Mapping[str, Sequence[int]],
    batch_sizes: Mapping[str, int],
    capacity: int,
    *,
    distance: int = 1,
    multiple: int = 1,
) -> list[Microbatch]:
    """Pack whole global batches of all tasks; samples that do not fill one more global batch are left out.

    Args:
        lengths: task -> tokens of its samples, in the order of training.
        batch_sizes: task -> samples of a global batch.
        capacity: tokens of a microbatch, padding included.
        distance: microbatches from the end of a task's global batch to the begin of its next one, at least 1.
        multiple: each task's rows of a microbatch are padded to it (the tile of a grouped product).

    Raises:
        GraftError: a batch size, distance or multiple below 1, tasks that differ, or a sample above the capacity.
    """
    for name, value in (("capacity", capacity), ("distance", distance), ("multiple", multiple)):
        if value < 1:
            raise GraftError(f"{name} must be at least 1, not {value}")
    if {*lengths} != {*batch_sizes}:
        odd = sorted({*lengths} ^ {*batch_sizes})[0]
        raise GraftError(f"batch_sizes: {odd!r} has lengths or a batch size, but not both")
    for task, size in batch_sizes.items():
        if size < 1:
            raise GraftError(f"batch_sizes: {task!r} has {size}; give at least 1")
        long = next((n for n in lengths[task] if -(-n // multiple) * multiple > capacity), None)
        if long is not None:
            raise GraftError(
                f"capacity: {capacity} tokens do not hold a sample of {long} tokens of {task!r}; raise it or cut the "
                "sample"
            )
    out: list[Microbatch] = []
    free = dict.fromkeys(lengths, 0)  # the first microbatch that a task's next global batch may use
    for waiting in _waves(lengths, batch_sizes):
        for batch in waiting:
            task = batch[0].task
            last = free[task]
            for sample in sorted(batch, key=lambda s: (-s.tokens, s.index)):
                place = _place(out, sample, free[task], capacity, multiple)
                out[place].samples.append(sample)
                last = max(last, place)
            out[last].steps.append(task)
            free[task] = last + distance
    for microbatch in out:
        microbatch.samples.sort(key=lambda s: (s.task, s.index))
    return out


def _waves(
    lengths: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
) -> Iterator[list[list[Sample]]]:
    """The tasks' first global batches, then their second ones; those with most tokens first."""
    count = max((len(lengths[t]) // sizes[t] for t in lengths), default=0)
    for j in range(count):
        wave = []
        for task, size in sizes.items():
            if (j + 1) * size <= len(lengths[task]):
                at = range(j * size, (j + 1) * size)
                wave.append([Sample(task, j, i, lengths[task][i]) for i in at])
        yield sorted(wave, key=lambda b: (-sum(s.tokens for s in b), b[0].task))


def _place(out: list[Microbatch], sample: Sample, first: int, capacity: int, multiple: int) -> int:
    for place in range(first, len(out)):
        trial = Microbatch([*out[place].samples, sample])
        if trial.tokens(multiple) <= capacity:
            return place
    while len(out) <= first:
        out.append(Microbatch())
    if out[-1].samples:
        out.append(Microbatch())
    return len(out) - 1


def check(
    order: Iterable[Microbatch],
    lengths: Mapping[str, Sequence[int]],
    batch_sizes: Mapping[str, int],
    *,
    distance: int = 1,
) -> None:
    """Whether an order is exact: for one that came from elsewhere.

    Raises:
        GraftError: the first rule that it breaks.
    """
    done: dict[str, list[int]] = {task: [] for task in lengths}
    ended: dict[str, int] = {}
    current = dict.fromkeys(lengths, -1)
    filled = dict.fromkeys(lengths, 0)
    for place, microbatch in enumerate(order):
        for task in sorted({s.task for s in microbatch.samples}):
            mine = [s for s in microbatch.samples if s.task == task]
            batches = {s.batch for s in mine}
            if len(batches) > 1:
                raise GraftError(f"microbatch {place}: two global batches of {task!r}")
            (batch,) = batches
            if batch != current[task]:
                if filled[task] % batch_sizes[task] or batch != current[task] + 1:
                    raise GraftError(
                        f"microbatch {place}: batch {batch} of {task!r} is out of order"
                    )
                if task in ended and place < ended[task] + distance:
                    raise GraftError(
                        f"microbatch {place}: batch {batch} of {task!r} comes too early"
                    )
                current[task] = batch
            filled[task] += len(mine)
            done[task] += [s.index for s in mine]
            if filled[task] > (batch + 1) * batch_sizes[task]:
                raise GraftError(
                    f"microbatch {place}: batch {batch} of {task!r} has too many samples"
                )
            if filled[task] == (batch + 1) * batch_sizes[task]:
                ended[task] = place
        for task in microbatch.steps:
            if ended.get(task) != place:
                raise GraftError(
                    f"microbatch {place}: {task!r} steps before its global batch is done"
                )
    for task, size in batch_sizes.items():
        whole = len(lengths[task]) // size * size
        if sorted(done[task]) != list(range(whole)):
            raise GraftError(f"{task!r}: samples are lost or run twice")

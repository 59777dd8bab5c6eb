"""Sliding windows whose class scores leave as soon as no further window touches them.

Windows of `roi` voxels cover the volume, blended by a Gaussian of sigma roi/8 (Isensee et al., nnU-Net,
Nature Methods 18, 2021): score(x) = sum_w g_w(x) s_w(x) / sum_w g_w(x). Windows run along the first axis
last, so what lies before the start of the next window is final. Only the planes between are kept, in a
ring: C x roi x Y x Z numbers, where the whole volume would take C x X x Y x Z.

The windows, their order, batches and padding are those of MONAI's SlidingWindowInferer with
mode="gaussian", and so are the sums: the scores are the same bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graftwork.errors import GraftError

Network = Callable[[Tensor], Tensor]
Cell = tuple[int, int, int]  # start of a window in the padded volume, voxels


@dataclass(frozen=True)
class Plan:
    """How a volume is cut: its padding (before, after) per axis, the windows in order, and the ring."""

    shape: Cell
    pad: tuple[tuple[int, int], ...]
    batches: tuple[tuple[Cell, ...], ...]
    depth: int  # planes of the padded volume that the ring holds

    @property
    def padded(self) -> Cell:
        """The volume's shape with its padding."""
        x, y, z = (n + a + b for n, (a, b) in zip(self.shape, self.pad, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Windows:
    """Window size in voxels, overlap of neighbours (0 to below 1) and windows per forward pass."""

    roi: Cell
    overlap: float = 0.25
    batch: int = 4

    def __post_init__(self) -> None:
        if len(self.roi) != 3 or min(self.roi) < 1:
            raise GraftError(f"model.roi {list(self.roi)} must be three sizes of at least 1 voxel")
        if not 0 <= self.overlap < 1:
            raise GraftError(f"model.overlap {self.overlap} must be at least 0 and below 1")
        if self.batch < 1:
            raise GraftError(f"windows per forward pass: {self.batch} must be at least 1")

    def plan(self, shape: Sequence[int]) -> Plan:
        """Cut a volume of `shape` (x, y, z); one smaller than the window is padded on both sides."""
        x, y, z = shape
        pad = tuple(
            ((r - n) // 2, r - n - (r - n) // 2) if n < r else (0, 0)
            for n, r in zip(shape, self.roi, strict=True)
        )
        starts = [self._starts(n, r) for n, r in zip(shape, self.roi, strict=True)]
        cells: list[Cell] = list(itertools.product(*starts))  # type: ignore[arg-type]
        batches = tuple(tuple(cells[i : i + self.batch]) for i in range(0, len(cells), self.batch))
        return Plan((x, y, z), pad, batches, self.roi[0])

    def _starts(self, size: int, roi: int) -> list[int]:
        last = max(size - roi, 0)
        step = max(int(roi * (1 - self.overlap)), 1) if size != roi else roi
        return [*range(0, last, step), last]

    def weights(self, device: torch.device | str = "cpu") -> Tensor:
        """The Gaussian of one window, `roi`-shaped float32, at least 1e-3."""
        out = torch.ones(())
        for axis, size in enumerate(self.roi):
            t = torch.arange(-(size - 1) / 2.0, (size - 1) / 2.0 + 1)
            line = torch.exp(t**2 / (-2 * (0.125 * size) ** 2))
            out = out.unsqueeze(-1) * line[(None,) * axis] if axis else line
        return out.clamp_(min=max(out.min().item(), 1e-3)).to(device)

    def ring_bytes(self, shape: Sequence[int], classes: int) -> int:
        """Memory of the scores and weights that are kept at a time, in bytes."""
        plan = self.plan(shape)
        _, y, z = plan.padded
        return 4 * (classes + 1) * plan.depth * y * z

    def stream(
        self, network: Network, image: Tensor, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (first plane, scores (C, k, y, z)) of `image` (channels, x, y, z), in order of planes.

        The scores are a view that the next step overwrites. `network` maps (n, channels, *roi) to
        (n, C, *roi); both and the scores live on `device`, the image may stay elsewhere. Raises GraftError
        when the network's output is not on the window's grid.
        """
        plan = self.plan(image.shape[1:])
        if any(map(any, plan.pad)):
            image = F.pad(image, [n for pair in reversed(plan.pad) for n in pair])
        weights = self.weights(device)
        ring: Ring | None = None
        for batch in plan.batches:
            cut = torch.stack([image[(slice(None), *self._box(cell))] for cell in batch])
            # Half-precision scores are summed in the image's own precision.
            scores = network(cut.to(device)).to(image.dtype)
            if tuple(scores.shape[2:]) != tuple(self.roi):
                raise GraftError(
                    f"model.roi {list(self.roi)}: the network answers with {list(scores.shape[2:])}; "
                    "choose a window whose sizes the network's strides divide"
                )
            if ring is None:
                ring = Ring(plan, scores.shape[1], scores.dtype, device)
            for cell, one in zip(batch, scores, strict=True):
                # A batch may reach into the next row of windows; the planes before it leave first.
                yield from ring.take(cell[0])
                ring.add(self._box(cell), one.mul_(weights), weights)
        assert ring is not None
        yield from ring.take(plan.padded[0])

    def scores(self, network: Network, image: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """All scores (C, x, y, z) of `image` at once, for volumes whose scores fit; see `stream`."""
        out: Tensor | None = None
        for start, planes in self.stream(network, image, device):
            if out is None:
                out = planes.new_empty((planes.shape[0], *image.shape[1:]))
            out[:, start : start + planes.shape[1]] = planes
        assert out is not None
        return out

    def _box(self, cell: Cell) -> tuple[slice, ...]:
        return tuple(slice(a, a + r) for a, r in zip(cell, self.roi, strict=True))


class Ring:
    """The planes that windows still touch: plane x of the padded volume lies at x modulo the depth."""

    def __init__(
        self, plan: Plan, classes: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        _, y, z = plan.padded
        self.plan, self.done = plan, 0
        self.scores = torch.zeros((classes, plan.depth, y, z), dtype=dtype, device=device)
        self.count = torch.zeros((plan.depth, y, z), dtype=dtype, device=device)

    def add(self, box: tuple[slice, ...], scores: Tensor, weights: Tensor) -> None:
        """Add weighted scores (C, *roi) and their weights at `box` of the padded volume."""
        begun = box[0].start
        for a, b in self._pieces(begun, box[0].stop):
            at = (slice(a % self.plan.depth, (b - 1) % self.plan.depth + 1), *box[1:])
            self.scores[(slice(None), *at)] += scores[:, a - begun : b - begun]
            self.count[at] += weights[a - begun : b - begun]

    def take(self, end: int) -> Iterator[tuple[int, Tensor]]:
        """The finished planes before `end`, without the padding; their places are then free."""
        (front, _), *sides = self.plan.pad
        inner = tuple(slice(a, a + n) for (a, _), n in zip(sides, self.plan.shape[1:], strict=True))
        for a, b in self._pieces(self.done, end):
            at = slice(a % self.plan.depth, (b - 1) % self.plan.depth + 1)
            slab = self.scores[:, at].div_(self.count[at])
            low, high = max(a, front), min(b, front + self.plan.shape[0])
            if low < high:
                yield low - front, slab[(slice(None), slice(low - a, high - a), *inner)]
            slab.zero_()
            self.count[at].zero_()
        self.done = end

    def _pieces(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Split planes [begin, end) where the ring closes."""
        while begin < end:
            stop = min(end, (begin // self.plan.depth + 1) * self.plan.depth)
            yield begin, stop
            begin = stop


def mirrored(network: Network) -> Network:
    """The mean of the class probabilities over the eight mirror images of each window."""

    def probabilities(x: Tensor) -> Tensor:
        total: Tensor | None = None
        for n in range(4):
            for axes in itertools.combinations((2, 3, 4), n):
                one = torch.softmax(network(x.flip(axes)).float(), 1).flip(axes)
                total = one if total is None else total.add_(one)
        assert total is not None
        return total.div_(8)

    return probabilities


def forward_bytes(network: torch.nn.Module, shape: Sequence[int]) -> int:
    """Peak memory of the tensors that one forward pass of `shape` (n, channels, x, y, z) makes, in bytes.

    Nothing is computed: the pass runs on fake tensors, which have shapes and no values, and those alive are
    counted. The workspace of single kernels is not in it. A network whose forward reads values cannot run so
    and is estimated by 64 numbers a voxel.
    """
    import weakref

    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Meter(TorchDispatchMode):
        alive, peak, seen = 0, 0, weakref.WeakSet()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, FakeTensor):
                    storage = tensor.untyped_storage()
                    if storage not in self.seen:
                        self.seen.add(storage)
                        self.alive += storage.nbytes()
                        self.peak = max(self.peak, self.alive)
                        weakref.finalize(storage, self.free, storage.nbytes())
            return out

        def free(self, size: int) -> None:
            self.alive -= size

    try:
        state = [*network.named_parameters(), *network.named_buffers()]
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            weightless = {name: fake.from_tensor(tensor) for name, tensor in state}
            with torch.no_grad(), Meter() as meter:
                image = torch.empty(tuple(shape), device=state[0][1].device if state else "cpu")
                # Each tensor is swapped once, by one name: where a module has two (nnU-Net's decoder holds
                # the encoder), swapping by both would leave the fake in it.
                torch.func.functional_call(network, weightless, (image,), tie_weights=False)
        return meter.peak
    except (RuntimeError, NotImplementedError, TypeError, AssertionError):
        return 4 * 64 * shape[0] * math.prod(shape[2:])

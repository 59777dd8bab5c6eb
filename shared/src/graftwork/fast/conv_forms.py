"""Which form of a low-rank convolution is cheapest? A cost model from shapes.

Seconds of a training step (forward, gradient of the input, gradients of the factors), over and above the
frozen layer's own two convolutions. With K the kernel's elements, V output positions, c_in and c_out the channels
of a group, r' the rank's share of it:

| form | convolutions | passes over images | passes over the weight |
| --- | --- | --- | --- |
| weight | dW' (c_in, c_out) | | W' made, dW' read and projected |
| mixed | p and dA (c_in, r') | dy read for dp and for dB | W' made |
| branch | p and dA (c_in, r'), dx from dp | the same; y and dx read and written again | |

A convolution costs its multiplications, with the outputs filled up to what the machine's units take at once,
plus the bytes of its two images, plus a start. So `weight` wins where channels are few and a unit of r
channels would be mostly padding; `mixed` where the layer is many times wider than r; `branch` where the weight is
larger than the images (the bottom of a U-Net).

The constants are of the order of what cuDNN and oneDNN reach, not of data sheets; only their ratios matter.
`python -m benchmarks.speed.conv_forms` measures every form on a network's own layers beside what is chosen here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from graftwork.algebra.geometry import Geometry
from graftwork.fast.conv import BRANCH, MIXED, WEIGHT


class Machine(NamedTuple):
    """What a convolution's time depends on.

    Args:
        flops: multiplications and additions a second, sustained by 3D convolutions.
        bytes: bytes a second.
        tile: channels that one unit of work takes, needed or not.
        extra: channels' worth of work that does not depend on the number of channels.
        start: seconds of an operation without work.
    """

    flops: float
    bytes: float
    tile: int
    extra: int
    start: float


#: one core with 512-bit vectors: oneDNN in float32 and in half precision, and torch's own gather and product, which
#: reads each input element once per kernel element, so that outputs are half free
CPU_WIDE = Machine(1.3e11, 2e10, 16, 7, 1e-5)
CPU_HALF = Machine(2.6e11, 2e10, 16, 4, 1e-5)
CPU_GATHERED = Machine(1.0e11, 2e10, 16, 40, 1e-5)
#: a data-centre GPU; tensor cores, with tiles of output channels
GPU_WIDE = Machine(1.0e14, 2.0e12, 32, 0, 1e-5)
GPU_HALF = Machine(2.5e14, 2.0e12, 64, 0, 1e-5)
#: single float32 images with at most this many elements in their first three axes are gathered on a CPU
_GATHERED = 20480


def machine(x: Tensor) -> Machine:
    """The constants for a batch `(n, in, *size)` of this dtype on this device."""
    half = x.dtype.itemsize < 4
    if x.device.type != "cpu":
        return GPU_HALF if half else GPU_WIDE
    if half:
        return CPU_HALF
    small = x.shape[0] == 1 and math.prod(x.shape[:4]) <= _GATHERED
    return CPU_GATHERED if small else CPU_WIDE


def choose(geo: Geometry, rank: int, inputs: int, outputs: int, size: int, on: Machine) -> str:
    """The cheapest form.

    Args:
        geo: the layer's geometry.
        rank: rows of A.
        inputs, outputs: positions of the input and of the output, the batch's included.
        size: bytes of an element.
        on: the machine.
    """
    times = costs(geo, rank, inputs, outputs, size, on)
    return min(times, key=lambda form: times[form])


def costs(
    geo: Geometry, rank: int, inputs: int, outputs: int, size: int, on: Machine
) -> dict[str, float]:
    """Seconds over the frozen layer's own, by form; arguments as in `choose`."""
    g = geo.groups
    c_out, c_in = geo.group_shape
    r = rank // g if geo.splits(rank) else rank
    kernel = math.prod(geo.kernel)
    # each position of the side that a stride thins out is read through the whole kernel
    taps = kernel * (inputs if geo.kind.startswith("conv_transpose") else outputs)

    def convolution(left: int, right: int) -> float:
        """From `left` to `right` channels, `right` being what the units are filled with."""
        full = on.tile * math.ceil(right / on.tile) + on.extra
        work = 2 * g * taps * left * full
        moved = size * g * (left * inputs + right * outputs)
        return work / on.flops + moved / on.bytes + on.start

    def passes(channels: int) -> float:
        return size * g * channels * outputs / on.bytes + on.start

    small = 2 * convolution(c_in, r) + 2 * passes(c_out + r)  # p, dA; dp, dB
    weight = 4 * g * c_out * c_in * kernel / on.bytes  # one pass in float32
    made = 3 * weight + 3 * on.start
    add = passes(2 * c_out + r) + 2 * size * g * c_in * inputs / on.bytes + on.start
    # casts, layouts and sums of what is small: no work to speak of, but each is an operation
    return {
        WEIGHT: convolution(c_in, c_out) + made + 3 * weight + 3 * on.start,
        MIXED: small + made + 7 * on.start,
        BRANCH: small + convolution(r, c_in) + add + 9 * on.start,
    }

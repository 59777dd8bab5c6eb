"""The cost model of low-rank convolutions: what it chooses where, and that it follows the shapes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graftwork.algebra.conv import Conv, ConvTranspose
from graftwork.algebra.recognise import recognise
from graftwork.fast import conv_forms
from graftwork.fast.conv import BRANCH, MIXED, WEIGHT
from graftwork.fast.conv_forms import Machine, choose, costs, machine
from graftwork.fast.conv_sites import form_of, walk_of

MACHINES = {
    "CPU, float32": conv_forms.CPU_WIDE,
    "CPU, half": conv_forms.CPU_HALF,
    "GPU, float32": conv_forms.GPU_WIDE,
    "GPU, half": conv_forms.GPU_HALF,
}


def conv3d(c_in: int, c_out: int, groups: int = 1, kernel: int = 3) -> Conv:
    return Conv(c_out, c_in, groups, (kernel,) * 3, (1,) * 3, (kernel // 2,) * 3, (1,) * 3)


@pytest.mark.parametrize("name", MACHINES)
def test_each_form_is_chosen_somewhere(name: str) -> None:
    on, size = MACHINES[name], 2 if "half" in name else 4
    top, bottom = 2 * 96**3, 2 * 3**3
    assert choose(conv3d(16, 16), 8, top, top, size, on) == WEIGHT
    assert choose(conv3d(256, 256), 8, top, top, size, on) == MIXED
    assert choose(conv3d(1024, 1024), 8, bottom, bottom, size, on) == BRANCH


@given(
    c_in=st.integers(1, 64),
    c_out=st.integers(1, 64),
    groups=st.sampled_from([1, 2, 4]),
    rank=st.integers(1, 64),
    kernel=st.sampled_from([1, 3, 5]),
    positions=st.integers(1, 10**6),
    name=st.sampled_from(sorted(MACHINES)),
)
def test_costs_follow_the_shapes(
    c_in: int, c_out: int, groups: int, rank: int, kernel: int, positions: int, name: str
) -> None:
    on, geo = MACHINES[name], conv3d(c_in * groups, c_out * groups, groups, kernel)
    rank *= groups  # a rank that groups do not divide is one that each has whole
    few, many = (costs(geo, rank, n, n, 4, on) for n in (positions, 2 * positions))
    wide = costs(geo, 2 * rank, positions, positions, 4, on)
    assert choose(geo, rank, positions, positions, 4, on) == min(few, key=lambda f: few[f])
    assert all(math.isfinite(few[f]) and 0 < few[f] < many[f] for f in few)
    # the rank costs where a branch runs, and nothing where the weight is changed at once
    assert wide[WEIGHT] == few[WEIGHT]
    assert wide[MIXED] >= few[MIXED] and wide[BRANCH] >= few[BRANCH]
    # with more images a changed weight, made once, gets no dearer beside a branch
    assert many[MIXED] - few[MIXED] <= many[BRANCH] - few[BRANCH]


def test_costs_by_hand() -> None:
    """A grouped layer with a rank of its own in each group: 2 groups of 4 to 8 channels, rank 2 in each."""
    on = Machine(flops=1e9, bytes=1e6, tile=4, extra=1, start=1e-3)
    n, size, g, c_in, c_out, r, taps = 10, 2, 2, 4, 8, 2, 27
    image = {c: size * g * c * n / 1e6 for c in (c_in, c_out, r)}  # seconds to pass over one

    def convolution(left: int, right: int, filled: int) -> float:
        work = 2 * g * taps * n * left * (filled + 1) / 1e9
        return work + image[left] + image[right] + 1e-3

    weight = 4 * g * c_in * c_out * taps / 1e6
    narrow = 2 * convolution(c_in, r, 4) + 2 * (image[c_out] + image[r] + 1e-3)
    add = 2 * image[c_out] + image[r] + 2 * image[c_in] + 2e-3
    found = costs(conv3d(8, 16, 2), 4, n, n, size, on)
    assert found == pytest.approx(
        {
            WEIGHT: convolution(c_in, c_out, 8) + 6 * weight + 6e-3,
            MIXED: narrow + 3 * weight + 10e-3,
            BRANCH: narrow + convolution(r, c_in, 4) + add + 9e-3,
        }
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(3, 4, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 4, (3, 2), padding="same", dilation=(2, 1)),
        nn.Conv1d(4, 6, 4, padding=2, padding_mode="circular", stride=3),
        nn.ConvTranspose3d(4, 4, 3, stride=(2, 1, 3), padding=1, output_padding=(1, 0, 2)),
        nn.ConvTranspose2d(4, 4, 2, stride=2, dilation=3),
    ],
    ids=lambda layer: type(layer).__name__ + str(layer.kernel_size),
)
# torch's own remark on the base layer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_positions_are_those_of_the_layer(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    geo = recognise(layer)
    assert isinstance(geo, Conv | ConvTranspose)
    seen: list[int] = []
    monkeypatch.setattr(
        "graftwork.fast.conv_sites.choose",
        lambda geo, rank, inputs, outputs, size, on: seen.extend([inputs, outputs, size]) or WEIGHT,
    )
    x = torch.randn(2, geo.in_, *[9] * geo.spatial)
    walk = walk_of(geo, layer)
    padded = x if walk.pad is None else nn.functional.pad(x, walk.pad, mode=walk.mode)
    assert form_of(geo, 2, padded, walk.frame) == WEIGHT
    y = layer(x)
    assert seen == [padded[:, 0].numel(), y[:, 0].numel(), 4]


def test_the_machine_is_that_of_the_batch() -> None:
    batch = torch.empty(2, 8, 4, 4, 4)
    assert machine(batch) == conv_forms.CPU_WIDE
    assert machine(batch.bfloat16()) == conv_forms.CPU_HALF
    assert machine(batch[:1]) == conv_forms.CPU_GATHERED
    assert machine(torch.empty(1, 8, 96, 96, 96, device="meta")) == conv_forms.GPU_WIDE
    assert machine(torch.empty(1, 64, 24, 24, 24)) == conv_forms.CPU_WIDE
    half = torch.empty(1, 8, 4, 4, 4, device="meta", dtype=torch.float16)
    assert machine(half) == conv_forms.GPU_HALF

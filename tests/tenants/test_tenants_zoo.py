"""Three grafts in one pass of fifty named architectures: each row as its graft alone would have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import graftwork as gw
from graftwork.tenants import Segments, mixed
from tests.core.core_helpers import stir
from tests.core.zoo import ZOO, Architecture, call

METHODS: dict[str, Any] = {"lora": gw.LoRA(4), "ia3": gw.IA3(), "dora": gw.DoRA(2)}
#: float64 convolutions in three dimensions take minutes, and grouped products of experts have none
SINGLE = ("monai:", "transformers:MixtralForCausalLM")


def first(out: Any) -> Tensor:
    """The first tensor of what a model returns."""
    while not isinstance(out, Tensor):
        out = next(iter(out.values())) if isinstance(out, dict) else out[0]
    return out


@pytest.mark.filterwarnings("ignore")  # other people's libraries warn as they load
@pytest.mark.parametrize("architecture", ZOO, ids=str)
def test_rows_under_two_grafts_are_as_each_alone_would_have_them(
    architecture: Architecture,
) -> None:
    torch.manual_seed(0)
    single = str(architecture).startswith(SINGLE)
    dtype = torch.float32 if single else torch.float64
    model = architecture.build().eval().to(dtype)
    inputs = tree_map(
        lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t,
        architecture.inputs(),
    )
    if isinstance(inputs, dict) and hasattr(getattr(model, "config", None), "use_cache"):
        inputs["use_cache"] = False
    pairs = [("lora", "ia3")] if single else [("lora", "ia3"), ("lora", "dora")]
    for name, method in METHODS.items():
        stir(gw.graft(model, method, name=name), 0.05)
    for names in pairs:
        segments = Segments(names, (1, 1))
        with torch.no_grad():
            with mixed(model, segments):
                together = first(call(model, inputs))
            for name in names:
                gw.activate(model, name)
                # both rows, so that what depends on the batch's size is the same
                alone = segments.take(first(call(model, inputs)), name)
                far = (segments.take(together, name) - alone).norm() / alone.norm()
                assert far <= (1e-4 if single else 1e-10), name

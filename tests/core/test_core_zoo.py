"""`gw.graft(model, gw.LoRA(8))`, and nothing else, on fifty named architectures."""

from __future__ import annotations

import pytest
import torch

import graftwork as gw
from tests.core.core_helpers import base_bits, stir
from tests.core.zoo import ZOO, Architecture, call

#: architectures that a default graft does not reach, and why; docs name them
KNOWN_OUT_OF_REACH: dict[str, str] = {}


def test_the_zoo_has_fifty_different_architectures_and_at_most_two_faults() -> None:
    assert len({str(a) for a in ZOO}) == 50
    assert len(KNOWN_OUT_OF_REACH) <= 2
    assert set(KNOWN_OUT_OF_REACH) <= {str(a) for a in ZOO}


@pytest.mark.filterwarnings("ignore")  # other people's libraries warn as they load
@pytest.mark.parametrize("architecture", ZOO, ids=str)
def test_default_graft_reaches_and_is_exact(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model, inputs = architecture.build(), architecture.inputs()
    before = base_bits(model)
    graft = gw.graft(model, gw.LoRA(8, dropout=0.0))
    assert graft.summary().trainable > 0
    check = (
        (lambda: gw.check_reach(model, **inputs))
        if isinstance(inputs, dict)
        else (lambda: gw.check_reach(model, *inputs))
    )
    if str(architecture) in KNOWN_OUT_OF_REACH:
        with pytest.raises(gw.GraftError):
            check()
        return
    check()

    model.eval()
    stir(graft, 0.02)
    with torch.no_grad():
        grafted = first(call(model, inputs))
        with graft.off():
            base = first(call(model, inputs))
        graft.merge()
        merged = first(call(model, inputs))
        graft.unmerge()
    assert not torch.equal(grafted, base), "the graft changes nothing"
    # a site that is bypassed somewhere shows here: its merged weight would count, its branch not
    moved = (grafted - base).abs().max()
    assert (grafted - merged).abs().max() <= 2e-3 * moved + 1e-6 * base.abs().max()
    graft.remove()
    assert base_bits(model) == before


def first(out: object) -> torch.Tensor:
    """The first floating point tensor of an output."""
    if isinstance(out, torch.Tensor):
        return out
    for value in out.values() if isinstance(out, dict) else out:  # type: ignore[attr-defined]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
        if isinstance(value, list | tuple):
            return first(value)
    raise AssertionError("no tensor in the output")

"""A branch beside a quantised layer: the plain form's outputs and gradients, also in later passes and of gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import graftwork as gw
from graftwork.states import MethodState
from tests.core.test_core_quantised import LIBRARIES, Made, batch, maker


@pytest.fixture(params=LIBRARIES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Made]:
    """What builds one and the same quantised network, and the dtype that it computes in."""
    return maker(request.param, monkeypatch)


def test_the_fast_form_is_the_plain_one(make: Callable[[], Made]) -> None:
    found = []
    for fast in (True, False):
        net, dtype = make()
        graft = gw.graft(net, gw.LoRA(2, alpha=3), sites=["layers.*", "up"], seed=3)
        if not fast:
            for m in net.modules():
                if isinstance(m, MethodState):
                    m.fast = None
        for p in graft.parameters():
            p.data += 0.1
        x = batch()[0].to(dtype).requires_grad_()
        for _ in range(2):  # again, from what the first pass kept
            out = net(x)
            out.float().square().sum().backward()
        state = graft.site("up").state("default")
        assert (state.fast is not None and state.fast._kept is not None) == fast  # type: ignore[union-attr]
        found.append([out, x.grad, *(p.grad for p in graft.parameters())])
    for got, want in zip(*found, strict=True):
        near = (got.float() - want.float()).norm() / want.float().norm()
        assert near < (1e-5 if dtype == torch.float32 else 2e-2)


def test_the_fast_form_differentiates_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    net = maker("fake", monkeypatch)()[0].double()
    graft = gw.graft(net, gw.LoRA(2, alpha=3), sites=["up"], seed=3)
    for p in graft.parameters():
        p.data = p.data.double() + 0.1
    up = net.up
    x = batch()[0][0].double().requires_grad_()
    inputs = (x, *graft.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: up(x), inputs)
    assert torch.autograd.gradgradcheck(lambda x, *_: up(x), inputs)

"""What a method adds to the loss reaches medseg's training step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graftwork as gw
from graftwork_medseg.module import Segmenter


def test_the_training_step_adds_what_methods_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Segmenter()
    g = gw.graft(module.network, gw.LoRA(2), sites=[module.head])
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    x = torch.randn(1, 1, 16, 16, 16)
    y = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    module.train()
    plain = module.training_step((x, y), 0)
    change = gw.LoRA.change

    def leaving(self: gw.LoRA, geo: object, p: dict[str, Tensor], c: object) -> Tensor:
        c.leave(p["A"].sum() + 3)
        return change(self, geo, p, c)

    monkeypatch.setattr(gw.LoRA, "change", leaving)
    monkeypatch.setattr(gw.LoRA, "dense_pays", lambda self, geo: False)
    (state,) = (s for _, s in g.states())
    state.dense, state.fast = False, None  # the plain form is the one that calls `change`
    loss = module.training_step((x, y), 0)
    torch.testing.assert_close(loss, plain + state.A.sum() + 3)
    loss.backward()
    assert state.A.grad is not None and float(state.A.grad.mean()) == pytest.approx(1, rel=1e-4)

"""`torch.compile` captures grafted models as one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import graftwork as gw
from tests.core.core_helpers import close, net, stir, tokens

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def beit() -> nn.Module:
    from timm.models.beit import Attention

    made: nn.Module = Attention(8, num_heads=2, qkv_bias=True)
    return made


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.attn(x, x, x, need_weights=False)[0]
        return out


def sequence() -> torch.Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor], dict[str, Any]]] = {
    "net, lora": (net, tokens, {"method": gw.LoRA(2)}),
    "net, dora": (net, tokens, {"method": gw.DoRA(2)}),
    "net, everything": (
        net,
        tokens,
        {"method": gw.LoRA(2), "sites": "layer1.*", "also_train": ["stem", gw.NewRows("head", 2)]},
    ),
    "net, norms": (net, tokens, {"method": gw.NormAffine()}),
    "net, adaptformer": (net, tokens, {"method": gw.AdaptFormer(2)}),
    "BEiT attention": (beit, sequence, {"method": gw.LoRA(2)}),
    "MultiheadAttention": (SelfAttention, sequence, {"method": gw.LoRA(2)}),
    "encoder layer": (encoder_layer, sequence, {"method": gw.DiaBlo(2)}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_one_graph_with_the_same_result_and_gradients(case: str, training: bool) -> None:
    build, inputs, options = CASES[case]
    torch.manual_seed(0)
    model, x = build(), inputs()
    graft = stir(gw.graft(model, **options))
    model.train(training)
    state = {k: v.clone() for k, v in graft.tensors().items()}
    out = model(x)
    out.square().sum().backward()
    plain = {n: p.grad for n, p in graft.named_parameters()}
    model.zero_grad()
    graft.load_tensors(state)  # statistics that moved

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = compiled(x)
    close(got, out, 1e-5)
    got.square().sum().backward()
    # relative to the largest one: a bias in front of a batch norm has a gradient of rounding errors alone
    largest = max(float(g.abs().max()) for g in plain.values() if g is not None)
    for name, p in graft.named_parameters():
        wanted = plain[name]
        assert p.grad is not None and wanted is not None, name
        assert float((p.grad - wanted).abs().max()) <= 1e-5 * largest, name


def test_switching_and_merging_after_compiling() -> None:
    model, x = net(), tokens()
    a = stir(gw.graft(model, gw.LoRA(2), name="a"))
    stir(gw.graft(model, gw.IA3(), name="b"), seed=3)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for which in ("a", "b", None, {"a": 0.5, "b": -1.0}, "a"):
        gw.activate(model, which)  # type: ignore[arg-type]
        close(compiled(x), model(x), 1e-5)
    with a.off():
        close(compiled(x), net()(x), 1e-5)
    out = model(x)
    a.merge()
    close(compiled(x), out, 1e-4)
    a.unmerge()
    close(compiled(x), out, 1e-5)
    assert list(gw.grafts(compiled)) == ["a", "b"]


def test_a_hot_swap_compiles_nothing_and_another_setting_does() -> None:
    model, x = net(), tokens()
    for n, name in enumerate("abc"):
        stir(gw.graft(model, gw.LoRA(2), name=name, seed=n), seed=n)
    stir(gw.graft(model, gw.LoRA(2, alpha=5.0), name="other scale"), seed=7)
    stir(gw.graft(model, gw.LoRA(3), name="other rank"), seed=8)
    torch._dynamo.reset()
    counted = CompileCounter()
    compiled = torch.compile(model.eval(), fullgraph=True, backend=counted)
    gw.activate(model, "a")
    with torch.no_grad():
        close(compiled(x), model(x), 1e-5)
        first = counted.frame_count
        outs = []
        for name in "bcab":
            gw.activate(model, name)
            outs.append(compiled(x))
            close(outs[-1], model(x), 1e-5)
        assert counted.frame_count == first
        close(outs[0], outs[3], 0.0)
        assert float((outs[0] - outs[1]).abs().max()) > 1e-3
        for name in ("other scale", "other rank"):
            gw.activate(model, name)
            close(compiled(x), model(x), 1e-5)
        assert counted.frame_count > first

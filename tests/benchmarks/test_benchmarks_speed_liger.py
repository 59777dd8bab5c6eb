"""Liger's kernels get into the model of their row alone, and train what the plain model trains."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed import liger, llama
from graftwork.fast.reads import has_triton

modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
plain_rotary = modeling.apply_rotary_pos_emb
CALLS: list[str] = []


class Norm(nn.Module):
    """Takes what liger's takes, and computes it plainly."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append("norm")
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)


class Gated(nn.Module):
    def __init__(self, config: object) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(1, 1, False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append("mlp")
        y: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> object:
    CALLS.append("rotary")
    return plain_rotary(q, k, cos, sin)


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that count their calls, in the place of the package."""
    fake = types.ModuleType("liger_kernel.transformers")
    fake.__dict__.update(
        LigerRMSNorm=Norm, LigerSwiGLUMLP=Gated, liger_rotary_pos_emb=rotary, __path__=[]
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", fake)
    CALLS.clear()


def sizes(device: str = "cpu", modes: tuple[str, ...] = ("eager",)) -> argparse.Namespace:
    return argparse.Namespace(
        device=device, dtype="float32", layers=2, hidden=64, batch=2, tokens=16, vocabulary=128,
        modes=list(modes),
    )  # fmt: skip


def gradients(
    base: nn.Module, change: llama.Change, patched: bool, options: argparse.Namespace
) -> list[Tensor]:
    """Of one step with a head, whose loss is not flat at the start as that of the hidden states is."""
    model = llama.twin(base).train()
    if patched:
        liger.replace(model)
    model, parameters = change(model)
    trained = list(parameters)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in trained:
            p.copy_(0.1 * torch.randn(p.shape, generator=draw))
    work = llama._pass(model, "head", options, "eager")
    (liger.during(work) if patched else work)()
    return [p.grad for p in trained if p.grad is not None]


CHANGES: dict[str, Callable[[], llama.Change]] = {
    "graftwork": lambda: llama.ours(gw.LoRA(4)),
    "peft": lambda: llama.peft(4),
}


def agree(name: str, options: argparse.Namespace, within: float) -> None:
    base = llama.decoder(options, torch.float32)
    plain, patched = (gradients(base, CHANGES[name](), p, options) for p in (False, True))
    assert len(plain) == len(patched) == 2 * len(llama.LINEARS) * options.layers
    for one, two in zip(plain, patched, strict=True):
        assert float(one.abs().max()) > 0
        assert float((one - two).abs().max()) <= within * float(one.abs().max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("standing_in")
@pytest.mark.parametrize("name", CHANGES)
def test_a_patched_model_trains_the_same_through_the_kernels(name: str) -> None:
    agree(name, sizes(), 1e-5)
    # one pass of two blocks went through them, and the plain model's did not
    assert {call: CALLS.count(call) for call in CALLS} == {"norm": 5, "mlp": 2, "rotary": 2}


@pytest.mark.usefixtures("standing_in")
def test_other_models_and_the_library_stay_as_they_are() -> None:
    base = llama.decoder(sizes(), torch.float32)
    names = [name for name, _ in base.named_parameters()]
    tensors = [id(p) for p in base.parameters()]
    other = llama.twin(base)
    liger.replace(other)
    assert [name for name, _ in other.named_parameters()] == names
    assert [id(p) for p in other.parameters()] == tensors  # shared, and none left unset
    assert {type(m) for m in base.modules()}.isdisjoint({Norm, Gated})
    seen: list[object] = []
    liger.during(lambda: seen.append(modeling.apply_rotary_pos_emb))()
    assert seen == [rotary] and modeling.apply_rotary_pos_emb is plain_rotary
    with pytest.raises(ValueError, match="Linear has no norm or no MLP of a Llama"):
        liger.replace(nn.Linear(2, 2))


def test_without_the_package_a_row_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.delitem(sys.modules, "liger_kernel.transformers", raising=False)
    options = sizes(modes=("eager", "compiled"))
    base = llama.decoder(options, torch.float32)
    rows = llama.variants(lambda: base, "hidden", options)
    assert [name for name in rows if liger.LIGER in name] == ["graftwork LoRA 16, liger"]
    with pytest.raises(ImportError, match="liger_kernel"):
        rows["graftwork LoRA 16, liger"]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHANGES)
def test_the_kernels_themselves_on_a_card(name: str) -> None:
    if not (torch.cuda.is_available() and has_triton()):
        pytest.skip("needs a GPU with Triton")
    pytest.importorskip("liger_kernel.transformers")
    agree(name, sizes("cuda"), 1e-4)

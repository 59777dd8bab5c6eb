"""PiSSA and MiLoRA to Hugging Face PEFT, as plain LoRA of twice the rank, and PEFT's own PiSSA back."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.store import from_peft, to_peft
from tests.store.peft_cases import NETS, error


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft.*")
        yield


def moved(g: gw.Graft, size: float = 0.1) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


def case(net: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = NETS[net]()
    return model.double().eval(), x.double() if x.is_floating_point() else x


@pytest.mark.parametrize("net", ["linear", "conv2d", "conv3d", "gpt", "embedding"])
@pytest.mark.parametrize("cls", [gw.PiSSA, gw.MiLoRA])
def test_export_at_twice_the_rank_is_what_peft_computes(
    cls: Any, net: str, peft: Any, tmp_path: Path
) -> None:
    model, x = case(net)
    before = model(x)
    g = gw.graft(model, cls(2, alpha=3.0), sites=["a", "b"])
    moved(g)
    ours = model(x).detach()
    assert error(ours, before) > 1e-3
    base = copy.deepcopy(model)
    gw.get(base).remove()
    to_peft(g, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (4, 6, True)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "out").double().eval()
    with torch.no_grad():
        assert error(loaded(x), ours) < 1e-10
    again = from_peft(base, tmp_path / "out")
    assert {type(m) for _, m in again.entry.sites} == {gw.LoRA} and again.method.rank == 4
    assert error(base(x).detach(), ours) < 1e-12


def test_a_half_precision_export_keeps_a_small_change(peft: Any, tmp_path: Path) -> None:
    model, x = case("linear")
    base = copy.deepcopy(model)
    g = gw.graft(model, gw.PiSSA(2), sites=["a", "b"])
    moved(g, 1e-4)
    change = model(x) - base(x)
    to_peft(g, tmp_path / "out", dtype="bfloat16")
    from_peft(base, tmp_path / "out")
    with gw.get(base).off():
        plain = base(x)
    assert error((base(x) - plain).detach(), change.detach()) < 0.02


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16"])
def test_pefts_own_pissa_starts_alike_and_comes_back_as_lora(
    start: str, peft: Any, tmp_path: Path
) -> None:
    model, x = case("linear")
    model, x = model.float(), x.float()
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["a", "b"], init_lora_weights=start)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    mine = gw.graft(copy.deepcopy(model), gw.PiSSA(2, alpha=4.0), sites=["a", "b"])
    for name in "ab":
        layer = getattr(theirs.base_model.model, name)
        product = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        t = mine.tensors()
        ours = 2 * t[f"{name}.B0"] @ t[f"{name}.A0"]
        # peft's randomised one takes no columns more than it keeps
        limit = 1e-5 if start == "pissa" else 0.1
        assert float((product.detach() - ours).norm() / ours.norm()) < limit
    theirs.peft_config["default"].init_lora_weights = True  # peft's recipe for a portable file
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if "lora_" in n:
                p.add_(0.1 * torch.randn_like(p))
        want = theirs.eval()(x)
    theirs.save_pretrained(
        tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    g = from_peft(model, tmp_path / "out")
    assert g.method.rank == 4
    assert error(model(x).detach(), want) < 1e-5


def test_goat_is_refused_by_name(tmp_path: Path) -> None:
    model, _ = case("linear")
    g = gw.graft(model, gw.GOAT(2, experts=2, top_k=1), sites=["a"])
    with pytest.raises(gw.GraftError, match="a: PEFT has no form for goat"):
        to_peft(g, tmp_path / "out")

"""Hugging Face PEFT folders, both ways, against the installed peft and against kept golden files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.store import from_peft, to_peft
from tests.store.peft_cases import CASES, GOLDEN, base_of, error


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def quiet_peft() -> Iterator[None]:
    # PEFT itself warns about grouped convolutions and missing model cards
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft.*")
        yield


def peft_output(peft: Any, model: nn.Module, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """What peft computes with a folder on this base."""
    wide = next(model.parameters()).dtype
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).to(wide).eval()
    with torch.no_grad():
        return loaded(x)


@pytest.mark.parametrize("case", CASES)
def test_golden_folder_gives_pefts_output(case: str) -> None:
    model, x, y = base_of(case)
    before = model(x)
    assert error(before, y) > 1e-3  # the adapter matters, so agreeing with it means something
    g = from_peft(model, GOLDEN / case)
    with torch.no_grad():
        assert error(model(x), y) < 1e-10
        g.merge()
        assert error(model(x), y) < 1e-10
        g.unmerge()
    g.remove()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_round_trip_through_the_installed_peft(
    case: str, dtype: torch.dtype, peft: Any, tmp_path: Path
) -> None:
    model, x, _ = base_of(case)
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    g = from_peft(model, GOLDEN / case)
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.1 * torch.randn_like(p))
        ours = model(x)
    sites = {s["name"]: s["kind"] for s in g.spec()["sites"]}
    to_peft(g, tmp_path / "out")
    g.remove()
    limit = 1e-10 if dtype == torch.float64 else 1e-5
    assert error(peft_output(peft, model, tmp_path / "out", x), ours) < limit
    again = from_peft(model, tmp_path / "out")
    assert torch.equal(model(x), ours)
    assert {s["name"]: s["kind"] for s in again.spec()["sites"]} == sites


def test_a_graft_of_ours_with_overrides_and_ends_that_clash(peft: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential()
    inner.add_module("fc", nn.Linear(5, 5))
    inner.add_module("other", nn.Linear(5, 5))
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(5, 5))
    model.add_module("block", inner)
    model.add_module("other", nn.Linear(5, 4))
    x = torch.randn(3, 5)
    g = gw.graft(
        model.double(),
        gw.LoRA(2, alpha=3.0),
        sites=["fc", "block.other"],  # not block.fc, which PEFT's matching by ends would take too
        overrides={"fc": {"rank": 3, "rslora": True}},
    )
    with torch.no_grad():
        for p in g.parameters():
            p.normal_()
    ours = model(x.double())
    to_peft(g, tmp_path / "a")
    g.remove()
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "a").double().eval()
    assert not hasattr(loaded.base_model.model.block.fc, "lora_A")
    assert error(loaded(x.double()), ours) < 1e-10
    from_peft(model, tmp_path / "a")
    assert error(model(x.double()), ours) < 1e-14


def test_whole_modules_and_new_rows_become_modules_to_save(peft: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, layer in {
        "a": nn.Linear(4, 6),
        "norm": nn.BatchNorm1d(6),
        "head": nn.Linear(6, 3),
    }.items():
        model.add_module(name, layer)
    model.double()
    x = torch.randn(5, 4).double()
    g = gw.graft(model, gw.LoRA(2), sites="a", also_train=["norm", gw.NewRows("head", 2)])
    with torch.no_grad():
        for p in g.parameters():
            p.normal_()
    model.train()
    model(x)  # moves the running statistics that the graft owns
    model.eval()
    ours = model(x)
    assert ours.shape == (5, 5)
    to_peft(g, tmp_path / "a")
    g.remove()
    widened = copy.deepcopy(model)
    widened.head = nn.Linear(6, 5).double()  # as PEFT's user resizes a model before loading
    assert error(peft_output(peft, widened, tmp_path / "a", x), ours) < 1e-10
    again = from_peft(model, tmp_path / "a")
    assert error(model(x), ours) < 1e-14
    assert {b["kind"] for b in again.spec()["also_train"]} == {"module", "rows"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_language_models(family: str, peft: Any, tmp_path: Path) -> None:
    """transformers' own layers, tied embeddings adapted, default sites, fp32."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if family == "gpt2":
        cfg = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=17, n_positions=16)
        model, embedding = transformers.GPT2LMHeadModel(cfg).eval(), "transformer.wte"
    else:
        cfg = transformers.LlamaConfig(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=17,
        )
        model, embedding = transformers.LlamaForCausalLM(cfg).eval(), "model.embed_tokens"
    tokens = torch.tensor([[1, 5, 9, 2]])
    theirs = peft.get_peft_model(
        copy.deepcopy(model),
        peft.LoraConfig(target_modules="all-linear", r=2, lora_alpha=4),
    ).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path / "theirs")
    g = from_peft(model, tmp_path / "theirs")
    assert error(model(tokens).logits, theirs(tokens).logits) < 1e-5
    g.remove()
    g = gw.graft(model, gw.DoRA(2), sites=[embedding, "*.0.*attn*"])
    with torch.no_grad():
        for p in g.parameters():
            p.add_(0.1 * torch.randn_like(p))
    ours = model(tokens).logits
    to_peft(g, tmp_path / "ours")
    g.remove()
    back = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "ours").eval()
    assert error(back(tokens).logits, ours) < 1e-5

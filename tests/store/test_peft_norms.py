"""NormAffine to Hugging Face PEFT's LN tuning and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graftwork as gw
from graftwork.store import from_peft, to_peft
from tests.core.core_helpers import close, stir
from tests.core.test_core_transformers import gpt2, ids, llama

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' and peft's own


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


def images() -> nn.Module:
    """Convolutions with norms that keep statistics, and a head."""
    torch.manual_seed(0)
    norms = (nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norms[0], nn.Conv2d(4, 4, 3), norms[1], nn.Flatten(), nn.Linear(64, 2)
    ).eval()


CASES: list[Callable[[], Any]] = [llama, gpt2, images]


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        if any(isinstance(m, nn.Conv2d) for m in model.modules()):
            return model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
        return model(input_ids=ids()).logits


def trained(model: nn.Module, **more: Any) -> gw.Graft:
    graft = stir(gw.graft(model, gw.NormAffine(), **more), 0.3)
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        model.train()(torch.randn(8, 3, 8, 8))  # the copy's statistics move
        model.eval()
    return graft


@pytest.mark.parametrize("build", CASES)
def test_peft_computes_the_same_from_our_folder(
    build: Callable[[], Any], peft: Any, tmp_path: Path
) -> None:
    model = build()
    before = answer(model)
    trained(model)
    to_peft(gw.get(model), tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LN_TUNING"
    theirs = peft.PeftModel.from_pretrained(build(), tmp_path / "peft").eval()
    close(answer(theirs), answer(model), 1e-6)
    assert float((answer(model) - before).abs().max()) > 1e-2
    twin = build()
    back = from_peft(twin, tmp_path / "peft")
    assert isinstance(back.method, gw.NormAffine)
    ours = gw.get(model).tensors()
    assert {k: t.tolist() for k, t in back.tensors().items()} == {
        k: t.tolist() for k, t in ours.items()
    }
    assert torch.equal(answer(twin), answer(model))
    with back.off():
        assert torch.equal(answer(twin), before)


@pytest.mark.parametrize("build", CASES)
def test_we_compute_the_same_from_pefts_folder(
    build: Callable[[], Any], peft: Any, tmp_path: Path
) -> None:
    targets = {llama: ["input_layernorm", "norm"], gpt2: ["ln_1"], images: ["1", "3"]}[build]
    saved = ["5"] if build is images else None
    config = peft.LNTuningConfig(target_modules=targets, modules_to_save=saved)
    theirs = peft.get_peft_model(build(), config).eval()
    with torch.no_grad():
        for i, p in enumerate(p for p in theirs.parameters() if p.requires_grad):
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    theirs.save_pretrained(tmp_path)
    model = build()
    graft = from_peft(model, tmp_path)
    close(answer(model), answer(theirs), 1e-6)
    sites = [site.name for site, _ in graft.entry.sites]
    assert sites and all(s.rpartition(".")[2] in targets for s in sites)
    assert [item.name for item in graft.entry.beside] == (saved or [])


def test_what_trains_beside_travels_along(peft: Any, tmp_path: Path) -> None:
    model = images()
    graft = trained(model, also_train=["5"])
    to_peft(graft, tmp_path / "peft")
    theirs = peft.PeftModel.from_pretrained(images(), tmp_path / "peft").eval()
    close(answer(theirs), answer(model), 1e-6)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = images()
    graft = trained(model)
    to_peft(graft, tmp_path / "peft")
    for build, words in (
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)), "1.module"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)),
            "1: the model has no such norm",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), "3: the model has no such norm"),
    ):
        with pytest.raises(gw.GraftError, match=words):
            from_peft(build(), tmp_path / "peft", allow_other_base=True)
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    name = "base_model.model.1.ln_tuning_layers.weight"
    for edit, words in (
        ({name: None}, "weight"),
        ({"base_model.model.1.ln_tuning_layers.other": torch.ones(4)}, "other"),
        ({"base_model.model.0.lora_A.weight": torch.ones(4)}, "lora_A"),
    ):
        changed = {k: t for k, t in {**tensors, **edit}.items() if t is not None}
        save_file(changed, tmp_path / "peft" / "adapter_model.safetensors")
        with pytest.raises(gw.GraftError, match=words):
            from_peft(images(), tmp_path / "peft", allow_other_base=True)
    alone = nn.LayerNorm(4)
    with pytest.raises(gw.GraftError, match="itself the layer"):
        to_peft(gw.graft(alone, gw.NormAffine()), tmp_path / "alone")

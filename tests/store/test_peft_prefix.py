"""Prefix tuning to Hugging Face PEFT and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import graftwork as gw
from graftwork.store import from_peft, to_peft
from tests.core.core_helpers import close, stir
from tests.core.test_core_transformers import gpt2, ids, llama, t5

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' and peft's own

M = 5


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


def qwen2() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config).eval()


def grouped() -> Any:
    return llama(num_attention_heads=4, num_key_value_heads=2)


def written(build: Any, folder: Path) -> tuple[Any, gw.Graft]:
    model = build()
    graft = stir(gw.graft(model, gw.PrefixTuning(M, std=0.5), seed=1), 0.3)
    to_peft(graft, folder)
    return model, graft


def greedy(model: Any, tokens: Tensor) -> Tensor:
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    mask = torch.ones_like(tokens)
    out: Tensor = model.generate(input_ids=tokens, attention_mask=mask, **how)
    return out


@pytest.mark.parametrize("build", [llama, grouped, qwen2])
def test_peft_computes_the_same_from_our_folder(build: Any, peft: Any, tmp_path: Path) -> None:
    model, graft = written(build, tmp_path / "peft")
    tokens = ids()
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    theirs = peft.PeftModel.from_pretrained(build(), tmp_path / "peft").eval()
    with torch.no_grad():
        ours = model(tokens).logits
        close(theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits, ours, 1e-5)
        padded = model(tokens, attention_mask=mask).logits
        close(theirs(input_ids=tokens, attention_mask=mask).logits[1, 2:], padded[1, 2:], 1e-5)
        with graft.off():
            assert float((model(tokens).logits - ours).abs().max()) > 1e-2
    assert torch.equal(greedy(theirs, tokens), greedy(model, tokens))


@pytest.mark.parametrize("build", [llama, grouped, qwen2])
@pytest.mark.parametrize("projection", [False, True])
def test_we_compute_the_same_from_pefts_folder(
    build: Any, projection: bool, peft: Any, tmp_path: Path
) -> None:
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=M, prefix_projection=projection,
        encoder_hidden_size=7,
    )  # fmt: skip
    torch.manual_seed(3)
    theirs = peft.get_peft_model(build(), config).eval()
    theirs.save_pretrained(tmp_path)
    model, tokens = build(), ids()
    graft = from_peft(model, tmp_path)
    assert isinstance(graft.method, gw.PrefixTuning) and graft.method.length == M
    with torch.no_grad():
        close(model(tokens).logits, theirs(input_ids=tokens).logits, 1e-5)


@pytest.mark.parametrize("build", [llama, grouped])
def test_there_and_back_again(build: Any, tmp_path: Path) -> None:
    _, graft = written(build, tmp_path / "peft")
    again = from_peft(build(), tmp_path / "peft")
    there = again.tensors()
    for name, t in graft.tensors().items():
        close(there[name], t, 1e-6)
        if name.endswith("V"):
            assert torch.equal(there[name], t)
    other = llama(
        **({"num_attention_heads": 4, "num_key_value_heads": 2} if build is grouped else {})
    )
    with torch.no_grad():
        other.model.layers[1].self_attn.k_proj.weight += 1
    with pytest.raises(gw.GraftError, match=r"layers\.1\.self_attn\.k_proj\.weight: other values"):
        from_peft(other, tmp_path / "peft")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (gpt2, "not one table of rotations"),
        (t5, "share a place in the cache"),
        (lambda: llama(rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "not one table"),
    ],
)
def test_models_that_peft_moves_are_refused(build: Any, words: str, tmp_path: Path) -> None:
    graft = gw.graft(build(), gw.PrefixTuning(M))
    with pytest.raises(gw.GraftError, match=words):
        to_peft(graft, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_grafts_that_peft_cannot_express_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sites": ["model.layers.0.self_attn"]}, "every attention layer"),
        ({"overrides": {"*.layers.0.*": {"length": 2}}}, "one prefix length"),
        ({"also_train": "lm_head"}, "modules beside a prefix"),
    ]
    for fields, words in cases:
        graft = gw.graft(llama(), gw.PrefixTuning(M), **fields)
        with pytest.raises(gw.GraftError, match=words):
            to_peft(graft, tmp_path / "peft")


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    written(llama, folder)
    good = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    (values,) = tensors.values()
    cases: list[tuple[dict[str, Any], dict[str, Tensor], str]] = [
        ({"num_virtual_tokens": 4}, tensors, r"prompt_embeddings: shape \(5, 128\), expected"),
        ({"num_layers": 0}, tensors, "num_layers must be a whole number"),
        ({"num_layers": 1, "token_dim": 64}, tensors, r"num_layers = 1; .*layers \[0, 1\]"),
        ({"num_attention_heads": 4}, tensors, "the file has 32 in 4 heads"),
        ({"num_transformer_submodules": 2}, tensors, "changes the function; not served"),
        ({"modules_to_save": ["lm_head"]}, tensors, "changes the function; not served"),
        ({}, {"other": values}, r"'other': not used by a prefix"),
        ({}, {"prompt_embeddings": values * float("nan")}, "NaN"),
    ]
    for fields, held, words in cases:
        (folder / "adapter_config.json").write_text(json.dumps(good | fields))
        save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})
        model = llama()
        with pytest.raises(gw.GraftError, match=words):
            from_peft(model, folder)
        assert not gw.grafts(model)

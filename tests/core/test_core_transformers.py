"""Grafted transformers models: generation, checkpointing, the Trainer, saving, resizing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from tests.core.core_helpers import base_bits, close, stir

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns of itself as it loads

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **changes})).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def ids(rows: int = 2, length: int = 6) -> torch.Tensor:
    return torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("build", [llama, gpt2, t5])
@pytest.mark.parametrize("method", [gw.LoRA(4), gw.DoRA(4), gw.DiaBlo(4), gw.IA3()])
def test_generate_equals_the_merged_model(build: Any, method: Any) -> None:
    model = build().double()

    def scores(**how: Any) -> torch.Tensor:
        out = model.generate(
            ids(), do_sample=False, output_scores=True, return_dict_in_generate=True, **how
        )
        return torch.cat([out.sequences.double(), *out.scores], dim=-1).nan_to_num(neginf=-1e3)

    long, beams = {"max_new_tokens": 8}, {"max_new_tokens": 1, "num_beams": 1}
    plain = scores(**long)
    graft = stir(gw.graft(model, method), 0.2)
    grafted, one = scores(**long), scores(**beams)
    close(scores(**long, use_cache=False), grafted, 1e-9)
    assert grafted.shape != plain.shape or not torch.allclose(grafted, plain)
    with graft.off():
        assert torch.equal(scores(**long), plain)
    graft.merge()
    close(scores(**long), grafted, 1e-9)
    close(scores(**beams), one, 1e-9)
    graft.unmerge()
    model.generate(ids(), max_new_tokens=3, num_beams=2)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("sites", [None, "*"])
def test_gradient_checkpointing_gives_the_same_gradients(build: Any, sites: Any) -> None:
    model = build()
    graft = stir(gw.graft(model, gw.LoRA(4), sites=sites), 0.1)
    model.train()

    def grads() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in graft.named_parameters() if p.grad is not None}

    plain = grads()
    assert len(plain) == len(list(graft.parameters()))
    model.gradient_checkpointing_enable()  # transformers' default: not re-entrant
    other = grads()
    assert plain.keys() == other.keys()
    for name, grad in plain.items():
        close(other[name], grad, 1e-5)


def test_reentrant_checkpointing_over_a_frozen_embedding() -> None:
    model = llama()
    graft = stir(gw.graft(model, gw.LoRA(4)), 0.1)
    model.train()
    model(ids(), labels=ids(), use_cache=False).loss.backward()
    plain = {n: p.grad.clone() for n, p in graft.named_parameters() if p.grad is not None}
    model.zero_grad()

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()  # newer transformers do so themselves
    gw.check_reach(model, input_ids=ids(), use_cache=False)
    model.train()
    model(ids(), labels=ids(), use_cache=False).loss.backward()
    for name, p in graft.named_parameters():
        assert p.grad is not None
        close(p.grad, plain[name], 1e-5)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.embed, self.fc, self.reentrant = nn.Embedding(64, 4), nn.Linear(4, 4), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        out: torch.Tensor = torch.utils.checkpoint.checkpoint(
            self.fc, h, use_reentrant=self.reentrant
        )
        return out


def test_the_reach_check_names_reentrant_checkpointing_before_anybody_trains_in_vain() -> None:
    gw.graft(good := Checkpointed(reentrant=False), gw.LoRA(2))
    gw.check_reach(good, ids())
    gw.graft(bad := Checkpointed(reentrant=True), gw.LoRA(2))
    with pytest.raises(gw.GraftError, match="use_reentrant=False mends that"):
        gw.check_reach(bad, ids())
    bad.embed.register_forward_hook(lambda m, i, o: o.requires_grad_())
    gw.check_reach(bad, ids())


def test_the_trainer_trains_the_graft_alone(tmp_path: Path) -> None:
    model = llama()
    before = base_bits(model)
    graft = gw.graft(model, gw.LoRA(4), also_train="model.norm")
    start = {k: v.clone() for k, v in graft.tensors().items()}
    rows = [{"input_ids": row, "labels": row} for row in ids(8)]
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
            learning_rate=0.05, save_strategy="no", disable_tqdm=True, weight_decay=0.1,
            gradient_checkpointing=True,
        ),
        train_dataset=rows,
    )  # fmt: skip
    trainer.train()
    assert base_bits(model) == before
    moved = [k for k, v in graft.tensors().items() if not torch.equal(v, start[k])]
    assert len(moved) == len(start)
    own = {id(p) for p in graft.parameters()}
    stepped = {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}
    assert own <= stepped and trainer.get_num_trainable_parameters() == graft.summary().trainable


def test_save_pretrained_writes_the_base(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    logits = model(ids()).logits
    graft = stir(gw.graft(model, gw.LoRA(4), also_train="model.norm"))
    model.save_pretrained(tmp_path / "base")
    again, info = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "base", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(again(ids()).logits, logits)
    out = model(ids()).logits
    graft.merge()
    model.save_pretrained(tmp_path / "merged")
    graft.unmerge()
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    close(merged(ids()).logits, out, 1e-5)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_grafted_tied_head_saves_merged_when_untied(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    graft = stir(gw.graft(model, gw.LoRA(4), sites="lm_head"))
    out = model(ids()).logits
    graft.merge()
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    close(model(ids()).logits, out, 1e-5)
    twin = copy.deepcopy(model)
    graft.unmerge()
    twin.config.tie_word_embeddings = False
    twin.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    close(again(ids()).logits, out, 1e-5)


def test_tie_weights_and_embedding_accessors() -> None:
    model = llama(tie_word_embeddings=True)
    gw.graft(model, gw.LoRA(4), sites=["*.embed_tokens", "*.q_proj"])
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding) and isinstance(table.weight, nn.Parameter)
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_resizing_tokens_works_where_the_table_is_no_site() -> None:
    model = llama()
    graft = stir(gw.graft(model, gw.LoRA(4)), 0.1)
    out = model(ids()).logits
    model.resize_token_embeddings(70, mean_resizing=False)
    wide = model(ids()).logits
    close(wide[..., :64], out, 1e-5)
    graft.remove()
    assert model.get_input_embeddings().weight.shape[0] == 70


@pytest.mark.parametrize("how", ["site", "rows", "copy"])
def test_resizing_tokens_of_a_grafted_table_is_refused(how: str) -> None:
    model = llama()
    table = "model.embed_tokens"
    also: Any = {"site": (), "rows": [gw.NewRows(table, 2)], "copy": [table]}[how]
    sites = [table] if how == "site" else ["*.q_proj"]
    gw.graft(model, gw.LoRA(4), sites=sites, also_train=also)
    model(ids())
    with pytest.raises(gw.GraftError, match="resize"):
        model.resize_token_embeddings(70, mean_resizing=False)
        model(ids())


def test_a_head_that_resizing_replaced_is_named() -> None:
    model = llama()
    graft = gw.graft(model, gw.LoRA(4), sites=["lm_head", "*.q_proj"])
    model.resize_token_embeddings(70, mean_resizing=False)
    for action in (graft.summary, graft.tensors, graft.merge, lambda: gw.check_reach(model, ids())):
        with pytest.raises(gw.GraftError, match="lm_head was replaced"):
            action()
    graft.remove()
    model(ids())


def test_new_tokens_instead_of_resizing() -> None:
    model = llama()
    base = model(ids()).logits
    gw.graft(
        model,
        gw.LoRA(4),
        sites=["*.q_proj"],
        also_train=[gw.NewRows("*.embed_tokens", 2), gw.NewRows("lm_head", 2)],
    )
    gw.check_reach(model, torch.full((1, 3), 65))
    out = model(ids()).logits
    assert out.shape[-1] == 66
    assert torch.equal(out[..., :64], base)
    model(torch.tensor([[64, 3, 65]]))


@pytest.mark.parametrize(
    "name",
    ["BertForSequenceClassification", "ViTForImageClassification", "T5ForConditionalGeneration"],
)
def test_training_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    inputs: dict[str, Any]
    if name.startswith("Bert"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
        inputs = {"input_ids": ids(8), "labels": torch.tensor([0, 1] * 4)}
    elif name.startswith("ViT"):
        config = transformers.ViTConfig(
            image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=48, num_labels=2,
        )  # fmt: skip
        model = transformers.ViTForImageClassification(config)
        inputs = {"pixel_values": torch.randn(8, 3, 16, 16), "labels": torch.tensor([0, 1] * 4)}
    else:
        model = t5()
        inputs = {"input_ids": ids(8), "labels": ids(8, 4)}
    before = base_bits(model)
    for optimizer_class in (torch.optim.AdamW, torch.optim.SGD):
        graft = gw.graft(model, gw.LoRA(4), also_train="classifier" if "Cl" in name else ())
        fast = (
            {"lr": 0.05} if optimizer_class is torch.optim.AdamW else {"lr": 0.1, "momentum": 0.9}
        )
        optimizer = optimizer_class(graft.parameters(), **fast)
        model.train()
        losses = []
        for _ in range(25):
            optimizer.zero_grad()
            loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert min(losses) < 0.8 * losses[0], optimizer_class
        graft.remove()
        assert base_bits(model) == before

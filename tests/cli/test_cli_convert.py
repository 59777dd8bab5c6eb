"""`graftwork convert`: to peft and back without loss, to plain LoRA with the loss printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import graftwork as gw
from graftwork.cli import main
from tests.cli.cli_helpers import refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv = nn.Conv1d(6, 4, 3, groups=2, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.up = nn.ConvTranspose1d(4, 6, 3, groups=2, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.embed(tokens).transpose(1, 2)))
        return self.fc(self.up(x).transpose(1, 2))


def shaken(graft: gw.Graft) -> gw.Graft:
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return graft


@pytest.fixture
def base(tmp_path: Path) -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "base.safetensors")
    return model


def fresh(tmp_path: Path) -> Net:
    model = Net()
    model.load_state_dict(load_file(tmp_path / "base.safetensors"))
    return model.eval()


def convert(tmp_path: Path, source: str, target: str, *more: str) -> int:
    paths = [str(tmp_path / source), str(tmp_path / target)]
    return main(["convert", *paths, "--base", str(tmp_path / "base.safetensors"), *more])


TOKENS = torch.arange(7).repeat(2, 1)


@pytest.mark.parametrize("method", [gw.LoRA(2, alpha=3.0, rslora=True), gw.DoRA(2), gw.IA3()])
def test_to_peft_and_back(method: Any, base: Net, tmp_path: Path) -> None:
    sites = {"lora": ["embed", "conv", "fc"], "dora": ["embed", "fc"], "ia3": ["fc"]}[method.id]
    graft = shaken(gw.graft(base, method, sites=sites))
    gw.save(graft, tmp_path / "ours")
    assert convert(tmp_path, "ours", "theirs", "--to", "peft", "--plain-layers") == 0
    assert (tmp_path / "theirs" / "adapter_config.json").is_file()
    assert convert(tmp_path, "theirs", "back", "--to", "graftwork", "--plain-layers") == 0
    again = fresh(tmp_path)
    gw.load(again, tmp_path / "back")
    assert torch.equal(again(TOKENS), base(TOKENS))


def test_peft_computes_what_we_wrote(base: Net, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    gw.save(shaken(gw.graft(base, gw.LoRA(2), sites=["embed", "fc"])), tmp_path / "ours")
    assert convert(tmp_path, "ours", "theirs", "--to", "peft", "--plain-layers") == 0
    theirs = peft.PeftModel.from_pretrained(fresh(tmp_path), str(tmp_path / "theirs"))
    assert torch.allclose(theirs(TOKENS), base(TOKENS), atol=1e-5)


def test_to_lora_prints_the_error_and_keeps_the_base(
    base: Net, tmp_path: Path, capsys: Any
) -> None:
    graft = shaken(gw.graft(base, gw.DiaBlo(2), sites=["conv", "up", "fc"]))
    gw.save(graft, tmp_path / "ours")
    errors = {}
    for rank in (2, 6):
        assert convert(tmp_path, "ours", f"rank{rank}", "--to", "lora", "--rank", str(rank)) == 0
        shown = capsys.readouterr().out
        errors[rank] = float(re.search(r"all sites\s+(\S+)", shown)[1])  # type: ignore[index]
        again = fresh(tmp_path)
        gw.load(again, tmp_path / f"rank{rank}")  # strict: same base, same layers
        gap = float((again(TOKENS) - base(TOKENS)).detach().abs().max())
        assert (gap < 1e-5) == (rank == 6)
    assert errors[2] > 1e-3 and errors[6] < 1e-6
    assert convert(tmp_path, "ours", "within", "--to", "lora", "--error", "0.5") == 0
    assert gw.inspect(tmp_path / "within")["base"]["class"].endswith("Net")


def test_lora_of_another_method_straight_to_peft(base: Net, tmp_path: Path, capsys: Any) -> None:
    gw.save(shaken(gw.graft(base, gw.DiaBlo(2), sites=["fc"])), tmp_path / "ours")
    assert "PEFT has no form for diablo" in _refused(
        capsys, tmp_path, "--to", "peft", "--plain-layers"
    )
    assert convert(tmp_path, "ours", "t", "--to", "peft", "--plain-layers", "--rank", "3") == 0


def test_a_local_transformers_folder_is_a_base(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    gw.save(shaken(gw.graft(model, gw.LoRA(2))), tmp_path / "ours")
    at = ["--base", str(tmp_path / "gpt2")]
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "p"), "--to", "peft", *at]) == 0
    assert (
        main(["convert", str(tmp_path / "p"), str(tmp_path / "back"), "--to", "graftwork", *at])
        == 0
    )
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2").eval()
    gw.load(again, tmp_path / "back")
    x = torch.arange(6).view(1, 6)
    assert torch.equal(again(x).logits, model(x).logits)


def _refused(capsys: Any, tmp_path: Path, *more: str, base: str = "base.safetensors") -> str:
    paths = [str(tmp_path / "ours"), str(tmp_path / "t")]
    message = refused(capsys, "convert", *paths, "--base", str(tmp_path / base), *more)
    assert not (tmp_path / "t").exists()
    return message


def test_refusals(base: Net, tmp_path: Path, capsys: Any) -> None:
    gw.save(
        shaken(gw.graft(base, gw.LoRA(2), sites=["up"], also_train=["norm"])), tmp_path / "ours"
    )
    assert "--plain-layers" in _refused(capsys, tmp_path, "--to", "peft")
    assert "transposed convolutions" in _refused(capsys, tmp_path, "--to", "peft", "--plain-layers")
    assert "--rank R or --error E" in _refused(capsys, tmp_path, "--to", "lora")
    assert "plain LoRA" in _refused(capsys, tmp_path, "--to", "graftwork", "--rank", "2")
    assert "no such file" in _refused(
        capsys, tmp_path, "--to", "lora", "--rank", "2", base="no.safetensors"
    )
    state = load_file(tmp_path / "base.safetensors")
    save_file({**state, "up.weight": state["up.weight"] + 1}, tmp_path / "other.safetensors")
    told = _refused(capsys, tmp_path, "--to", "lora", "--rank", "2", base="other.safetensors")
    assert "up.weight: other values" in told
    (tmp_path / "folder").mkdir()
    assert "no model config" in _refused(
        capsys, tmp_path, "--to", "lora", "--rank", "2", base="folder"
    )


def test_an_adapter_that_is_there_needs_force(base: Net, tmp_path: Path, capsys: Any) -> None:
    gw.save(shaken(gw.graft(base, gw.LoRA(2), sites=["fc"])), tmp_path / "ours")
    assert convert(tmp_path, "ours", "t", "--to", "lora", "--rank", "1") == 0
    capsys.readouterr()
    assert convert(tmp_path, "ours", "t", "--to", "lora", "--rank", "2") == 2
    assert "already holds an adapter" in capsys.readouterr().err
    assert convert(tmp_path, "ours", "t", "--to", "lora", "--rank", "2", "--force") == 0

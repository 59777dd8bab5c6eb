"""Small models and PEFT configs that both directions of the exchange are tested on."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


def _tokens() -> torch.Tensor:
    return torch.tensor([[1, 4, 2], [0, 10, 7]])


def _linear() -> tuple[nn.Module, torch.Tensor]:
    layers = OrderedDict(
        a=nn.Linear(6, 5), act=nn.Tanh(), b=nn.Linear(5, 4), c=nn.Linear(4, 3, bias=False)
    )
    return nn.Sequential(layers), torch.randn(2, 6)


def _conv1d() -> tuple[nn.Module, torch.Tensor]:
    layers = OrderedDict(
        a=nn.Conv1d(3, 4, 3, stride=2, padding=1), act=nn.Tanh(), b=nn.Conv1d(4, 2, 1)
    )
    return nn.Sequential(layers), torch.randn(2, 3, 9)


def _conv2d() -> tuple[nn.Module, torch.Tensor]:
    layers = OrderedDict(
        a=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        act=nn.Tanh(),
        b=nn.Conv2d(4, 2, (1, 3), padding="same", bias=False),
    )
    return nn.Sequential(layers), torch.randn(2, 3, 7, 6)


def _conv3d() -> tuple[nn.Module, torch.Tensor]:
    layers = OrderedDict(
        a=nn.Conv3d(2, 4, 3, padding=1), act=nn.Tanh(), b=nn.Conv3d(4, 2, (3, 3, 1), stride=2)
    )
    return nn.Sequential(layers), torch.randn(1, 2, 5, 4, 3)


def _grouped() -> tuple[nn.Module, torch.Tensor]:
    layers = OrderedDict(
        a=nn.Conv2d(4, 6, 3, padding=1, groups=2), act=nn.Tanh(), b=nn.Conv2d(6, 6, 3, groups=6)
    )
    return nn.Sequential(layers), torch.randn(2, 4, 5, 5)


def _embedding() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(OrderedDict(a=nn.Embedding(11, 6), b=nn.Linear(6, 3))), _tokens()


def _gpt() -> tuple[nn.Module, torch.Tensor]:
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(OrderedDict(a=Conv1D(5, 6), act=nn.Tanh(), b=Conv1D(3, 5))), torch.randn(
        2, 6
    )


NETS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "linear": _linear,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "conv3d": _conv3d,
    "grouped": _grouped,
    "embedding": _embedding,
    "gpt": _gpt,
}

_AB = {"target_modules": ["a", "b"]}

#: case -> (net, PEFT type, config)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "linear": ("linear", "LORA", {**_AB, "r": 2, "lora_alpha": 3, "lora_dropout": 0.1}),
    "linear_rslora": ("linear", "LORA", {**_AB, "r": 3, "lora_alpha": 5, "use_rslora": True}),
    "linear_dora": ("linear", "LORA", {**_AB, "r": 2, "use_dora": True}),
    "linear_patterns": (
        "linear",
        "LORA",
        {
            "target_modules": ["a", "b", "c"],
            "r": 2,
            "rank_pattern": {"b": 3},
            "alpha_pattern": {"^b": 7, "c": 0.5},
        },
    ),
    "linear_regex_targets": ("linear", "LORA", {"target_modules": "(a|b)+", "r": 2}),
    "linear_saved": ("linear", "LORA", {"target_modules": ["a"], "r": 2, "modules_to_save": ["c"]}),
    "linear_ia3": ("linear", "IA3", {**_AB, "feedforward_modules": ["b"]}),
    "conv1d": ("conv1d", "LORA", {**_AB, "r": 2}),
    "conv1d_dora": ("conv1d", "LORA", {**_AB, "r": 2, "use_dora": True}),
    "conv2d": ("conv2d", "LORA", {**_AB, "r": 3}),
    "conv2d_dora": ("conv2d", "LORA", {**_AB, "r": 2, "use_dora": True}),
    "conv2d_ia3": ("conv2d", "IA3", {**_AB, "feedforward_modules": ["b"]}),
    "conv3d": ("conv3d", "LORA", {**_AB, "r": 2}),
    "conv3d_dora": ("conv3d", "LORA", {**_AB, "r": 2, "use_dora": True}),
    "conv3d_ia3": ("conv3d", "IA3", {**_AB, "feedforward_modules": ["a"]}),
    "grouped": ("grouped", "LORA", {**_AB, "r": 6}),
    "grouped_ia3": ("grouped", "IA3", {**_AB, "feedforward_modules": ["a"]}),
    "embedding": ("embedding", "LORA", {**_AB, "r": 2}),
    "embedding_dora": ("embedding", "LORA", {**_AB, "r": 2, "use_dora": True}),
    "gpt": ("gpt", "LORA", {**_AB, "r": 2, "fan_in_fan_out": True}),
    "gpt_dora": ("gpt", "LORA", {**_AB, "r": 2, "fan_in_fan_out": True, "use_dora": True}),
    "gpt_ia3": ("gpt", "IA3", {**_AB, "feedforward_modules": ["b"], "fan_in_fan_out": True}),
}


def base_of(case: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A golden case's base in float64, its input, and what PEFT computed."""
    model, _ = NETS[CASES[case][0]]()
    kept = load_file(GOLDEN / case / "case.safetensors")
    model.double().load_state_dict(
        {k.removeprefix("base."): v for k, v in kept.items() if k.startswith("base.")}
    )
    return model.eval(), kept["x"], kept["y"]


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry of `b`."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())


def changed(tmp_path: Path, case: str = "linear", **fields: Any) -> Path:
    """A golden folder with other config values."""
    folder = tmp_path / "changed"
    shutil.copytree(GOLDEN / case, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder

"""How the linear layers of a frozen base are stored, each form made from the same bfloat16 weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from benchmarks.speed.llama import LINEARS

#: weights that share a scale, in every form in 4 bits
GROUP = 64


@dataclass(frozen=True)
class Form:
    """A way to store the linear layers.

    Args:
        title: as tables name it.
        make: stores the linear layers of a model anew, in place.
        again: torchao's setting, with which peft quantises a merged weight again; `None`: peft needs none.
        packed: bitsandbytes' 4-bit layers, which peft must be told of.
    """

    title: str
    make: Callable[[nn.Module], None]
    again: Callable[[], Any] | None = None
    packed: bool = False


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of the decoder's blocks, by name."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in LINEARS:
            yield name, module


def _nf4(model: nn.Module) -> None:
    nn4 = importlib.import_module("bitsandbytes").nn
    for name, old in list(linears(model)):
        weight: Any = old.weight
        new = nn4.Linear4bit(
            weight.shape[1], weight.shape[0], bias=False, compute_dtype=weight.dtype,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        new.weight = nn4.Params4bit(
            weight.data, requires_grad=False, compress_statistics=True, blocksize=GROUP,
            quant_type="nf4", module=new,
        )  # fmt: skip
        new.to(weight.device)
        if hasattr(new, "support_avx512bf16_for_cpu"):
            new.support_avx512bf16_for_cpu = False
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)


def _torchao_nf4(model: nn.Module) -> None:
    made = importlib.import_module("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")
    for _, layer in linears(model):
        weight: Any = layer.weight
        blocks = weight.numel() // GROUP
        stored = made.to_nf4(weight.data, GROUP, min(256, blocks))
        layer.weight = nn.Parameter(stored, requires_grad=False)


def _int8() -> Any:
    return importlib.import_module("torchao.quantization").Int8WeightOnlyConfig()


def _int4() -> Any:
    quantization = importlib.import_module("torchao.quantization")
    group = importlib.import_module("torchao.quantization.granularity").PerGroup(GROUP)
    return quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=group)


def _by_torchao(setting: Callable[[], Any]) -> Callable[[nn.Module], None]:
    def make(model: nn.Module) -> None:
        there = {id(layer) for _, layer in linears(model)}
        quantise = importlib.import_module("torchao.quantization").quantize_
        quantise(model, setting(), lambda module, name: id(module) in there)
        model.requires_grad_(False)

    return make


FORMS = {
    "bf16": Form("bf16", lambda model: None),
    "nf4": Form("nf4, bitsandbytes", _nf4, packed=True),
    "int8": Form("int8, torchao", _by_torchao(_int8), _int8),
    "int4": Form("int4 in a byte each, torchao", _by_torchao(_int4), _int4),
    "torchao-nf4": Form("nf4, torchao", _torchao_nf4),
}


def store(model: nn.Module, form: Form) -> None:
    """Store a model's linear layers in a form, and say so where peft looks, as loading through transformers does."""
    form.make(model)
    told: Any = model
    if form.packed:
        told.is_loaded_in_4bit = True
    if form.again is not None:
        setting = SimpleNamespace(get_apply_tensor_subclass=form.again)
        told.hf_quantizer = SimpleNamespace(quantization_config=setting)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the linear layers' weights, with their scales."""
    return sum(_bytes(layer.weight) for _, layer in linears(model))


def _bytes(value: Any) -> int:
    """Of a tensor with all that it is decoded by."""
    if isinstance(value, Tensor) and is_traceable_wrapper_subclass(value):
        inner: Any = value
        return sum(_bytes(getattr(inner, name)) for name in inner.__tensor_flatten__()[0])
    own = value.numel() * value.element_size() if isinstance(value, Tensor) else 0
    state = getattr(value, "quant_state", None)
    while state is not None:  # of the weight, and where scales are quantised too, of those
        own += sum(_bytes(getattr(state, n)) for n in ("absmax", "code", "offset"))
        state = state.state2
    return own

"""Frozen weights that are stored in fewer bits, and the dense weights that they stand for.

Served are linear layers of bitsandbytes (4 bits: NF4 and FP4; 8 bits) and of torchao (tensors whose class says how it
is made dense; what its kernel alone can read is refused, and has no backward pass either). They are told by name, so
that neither package is imported, or needed. The layer's own forward stays what it is, and a graft adds to it; whoever
needs the weight itself gets it dense, anew each time: it is not kept, for a model that fits in 4 bits need not fit
otherwise.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graftwork.errors import GraftError

BACKENDS = ("bitsandbytes", "torchao")
FOUR, EIGHT = "bitsandbytes.nn.modules.Linear4bit", "bitsandbytes.nn.modules.Linear8bitLt"
#: makes a tensor of torchao dense; where a class has the first, the second is something else
TO_DENSE = ("get_original_weight", "dequantize")


def scheme(module: nn.Module) -> str | None:
    """How a layer's weight is stored, such as "nf4", "bnb-int8" or "Int8Tensor"; `None`: an ordinary weight."""
    weight: Any = module._parameters.get("weight")
    if weight is None:
        return None
    form = _form(module)
    if form == FOUR and getattr(weight, "quant_state", None) is not None:
        return str(weight.quant_state.quant_type)
    if form == EIGHT and weight.dtype == torch.int8:
        return "bnb-int8"
    if (
        is_traceable_wrapper_subclass(weight)
        and type(weight).__module__.split(".")[0] == BACKENDS[1]
    ):
        return None if _to_dense(weight) is None else type(weight).__name__
    return None


def unready(module: nn.Module) -> str | None:
    """Why a layer that will be quantised is not yet, or `None`."""
    layer: Any = module
    if _form(module) is not None and scheme(module) is None:
        return "it is not quantised yet; move the model to its device first, which does it"
    # there bitsandbytes stores the frozen weight anew, with loss, in the first forward that keeps no gradients
    if getattr(layer, "support_avx512bf16_for_cpu", False) and layer.weight.device.type == "cpu":
        return "its forward would repack the weight for this CPU; set support_avx512bf16_for_cpu = False on it first"
    return None


def is_packed(module: nn.Module) -> bool:
    """Whether a layer is of a class of bitsandbytes, or one derived from it with the same forward."""
    return _form(module) is not None


def shape_of(module: nn.Module) -> tuple[int, ...]:
    """The shape (out, in) of the dense weight of a quantised layer."""
    layer: Any = module
    return int(layer.out_features), int(layer.in_features)


def hollow(module: nn.Module, name: str) -> Tensor | None:
    """A parameter without its values, on the meta device; of a quantised weight, the dense one in float32."""
    if name == "weight" and scheme(module) is not None:
        return torch.empty(shape_of(module), device="meta")
    held = module._parameters.get(name)
    return None if held is None else held.detach().to("meta")


def hidden_count(module: nn.Module) -> int:
    """How many weights a layer has beyond those that its stored tensor counts."""
    if scheme(module) is None:
        return 0
    weight = module._parameters["weight"]
    assert weight is not None
    return math.prod(shape_of(module)) - weight.numel()


def dense(module: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
    """The weight (out, in) that a quantised layer stands for, as a new tensor.

    Args:
        dtype: `None`: float32.

    Raises:
        GraftError: the layer is not quantised.
    """
    weight: Any = module._parameters["weight"]
    how = scheme(module)
    if how is None:
        raise GraftError(f"{type(module).__name__}: its weight is not quantised")
    form = _form(module)
    with torch.no_grad():
        if form == FOUR:
            found = decoded(weight, shape_of(module))
        elif form == EIGHT:
            layer: Any = module
            scales = weight.SCB if weight.SCB is not None else layer.state.SCB
            codes = weight.data if layer.state.CB is None else layer.state.CB
            found = codes.float() * (scales.float().unsqueeze(1) / 127)
        else:
            way = _to_dense(weight)
            assert way is not None
            found = getattr(weight, way)()
    return found.detach().reshape(shape_of(module)).to(dtype or torch.float32)


def decoded(weight: Any, shape: Sequence[int]) -> Tensor:
    """The dense weight of a 4-bit parameter, as float32."""
    found: Tensor = _functional().dequantize_4bit(weight.data, weight.quant_state)
    return found.detach().reshape(tuple(shape)).float()


def unread(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """What stands for the weight where nothing reads its values: of its shape, without memory, and NaN."""
    weight = module._parameters["weight"]
    assert weight is not None
    return torch.full((), torch.nan, dtype=dtype, device=weight.device).expand(shape_of(module))


def refuses_rounding(module: nn.Module) -> str | None:
    """Why a changed weight cannot be stored as the layer stores its own, or `None`."""
    if _form(module) == FOUR:
        return None
    return (
        f"its weight is {scheme(module)}, which is not made anew here; merge into a base that is not quantised, and "
        "quantise that"
    )


def rounded(module: nn.Module, value: Tensor) -> nn.Parameter:
    """A dense weight (out, in) stored as the 4-bit layer stores its own.

    Raises:
        GraftError: the layer is not of 4 bits.
    """
    why = refuses_rounding(module)
    if why is not None:
        raise GraftError(why)
    old: Any = module._parameters["weight"]
    state = old.quant_state
    wide = torch.promote_types(value.dtype, state.dtype)  # so that it is rounded once
    packed, made = _functional().quantize_4bit(
        value.to(old.device, wide).contiguous(),
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        quant_storage=old.quant_storage,
    )
    made.dtype = state.dtype
    new: nn.Parameter = type(old)(
        packed,
        requires_grad=False,
        quant_state=made,
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        quant_storage=old.quant_storage,
        bnb_quantized=True,
    )
    return new


def _to_dense(weight: Any) -> str | None:
    own = (n for n in TO_DENSE if getattr(type(weight), n, None) is not getattr(Tensor, n, None))
    return next(own, None)


def _form(module: nn.Module) -> str | None:
    cls: Any = getattr(type(module), "_base_class", type(module))
    for base in cls.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name in (FOUR, EIGHT):
            return name if cls.forward is base.forward else None
    return None


def _functional() -> Any:
    return importlib.import_module("bitsandbytes.functional")

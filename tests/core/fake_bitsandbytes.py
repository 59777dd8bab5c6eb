"""A stand-in for bitsandbytes: a 4-bit linear layer with its interface, and sixteen evenly spaced values."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class QuantState:
    def __init__(
        self, shape: Any, dtype: Any, scale: Tensor, quant_type: str, nested: bool
    ) -> None:
        self.shape, self.dtype, self.scale = shape, dtype, scale
        self.quant_type, self.nested, self.blocksize = quant_type, nested, 64


def quantize_4bit(
    data: Tensor, *, blocksize: int, compress_statistics: bool, quant_type: str, quant_storage: Any
) -> tuple[Tensor, QuantState]:
    scale = data.abs().amax(1, keepdim=True).float()
    codes = (data.float() / scale * 7).round() + 8
    state = QuantState(data.shape, data.dtype, scale, quant_type, compress_statistics)
    return codes.to(quant_storage).reshape(-1, 1), state


def dequantize_4bit(data: Tensor, state: QuantState) -> Tensor:
    return ((data.reshape(state.shape).float() - 8) / 7 * state.scale).to(state.dtype)


class Params4bit(nn.Parameter):
    def __new__(cls, data: Tensor, requires_grad: bool = False, **more: Any) -> Any:
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.quant_state = more.get("quant_state")
        made.quant_storage = more.get("quant_storage", torch.uint8)
        return made

    def __deepcopy__(self, memo: Any) -> Any:
        return type(self)(self.data.clone(), quant_state=self.quant_state)


class Linear4bit(nn.Linear):
    """As the real one, it is quantised when it is moved; here by `quantise`."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight = Params4bit(self.weight.data)

    def quantise(self) -> None:
        packed, state = quantize_4bit(
            self.weight.data,
            blocksize=64,
            compress_statistics=True,
            quant_type="nf4",
            quant_storage=torch.uint8,
        )
        self.weight = Params4bit(packed, quant_state=state)

    def forward(self, x: Tensor) -> Tensor:
        weight = dequantize_4bit(self.weight.data, self.weight.quant_state)
        return nn.functional.linear(x, weight.to(x.dtype), self.bias)


Linear4bit.__module__ = "bitsandbytes.nn.modules"


def modules() -> dict[str, ModuleType]:
    """What `import bitsandbytes.functional` is to find."""
    package, functional = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.functional")
    functional.quantize_4bit, functional.dequantize_4bit = quantize_4bit, dequantize_4bit  # type: ignore[attr-defined]
    package.functional = functional  # type: ignore[attr-defined]
    return {"bitsandbytes": package, "bitsandbytes.functional": functional}

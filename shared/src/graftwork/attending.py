"""What a graft changes inside an attention module: the one call that computes its attention.

Modules of transformers (with `attn_implementation="sdpa"`, its default), timm and diffusers leave the attention itself
to `torch.nn.functional.scaled_dot_product_attention`, after all that is their own: projections, rotary positions,
normalised queries, the key-value cache, the mask. While a grafted module's forward runs, that one call is answered by
the method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Inside(TorchFunctionMode):
    """Answers calls of `scaled_dot_product_attention`, and counts them.

    Args:
        attend: takes its arguments.
    """

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend, self.calls = attend, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.calls += 1
        return self.attend(*args, **kwargs)

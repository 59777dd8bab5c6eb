"""What a graft changes inside an attention module: the one call that computes its attention.

Modules of transformers (with `attn_implementation="sdpa"`, its default), timm and diffusers leave the attention itself
to `torch.nn.functional.scaled_dot_product_attention`, after all that is their own: projections, rotary positions,
normalised queries, the key-value cache, the mask. While a grafted module's forward runs, that one call is answered by
the method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from graftwork.errors import GraftError


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


def goes_on(layer: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a block's call goes on from a key-value cache that already holds positions of its layer.

    A cache is what has transformers' `get_seq_length`; the block's attention knows its place in it as `layer_idx`.

    Raises:
        GraftError: a cache, and nothing in the block says which of its layers is meant.
    """
    cache = next((a for a in (*args, *kwargs.values()) if hasattr(a, "get_seq_length")), None)
    if cache is None:
        return False
    for module in layer.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int):
            return bool(cache.get_seq_length(index) > 0)
    raise GraftError(
        f"a grafted {type(layer).__mro__[2].__name__} is called with a key-value cache, and nothing in it has a "
        "layer_idx: where the prompt ends cannot be told; call with use_cache=False inside graftwork.prompt"
    )

"""Which layer kind is this module? Told by the forward its class resolves to, never by isinstance.

timm's `StdConv2d` is an `nn.Conv2d` and standardises its weight first; treating it as one is wrong
by whole units. So a class counts as a kind only if it computes the kind's own forward; any other
subclass is refused by name until `register_layer` vouches for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graftwork.algebra import quantised
from graftwork.algebra.conv import Conv, ConvTranspose
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Attention, Block, Embedding, Linear, TransposedLinear
from graftwork.algebra.norm import Norm
from graftwork.errors import GraftError

Reader = Callable[[Any], Geometry | str]


def _linear(m: nn.Linear) -> Geometry:
    return Linear(out=m.out_features, in_=m.in_features)


def _embedding(m: nn.Embedding) -> Geometry | str:
    if m.max_norm is not None:
        return "Embedding(max_norm=...) rewrites the frozen table in its forward; set max_norm=None"
    if m.sparse:
        return "Embedding(sparse=True) gives sparse gradients; build it with sparse=False"
    return Embedding(
        out=m.embedding_dim,
        in_=m.num_embeddings,
        padding_idx=m.padding_idx,
        scale_grad_by_freq=m.scale_grad_by_freq,
    )


def _conv(m: Any) -> Geometry:
    return Conv(
        out=m.out_channels,
        in_=m.in_channels,
        groups=m.groups,
        kernel=tuple(m.kernel_size),
        stride=tuple(m.stride),
        padding=m.padding if isinstance(m.padding, str) else tuple(m.padding),
        dilation=tuple(m.dilation),
        padding_mode=m.padding_mode,
        pad=tuple(m._reversed_padding_repeated_twice),
    )


def _conv_transpose(m: Any) -> Geometry:
    return ConvTranspose(
        out=m.out_channels,
        in_=m.in_channels,
        groups=m.groups,
        kernel=tuple(m.kernel_size),
        stride=tuple(m.stride),
        padding=tuple(m.padding),
        dilation=tuple(m.dilation),
    )


def _norm(m: Any) -> Geometry | str:
    if m.bias is None:
        return "it has no bias"
    shape = tuple(m.bias.shape)
    dims = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}
    spatial = next((n for cls, n in dims.items() if isinstance(m, cls)), None)
    first = not isinstance(m, nn.LayerNorm)
    n = m.bias.numel()
    return Norm(out=n, in_=n, shape=shape, channel_first=first, spatial_dims=spatial)


def _transposed_linear(m: Any) -> Geometry:
    return TransposedLinear(out=m.weight.shape[1], in_=m.weight.shape[0])


#: forward function -> reader. Keys are the functions themselves, or "module.Class" for optional
#: libraries.
_FORWARDS: dict[Any, Reader] = {
    nn.Linear.forward: _linear,
    nn.Embedding.forward: _embedding,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    nn.Conv3d.forward: _conv,
    nn.ConvTranspose1d.forward: _conv_transpose,
    nn.ConvTranspose2d.forward: _conv_transpose,
    nn.ConvTranspose3d.forward: _conv_transpose,
    nn.LayerNorm.forward: _norm,
    nn.GroupNorm.forward: _norm,
    nn.modules.batchnorm._BatchNorm.forward: _norm,
    nn.modules.instancenorm._InstanceNorm.forward: _norm,
}
_CONV_FORWARDS: dict[Any, Any] = {
    c.forward: c._conv_forward for c in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
}
_BY_NAME: dict[str, Reader] = {
    "transformers.pytorch_utils.Conv1D": _transposed_linear,
    # computes F.linear of its own weight and bias, with casts for scripting
    "timm.layers.linear.Linear": _linear,
}
_REGISTERED: dict[type, Reader] = {}
_BASES = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)


def register_layer(cls: type[nn.Module], like: type[nn.Module]) -> None:
    """Vouch that `cls` computes exactly the forward of `like` (for example `nn.Conv2d`).

    Raises:
        GraftError: `like` is not a layer that Graftwork knows.
    """
    reader = _FORWARDS.get(like.forward)
    if reader is None:
        raise GraftError(f"register_layer: {like.__name__} is not a known layer kind")
    _REGISTERED[cls] = reader


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The module's own class, looking through a graft."""
    return getattr(type(module), "_base_class", None) or type(module)


def recognise(module: nn.Module) -> Geometry | str | None:
    """The module's geometry; or the reason why a layer-like module is refused; or `None`."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled TorchScript; graft the module it was made from"
    cls = plain_class(module)
    reader = _REGISTERED.get(cls) or _BY_NAME.get(f"{cls.__module__}.{cls.__qualname__}")
    if reader is None and quantised.is_packed(module):
        reader = _linear
    if reader is None:
        reader = _FORWARDS.get(cls.forward)
        conv = _CONV_FORWARDS.get(cls.forward)
        if conv is not None and inspect.getattr_static(cls, "_conv_forward") is not conv:
            reader = None
        if reader is None:
            if isinstance(module, _BASES):
                return (
                    f"{cls.__name__} overrides the forward of its layer kind; if it computes the "
                    f"same function, call graftwork.register_layer({cls.__name__}, like=...)"
                )
            return None
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance; remove that wrapper first"
    if hasattr(module, "parametrizations"):
        return "its weight is parametrised (torch.nn.utils.parametrize); remove that first"
    weight = module._parameters.get("weight")
    if weight is None:
        if reader is _norm:
            return "it has no affine weight"
        return "its weight is computed by a hook (weight_norm or spectral_norm); remove that first"
    if isinstance(weight, nn.UninitializedParameter):
        return "its weight is lazy; run the model once first"
    why = quantised.unready(module)
    if why is not None:
        return why
    if reader is _linear and quantised.scheme(module) is not None:
        return _linear(module)  # type: ignore[arg-type]
    if is_traceable_wrapper_subclass(weight) or weight.dtype.itemsize < 2:
        kind = type(weight.data).__name__
        return f"its weight is quantised or sharded ({kind}, {weight.dtype}) in a way that is not served"
    if not weight.is_floating_point():
        return f"its weight is not floating point but {weight.dtype}"
    return reader(module)


def recognise_block(module: nn.Module) -> Geometry | str:
    """A sub-module as a block: features in of its first linear layer, features out of its last."""
    linear = [g for g in map(recognise, module.modules()) if isinstance(g, Linear)]
    if not linear:
        return "no linear layer inside tells its feature sizes"
    attention = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
    rows_first = all(m.batch_first for m in attention)
    return Block(out=linear[-1].out, in_=linear[0].in_, batch_first=rows_first)


#: projections to keys and values as attention modules name them, and those to queries, keys and values in one
_SPLIT = (
    ("k_proj", "v_proj"),
    ("key", "value"),
    ("k", "v"),
    ("to_k", "to_v"),
    ("k_lin", "v_lin"),
    ("wk", "wv"),
)
_FUSED = ("qkv", "c_attn", "query_key_value", "Wqkv", "qkv_proj", "in_proj")


def recognise_attention(module: nn.Module) -> Geometry | str | None:
    """An attention module by its key and value projections; why it is none that can be served; or `None`."""
    if isinstance(module, nn.MultiheadAttention):
        return "torch's MultiheadAttention is one fused function, whose keys cannot be reached"
    found = {n: g for n, m in module.named_children() if isinstance(g := recognise(m), Linear)}
    for keys, values in _SPLIT:
        if keys in found and values in found:
            return Attention(out=found[keys].out, in_=found[values].out)
    for name in _FUSED:
        if name in found:
            geo = found[name]
            # queries, keys and values of one width each; or keys and values beside queries of their own
            if geo.out not in (3 * geo.in_, 2 * geo.in_ if "q_attn" in found else 0):
                return (
                    f"its fused projection {name!r} maps {geo.in_} features to {geo.out}: the part for the keys is "
                    "not told by its shape"
                )
            return Attention(out=geo.in_, in_=geo.in_)
    return None


def has_statistics(module: nn.Module) -> bool:
    """Whether a training-mode forward would move the module's own buffers.

    Norms with running statistics, and spectral norm (old and new), which iterates its vectors.
    """
    return (
        isinstance(module._buffers.get("running_mean"), torch.Tensor)
        or isinstance(module, _SpectralNorm)
        or any(isinstance(h, SpectralNorm) for h in module._forward_pre_hooks.values())
    )

"""Which layers Hugging Face PEFT computes as Graftwork does, and how their tensors are laid out in its files.

PEFT's convolution branch copies kernel, stride and padding but neither dilation nor padding mode, and its A
ignores groups: it reads all input channels, which no change of a grouped weight can express, unless the
entries across groups are zero (so they are written, and so they must be read).
"""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.algebra.conv import Conv
from graftwork.algebra.geometry import Geometry
from graftwork.algebra.linear import Embedding
from graftwork.errors import GraftError
from graftwork.methods.base import Method
from graftwork.methods.dora import DoRA
from graftwork.methods.ia3 import IA3
from graftwork.methods.lora import LoRA
from graftwork.methods.oft import OFT
from graftwork.methods.vera import VeRA
from graftwork.starts.residual import Residual
from graftwork.store import hf_orthogonal
from graftwork.store.hf_vera import LEAVES


def why_not(method: Method, geo: Geometry) -> str | None:
    """Why PEFT cannot compute this method on this layer as Graftwork does, or `None`."""
    if type(method) is IA3:
        if geo.kind not in ("linear", "transposed_linear", "conv2d", "conv3d"):
            return f"PEFT has no IA3 for a {geo.kind}"
        return None
    if type(method) is VeRA:
        known = geo.kind in ("linear", "transposed_linear")
        return None if known else f"PEFT has no VeRA for a {geo.kind}"
    if isinstance(method, OFT):
        return hf_orthogonal.why_not(method, geo)
    method = plain_form(method)
    if type(method) not in (LoRA, DoRA):
        return f"PEFT has no form for {method.id}; convert it with to_lora first"
    if geo.kind.startswith("conv_transpose"):
        return "PEFT has no LoRA for transposed convolutions"
    if isinstance(geo, Conv):
        assert isinstance(method, LoRA)
        return _why_not_conv(geo, method)
    return None


def _why_not_conv(geo: Conv, method: LoRA) -> str | None:
    if any(k > 1 and d > 1 for k, d in zip(geo.kernel, geo.dilation, strict=True)):
        return "PEFT's branch ignores the dilation"
    if geo.padding_mode != "zeros" and any(geo.pad):
        return f"PEFT's branch pads with zeros, not by {geo.padding_mode!r}"
    if geo.groups > 1 and not geo.splits(method.rank):
        return f"PEFT needs a rank that the {geo.groups} groups divide, not {method.rank}"
    if geo.groups > 1 and type(method) is DoRA:
        return "PEFT's DoRA is wrong on grouped convolutions"
    return None


def plain_form(method: Method) -> Method:
    """The method that PEFT's file describes: a residual start is a plain LoRA of rank 2r, of the same scale."""
    if not isinstance(method, Residual):
        return method
    rank = 2 * method.rank
    return LoRA(rank, alpha=method.scale * rank, dropout=method.dropout)


def plain_tensors(method: Method, geo: Geometry, p: dict[str, Tensor]) -> dict[str, Tensor]:
    """A site's tensors as `plain_form` has them."""
    if isinstance(method, OFT):
        return hf_orthogonal.spread(method, p, geo)
    return dict(method.difference(geo, p)) if isinstance(method, Residual) else p


def to_file(method: Method, geo: Geometry, p: dict[str, Tensor]) -> dict[str, Tensor]:
    """A site's tensors under PEFT's names (behind the module's own) and in its shapes."""
    if isinstance(method, IA3):
        return {"ia3_l": p["scale"].reshape(ia3_shape(geo, method.scale == "input"))}
    if isinstance(method, VeRA):
        return {name: p[own] for own, name in LEAVES.items()}
    if isinstance(method, OFT):
        return hf_orthogonal.to_file(method, p, geo.out)
    if isinstance(geo, Embedding):
        out = {"lora_embedding_A": p["A"], "lora_embedding_B": p["B"]}
    else:
        a = p["A"] if geo.groups == 1 else _spread(geo, p["A"])
        out = {"lora_A.weight": a, "lora_B.weight": p["B"]}
    if isinstance(method, DoRA):
        m = p["magnitude"]
        out["lora_magnitude_vector"] = m.reshape(1, -1, *[1] * geo.spatial) if geo.spatial else m
    return out


def from_file(
    site: str, method: Method, geo: Geometry, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse of `to_file`; shapes that fit no layer come through and are refused on loading.

    Raises:
        GraftError: an A that mixes channels across groups.
    """
    if isinstance(method, IA3):
        return {"scale": found["ia3_l"].flatten()}
    if isinstance(method, VeRA):
        return {own: found[name] for own, name in LEAVES.items()}
    if isinstance(method, OFT):
        return hf_orthogonal.from_file(method, found)
    embedding = isinstance(geo, Embedding)
    a = found["lora_embedding_A" if embedding else "lora_A.weight"]
    if geo.groups > 1 and a.dim() > 1 and a.shape[1] == geo.in_:
        a = _gather(site, geo, a)
    out = {"A": a, "B": found["lora_embedding_B" if embedding else "lora_B.weight"]}
    if isinstance(method, DoRA):
        out["magnitude"] = found["lora_magnitude_vector"].flatten()
    return out


def file_names(method: Method, geo: Geometry) -> set[str]:
    """The names that `to_file` gives."""
    if isinstance(method, IA3):
        return {"ia3_l"}
    if isinstance(method, VeRA):
        return set(LEAVES.values())
    if isinstance(method, OFT):
        return hf_orthogonal.file_names(method)
    names = (
        {"lora_embedding_A", "lora_embedding_B"}
        if isinstance(geo, Embedding)
        else {"lora_A.weight", "lora_B.weight"}
    )
    return names | ({"lora_magnitude_vector"} if isinstance(method, DoRA) else set())


def ia3_shape(geo: Geometry, feedforward: bool) -> tuple[int, ...]:
    """The shape of PEFT's IA3 vector at a layer."""
    n = geo.in_ if feedforward else geo.out
    if geo.spatial:
        return (1, n, *[1] * geo.spatial)
    return (1, n) if feedforward else (n, 1)


def _spread(geo: Geometry, a: Tensor) -> Tensor:
    """A `(r, in/g, k...)` per group -> `(r, in, k...)` with zeros across groups."""
    g = geo.groups
    wide = torch.zeros(g, a.shape[0] // g, g, *a.shape[1:], dtype=a.dtype)
    for i, part in enumerate(a.unflatten(0, (g, -1))):
        wide[i, :, i] = part
    return wide.flatten(2, 3).flatten(0, 1)


def _gather(site: str, geo: Geometry, a: Tensor) -> Tensor:
    g = geo.groups
    if a.shape[0] % g:
        raise GraftError(f"{site}: a rank that the {g} groups do not divide")
    parts = a.unflatten(1, (g, -1)).unflatten(0, (g, -1))  # (g, r/g, g, in/g, k...)
    own = torch.stack([parts[i, :, i] for i in range(g)]).flatten(0, 1)
    if not torch.equal(_spread(geo, own), a):
        raise GraftError(
            f"{site}: PEFT's A mixes channels across the layer's {g} groups, which no change of "
            "its weight can express"
        )
    return own

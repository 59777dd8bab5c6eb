"""Norm layers in Hugging Face PEFT's folders: its LN tuning keeps a trained copy of each, as NormAffine does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from graftwork.methods.base import Method
from graftwork.methods.norm_affine import NormAffine
from graftwork.sites import Site

KIND = "LN_TUNING"
_CHILD = ".ln_tuning_layers."
_OWN = ".module."


def all_norms(sites: Iterable[tuple[Site, Method]]) -> bool:
    """Whether a graft adapts norms and nothing else."""
    sites = list(sites)
    return bool(sites) and all(isinstance(m, NormAffine) for _, m in sites)


def to_file(sites: Iterable[Site], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A graft's tensors of these norms by PEFT's names, without the beginning that all have."""
    begins = {f"{site.name}{_OWN}": f"{site.name}{_CHILD}" for site in sites}
    return {
        theirs + key.removeprefix(ours): t
        for key, t in tensors.items()
        for ours, theirs in begins.items()
        if key.startswith(ours)
    }


def site_of(key: str) -> str | None:
    """The norm that a tensor of a file belongs to, or `None` if it is none's."""
    name, child, _ = key.rpartition(_CHILD)
    return name if child else None


def from_file(name: str, left: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take a norm's tensors out of those of a file; by our names."""
    begin = f"{name}{_CHILD}"
    own = [k for k in left if k.startswith(begin)]
    return {f"{name}{_OWN}{k.removeprefix(begin)}": left.pop(k) for k in own}

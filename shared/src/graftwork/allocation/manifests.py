"""Ready search spaces: a Swin-UNETR's blocks, and any convolutional network's.

Swin (SEA-PEFT, section 3.1), in each block: LoRA on the packed attention map `attn.qkv`, the affine part of
each of its norms, a bottleneck beside `mlp` (it reads the normed input, as the paper's does) and LoRA
on `mlp`'s two linear layers.

Departures: the paper's three topology labels build one branch in its code, so there is one here; its
FFN LoRA is one map beside the whole MLP, ours sits on the MLP's two linear layers, so that it merges;
the bottleneck's activation is our AdaptFormer's ReLU. Groups are per block, not per stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import nn

from graftwork.algebra.recognise import plain_class
from graftwork.allocation.families import Family, families
from graftwork.allocation.unit import Unit, Wanted, check_units, units_of
from graftwork.errors import GraftError
from graftwork.sites import (
    Pattern,
    Site,
    candidates,
    check_patterns,
    is_norm,
    is_within,
    matches,
    no_match,
    own_modules,
    within,
)

Levels = Mapping[str, Iterable[int]]


class Place(NamedTuple):
    """One part of a block: its family, the hosts inside the block, and whether each is an instance."""

    family: str
    hosts: tuple[str, ...]
    apart: bool = True


#: what a Swin block of MONAI offers
SWIN = (
    Place("lora", ("attn.qkv",)),
    Place("affine", ("norm1", "norm2")),
    Place("adaptformer", ("mlp",)),
    Place("lora", ("mlp.linear1", "mlp.linear2"), apart=False),
)


def swin_units(
    model: nn.Module,
    families: Wanted = None,
    levels: Levels | None = None,
    blocks: Pattern = "type:SwinTransformerBlock",
) -> list[Unit]:
    """The paper's search space on a Swin-UNETR, block by block.

    Args:
        model: MONAI's `SwinUNETR`, or any network with such blocks; not touched.
        families: which of "lora", "affine", "adaptformer"; `None`: all three.
        levels: other levels by family. Levels that a block is too narrow for are left out.
        blocks: which modules are blocks.

    Raises:
        GraftError: no such block, no such family, or no level that fits.
    """
    wanted = _with_levels(
        ["lora", "affine", "adaptformer"] if families is None else families, levels
    )
    (blocks,) = check_patterns(blocks, "blocks")
    modules = dict(own_modules(model))
    found = [n for n, m in modules.items() if matches(blocks, n, m)]
    if not found:
        raise no_match(blocks, modules, "blocks")
    layers = candidates(model)
    out: list[Unit] = []
    for block in found:
        for place in SWIN:
            for family in (f for f in wanted if f.name == place.family):
                names = [f"{block}.{h}".lstrip(".") for h in place.hosts]
                missing = [n for n in names if n not in modules]
                if missing:
                    raise GraftError(
                        f"swin_units: {block} has no {missing[0]}; is it a Swin block?"
                    )
                sites = [_host(n, family, modules, layers) for n in names]
                whole = names[0].rpartition(".")[0]
                instances = {s.name: [s] for s in sites} if place.apart else {whole: sites}
                out += units_of(model, family, instances, fit=True)
    return _checked(out, wanted)


def conv_units(
    model: nn.Module,
    families: Wanted = None,
    levels: Levels | None = None,
    group_by: str | Callable[[str], str] = "block",
    leave_out: Iterable[Pattern] | Pattern = (),
) -> list[Unit]:
    """A search space on a convolutional network: SegResNet, U-Net, residual encoders and their like.

    Families that change layers sit on convolutions (one that has a single host on the block's last),
    "affine" on norms.

    Args:
        model: not touched.
        families: names or `Family` objects; `None`: all that are registered, not `on_request`, and serve a
            convolution or norm.
        levels: other levels by family. Levels that a host is too narrow for are left out.
        group_by: "block": an innermost module that runs several convolutions is one instance, a convolution or
            norm outside such blocks another; "layer": each is one; or host name -> instance name.
        leave_out: globs or classes of what stays as it is, such as the last convolution where it trains whole.

    Raises:
        GraftError: no convolution or norm left, no such family, a pattern without a match, no level that fits.
    """
    wanted = _with_levels(families, levels)
    modules = dict(own_modules(model))
    out_of_play: set[str] = set()
    for pattern in check_patterns(leave_out, "leave_out"):
        hits = {n for n, m in modules.items() if matches(pattern, n, m)}
        if not hits:
            raise no_match(pattern, modules, "leave_out")
        out_of_play |= hits
    layers = {
        n: s
        for n, s in candidates(model).items()
        if isinstance(s, Site) and s.geo is not None and s.geo.kind.startswith("conv")
    }
    instance = _instances(model, group_by, list(layers))
    out: list[Unit] = []
    for family in wanted:
        method = family.method(family.levels[0])
        if method.changes == "module":
            hosts = [Site(n, n, None) for n, m in modules.items() if is_norm(m)]
        else:
            hosts = [s for s in layers.values() if s.geo and s.geo.kind in method.layer_kinds]
        grouped: dict[str, list[Site]] = {}
        for site in hosts:
            if not within(site.name, out_of_play):
                grouped.setdefault(instance(site.name), []).append(site)
        out += units_of(model, family, grouped, fit=True)
    return _checked(out, wanted)


def _with_levels(wanted: Wanted, levels: Levels | None) -> list[Family]:
    found = families(wanted)
    unknown = sorted({*(levels or {})} - {f.name for f in found})
    if unknown:
        raise GraftError(
            f"levels: no family {unknown[0]!r} here; there are {[f.name for f in found]}"
        )
    return [
        dataclasses.replace(f, levels=tuple(levels[f.name])) if levels and f.name in levels else f
        for f in found
    ]


def _checked(out: list[Unit], wanted: list[Family]) -> list[Unit]:
    if not out:
        raise GraftError(
            f"units: the model has no host for {[f.name for f in wanted]} at these levels; give "
            "smaller levels, or other families"
        )
    check_units(out)
    return out


def _host(
    name: str, family: Family, modules: dict[str, nn.Module], layers: dict[str, Site | str]
) -> Site:
    from graftwork.algebra.recognise import recognise_block

    if family.owns_modules:
        return Site(name, name, None)
    site = layers.get(name)
    if site is None:
        block = recognise_block(modules[name])
        site = block if isinstance(block, str) else Site(name, name, block)
    if isinstance(site, str):
        raise GraftError(f"swin_units: {name}: {site}")
    return site


_LISTS = (nn.Sequential.forward, nn.ModuleList.forward, nn.ModuleDict.forward)


def _instances(
    model: nn.Module, group_by: str | Callable[[str], str], convolutions: list[str]
) -> Callable[[str], str]:
    if callable(group_by):
        return group_by
    if group_by not in ("block", "layer"):
        raise GraftError(f"group_by must be 'block', 'layer' or a function, not {group_by!r}")
    if group_by == "layer":
        return lambda name: name
    blocks: list[str] = []
    names = [n for n, m in own_modules(model) if n and plain_class(m).forward not in _LISTS]
    for name in sorted(names, key=lambda n: -n.count(".")):  # innermost first
        several = sum(is_within(c, name) for c in convolutions) > 1
        if several and not any(is_within(b, name) for b in blocks):
            blocks.append(name)
    return lambda name: next((b for b in blocks if is_within(name, b)), name)

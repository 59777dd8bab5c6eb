"""VeRA in Hugging Face PEFT's folders: vectors per layer, and two random matrices that all layers share.

PEFT's file may hold the matrices or leave them to the key they are drawn from. Graftwork keeps a seed and no matrix, so
a file's matrices must be those that its key draws here; where they are not, the folder is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from graftwork import seeded
from graftwork.methods.vera import VeRA
from graftwork.sites import Site

#: PEFT's names of the shared matrices
SHARED = ("base_model.vera_A", "base_model.vera_B")
_CHILDREN = ("vera_A", "vera_B", "vera_lambda_b", "vera_lambda_d", "vera_dropout", "base_layer")
LEAVES = {"b": "vera_lambda_b", "d": "vera_lambda_d"}


def faults_of(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with a VeRA config's own fields."""
    faults = []
    rank, key, dropout = (
        config.get(name, default)
        for name, default in (("r", 256), ("projection_prng_key", 0), ("vera_dropout", 0.0))
    )
    if type(rank) is not int or rank < 1:
        faults.append(f"r = {str(rank)[:40]!r}: must be a whole number of at least 1")
    if type(key) is not int or not 0 <= key < 2**63:
        faults.append(f"projection_prng_key = {str(key)[:40]!r}: must be a whole number from 0 on")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        faults.append(f"vera_dropout = {str(dropout)[:40]!r}: must lie in [0, 1)")
    return faults


def widths(sites: Iterable[Site], table: Mapping[str, Any]) -> tuple[int, int]:
    """Inputs and outputs of the shared matrices: of those in the file, or the largest of the layers."""
    shapes = [table.get(name, {"shape": []})["shape"] for name in SHARED]
    if all(len(shape) == 2 for shape in shapes):
        return shapes[0][1], shapes[1][0]
    geos = [site.geo for site in sites if site.geo is not None]
    return max((g.in_ for g in geos), default=1), max((g.out for g in geos), default=1)


def method_of(
    config: Mapping[str, Any],
    site: Site,
    table: Mapping[str, Any],
    size: tuple[int, int],
    prefix: str,
) -> VeRA | str:
    """The method that a config describes, checked against one site's vectors."""
    assert site.geo is not None
    rank = config.get("r", 256)
    for leaf, length in ((LEAVES["b"], site.geo.out), (LEAVES["d"], rank)):
        item = table.get(f"{prefix}{site.name}.{leaf}")
        if item is not None and item["shape"] != [length]:
            return f"{leaf} has shape {item['shape']}, expected {[length]}"
    method = VeRA(
        rank=rank,
        seed=config.get("projection_prng_key", 0),
        dropout=float(config.get("vera_dropout") or 0.0),
        width_in=size[0],
        width_out=size[1],
    )
    return method.refuses(site.geo, None) or method


def check_shared(method: VeRA, raw: dict[str, Tensor]) -> list[str]:
    """Take the shared matrices out of a file's tensors; what is wrong with them."""
    found = [raw.pop(name, None) for name in SHARED]
    if all(t is None for t in found):
        return []
    for name, t, drawn in zip(SHARED, found, matrices(method), strict=True):
        if t is None or t.shape != drawn.shape or not torch.equal(t.to(torch.float32), drawn):
            why = "Graftwork keeps the key and no matrix, so merge the adapter with PEFT instead"
            return [
                f"{name}: not the matrix that projection_prng_key = {method.seed} draws here; {why}"
            ]
    return []


def matrices(method: VeRA) -> list[Tensor]:
    """The two shared matrices, whole."""
    assert method.width_in is not None and method.width_out is not None
    shapes = [(method.rank, method.width_in), (method.width_out, method.rank)]
    return seeded.kaiming(shapes, method.seed, torch.empty(0))


def written(
    pairs: Iterable[tuple[Site, VeRA]], saved: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """PEFT's config fields of a graft, and why there are none: PEFT has one setting for all layers."""
    pairs = list(pairs)
    first = pairs[0][1]
    faults = [
        f"{site.name}: its {field} is not that of {pairs[0][0].name}, and PEFT has one for all layers"
        for site, method in pairs
        for field in ("rank", "seed", "dropout", "width_in", "width_out")
        if getattr(method, field) != getattr(first, field)
    ]
    faults += [
        f"{name}: PEFT would also save its own {own}, whose name ends alike"
        for name in saved
        for own in _CHILDREN
        if own.endswith(name)
    ]
    geos = [site.geo for site, _ in pairs if site.geo is not None]
    needed = max(g.in_ for g in geos), max(g.out for g in geos)
    if not faults and (first.width_in, first.width_out) != needed:
        faults.append(
            f"VeRA.width_in and width_out are {first.width_in} and {first.width_out}; PEFT draws for the "
            f"largest of its layers, {needed[0]} and {needed[1]}"
        )
    return {
        "r": first.rank,
        "projection_prng_key": first.seed,
        "save_projection": True,
        "vera_dropout": first.dropout,
        "d_initial": first.d_initial,
        "bias": "none",
        "init_weights": True,
    }, faults

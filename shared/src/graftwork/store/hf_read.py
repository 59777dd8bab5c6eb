"""Read a Hugging Face PEFT folder onto its base, strictly: every tensor used, nothing executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as read_tensors
from torch import Tensor, nn

from graftwork.algebra.recognise import recognise
from graftwork.errors import GraftError
from graftwork.graft import attach_entry, resolve
from graftwork.handle import Graft
from graftwork.methods.base import Method
from graftwork.methods.dora import DoRA
from graftwork.methods.ia3 import IA3
from graftwork.methods.lora import LoRA
from graftwork.methods.norm_affine import NormAffine
from graftwork.methods.vera import VeRA
from graftwork.sites import Site, candidates, own_modules
from graftwork.store import hf_norms, hf_orthogonal, hf_prefix
from graftwork.store.adapter import base_differences, message, not_finite, shape_faults
from graftwork.store.checks import base_faults, name_fault
from graftwork.store.expected import expected_shapes
from graftwork.store.folders import open_inside, read, repair
from graftwork.store.header import read_header
from graftwork.store.hf_config import (
    CONFIG,
    LIMIT,
    PREFIX,
    TENSORS,
    check_config,
    is_feedforward,
    pattern_value,
)
from graftwork.store.hf_layers import file_names, from_file, ia3_shape, why_not
from graftwork.store.hf_vera import SHARED, check_shared, method_of, widths
from graftwork.store.passport import shorten
from graftwork.store.strict_json import parse

_SUFFIXES = (
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_embedding_A",
    ".lora_embedding_B",
    ".lora_magnitude_vector",
    ".ia3_l",
    ".vera_lambda_b",
    ".vera_lambda_d",
    *hf_orthogonal.SUFFIXES,
)


@dataclass
class _Found:
    """What a PEFT folder turned out to hold for a model."""

    sites: list[tuple[str, str, Method]] = field(default_factory=list)
    beside: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def from_peft(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    allow_other_base: bool = False,
) -> Graft:
    """Graft a PEFT folder onto its base, strictly, all or nothing: LoRA, rsLoRA, DoRA, IA3, VeRA, OFT, BOFT, norms,
    prefixes.

    The sites are the layers that the tensor file names; patterns in the config are never executed. PEFT
    stores no fingerprint of the base, so another base of the same shape is noticed only in
    folders that `to_peft` wrote, or where the file brings base tensors along.

    Args:
        model: the base, without PEFT's wrappers.
        folder: with `adapter_config.json` and `adapter_model.safetensors`; a Hugging Face cache's links
            are followed.
        name: of the graft on this model.
        allow_other_base: load although a fingerprint in the file differs.

    Raises:
        GraftError: everything wrong with the folder or for this model, in one message. The model has not
            changed then.
    """
    path = Path(os.path.expanduser(folder))
    repair(path, CONFIG)
    config = parse(_read(path, CONFIG, LIMIT), str(path / CONFIG))
    kind = check_config(config, str(path / CONFIG))
    data, table, base = _tensor_file(path)
    prefix = kind == "PREFIX_TUNING"
    found = _match_prefix(table) if prefix else _match(model, kind, config, table)
    if found.faults:
        raise GraftError(message(str(path), type(model).__name__, found.faults, []))
    raw = {k.removeprefix(PREFIX): t for k, t in read_tensors(data).items()}
    found.faults += not_finite(raw)
    if prefix and not found.faults:
        _fill_prefix(model, found, config, raw)
    elif not prefix:
        _fill(model, found, config, raw)
    other: list[str] = []
    if not found.faults:
        entry, more = resolve(model, _spec(found))
        shapes, late = expected_shapes(model, entry)
        have = {k: tuple(t.shape) for k, t in found.tensors.items()}
        found.faults += more + late + shape_faults(shapes, have)
        if base is not None and not allow_other_base:
            other = base_differences(base, model, entry)
    if found.faults or other:
        raise GraftError(message(str(path), type(model).__name__, found.faults, other))
    return attach_entry(model, name, entry, None, found.tensors)


def _read(path: Path, name: str, limit: int) -> bytes:
    return read(path, name, limit, hub=True)


def _tensor_file(path: Path) -> tuple[bytes, dict[str, Any], dict[str, Any] | None]:
    """The tensor file's bytes, its table, and the fingerprint that `to_peft` put beside it."""
    what = str(path / TENSORS)
    if not (path / TENSORS).exists() and (path / "adapter_model.bin").exists():
        raise GraftError(
            f"{path}: only adapter_model.bin, a pickle, which is never loaded; "
            "save the adapter again with safe_serialization=True"
        )
    with open_inside(path, TENSORS, hub=True) as f:
        size = os.fstat(f.fileno()).st_size
        table, metadata = read_header(f, size, what)
    data = _read(path, TENSORS, size)
    note = metadata.get("graftwork.base")
    if note is None:
        return data, table, None
    base = parse(note.encode("utf8"), f"{what}: metadata")
    faults = base_faults(base)
    if faults:
        raise GraftError(f"{what}: metadata is not a valid fingerprint:\n  " + shorten(faults))
    return data, table, base


def _match(
    model: nn.Module, kind: str, config: Mapping[str, Any], table: Mapping[str, Any]
) -> _Found:
    """Sites by the names of the tensors in the file, with their methods."""
    found = _Found()
    by_site: dict[str, set[str]] = {}
    for key in table:
        if kind == "VERA" and key in SHARED:
            continue
        bare = key.removeprefix(PREFIX)
        if bare == key or name_fault(key) is not None:
            found.faults.append(f"{key[:80]!r}: does not begin with {PREFIX!r} and a dotted name")
            continue
        if kind == hf_norms.KIND:
            norm = hf_norms.site_of(bare)
            if norm is not None and norm not in by_site:
                by_site[norm] = set()
            continue
        suffix = next((s for s in _SUFFIXES if bare.endswith(s)), None)
        if suffix is not None:
            by_site.setdefault(bare.removesuffix(suffix), set()).add(suffix[1:])
    layers = candidates(model)
    sites = [s for name in by_site if isinstance(s := layers.get(name), Site)]
    size = widths(sites, table) if kind == "VERA" else (0, 0)
    for name, leaves in by_site.items():
        if (
            kind == hf_norms.KIND
        ):  # whether the model has such a norm, and of what shape, `resolve` says
            found.sites.append((name, "norm", NormAffine()))
            continue
        site = layers.get(name, "the model has no such layer")
        if isinstance(site, str) or site.geo is None:
            found.faults.append(f"{name}: {site if isinstance(site, str) else 'no layer'}")
            continue
        if kind == "VERA":
            method: Method | str = method_of(config, site, table, size, PREFIX)
        else:
            method = _method(kind, config, site, table)
        if isinstance(method, str):
            found.faults.append(f"{name}: {method}")
            continue
        wrong = leaves ^ file_names(method, site.geo)
        if wrong:
            found.faults.append(f"{name}: tensors missing or unknown: {', '.join(sorted(wrong))}")
        why = why_not(method, site.geo)
        if why is not None:
            found.faults.append(f"{name}: {why}; so this layer would compute something else here")
        found.sites.append((name, site.geo.kind, method))
    if not by_site:
        found.faults.append("the file names no adapted layer")
    return found


def _method(
    kind: str, config: Mapping[str, Any], site: Site, table: Mapping[str, Any]
) -> Method | str:
    """The method of one site by the config, checked against its tensors' shapes."""
    assert site.geo is not None
    if kind == "IA3":
        inputs = is_feedforward(config.get("feedforward_modules"), site.name)
        shape = table.get(f"{PREFIX}{site.name}.ia3_l", {"shape": None})["shape"]
        if shape != list(ia3_shape(site.geo, inputs)):
            side = "input" if inputs else "output"
            return f"ia3_l has shape {shape}, which does not scale this layer's {side}"
        return IA3("input" if inputs else "output")
    if kind in hf_orthogonal.USED:
        own = f"{PREFIX}{site.name}"
        shapes = {
            s[1:]: table[own + s]["shape"] for s in hf_orthogonal.SUFFIXES if own + s in table
        }
        return hf_orthogonal.method_of(kind, config, shapes)
    rank = pattern_value(config.get("rank_pattern"), site.name, config.get("r", 8))
    alpha = pattern_value(config.get("alpha_pattern"), site.name, config.get("lora_alpha", 8))
    for leaf in ("lora_A.weight", "lora_embedding_A"):
        item = table.get(f"{PREFIX}{site.name}.{leaf}")
        if item is not None and item["shape"][:1] != [rank]:
            return f"{leaf} has shape {item['shape']}, but the config says rank {rank}"
    cls = DoRA if config.get("use_dora") else LoRA
    return cls(
        rank=rank,
        alpha=float(alpha),
        rslora=bool(config.get("use_rslora")),
        dropout=float(config.get("lora_dropout") or 0.0),
    )


def _fill(
    model: nn.Module, found: _Found, config: Mapping[str, Any], raw: dict[str, Tensor]
) -> None:
    """Translate tensors; what is left over must be a module to save or the base's own values."""
    left = dict(raw)
    shared = next((m for _, _, m in found.sites if isinstance(m, VeRA)), None)
    if shared is not None:
        found.faults += check_shared(shared, left)
    layers = candidates(model)
    for name, _, method in found.sites:
        if isinstance(method, NormAffine):
            found.tensors |= hf_norms.from_file(name, left)
            continue
        site = layers[name]
        assert isinstance(site, Site) and site.geo is not None
        own = {leaf: left.pop(f"{name}.{leaf}") for leaf in file_names(method, site.geo)}
        try:
            for leaf, t in from_file(name, method, site.geo, own).items():
                found.tensors[f"{name}.{leaf}"] = t
        except GraftError as e:
            found.faults.append(str(e))
    modules = dict(own_modules(model))
    for target in config.get("modules_to_save") or []:
        hits = [
            n for n in modules if n.endswith(target) and any(k.startswith(n + ".") for k in left)
        ]
        for name in hits:
            own = {
                k.removeprefix(name + "."): left.pop(k)
                for k in list(left)
                if k.startswith(name + ".")
            }
            _saved_module(name, modules[name], own, found)
    _base_values(model, left, found)


def _saved_module(name: str, module: nn.Module, own: dict[str, Tensor], found: _Found) -> None:
    """A module that the adapter owns whole; or, where it has more rows than the base's, new rows."""
    state = module.state_dict()
    rows = _new_rows(module, own)
    if rows is not None:
        found.beside.append({"name": name, "kind": "rows", "new": rows["weight"].shape[0]})
        found.tensors |= {f"{name}.new_rows.{k}": t for k, t in rows.items()}
        return
    found.beside.append({"name": name, "kind": "module"})
    seen: set[int] = set()
    for path, m in own_modules(module):
        for leaf, t in [*m._parameters.items(), *m._buffers.items()]:
            key = f"{path}.{leaf}" if path else leaf
            if t is None or id(t) in seen:  # a tied tensor is the graft's once
                own.pop(key, None)
                continue
            seen.add(id(t))
            if key in own:
                found.tensors[f"{name}.module.{key}"] = own.pop(key)
            elif key not in state:  # a buffer that state dicts leave out
                found.tensors[f"{name}.module.{key}"] = t.detach()
            else:
                found.faults.append(f"{name}.{key}: missing in the file")
    found.faults += [f"{name}.{k[:80]}: the model has no such tensor" for k in own]


def _new_rows(module: nn.Module, own: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The appended rows of a widened layer, if its first rows are the base's own."""
    weight = module._parameters.get("weight")
    geo = recognise(module)
    if (
        weight is None
        or geo is None
        or isinstance(geo, str)
        or geo.kind.startswith("conv_transpose")
    ):
        return None
    base = {k: p for k, p in module._parameters.items() if p is not None}
    if set(own) != set(base) or geo.kind == "transposed_linear":
        return None
    rows = {}
    for key, p in base.items():
        n, t = p.shape[0], own[key]
        if t.dim() != p.dim() or t.shape[0] <= n or t.shape[1:] != p.shape[1:]:
            return None
        if not torch.equal(t[:n].to(p.dtype), p.detach().to(t.device)):
            return None
        rows[key] = t[n:].clone()
    return rows


def _base_values(model: nn.Module, left: dict[str, Tensor], found: _Found) -> None:
    """PEFT writes adapted embeddings' own tables along; they must be this base's."""
    state = {
        f"{n}.{k}" if n else k: t
        for n, m in own_modules(model)
        for k, t in [*m._parameters.items(), *m._buffers.items()]
        if t is not None
    }
    for key, t in left.items():
        base = state.get(key.replace(".base_layer.", "."))
        if base is None:
            found.faults.append(f"{key[:80]}: not used by anything in this model")
        elif base.shape != t.shape or not torch.equal(t.to(base.dtype), base.detach().cpu()):
            found.faults.append(
                f"{key[:80]}: the file brings base values that differ from this model's "
                "(another base, or one that was resized or trained)"
            )


def _match_prefix(table: Mapping[str, Any]) -> _Found:
    """A prefix's file holds one tensor, whose name has no beginning."""
    found = _Found()
    found.faults += [f"{k[:80]!r}: not used by a prefix" for k in table if k != hf_prefix.TENSOR]
    if hf_prefix.TENSOR not in table:
        found.faults.append(f"{hf_prefix.TENSOR}: missing in the file")
    return found


def _fill_prefix(
    model: nn.Module, found: _Found, config: Mapping[str, Any], raw: Mapping[str, Tensor]
) -> None:
    try:
        for name, method, k, v in hf_prefix.from_tensor(model, config, raw[hf_prefix.TENSOR]):
            found.sites.append((name, "attention", method))
            found.tensors |= {f"{name}.K".lstrip("."): k, f"{name}.V".lstrip("."): v}
    except GraftError as e:
        found.faults.append(str(e))


def _spec(found: _Found) -> dict[str, Any]:
    """The graft's spec; the first site's method is the graft's own."""
    methods = [{"id": m.id, "config": m.config()} for _, _, m in found.sites]
    first = methods[0]
    sites = [
        {"name": n, "kind": k} | ({} if m == first else {"method": m})
        for (n, k, _), m in zip(found.sites, methods, strict=True)
    ]
    return {"method": first, "sites": sites, "also_train": found.beside, "merged": False}

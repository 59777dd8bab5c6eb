"""Write a graft as a Hugging Face PEFT folder that peft 0.21 computes with to the last digits.

What PEFT cannot express is refused by name, never approximated: other methods, transposed convolutions,
dilation and padding modes (its branch ignores them), ranks that groups do not divide, bare parameters.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from graftwork.attach import ROWS, grafts_of
from graftwork.errors import GraftError
from graftwork.fused import owners
from graftwork.handle import Graft, get
from graftwork.ledger import ledger_of
from graftwork.methods.base import Method
from graftwork.methods.dora import DoRA
from graftwork.methods.ia3 import IA3
from graftwork.methods.lora import LoRA
from graftwork.methods.oft import OFT
from graftwork.methods.prefix import PrefixTuning
from graftwork.methods.vera import VeRA
from graftwork.sites import Site, own_modules
from graftwork.states import CopyState, RowsState
from graftwork.store import hf_norms, hf_orthogonal, hf_prefix
from graftwork.store.adapter import cast, to_store
from graftwork.store.fingerprint import fingerprint
from graftwork.store.folders import publish
from graftwork.store.hf_config import CONFIG, PREFIX, TENSORS, is_literal
from graftwork.store.hf_layers import plain_form, plain_tensors, to_file, why_not
from graftwork.store.hf_vera import SHARED, matrices, written
from graftwork.store.passport import shorten
from graftwork.store.strict_json import dump


def to_peft(
    graft: Graft | nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    dtype: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a LoRA, rsLoRA, DoRA, IA3, VeRA, OFT, BOFT, PiSSA, MiLoRA, NormAffine or prefix graft as a PEFT folder.

    All or nothing.

    PiSSA and MiLoRA become plain LoRA of twice the rank, which computes the same on the unchanged base.

    Modules that train beside the adapter become `modules_to_save`; layers with new rows too, with the rows
    appended (PEFT's user widens that layer of the base first, as `resize_token_embeddings` does). The
    base's fingerprint travels in the tensor file's metadata, which PEFT ignores and `from_peft` checks.

    Args:
        graft: a handle, or a grafted model and the graft's `name`.
        dtype: as for `save`.
        overwrite: replace such a folder; never anything else.

    Raises:
        GraftError: everything that PEFT cannot express, in one message; or as `save`.
    """
    graft = graft if isinstance(graft, Graft) else get(graft, name)
    if ledger_of(graft.model).merged is not None:
        raise GraftError("to_peft: a graft is merged; unmerge() first")
    if any(isinstance(m, PrefixTuning) for _, m in graft.entry.sites):
        return _write_prefix(graft, folder, dtype, overwrite)
    saved = _modules_to_save(graft)
    if hf_norms.all_norms(graft.entry.sites):
        return _write_norms(graft, folder, dtype, overwrite, saved)
    faults = [*_site_faults(graft), *_name_faults(graft, [*saved])]
    pairs = [(s, plain_form(m)) for s, m in graft.entry.sites if s.geo is not None]
    if not faults:
        config, more = _config(pairs, graft.model, [*saved])
        faults += more
    if faults:
        raise GraftError("to_peft: PEFT cannot express this graft:\n  " + shorten(faults))
    tensors = to_store(graft)
    by_site: dict[str, dict[str, Tensor]] = {}
    for key, t in tensors.items():
        site_name, _, leaf = key.rpartition(".")
        by_site.setdefault(site_name, {})[leaf] = t
    out: dict[str, Tensor] = {}
    for (site, method), (_, own) in zip(pairs, graft.entry.sites, strict=True):
        assert site.geo is not None
        p = cast(plain_tensors(own, site.geo, by_site[site.name]), dtype)
        for leaf, t in to_file(method, site.geo, p).items():
            out[f"{PREFIX}{site.name}.{leaf}"] = t
    if isinstance(pairs[0][1], VeRA):
        out |= dict(zip(SHARED, matrices(pairs[0][1]), strict=True))
    return _publish(graft, folder, config, out, saved, overwrite)


def _write_norms(
    graft: Graft,
    folder: str | os.PathLike[str],
    dtype: str | None,
    overwrite: bool,
    saved: dict[str, dict[str, Tensor]],
) -> Path:
    sites = [site for site, _ in graft.entry.sites]
    names = [site.name for site in sites]
    excluded = _also_matched(names, [n for n, _ in own_modules(graft.model)])
    faults = [*_name_faults(graft, [*saved]), *_left_in(excluded, names)]
    if "" in names:
        faults = ["(model): PEFT cannot adapt a model that is itself the layer"]
    if faults:
        raise GraftError("to_peft: PEFT cannot express this graft:\n  " + shorten(faults))
    config = {
        "peft_type": hf_norms.KIND,
        "task_type": None,
        "base_model_name_or_path": _base_name(graft.model),
        "inference_mode": True,
        "target_modules": names,
        "exclude_modules": excluded or None,
        "modules_to_save": [*saved] or None,
    }
    tensors = cast(hf_norms.to_file(sites, to_store(graft)), dtype)
    out = {f"{PREFIX}{k}": t for k, t in tensors.items()}
    return _publish(graft, folder, config, out, saved, overwrite)


def _publish(
    graft: Graft,
    folder: str | os.PathLike[str],
    config: dict[str, Any],
    out: dict[str, Tensor],
    saved: dict[str, dict[str, Tensor]],
    overwrite: bool,
) -> Path:
    for module_name, leaves in saved.items():
        for leaf, t in leaves.items():
            out[f"{PREFIX}{module_name}.{leaf}"] = t
    out = {k: t.detach().cpu().clone().contiguous() for k, t in out.items()}
    note = json.dumps(fingerprint(graft.model, graft.entry))
    data = write_tensors(out, {"format": "pt", "graftwork.base": note})
    return publish(folder, {CONFIG: dump(config, CONFIG), TENSORS: data}, overwrite=overwrite)


def _write_prefix(
    graft: Graft, folder: str | os.PathLike[str], dtype: str | None, overwrite: bool
) -> Path:
    try:
        fields, tensors = hf_prefix.to_tensor(graft, to_store(graft))
    except GraftError as e:
        raise GraftError(f"to_peft: PEFT cannot express this graft:\n  {e}") from None
    config = {**fields, "base_model_name_or_path": _base_name(graft.model)}
    note = json.dumps(fingerprint(graft.model, graft.entry))
    data = write_tensors(cast(tensors, dtype), {"format": "pt", "graftwork.base": note})
    return publish(folder, {CONFIG: dump(config, CONFIG), TENSORS: data}, overwrite=overwrite)


def _site_faults(graft: Graft) -> list[str]:
    faults = []
    for site, method in graft.entry.sites:
        if not site.name:
            faults.append("(model): PEFT cannot adapt a model that is itself the layer")
        elif site.raw:
            faults.append(f"{site.name}: a bare parameter, which PEFT serves in no form of ours")
        else:
            assert site.geo is not None  # norms go another way
            why = why_not(method, site.geo)
            if why is None and any(owners(graft.model, site.module, (site.weight, site.bias))):
                why = (
                    "its weight is read without calling the layer, where PEFT's branch is bypassed"
                )
            if why is not None:
                faults.append(f"{site.name}: {why}")
    return faults


def _name_faults(graft: Graft, saved: list[str]) -> list[str]:
    """Names that PEFT's matching by ends would apply to other modules too."""
    faults = []
    sites = {s.name for s, _ in graft.entry.sites}
    for name in [*sites, *saved]:
        if not name or not is_literal(name) or name.startswith("^"):
            faults.append(f"{name or '(model)'}: PEFT would read this name as a regular expression")
    for module, _ in own_modules(graft.model):
        for s in saved:
            if module != s and module.endswith(s):
                faults.append(f"{s}: PEFT would also save {module}, whose name ends alike")
    for site in sites & set(saved):
        faults.append(
            f"{site}: PEFT cannot adapt a layer that also has new rows; merge one of them"
        )
    for site in sites - set(saved):
        for s in saved:
            if f".{s}." in f".{site}.":
                faults.append(f"{site}: PEFT would skip it, because modules_to_save names {s}")
    return faults


def _config(
    pairs: list[tuple[Site, Method]], model: nn.Module, saved: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The config file, and why there is none."""
    methods = [m for _, m in pairs]
    sites = [s.name for s, _ in pairs]
    if len({type(m) for m in methods}) != 1:
        kinds = sorted({m.id for m in methods})
        return {}, [
            f"PEFT has one method per adapter; this graft mixes {', '.join(kinds) or 'none'}"
        ]
    excluded = _also_matched(sites, [n for n, _ in own_modules(model)])
    faults = _left_in(excluded, sites)
    own = isinstance(methods[0], IA3 | OFT | VeRA)
    config: dict[str, Any] = {
        "peft_type": type(methods[0]).__name__.upper() if own else "LORA",
        "task_type": None,
        "base_model_name_or_path": _base_name(model),
        "inference_mode": True,
        "target_modules": sites,
        "exclude_modules": excluded or None,
        "fan_in_fan_out": any(
            s.geo is not None and s.geo.kind == "transposed_linear" for s, _ in pairs
        ),
        "modules_to_save": saved or None,
    }
    vera = [(s, m) for s, m in pairs if isinstance(m, VeRA)]
    if vera:
        more, why = written(vera, saved)
    elif isinstance(methods[0], OFT):
        more, why = hf_orthogonal.fields({s.name: m for s, m in pairs if isinstance(m, OFT)})
    else:
        more, why = _ia3_fields(pairs) if own else _lora_fields(pairs)
    return {**config, **more}, faults + why


def _ia3_fields(pairs: list[tuple[Site, Method]]) -> tuple[dict[str, Any], list[str]]:
    inputs = [s.name for s, m in pairs if isinstance(m, IA3) and m.scale == "input"]
    faults = [
        f"{s.name}: PEFT would scale its input, because its name ends like {n}"
        for s, _ in pairs
        for n in inputs
        if s.name not in inputs and s.name.endswith(n)
    ]
    return {"feedforward_modules": inputs, "init_ia3_weights": True}, faults


def _lora_fields(pairs: list[tuple[Site, Method]]) -> tuple[dict[str, Any], list[str]]:
    methods = {s.name: m for s, m in pairs if isinstance(m, LoRA)}
    dropouts = sorted({m.dropout for m in methods.values()})
    faults = [f"PEFT has one lora_dropout; this graft has {dropouts}"] if len(dropouts) > 1 else []
    rs = all(m.rslora for m in methods.values())
    alphas = {n: _alpha(m, rs) for n, m in methods.items()}
    ranks = {n: m.rank for n, m in methods.items()}
    first = next(iter(methods))
    return {
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "lora_dropout": dropouts[0],
        "use_rslora": rs,
        "use_dora": isinstance(methods[first], DoRA),
        "bias": "none",
        "init_lora_weights": True,
        "rank_pattern": _pattern(ranks),
        "alpha_pattern": _pattern(alphas),
    }, faults


def _alpha(method: LoRA, rs: bool) -> float:
    alpha = method.rank if method.alpha is None else method.alpha
    if method.clients is not None or (method.rslora and not rs):
        # one flag for all sites, and none for clients: what it does not say goes into alpha
        alpha = method.scale * (math.sqrt(method.rank) if rs else method.rank)
    return int(alpha) if alpha == int(alpha) else float(alpha)


def _pattern(values: Mapping[str, float]) -> dict[str, float]:
    """Values by name, only where they differ; longer names first, because PEFT matches by ends."""
    if len(set(values.values())) == 1:
        return {}
    return {n: values[n] for n in sorted(values, key=len, reverse=True)}


def _also_matched(sites: Iterable[str], modules: Iterable[str]) -> list[str]:
    ends = tuple("." + s for s in sites)
    return sorted({m for m in modules if m.endswith(ends)} - set(sites))


def _left_in(excluded: list[str], sites: list[str]) -> list[str]:
    """Sites that PEFT would leave out with a module that it must."""
    clashes = [(e, s) for e in excluded for s in sites if s.endswith("." + e)]
    return [f"{s}: PEFT's matching by ends cannot leave out {e}" for e, s in clashes]


def _modules_to_save(graft: Graft) -> dict[str, dict[str, Tensor]]:
    """Tensors of the modules that train beside the adapter, by module and name as in a state dict."""
    out: dict[str, dict[str, Tensor]] = {}
    for item in graft.entry.beside:
        module = graft.model.get_submodule(item.name)
        grafts = grafts_of(module)
        assert grafts is not None
        if item.new is None:
            state = grafts.state(graft.name)
            assert isinstance(state, CopyState)
            out[item.name] = dict(state.module.state_dict())
        else:
            rows = grafts.state(graft.name, ROWS)
            assert isinstance(rows, RowsState)
            out[item.name] = rows.merged(module)
    return out


def _base_name(model: nn.Module) -> str | None:
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    return name if isinstance(name, str) and name else None

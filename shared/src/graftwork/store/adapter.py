"""Save and load a graft as an adapter folder: atomic out, strict in."""

from __future__ import annotations

import datetime
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

import graftwork
from graftwork.errors import GraftError
from graftwork.graft import graft_from_spec, resolve
from graftwork.handle import Graft, get
from graftwork.ledger import Entry, ledger_of
from graftwork.sharding import base_of
from graftwork.store.checks import FORMAT, VERSION, passport_faults
from graftwork.store.expected import expected_shapes
from graftwork.store.fingerprint import differences
from graftwork.store.folders import publish
from graftwork.store.header import read_header
from graftwork.store.passport import LIMIT, PASSPORT, TENSORS, read_data, read_passport, shorten
from graftwork.store.strict_json import dump

_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def save(
    graft: Graft | nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    dtype: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    data_card: Mapping[str, Any] | str | None = None,
    app: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a graft as an adapter folder, all or nothing.

    Args:
        graft: a handle, or a grafted model and the graft's `name`.
        folder: created with its parents.
        dtype: "float16" or "bfloat16" halves the file; loading casts back. `None` keeps every bit.
        metrics: anything JSON, for `inspect`.
        data_card: what the graft was trained on, for `inspect`.
        app: what an application must know to use the graft, such as how to prepare its input: one JSON
            object per application, by the application's name. `inspect` gives it back.
        overwrite: replace an adapter that is there already; never anything else.

    Returns:
        The folder.

    Raises:
        GraftError: a merge in force, NaN or infinite tensors, values that JSON cannot hold, or a folder that
            cannot be written. What was there before is untouched then.
    """
    graft = graft if isinstance(graft, Graft) else get(graft, name)
    if ledger_of(graft.model).merged is not None:
        raise GraftError(
            "save: a graft is merged, so the base's own tensors are not in place; unmerge() first"
        )
    _check_half(graft, dtype)
    tensors = to_store(graft, dtype)
    data = write_tensors(tensors, {"format": "pt"})
    summary = graft.summary()
    passport = {
        "format": FORMAT,
        "format_version": VERSION,
        "graftwork": graftwork.__version__,
        "torch": str(torch.__version__),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "name": graft.name,
        "graft": graft.spec(),
        "base": base_of(graft),
        "tensors": table_of(data),
        "file": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "trainable": {
            "parameters": summary.trainable,
            "base_parameters": summary.base,
            "share": summary.share,
        },
        "stored": dtype,
        "metrics": None if metrics is None else dict(metrics),
        "data_card": dict(data_card) if isinstance(data_card, Mapping) else data_card,
    }
    if app is not None:
        passport["app"] = {name: dict(section) for name, section in app.items()}
    text = dump(passport, "save: passport (see metrics, data_card and app)")
    faults = passport_faults(passport)
    if len(text) > LIMIT:
        faults.append(
            f"{len(text):,d} bytes of JSON; the limit is {LIMIT:,d} (shorten metrics, data_card, app)"
        )
    if faults:
        raise GraftError("save: the passport would not be valid:\n  " + shorten(faults))
    return publish(folder, {PASSPORT: text, TENSORS: data}, overwrite=overwrite)


def load(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    allow_other_base: bool = False,
) -> Graft:
    """Graft a saved adapter onto its base, strictly, all or nothing.

    Args:
        model: the base that the graft was trained on, in any float precision; it may carry other grafts.
        folder: an adapter folder.
        name: of the graft on this model; `None` keeps the saved one.
        allow_other_base: load although the base's fingerprint differs.

    Raises:
        GraftError: everything that is wrong with the files, or with this base for this graft, in one message.
            The model has not changed then.
    """
    path, passport = read_passport(folder)
    try:
        entry, faults = resolve(model, passport["graft"])
    except GraftError as e:
        raise GraftError(f"{path}: {e}") from None
    shapes, more = expected_shapes(model, entry)
    faults += more
    if not faults:
        table = {k: tuple(t["shape"]) for k, t in passport["tensors"].items()}
        faults += shape_faults(shapes, table)
    other = [] if allow_other_base else base_differences(passport["base"], model, entry)
    tensors = {}
    if not faults:  # the file's size is as it should be for this model, so it can be read
        tensors = read_tensors(read_data(path, passport))
        faults += not_finite(tensors)
    if faults or other:
        raise GraftError(message(str(path), type(model).__name__, faults, other))
    return graft_from_spec(model, passport["graft"], name or passport["name"], tensors)


def _check_half(graft: Graft, dtype: str | None) -> None:
    whole = sorted({m.id for _, m in graft.entry.sites if not m.half_files})
    if dtype is not None and whole:
        raise GraftError(
            f"save: {', '.join(whole)} keeps its change as a small difference of tensors, which dtype={dtype!r} would "
            "round away; save with dtype=None"
        )


def to_store(graft: Graft, dtype: str | None = None) -> dict[str, Tensor]:
    """The graft's tensors on the CPU, apart from each other, cast for the file; see `cast`."""
    return cast(graft.tensors(), dtype)


def cast(tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """Copies of tensors on the CPU, in a half precision where one is named.

    Raises:
        GraftError: an unknown dtype; NaN or infinite values, or values that float16 cannot hold.
    """
    if dtype is not None and dtype not in _HALVES:
        raise GraftError(f"save: dtype must be one of {[*_HALVES]} or None, not {dtype!r}")
    out = {}
    for key, t in tensors.items():
        to = _HALVES[dtype] if dtype is not None and t.is_floating_point() else t.dtype
        out[key] = t.to("cpu", to, copy=True).contiguous()
    faults = not_finite(out)
    if faults:
        advice = "; save with dtype=None or bfloat16" if dtype == "float16" else ""
        raise GraftError(f"save: the graft is not finite{advice}:\n  " + shorten(faults))
    return out


def table_of(data: bytes) -> dict[str, Any]:
    """The tensor table of safetensors bytes."""
    return read_header(io.BytesIO(data), len(data), TENSORS)[0]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """One line for each tensor with NaN or infinite values."""
    return [
        f"{k}: holds NaN or infinite values"
        for k, t in tensors.items()
        if t.is_floating_point() and not bool(torch.isfinite(t).all())
    ]


def shape_faults(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """How a table of shapes differs from what the graft has on this model."""
    faults = [f"{k}: missing in the file" for k in expected if k not in found]
    faults += [f"{k}: no part of this graft" for k in found if k not in expected]
    for k in expected.keys() & found.keys():
        if expected[k] != found[k]:
            faults.append(f"{k}: shape {found[k]} in the file, {expected[k]} on this model")
    return sorted(faults)


def base_differences(saved: Mapping[str, Any], model: nn.Module, entry: Entry) -> list[str]:
    """`differences`, or a base without values as one line."""
    try:
        return differences(saved, model, entry)
    except GraftError as e:
        return [str(e)]


def message(folder: str, model: str, faults: list[str], other: list[str]) -> str:
    """One text for everything that keeps a folder from being grafted."""
    parts = [f"{folder} does not fit this {model}; nothing was changed"]
    if faults:
        parts.append("the graft does not fit:\n  " + shorten(faults))
    if other:
        parts.append(
            "the base is not the one that the graft was trained on: give that one "
            "(allow_other_base=True loads it all the same):\n  " + shorten(other)
        )
    return "\n".join(parts)

"""The passport of an adapter folder: what it is, for which base, and what is in the tensor file.

An adapter folder holds `graft.json` (the passport) and `adapter.safetensors`. Everything here reads it with
the standard library alone: no torch, no code from the folder, no patterns: sites are exact names.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork.store import checks
from graftwork.store.folders import check_links, open_inside, read, repair
from graftwork.store.header import read_header
from graftwork.store.strict_json import parse

PASSPORT = "graft.json"
TENSORS = "adapter.safetensors"
LIMIT = 10 * 2**20  # bytes of passport


def inspect(folder: str | os.PathLike[str], *, verify: bool = False) -> dict[str, Any]:
    """The passport of an adapter folder, after checking it against the tensor file's header.

    Args:
        folder: an adapter folder, or the path of its `graft.json` or `adapter.safetensors`.
        verify: also compute the tensor file's SHA-256 (about 1 s per 2 GB).

    Returns:
        The passport's fields, and `folder`.

    Raises:
        GraftError: no adapter folder, or a passport that is damaged, dishonest or of a newer format.
    """
    path, passport = read_passport(folder)
    if verify:
        read_data(path, passport)
    return {**passport, "folder": str(path)}


def read_passport(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The folder's path and its passport, checked in itself and against the tensor file's header.

    Raises:
        GraftError: as `inspect`.
    """
    path = _folder(folder)
    check_links(path)
    what = str(path / PASSPORT)
    passport = parse(read(path, PASSPORT, LIMIT), what)
    faults = checks.passport_faults(passport)
    if faults:
        raise GraftError(f"{what} is not a valid passport:\n  " + shorten(faults))
    what, expected = str(path / TENSORS), passport["file"]["bytes"]
    with open_inside(path, TENSORS) as f:
        size = os.fstat(f.fileno()).st_size
        if size != expected:
            raise GraftError(
                f"{what}: truncated or changed; {size:,d} bytes, by the passport {expected:,d}"
            )
        table, _ = read_header(f, size, what)
    faults = checks.table_faults(table, passport["tensors"])
    if faults:
        raise GraftError(f"{what} does not match its passport:\n  " + shorten(faults))
    return path, passport


def read_data(path: Path, passport: dict[str, Any]) -> bytes:
    """The tensor file's bytes.

    Raises:
        GraftError: they do not match the passport's SHA-256.
    """
    data = read(path, TENSORS, passport["file"]["bytes"])
    if hashlib.sha256(data).hexdigest() != passport["file"]["sha256"]:
        raise GraftError(
            f"{path / TENSORS}: its SHA-256 is not the passport's; the file was damaged or changed"
        )
    return data


def describe(passport: dict[str, Any]) -> str:
    """A passport as text for people."""
    spec, base, share = passport["graft"], passport["base"], passport["trainable"]
    sites = spec["sites"]
    settings = ", ".join(f"{k}={v}" for k, v in spec["method"]["config"].items())
    size = passport["file"]["bytes"]
    rows = [
        ("graft", f"{passport['name']}: {spec['method']['id']} ({settings})"),
        ("sites", f"{len(sites)}: {_few([s['name'] or '(model)' for s in sites])}"),
        ("also trained", _few([b["name"] for b in spec["also_train"]])),
        ("base", f"{base['class']}, fingerprint over {len(base['tensors'])} tensors"),
        (
            "trainable",
            f"{share['parameters']:,d} of {share['base_parameters']:,d} ({100 * share['share']:.3g} %)",
        ),
        ("file", f"{size:,d} bytes, sha256 {passport['file']['sha256'][:16]}..."),
        ("stored as", passport["stored"] or "trained precision"),
        (
            "written",
            f"{passport['created']}, graftwork {passport['graftwork']}, torch {passport['torch']}",
        ),
    ]
    for field in ("metrics", "data_card"):
        value = passport[field]
        if isinstance(value, dict):
            rows += [(field.replace("_", " "), f"{k}: {v}") for k, v in value.items()]
        elif value:
            rows.append((field.replace("_", " "), str(value)))
    for app, section in passport.get("app", {}).items():
        text = json.dumps(section, ensure_ascii=False)
        rows.append((f"for {app}", text if len(text) <= 300 else text[:297] + "..."))
    # free text from a stranger must not steer the terminal
    clean = [(k, "".join(c if c.isprintable() else " " for c in v)) for k, v in rows]
    return "\n".join(f"{k:<13} {v}" for k, v in clean if v)


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])


def _folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(os.path.expanduser(folder))
    if path.name in (PASSPORT, TENSORS) and not path.is_dir():
        path = path.parent
    repair(path, PASSPORT)
    if not path.is_dir():
        raise GraftError(f"{path}: no such folder")
    if not (path / PASSPORT).exists() and (path / "adapter_config.json").exists():
        raise GraftError(
            f"{path}: a Hugging Face PEFT folder; read it with graftwork.store.from_peft, "
            "or `graftwork convert`"
        )
    return path


def shorten(lines: list[str], most: int = 20) -> str:
    """Lines of a list in a message, the rest counted."""
    more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return "\n  ".join([*lines[:most], *more])

"""Damaged, dishonest and hostile adapter folders: one clear message each, and the model unchanged."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from tests.store.kit import edit, files, grafted, net, same, stamp, state_of


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "a"
    gw.save(grafted(), folder, metrics={"dice": 0.5})
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "a"))


def rewrite(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], *, honest: bool = True
) -> None:
    """Change the tensors; an honest forger also mends size, hash and table in the passport."""
    path = folder / "adapter.safetensors"
    tensors = load_file(path)
    change(tensors)
    data = save(tensors)
    path.write_bytes(data)
    if honest:
        codes = {torch.float32: "F32", torch.int64: "I64"}
        table = {k: {"dtype": codes[t.dtype], "shape": list(t.shape)} for k, t in tensors.items()}
        edit(folder, lambda p: p.update(tensors=table, file=stamp(data)))


def bytes_of(folder: Path, data: bytes) -> None:
    """Put raw bytes in place of the tensor file, with honest size and hash."""
    (folder / "adapter.safetensors").write_bytes(data)
    edit(folder, lambda p: p.update(file=stamp(data)))


def refused(folder: Path, word: str, model: nn.Module | None = None) -> str:
    """Loading fails with one GraftError that says `word`; model and files are as they were."""
    model = net() if model is None else model
    before, there = state_of(model), files(folder.parent)
    with pytest.raises(GraftError, match=word) as e:
        gw.load(model, folder)
    assert same(state_of(model), before)
    assert files(folder.parent) == there
    text = str(e.value)
    assert len(text) < 5000 and "Traceback" not in text
    return text


def test_the_good_one_loads(folder: Path) -> None:
    gw.load(net(), folder)


# -- the tensor file ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_truncated(folder: Path, keep: int) -> None:
    path = folder / "adapter.safetensors"
    data = path.read_bytes()[:keep]
    path.write_bytes(data)
    refused(folder, "truncated")
    edit(folder, lambda p: p.update(file=stamp(data)))  # even if the passport agrees
    refused(folder, "truncated|too short|bad value")


def test_padded(folder: Path) -> None:
    bytes_of(folder, (folder / "adapter.safetensors").read_bytes() + b"more")
    refused(folder, "truncated or padded")


def test_flipped_bit(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    refused(folder, "SHA-256")


def test_wrong_shapes_are_all_listed(folder: Path) -> None:
    def change(t: dict[str, torch.Tensor]) -> None:
        t["stem.A"] = torch.ones(3, 2, 3, 3)
        t["blocks.0.0.B"] = torch.ones(4)

    rewrite(folder, change)
    text = refused(
        folder, r"stem\.A: shape \(3, 2, 3, 3\) in the file, \(2, 2, 3, 3\) on this model"
    )
    assert "blocks.0.0.B: shape (4,)" in text


def test_missing_and_extra_tensors_are_all_listed(folder: Path) -> None:
    def change(t: dict[str, torch.Tensor]) -> None:
        del t["stem.A"], t["head.module.bias"]
        t["stem.C"] = torch.ones(1)
        t["ghost.A"] = torch.ones(1)

    rewrite(folder, change)
    text = refused(folder, r"stem\.A: missing in the file")
    for line in ("head.module.bias: missing", "stem.C: no part", "ghost.A: no part"):
        assert line in text


def test_tensors_that_the_passport_does_not_name(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    tensors = load_file(path)
    tensors["stem.X"] = tensors.pop("stem.A")
    data = save(tensors)
    path.write_bytes(data)
    edit(folder, lambda p: p.update(file=stamp(data)))
    text = refused(folder, r"stem\.A: missing in the file")
    assert "'stem.X': in the file, not in the passport" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinite_values(folder: Path, value: float) -> None:
    rewrite(folder, lambda t: t["stem.B"].view(-1)[0].fill_(value))
    refused(folder, r"stem\.B: holds NaN or infinite values")


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (struct.pack("<Q", 2**40) + b"{}", "announces a header of"),
        (struct.pack("<Q", 2**63) + b"{}", "announces a header of"),
        (struct.pack("<Q", 11 * 2**20) + b" " * 11 * 2**20, "announces a header of"),
        (struct.pack("<Q", 4) + b"nope", "not valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "not valid JSON"),
        (header({"a": F32}, b"\0" * 8), "truncated or padded"),
        (header({"a": F32, "b": F32}, b"\0" * 4), "overlaps"),
        (header({"a": {**F32, "data_offsets": [4, 8]}}, b"\0" * 8), "hole"),
        (header({"a": {**F32, "shape": [2**40, 2**40]}}, b"\0" * 4), "do not fit shape"),
        (header({"a": {**F32, "shape": [-1]}}, b"\0" * 4), "bad shape"),
        (header({"a": {**F32, "shape": [True]}}, b"\0" * 4), "bad shape"),
        (header({"a": {**F32, "data_offsets": [0, -4]}}, b"\0" * 4), "bad data_offsets"),
        (header({"a": {**F32, "dtype": "F4"}}, b"\0" * 4), "dtype 'F4'"),
        (header({"a": 3}), "must have dtype"),
        (header({"__metadata__": {"a": 1}}), "__metadata__"),
        (struct.pack("<Q", 21) + b'{"a": {}, "a": {"b"}}', "not valid JSON|twice"),
        (struct.pack("<Q", 200000) + b"[" * 200000, "nested too deep|not valid JSON"),
    ],
)
def test_hostile_headers(folder: Path, data: bytes, word: str) -> None:
    bytes_of(folder, data)
    refused(folder, word)


# -- the passport ---------------------------------------------------------------------------------


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set `a.b.0.c` of a passport to `value`, or delete it if `value` is Ellipsis."""

    def change(p: Any) -> None:
        *way, last = [int(k) if k.isdigit() else k for k in path.split(".")]
        for k in way:
            p = p[k]
        if value is ...:
            del p[last]
        else:
            p[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("format", "zip", "format: must be"),
        ("format_version", 99, "newer"),
        ("format_version", True, "format_version"),
        ("graftwork", ..., "graftwork: missing"),
        ("surprise", 1, "surprise: unknown field"),
        ("name", "../evil", "name: bad value"),
        ("name", "a" * 200, "name: bad value"),
        ("created", "\x1b]0;title\x07", "created: bad value"),
        ("stored", "int4", "stored: bad value"),
        ("metrics", [1], "metrics: bad value"),
        ("file.sha256", "0" * 63, "file.sha256"),
        ("file.sha256", "0" * 64, "SHA-256"),
        ("file.bytes", -1, "file.bytes"),
        ("trainable.share", "half", "trainable.share"),
        ("base.outline", {"a 1": 0}, "base.outline"),
        ("base.tensors", [], "base.tensors"),
        ("graft.merged", True, "graft.merged"),
        ("graft.sites.0.name", "../../etc/passwd", r"graft\.sites\[0\]\.name: bad value"),
        ("graft.sites.0.name", "stem..norm", r"graft\.sites\[0\]\.name"),
        ("graft.sites.0.name", "stem\n", r"graft\.sites\[0\]\.name"),
        ("graft.sites.0.name", "blocks.0.0", "is named twice"),
        ("graft.sites.0.name", "a\\b", r"graft\.sites\[0\]\.name"),
        ("graft.sites.0.name", "head", "is copied whole"),
        ("graft.sites.0.name", "type:Conv2d", "the model has no such layer"),
        ("graft.sites.0.name", "*", "the model has no such layer"),
        ("graft.sites.0.kind", "conv3d", "a conv2d here, a conv3d in the graft"),
        ("graft.sites.0.kind", "block", "lora does not serve a block"),
        ("graft.sites.0.module", "os", r"graft\.sites\[0\]\.module: unknown field"),
        ("graft.sites", {}, "graft.sites"),
        ("graft.sites.0", "stem", r"graft\.sites\[0\]"),
        ("graft.method.id", "os.system", "no method 'os.system'"),
        ("graft.method.id", "bitfit", "BitFit: unknown field"),
        ("graft.method.config.alpha", "8", "LoRA.alpha must be"),
        ("graft.method.config.alpha", True, "LoRA.alpha must be"),
        ("graft.method.config.rank", 0, "LoRA.rank must lie in"),
        ("graft.method.config.rank", 2.0, "LoRA.rank must be int"),
        ("graft.method.config.rank", 10**9, r"stem\.A: shape"),
        ("graft.method.config.rank", 2**52, "cannot start here|shape"),
        ("graft.method.config.dropout", -0.5, "LoRA.dropout must lie in"),
        ("graft.method.config.unknown", 1, "unknown field 'unknown'"),
        ("graft.method.config.rank", {"a": 1}, "must be a plain value"),
        ("graft.also_train.0.kind", "code", r"graft\.also_train\[0\]\.kind"),
        ("graft.also_train.0.name", "nothing", "nothing: the model has no such module"),
        ("graft.also_train.0.name", "blocks", "is copied whole"),
        (
            "graft.also_train",
            [{"name": "head", "kind": "rows", "new": 10**7}],
            "new_rows.weight: missing",
        ),
        (
            "graft.also_train",
            [{"name": "head", "kind": "rows", "new": 10**12}],
            r"also_train\[0\]\.new",
        ),
        ("graft.also_train", [{"name": "head", "kind": "module"}] * 2, "named twice"),
        ("graft.also_train", [{"name": "", "kind": "module"}], "is copied whole"),
        ("tensors.stem/A", {"dtype": "F32", "shape": [1]}, "not a dotted name"),
        ("tensors.x", {"dtype": "pickle", "shape": [1]}, r"tensors\.x\.dtype"),
    ],
)
def test_bad_passports(folder: Path, path: str, value: Any, word: str) -> None:
    edit(folder, at(path, value))
    refused(folder, word)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"alpha": null', '"alpha": NaN', "NaN"),
        ('"alpha": null', '"alpha": Infinity', "Infinity"),
        ('"alpha": null', '"alpha": 1e999', "inf"),
        ('"alpha": null', '"alpha": 1' + "0" * 20, "too large"),
        ('"alpha": null', '"alpha": 1' + "0" * 5000, "not valid JSON"),
        ('"rank": 2', '"rank": 2, "rank": 3', "'rank' is given twice"),
        ('"dice"', '"\\ud800"', "surrogates"),
        ("{", "[" * 100000, "nested too deep|not valid JSON"),
        ("}", "", "not valid JSON"),
    ],
)
def test_bad_json(folder: Path, old: str, new: str, word: str) -> None:
    path = folder / "graft.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    refused(folder, word)


def test_not_even_text(folder: Path) -> None:
    (folder / "graft.json").write_bytes(b"\x80\x04\x95")
    refused(folder, "not valid JSON")


@pytest.mark.parametrize("value", [None, [], "x", {"medseg": 3}, {"a\nb": {}}])
def test_an_applications_section_is_an_object_of_objects(folder: Path, value: Any) -> None:
    edit(folder, at("app", value))
    refused(folder, "app: bad value")


def test_passport_of_ten_megabytes(folder: Path) -> None:
    edit(folder, at("data_card", "x" * (10 * 2**20)))
    refused(folder, "more than the 10,485,760 allowed")


@pytest.mark.timeout(20)
def test_a_hostile_pattern_is_only_a_name_that_is_not_there(folder: Path) -> None:
    model = nn.Sequential()
    model.add_module("a" * 100, nn.Linear(2, 2))
    edit(folder, at("graft.sites.0.name", "([a-z0-9_]+)+!"))
    with pytest.raises(GraftError, match="no such layer"):
        gw.load(model, folder)


# -- the folder -----------------------------------------------------------------------------------


def test_missing_files_and_folders(folder: Path) -> None:
    for name in ("adapter.safetensors", "graft.json"):
        (folder / name).unlink()
        refused(folder, f"{name}: no such file")
    refused(folder / "nowhere", "no such folder")


@pytest.mark.parametrize("name", ["graft.json", "adapter.safetensors"])
def test_links_out_of_the_folder(folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    refused(folder, "link out of its folder")
    (folder / name).unlink()
    (folder / name).symlink_to("/etc/passwd")
    refused(folder, "link out of its folder")


def test_any_link_that_escapes_is_refused_and_one_that_stays_is_not(folder: Path) -> None:
    (folder / "extra").symlink_to("/etc")
    refused(folder, "link out of its folder")
    (folder / "extra").unlink()
    (folder / "graft.json").rename(folder / "real.json")
    (folder / "graft.json").symlink_to("real.json")
    gw.load(net(), folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["graft.json", "adapter.safetensors"])
def test_pipes_and_folders_in_the_place_of_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(GraftError, match="not a regular file"):
        gw.load(net(), folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, "not a regular file|cannot be opened")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    # permission bits do not stop root; a path through a file, and the kernel's own files, do
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "a", Path("/proc/graftwork/a"), Path("/dev/null/a")):
        with pytest.raises(GraftError, match="cannot be written") as e:
            gw.save(grafted(), target)
        assert str(target.parent) in str(e.value)
    with pytest.raises(GraftError, match="too long"):
        gw.save(grafted(), tmp_path / ("x" * 300))

"""Whatever the bytes of a folder say, loading it works or raises GraftError: nothing else, and no hang."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from tests.store.kit import edit, grafted, net, stamp


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gw.save(grafted(), tmp_path_factory.mktemp("good") / "a", metrics={"dice": 0.5})


quick = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)


def loads_or_refuses(model: nn.Module, folder: Path) -> None:
    """A load that does not succeed raises GraftError and leaves no graft; nothing else may come out."""
    try:
        gw.load(model, folder).remove()
    except GraftError as e:
        assert 0 < len(str(e)) < 20000
    assert not gw.grafts(model)
    with contextlib.suppress(GraftError):
        gw.inspect(folder, verify=True)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [here] * bool(here) + [p for k, v in items for p in paths(v, (*here, k))]


@quick
@given(data=st.data())
def test_fuzz_one_value_of_the_passport(
    good: Path, tmp_path_factory: Any, data: st.DataObject
) -> None:
    passport = json.loads((good / "graft.json").read_text())
    place = data.draw(st.sampled_from(paths(passport)))
    value = data.draw(
        values | st.just(...) | st.sampled_from([2**31, 2**53, -1, 1e300, "head", "stem", ""])
    )
    target = passport
    for k in place[:-1]:
        target = target[k]
    if value is ...:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copy(good / "adapter.safetensors", folder)
    (folder / "graft.json").write_text(json.dumps(passport))
    loads_or_refuses(net(), folder)


@quick
@given(
    name=st.sampled_from(["graft.json", "adapter.safetensors"]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 10**4),
    mend=st.booleans(),
)
def test_fuzz_bytes(
    good: Path,
    tmp_path_factory: Any,
    name: str,
    edits: list[tuple[int, int]],
    cut: int | None,
    mend: bool,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for file in good.iterdir():
        shutil.copy(file, folder)
    raw = bytearray((folder / name).read_bytes())
    for place, value in edits:
        raw[place % len(raw)] = value
    data = bytes(raw[:cut])
    (folder / name).write_bytes(data)
    if mend and name == "adapter.safetensors" and len(data) >= 8:
        edit(folder, lambda p: p.update(file=stamp(data)))
    loads_or_refuses(net(), folder)

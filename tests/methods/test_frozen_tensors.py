"""Frozen tensors of a method: stored ones travel with the graft, drawn ones are drawn again or refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork import seeded
from graftwork.algebra.geometry import Geometry
from graftwork.methods.base import Call, Delta, Method, Params, setting, work_dtype

COUNT = {"starts": 0}


@dataclass(frozen=True)
class Sketch(Method):
    """W + B diag(c) P: P is drawn from the seed, the direction c is read off the weight and kept."""

    seed: int = setting(0, low=0)

    id: ClassVar[str] = "lora"  # a name that passports know; the class is swapped in below
    changes: ClassVar[str] = "weight"
    layer_kinds: ClassVar[tuple[str, ...]] = ("linear",)
    default_kinds: ClassVar[tuple[str, ...]] = ("linear",)

    def start(self, geo: Geometry, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        COUNT["starts"] += not weight.is_meta
        return {"B": torch.zeros(geo.out, 2, dtype=work_dtype(weight), device=weight.device)}

    def frozen(
        self, geo: Geometry, weight: Tensor, bias: Tensor | None, start: Params
    ) -> dict[str, Tensor]:
        return {"c": weight.to(work_dtype(weight)).norm() * torch.ones_like(start["B"][0])}

    def seeded(self, geo: Geometry, weight: Tensor) -> dict[str, Tensor]:
        return {"P": seeded.draw((2, geo.in_), 1.0, self.seed, "P", weight)}

    def change(self, geo: Geometry, p: Params, c: Call) -> Tensor:
        return c.x @ (p["B"] * p["c"] @ p["P"]).T.to(c.x.dtype)

    def weight_change(self, geo: Geometry, p: Params, weight: Tensor, bias: Tensor | None) -> Delta:
        return Delta(weight=p["B"] * p["c"] @ p["P"])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for room in ("graft", "cli.state_merge"):
        module = import_module(f"graftwork.{room}")
        monkeypatch.setattr(module, "method_class", lambda method_id: Sketch)
    COUNT["starts"] = 0
    yield


def base() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def trained(seed: int = 3) -> tuple[nn.Sequential, gw.Graft]:
    model = base()
    g = gw.graft(model, Sketch(seed))
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.normal_()
    return model, g


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(7))


def test_stored_tensors_are_the_grafts_and_never_train() -> None:
    model, g = trained()
    assert {n for n, _ in g.named_parameters()} == {"0.B", "2.B"}
    assert set(g.tensors()) == {"0.B", "0.c", "2.B", "2.c"}  # P is in no file
    torch.testing.assert_close(g.tensors()["0.c"], model[0].weight.detach().norm().expand(2))
    model(X).sum().backward()
    states = dict(g.states())
    assert states["0"].P.grad is None and not states["0"].P.requires_grad
    assert not states["0"].c.requires_grad
    assert model.state_dict().keys() == base().state_dict().keys()


def test_a_reload_computes_no_start_and_gives_the_same_function(tmp_path: Path) -> None:
    model, g = trained()
    gw.save(g, tmp_path / "a")
    passport = json.loads((tmp_path / "a" / "graft.json").read_text())
    drawn = passport["graft"]["sites"][0]["seeded"]
    assert drawn["generator"] == seeded.GENERATOR and len(drawn["sha256"]) == 64
    assert COUNT["starts"] == 2
    fresh = base()
    again = gw.load(fresh, tmp_path / "a")
    assert COUNT["starts"] == 2
    assert torch.equal(fresh(X), model(X)) and again.spec() == g.spec()
    half = base().to(torch.bfloat16)  # the draw does not depend on the base's precision
    gw.load(half, tmp_path / "a")


def test_other_random_matrices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, g = trained()
    gw.save(g, tmp_path / "a")
    monkeypatch.setattr(
        seeded, "draw", lambda shape, bound, seed, label, like: torch.zeros(tuple(shape))
    )
    model = base()
    with pytest.raises(gw.GraftError, match="drawn from the method's seed are not the ones"):
        gw.load(model, tmp_path / "a")
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("generator", "another", "were drawn by 'another'"),
        ("sha256", "0" * 64, "are not the ones"),
        ("sha256", "short", "bad value"),
        ("more", 1, "unknown field"),
        (None, None, "are not the ones"),
    ],
)
def test_an_edited_passport_is_refused(
    field: str | None, value: object, words: str, tmp_path: Path
) -> None:
    _, g = trained()
    gw.save(g, tmp_path / "a")
    file = tmp_path / "a" / "graft.json"
    passport = json.loads(file.read_text())
    if field is None:
        del passport["graft"]["sites"][0]["seeded"]
    else:
        passport["graft"]["sites"][0]["seeded"][field] = value
    file.write_text(json.dumps(passport))
    with pytest.raises(gw.GraftError, match=words):
        gw.load(base(), tmp_path / "a")


def test_a_file_merges_without_the_model_or_is_refused() -> None:
    from graftwork.cli.state_merge import merged

    model, g = trained()
    spec, tensors = g.spec(), g.tensors()
    out = merged(base().state_dict(), spec, tensors)
    g.merge()
    assert torch.equal(out["0.weight"], model[0].weight)
    spec["sites"][0]["seeded"]["sha256"] = "0" * 64
    with pytest.raises(gw.GraftError, match="random matrices"):
        merged(base().state_dict(), spec, tensors)


def test_streams_differ_by_seed_and_label_and_not_by_device_or_dtype() -> None:
    like = torch.zeros(1)
    a = seeded.draw((50, 40), 0.5, 1, "down", like)
    assert torch.equal(a, seeded.draw((50, 40), 0.5, 1, "down", like))
    for seed, label in ((2, "down"), (1, "up")):
        assert not torch.equal(a, seeded.draw((50, 40), 0.5, seed, label, like))
    wide = seeded.draw((50, 40), 0.5, 1, "down", like.double())
    assert wide.dtype == torch.float64 and torch.equal(wide.float(), a)
    assert seeded.digest({"a": a}) == seeded.digest({"a": wide}) != seeded.digest({"b": a})
    assert seeded.digest({"a": a}) != seeded.digest({"a": a.reshape(40, 50)})
    assert a.abs().max() <= 0.5 and float(a.std()) == pytest.approx(0.5 / 3**0.5, rel=0.05)
    assert seeded.draw((2, 3), 1.0, 0, "x", like.to("meta")).is_meta
    # the bits of the stream are part of the file format
    first = [round(v, 6) for v in seeded.draw((3,), 1.0, 0, "x", like).tolist()]
    assert first == FIRST


FIRST = [-0.776752, -0.457551, 0.743985]


def test_loading_an_svd_start_imports_nothing_more() -> None:
    """Arithmetic on the meta device would import sympy and much of torch, which takes a second."""
    code = (
        "import sys, torch, graftwork as gw\n"
        "for method in (gw.PiSSA(4), gw.MiLoRA(4), gw.GOAT(4, experts=2)):\n"
        "    g = gw.graft(torch.nn.Linear(8, 8), method)\n"
        "    gw.graft_from_spec(torch.nn.Linear(8, 8), g.spec(), tensors=g.tensors())\n"
        "assert 'sympy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kaiming_draws_by_hand_and_refuses_nothing_on_meta() -> None:
    a, b = seeded.kaiming([(3, 6), (5, 3)], 7, torch.empty(0))
    stream = torch.Generator().manual_seed(7)
    bounds = [math.sqrt(3) * (math.sqrt(2) / math.sqrt(n)) for n in (6, 3)]
    for t, bound in ((a, bounds[0]), (b, bounds[1])):
        assert torch.equal(t, torch.empty(t.shape).uniform_(-bound, bound, generator=stream))
    wide = seeded.kaiming([(3, 6)], 7, torch.empty(0, dtype=torch.float64))[0]
    assert wide.dtype == torch.float64 and torch.equal(wide.float(), a)
    assert seeded.kaiming([(3, 6)], 7, torch.empty(0, device="meta"))[0].is_meta
    assert not torch.equal(seeded.kaiming([(3, 6)], 8, torch.empty(0))[0], a)

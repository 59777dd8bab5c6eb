"""`graftwork train-many` without a layout: every pass has the one that was timed to be fastest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import manyapp.app
import pytest
import yaml

from graftwork.cli import main
from graftwork.lightning.many import planning
from graftwork.tenants.align import Aligned
from graftwork.tenants.aligner import Aligner
from graftwork.tenants.cost import Run
from graftwork.tenants.layouts import LAYOUTS
from tests.train_many_kit import alone


@pytest.fixture(autouse=True)
def in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with alone(monkeypatch, tmp_path, lambda _: None, {"manyapp": manyapp.app.app}):
        yield


@pytest.mark.parametrize(
    ("quick", "record", "least"),
    [*((q, False, q) for q in LAYOUTS), ("packed", True, "packed"), ("chunked", True, "padded")],
)
def test_passes_take_the_layout_that_was_timed_to_be_fastest(
    quick: str, record: bool, least: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that can be recorded, where passes are to be."""
    taken: list[str] = []
    timed, align = planning.measured, Aligner.align

    def measured(*given: Any, **more: Any) -> Run:
        found = timed(*given, **more)
        taken.clear()
        pieces = 0 if found.shape.layout == quick else found.shape.pieces
        return replace(found, seconds=1.0 + 1e-4 * found.shape.rows + 0.05 * pieces)

    def aligned(self: Aligner, inputs: Any) -> Aligned:
        made = align(self, inputs)
        taken.append(made.layout)
        return made

    monkeypatch.setattr(planning, "measured", measured)
    monkeypatch.setattr(Aligner, "align", aligned)
    settings = {
        "short": {},
        "long": {"data.longest": 40, "data.seed": 3},
        "other": {"data.seed": 5},
    }
    jobs = [{"name": n, "app": "manyapp", "set": s} for n, s in settings.items()]
    Path("jobs.yaml").write_text(yaml.safe_dump({"chunk": 8, "record": record, "jobs": jobs}))
    assert main(["train-many", "jobs.yaml", "--quiet"]) == 0
    told = json.loads(Path("runs/many/jobs/many.json").read_text())
    assert [sorted(g) for g in told["groups"]] == [["long", "other", "short"]]
    assert told["layouts"] == [least]
    assert taken[0] == least

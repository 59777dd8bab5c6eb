"""`record: true` in a file of jobs: adapters have the bits of a run without it; the command says what it recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import manyapp.app
import pytest
import yaml
from safetensors.torch import load_file

from graftwork.cli import main
from graftwork.tenants import recorded
from tests.recording.fake_graphs import Fake
from tests.tenants.tenants_kit import bits
from tests.train_many_kit import alone


@pytest.fixture(autouse=True)
def in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with alone(monkeypatch, tmp_path, lambda _: None, {"manyapp": manyapp.app.app}):
        yield


def trained(run_dir: str, **top: Any) -> Any:
    one_length = {"data.shortest": 12, "data.longest": 12, "trainer.max_steps": 6}
    jobs = {
        "a": one_length,
        "b": {**one_length, "data.seed": 2, "graft.rank": 3, "graft.dropout": 0.2},
    }
    listed = [{"name": n, "app": "manyapp", "set": s} for n, s in jobs.items()]
    Path("jobs.yaml").write_text(yaml.safe_dump({"run_dir": run_dir, "jobs": listed, **top}))
    assert main(["train-many", "jobs.yaml"]) == 0
    files = {n: next((Path(run_dir) / n / "graft").glob("*.safetensors")) for n in jobs}
    return {n: bits(load_file(f)) for n, f in files.items()}


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_adapters_are_those_of_a_run_without_recordings(
    layout: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recorded, "machine_for", lambda standing, shared: Fake())
    plain = trained("plain", layout=layout, chunk=4)
    assert "recorded:" not in capsys.readouterr().out
    assert trained("recorded", layout=layout, chunk=4, record=True) == plain
    said = capsys.readouterr().out
    assert "passes replayed of" in said and "recorded: 0 passes" not in said, said


def test_without_a_gpu_the_run_goes_on_plainly_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained("recorded", layout="padded", record=True)
    said = capsys.readouterr().out
    assert "recorded: 0 passes replayed of 0 recorded" in said and "CUDA graphs need a GPU" in said

"""A domain base scored again: the same figures, a record and card of its own weights and data, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from domain_folders import openkbp_folder
from monai.inferers import SlidingWindowInferer

from graftwork_medseg.domain import rescore, train
from graftwork_medseg.domain.card import card
from graftwork_medseg.domain.plans import PLANS
from graftwork_medseg.files import CHECKPOINTS
from graftwork_medseg.networks.network import load_pretrained
from graftwork_runs import validate_record

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, and a base trained on them for two steps: base.safetensors, .json and .md."""
    folder = tmp_path_factory.mktemp("base")
    openkbp_folder(folder / "data")
    command = [
        "openkbp-segresnet",
        f"--data={folder / 'data'}",
        f"--out={folder / 'base.safetensors'}",
    ]
    command += [
        "--device=cpu",
        "--steps=2",
        "--batch=1",
        "--threads=1",
        "--patch",
        "16",
        "16",
        "16",
    ]
    assert train.main(command) == 0
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> list[str]:
    """The command, on copies of record and card."""
    for suffix in (".json", ".md"):
        text = (made / f"base{suffix}").read_text()
        (tmp_path / f"base{suffix}").write_text(text)
    names = [str(tmp_path / "base.json"), str(tmp_path / "base.md")]
    weights = f"--weights={made / 'base.safetensors'}"
    return [*names, f"--data={made / 'data'}", weights, "--device=cpu", "--threads=1"]


def changed(file: Path, **details: Any) -> None:
    record = json.loads(file.read_text())
    record["details"].update(details)
    record["rows"] = record["rows"][:1]
    file.write_text(json.dumps(record))


def test_rows_and_tolerance_are_measured_anew_and_the_training_is_kept(copied: list[str]) -> None:
    file, text = Path(copied[0]), Path(copied[1])
    before = json.loads(file.read_text())
    changed(file, tolerance_mm=77.0)
    text.unlink()
    assert rescore.main(copied) == 0
    record = json.loads(file.read_text())
    validate_record(file)
    assert record["rows"] == before["rows"] and record["verdict"] == before["verdict"]
    assert record["details"]["tolerance_mm"] == PLANS["openkbp-segresnet"].tolerance_mm == 4.0
    scored = record["details"].pop("scored")
    assert scored["device"] and "domain.rescore" in scored["command"] and scored["seconds"] > 0
    assert record == before
    assert "NSD at 4 mm" in text.read_text() and scored["command"] in text.read_text()


def other_weights(folder: Path, command: list[str]) -> str:
    command[3] = f"--weights={CHECKPOINTS / 'openkbp-swin.safetensors'}"
    return "openkbp-swin.safetensors: SHA-256 cc253acb9826"


def no_weights(folder: Path, command: list[str]) -> str:
    del command[3]
    return "base.safetensors: no such weights file; name it with --weights"


def other_data(folder: Path, command: list[str]) -> str:
    openkbp_folder(folder / "other", source=5)
    command[2] = f"--data={folder / 'other'}"
    return "other files than those of"


def no_record(folder: Path, command: list[str]) -> str:
    Path(command[0]).write_text('{"record": "x"}')
    return "base.json: not a record of domain.train"


@pytest.mark.parametrize("fault", [other_weights, no_weights, other_data, no_record])
def test_what_is_not_the_records_is_refused_and_nothing_written(
    fault: Any, copied: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fault(tmp_path, copied)
    before = [Path(p).read_bytes() for p in copied[:2]]
    assert rescore.main(copied) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert [Path(p).read_bytes() for p in (tmp_path / "base.json", tmp_path / "base.md")] == before


def test_the_predictor_gives_monais_scores_bit_for_bit(made: Path) -> None:
    plan, model = PLANS["openkbp-segresnet"], load_pretrained(made / "base.safetensors").model
    small = type(plan)(**{**plan.__dict__, "patch": (16, 16, 16)})
    image = torch.randn(1, 1, 21, 13, 30, generator=torch.Generator().manual_seed(0))
    found = train.predictor(model, small, "cpu")(image)
    inferer = SlidingWindowInferer((16, 16, 16), sw_batch_size=4, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        assert torch.equal(found, inferer(image, model))


@pytest.mark.parametrize("name", PLANS)
def test_the_shipped_records_say_the_plans_tolerance_and_the_cards_are_theirs(name: str) -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "medseg" / f"{name}.json").read_text())
    assert record["details"]["tolerance_mm"] == PLANS[name].tolerance_mm
    assert card(record) == (ROOT / "data_cards" / f"medseg-{name}.md").read_text()

"""Validation while many jobs train: each job's own figures, and nothing of the training moves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import manyapp.app
import pytest
import torch
import yaml
from manyapp.cli import Texts, Writer
from safetensors.torch import load_file

import graftwork as gw
from graftwork.cli import main
from graftwork.lightning.many import run
from graftwork_runs.many import report
from tests.train_many_kit import alone


@pytest.fixture(autouse=True)
def in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with alone(monkeypatch, tmp_path, report, {"manyapp": manyapp.app.app}):
        yield


def jobs_file(run_dir: str, **top: Any) -> str:
    val = {"data.val": 5, "graft.dropout": 0.2}
    jobs = {
        "plain": val,
        "other": {**val, "data.seed": 3, "seed_everything": 2, "model.noise": 0.3},
        "deaf": {**val, "model.kind": "deaf"},
    }
    listed = [{"name": n, "app": "manyapp", "set": s} for n, s in jobs.items()]
    settings = {"run_dir": run_dir, "layout": "padded", "jobs": listed, **top}
    Path("jobs.yaml").write_text(yaml.safe_dump(settings))
    return "jobs.yaml"


def told(run_dir: str) -> dict[str, Any]:
    found = json.loads((Path(run_dir) / "many.json").read_text())
    return {job["name"]: job for job in found["jobs"]}


def by_hand(folder: Path, seed: int) -> float:
    """The loss over all tokens of the validation sequences, one by one."""
    model = Writer()
    gw.load(model.network, folder / "graft")
    model.eval()
    data = Texts(seed=seed, val=5).val
    total, count = 0.0, 0
    for i in range(len(data)):
        ids = data[(0, i)][None]
        with torch.no_grad():
            logits = model.network(input_ids=ids).logits
        total += float(
            torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
        )
        count += ids.shape[1] - 1
    return total / count


def test_every_job_is_validated_and_trains_as_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-many", jobs_file("without"), "--quiet"]) == 0
    assert main(["train-many", jobs_file("with", validate_every=3)]) == 0
    assert "val_loss" in capsys.readouterr().out
    for name in told("with"):
        one, two = (
            load_file(next(Path(f, name, "graft").glob("*.safetensors")))
            for f in ("without", "with")
        )
        for key, value in one.items():  # the plans may differ, and so the last bits
            torch.testing.assert_close(two[key], value, rtol=1e-7, atol=1e-9)
    found = told("with")
    for name, seed in (("plain", 0), ("other", 3)):
        curve = found[name]["validation"]["val_loss"]
        assert [s for s, _ in curve] == [3, 4]  # and at its end
        assert curve[-1][1] == pytest.approx(by_hand(Path("with", name), seed), rel=1e-6)
        perplexity = found[name]["validation"]["val_perplexity"]
        assert perplexity[-1][1] == pytest.approx(math.exp(curve[-1][1]), rel=1e-5)
    # a validation that fails costs the job nothing
    assert found["deaf"]["status"] == "done" and found["deaf"]["validation"] == {}
    assert found["deaf"]["failures"] == [
        "step 3: not validated any more: OSError: the answer is not there"
    ]
    html = Path("with/report.html").read_text()
    assert "Validation: val_loss" in html
    assert "Validation" not in Path("without/report.html").read_text()


def test_a_resumed_run_keeps_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dying(self: Any, runner: Any) -> None:
        if runner.rounds == 3:
            raise Killed

    file = jobs_file("parts", validate_every=1, checkpoint_every=2)
    show = run.Board.show
    monkeypatch.setattr(run.Board, "show", dying)
    with pytest.raises(Killed):
        main(["train-many", file, "--quiet"])
    monkeypatch.setattr(run.Board, "show", show)
    assert [s for s, _ in told("parts")["plain"]["validation"]["val_loss"]] == [1, 2]
    assert main(["train-many", file, "--quiet", "--resume"]) == 0
    assert [s for s, _ in told("parts")["plain"]["validation"]["val_loss"]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("top", "text"),
    [
        ({"validate_every": 0}, "validate_every must be a whole number"),
        ({"validate_every": 2, "none": True}, "job 'plain': validate_every: its data have no"),
    ],
)
def test_what_cannot_be_validated_is_refused(
    top: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    none = top.pop("none", False)
    file = Path(jobs_file("bad", **top))
    if none:
        file.write_text(file.read_text().replace("data.val: 5", "data.val: 0"))
    assert main(["train-many", str(file)]) == 2
    assert text in capsys.readouterr().err

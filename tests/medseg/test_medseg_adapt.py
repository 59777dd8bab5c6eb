"""`medseg adapt` by name and under a budget: from a folder to a graft that says how it was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import graftwork as gw
from graftwork.allocation import read_record
from graftwork_medseg.app import main
from graftwork_medseg.data import FolderData
from graftwork_medseg.fewshot.report import ROWS, timeline
from graftwork_medseg.fewshot.searching import site_units
from graftwork_medseg.images.organs import Organs
from graftwork_medseg.module import Segmenter
from graftwork_runs import validate_record
from tests.medseg.adapt_kit import TINY, site, tiny_base

BUDGET = ["--organ=core,SHELL", "--shots=2", "--budget=5%"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a site whose case1 lacks an organ, and one finished run."""
    folder = tmp_path_factory.mktemp("adapt")
    base = tiny_base(folder / "base.safetensors")
    site(folder / "site", lacking={"case1": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["adapt", "--data", "site", f"--base={base}", *BUDGET, *TINY, "--run_dir=run"]
        assert main(words) == 0
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_the_run_folder_says_what_was_chosen_and_why(place: Path) -> None:
    passport = gw.inspect("run/graft")
    section, record = passport["app"]["medseg"], read_record("run/search.json")
    assert section["contract"]["classes"] == ["background", "core", "Shell"]
    assert section["organs"] == ["core", "Shell"]
    chosen = section["allocation"]
    assert chosen["units"] == [u["name"] for u in record["chosen"]]
    assert chosen["cost"] == record["cost"] <= chosen["budget"] == record["budget"]
    assert chosen["record"] == "search.json"
    network = Segmenter(base="base.safetensors").network
    assert record["budget"] == int(0.05 * sum(p.numel() for p in network.parameters()))
    # the adapter is the chosen set and the head's new row, nothing else
    rows = [i for i in passport["graft"]["also_train"] if i["kind"] == "rows"]
    head = Segmenter(base="base.safetensors").head
    assert rows == [{"name": head, "kind": "rows", "new": 1}]
    graft = gw.load(network, "run/graft")
    trained = sum(p.numel() for p in graft.parameters())
    assert trained == record["cost"] + 8 + 1  # a row of 8 weights and its bias
    units = {u.name: u for u in site_units(Segmenter(base="base.safetensors").network, head)}
    hosts = {h for name in chosen["units"] for h in units[name].hosts}
    owned = {i["name"] for i in passport["graft"]["also_train"] if i["kind"] == "module"}
    assert {s["name"] for s in passport["graft"]["sites"]} | owned == hosts
    verdict = passport["metrics"]["verdict"]
    assert verdict["n"] == 3 and "chosen with every case in view" in verdict["note"]
    found = validate_record("run/record.json")
    assert {r.metric for r in found.rows if r.case == "search"} >= {
        "budget",
        "share of the search in audits",
    }
    assert {r.case for r in found.rows} >= {"core", "Shell"}
    html = Path("run/report.html").read_text()
    for words in ("Where to adapt", "rank correlation", "Sets that competed", "Audits took"):
        assert words in html
    # case1 lacks an organ, so it was never used
    assert "case1" not in json.loads(Path("run/judge.json").read_text())


def test_a_graft_by_name_measures_and_predicts_on_sites_in_any_order(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = site(place / "other", labels={"0": "air", "1": "Core", "2": "SHELL"}, cases=2)
    for case in range(2):  # the same masks under exchanged values
        file = other / f"labelsTr/case{case}.nii.gz"
        image = nib.load(file)
        label = np.asarray(image.dataobj)
        nib.save(nib.Nifti1Image(np.array([0, 2, 1], np.uint8)[label], image.affine), file)
    common = ["--adapter=run/graft", "--base=base.safetensors", "--trainer.accelerator=cpu"]
    scores = {}
    for where in ("site", "other"):
        run = f"test-{where}"
        assert main(["test", "--data", where, *common, "--quiet", f"--run_dir={run}"]) == 0
        scores[where] = validate_record(f"{run}/record.json").details["scores"]["case0"]
    assert scores["site"] == scores["other"] and scores["site"].keys() == {"core", "Shell"}
    assert main(["predict", "--data", "other", *common, "--quiet", "--run_dir=p"]) == 0
    mask = np.asarray(nib.load(next(Path("p").rglob("case0*.nii.gz"))).dataobj)
    assert set(np.unique(mask)) <= {0, 1, 2}
    # a site that knows one of the organs is measured on that one
    one = site(place / "one", labels={"0": "background", "1": "shell", "2": "skin"}, cases=2)
    assert main(["test", "--data", str(one), *common, "--quiet", "--run_dir=t1"]) == 0
    assert validate_record("t1/record.json").details["scores"]["case0"].keys() == {"Shell"}
    # and one that knows none has other classes, as ever
    none = site(place / "none", labels={"0": "background", "1": "x", "2": "y"}, cases=2)
    capsys.readouterr()
    assert main(["test", "--data", str(none), *common, "--run_dir=t2"]) == 2
    assert "its classes are background, x, y; run/graft tells apart" in capsys.readouterr().err
    # what an export says is what the graft said
    words = ["export", "--data=site", *common[:2], "--output=copy", "--run_dir=e", "--quiet"]
    assert main(words) == 0
    assert gw.inspect("copy")["app"] == gw.inspect("run/graft")["app"]


def test_the_search_by_hand_finds_the_same(place: Path) -> None:
    """Another process, another time: the chosen set and its tensors are a function of seed and data."""
    shutil.copytree("run", "again")
    for file in ("graft", "checkpoints", "search", "judge.json", "search.json"):
        path = place / "again" / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # only config.yaml is left: `--resume` starts from the beginning, with the options it holds
    assert main(["adapt", "--run_dir=again", "--resume", "--judge=false"]) == 0
    first, second = (read_record(f"{run}/search.json") for run in ("run", "again"))
    for field in ("chosen", "allocations", "audits", "candidates"):
        assert first[field] == second[field]
    a, b = (Path(f"{run}/graft/adapter.safetensors").read_bytes() for run in ("run", "again"))
    assert a == b


def test_outputs_that_were_not_asked_for_learn_nothing(place: Path) -> None:
    """The loss has no opinion on the base's other organ: moving it against background changes nothing."""
    model, data = Segmenter(base="base.safetensors"), FolderData("site", roi=[16, 16, 16])
    organs = Organs.match(model.base_classes, data.classes, ["shell"])
    data.ask(organs)
    model.ask(organs)
    assert organs.known == (True, False, True) and model.scored == ("Shell",)
    data.take(["case0"], ["case2"])
    data.take_on(model.contract, "base", free=True, graft=False)
    gw.graft(model.network, gw.LoRA(1), sites=[], also_train=[gw.NewRows(model.head, 1)])
    model.log = lambda *a, **k: None  # type: ignore[method-assign]
    x, y = next(iter(data.train_dataloader()))
    assert set(y.unique().tolist()) <= {0, 2}
    scores = model(x).detach().requires_grad_()
    model.forward = lambda _: scores  # type: ignore[method-assign]
    model.training_step((x, y), 0).backward()
    background, core, shell = scores.grad.unbind(1)
    p = scores.detach().softmax(1)
    # the gradient sees background and core as one: it splits between them by their probabilities
    assert torch.allclose(background * p[:, 1], core * p[:, 0], atol=1e-9)
    assert shell.abs().max() > 0


def test_training_cases_are_read_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FolderData("site", roi=[16, 16, 16])
    data.take_on(Segmenter(base="base.safetensors").contract, "base", free=True, graft=False)
    read: list[str] = []
    real = FolderData.readers

    def counted(self: FolderData, group: str) -> Any:
        names = [c.name for c in self.groups[group]]
        return [
            lambda n=n, r=r: (read.append(n), r())[1]  # type: ignore[func-returns-value]
            for n, r in zip(names, real(self, group), strict=True)
        ]

    monkeypatch.setattr(FolderData, "readers", counted)
    for _ in range(2):
        data.train_dataloader()
    for i in range(4):
        data.leave_out(i).train_dataloader()
    assert sorted(read) == [f"case{i}" for i in range(4)]
    before = data.training()[0]
    data.ask(Organs.match(("background",), data.classes, ["core"]))
    assert data.training()[0] is not before  # other labels: read again


def test_the_picture_shows_what_was_on_and_what_won() -> None:
    def unit(n: int) -> str:
        return f"unit{n}=<b>"

    sets = [[unit(n) for n in range(k)] for k in (0, 3, ROWS + 10)]
    record = {
        "allocations": [{"step": 10 * i, "set": s} for i, s in enumerate(sets)],
        "chosen": [{"name": unit(7), "cost": 5}],
        "costs": {unit(n): n for n in range(ROWS + 10)},
    }
    picture, left = timeline(record)
    assert left == 10 and len(picture.units) == ROWS
    assert [name for name, _ in picture.units[:4]] == [unit(n) for n in (7, 0, 1, 2)]
    html = picture.html()
    bars = sum(name in s for name, _ in picture.units for s in sets)
    assert html.count("<rect") == bars and html.count("<circle") == 1
    assert "<b>" not in html and "unit7=&lt;b&gt; (5)" in html

"""`adapt` ends with a verdict: every labelled case left out in turn, kept over a stop, and heeded by predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork_medseg.app import main
from graftwork_medseg.data import VolumeData
from graftwork_medseg.fewshot import judging
from graftwork_medseg.module import Segmenter
from graftwork_runs import validate_record

LABELS = {"0": "background", "1": "GM", "2": "WM", "3": "lesion"}
FAST = [
    "--trainer.max_epochs=1",
    "--data.patches_per_epoch=2",
    "--data.roi=[16,16,16]",
    "--trainer.accelerator=cpu",
]


@pytest.fixture
def site(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Options for a folder of three labelled cases, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    folder = make_folder(labels=LABELS)
    return ["--data=graftwork_medseg.data.FolderData", f"--data.path={folder}", *FAST]


def test_adapt_leaves_each_case_out_and_says_one_word(
    site: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folds: list[tuple[list[str], list[str]]] = []
    real = judging.leave_one_out

    def watched(
        model: Segmenter, data: VolumeData, graft: Any, fit: Any, *rest: Any, **how: Any
    ) -> Any:
        def seen(fold: Segmenter, left: VolumeData) -> None:
            assert fold is not model and fold.network is not model.network
            folds.append(tuple([c.name for c in left.groups[g]] for g in ("train", "validate")))  # type: ignore[arg-type]
            fit(fold, left)

        before = {k: t.clone() for k, t in gw.get(model.network).tensors().items()}
        verdict = real(model, data, graft, seen, *rest, **how)
        after = gw.get(model.network).tensors()
        assert all(torch.equal(t, after[k]) for k, t in before.items())
        return verdict

    monkeypatch.setattr(judging, "leave_one_out", watched)
    assert main(["adapt", *site, "--run_dir=a", "--quiet"]) == 0
    assert "verdict: " in capsys.readouterr().out
    names = {"case0", "case1", "case2"}
    assert [left for _, [left] in folds] and {left for _, [left] in folds} == names
    assert all({*train} == names - {left} for train, [left] in folds)
    scores = json.loads(Path("a/judge.json").read_text())
    assert scores.keys() == names
    record = validate_record(Path("a/record.json"))
    stated = gw.inspect("a/graft")["metrics"]["verdict"]
    assert record.details["verdict"] == stated and stated["n"] == 3
    assert stated["word"] in Path("a/report.html").read_text()
    for arm in ("base", "graft"):
        assert stated[arm] == pytest.approx(sum(s[arm] for s in scores.values()) / 3)


def test_a_stopped_judgement_goes_on_with_the_next_case(
    site: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    real = judging.leave_one_out

    def stopped(model: Any, data: Any, graft: Any, fit: Any, *rest: Any, **how: Any) -> Any:
        def one(*args: Any) -> None:
            if len(fits) == 2:
                raise KeyboardInterrupt
            fits.append(1)
            fit(*args)

        return real(model, data, graft, one, *rest, **how)

    monkeypatch.setattr(judging, "leave_one_out", stopped)
    assert main(["adapt", *site, "--run_dir=a", "--quiet"]) == 130
    first = json.loads(Path("a/judge.json").read_text())
    assert len(first) == 2
    fits.clear()
    assert main(["adapt", *site, "--run_dir=a", "--quiet", "--resume"]) == 0
    assert len(fits) == 1
    both = json.loads(Path("a/judge.json").read_text())
    assert len(both) == 3 and all(both[case] == first[case] for case in first)
    monkeypatch.setattr(judging, "leave_one_out", real)
    assert main(["adapt", *site, "--run_dir=b", "--quiet"]) == 0
    assert json.loads(Path("b/judge.json").read_text()) == both  # as if it had never stopped


def test_scores_that_are_none_are_refused(
    site: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", *site, "--run_dir=a", "--quiet", "--judge=false"]) == 0
    assert not Path("a/judge.json").exists()
    assert gw.inspect("a/graft")["metrics"] in (None, {})
    Path("a/judge.json").write_text('{"case0": 1}')
    assert main(["adapt", *site, "--run_dir=a", "--quiet", "--resume"]) == 2
    assert "judge.json: not the scores of an earlier run" in capsys.readouterr().err


def test_predict_wants_a_word_for_a_graft_that_is_worse(
    site: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Segmenter()
    graft = gw.graft(model.network, gw.LoRA(2), sites=["*conv1.conv"])
    images = ["--data=graftwork_medseg.data.SimulatedData", "--dry_run"]
    for word, code in (("worse", 2), ("no evidence", 0), ("better", 0)):
        verdict = {"word": word, "base": 0.8, "graft": 0.7}
        gw.save(graft, "g", metrics={"verdict": verdict}, overwrite=True)
        assert main(["predict", "--adapter=g", *images]) == code
    gw.save(graft, "g", metrics={"verdict": {"word": "worse"}}, overwrite=True)
    assert main(["predict", "--adapter=g", "--accept", *images]) == 0
    assert "worse than the base" in capsys.readouterr().err

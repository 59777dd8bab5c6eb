"""The command line on a user's own folder, its bad input, and the demo in small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import graftwork as gw
from graftwork_medseg import tasks
from graftwork_medseg.app import main
from graftwork_medseg.demo import report, run, task
from graftwork_medseg.module import Segmenter
from graftwork_medseg.networks.network import BASE_HEAD, load_pretrained
from graftwork_medseg.prediction import metrics
from graftwork_medseg.prediction.metrics import Score
from graftwork_medseg.progress import Progress
from graftwork_runs import RunFolder, validate_record

FAST = [
    "--trainer.max_epochs=1",
    "--data.patches_per_epoch=2",
    "--data.roi=[16,16,16]",
    "--trainer.accelerator=cpu",
    "--trainer.check_val_every_n_epoch=1",
]


def folder_options(folder: Path, **options: Any) -> list[str]:
    data = ["--data=graftwork_medseg.data.FolderData", f"--data.path={folder}"]
    return [*data, *(f"--{k}={v}" for k, v in options.items())]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_adapt_then_predict_then_export_on_an_own_folder(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"0": "background", "1": "GM", "2": "WM", "3": "lesion"}
    folder = make_folder(labels=labels)
    assert (
        main(["adapt", *folder_options(folder, run_dir="a"), *FAST, "--quiet", "--judge=false"])
        == 0
    )
    assert (tmp_path / "a" / "report.html").is_file()
    record = validate_record(tmp_path / "a" / "record.json")
    assert {row.case for row in record.rows} >= {"mean", "GM", "WM", "lesion"}
    # The new class got its output row, and the row is part of the graft.
    passport = gw.inspect(tmp_path / "a" / "graft")
    assert passport["data_card"] == {"data": "FolderData", "classes": list(labels.values())}
    assert RunFolder.open(tmp_path / "a").finished
    kinds = [item["kind"] for item in passport["graft"]["also_train"]]
    assert "rows" in kinds

    affine = nib.affines.from_matvec(
        np.array([[0.0, -1.4, 0.2], [1.1, 0.1, 0.0], [0.1, 0.0, 2.5]]), [5, 6, 7]
    )
    noise = np.random.default_rng(0).normal(size=(30, 34, 16)).astype(np.float32)
    image = nib.Nifti1Image(noise, affine)
    image.set_qform(affine, 1, strip_shears=True)
    nib.save(image, "scan.nii.gz")
    options = ["--data=graftwork_medseg.data.ImageFiles", "--data.files=[scan.nii.gz]"]
    options += ["--adapter=a/graft", "--run_dir=p", "--trainer.accelerator=cpu"]
    assert main(["predict", *options]) == 0
    mask = nib.load(tmp_path / "p" / "predictions" / "scan.nii.gz")
    source = nib.load("scan.nii.gz")
    assert mask.shape == source.shape and mask.affine.tobytes() == source.affine.tobytes()
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2, 3}

    merged = ["--merged=true", "--output=merged.safetensors", "--run_dir=e", "--adapter=a/graft"]
    capsys.readouterr()
    assert main(["export", *folder_options(folder), *merged]) == 0
    assert "read back" in capsys.readouterr().out
    whole = load_pretrained("merged.safetensors")
    assert whole.classes == ("background", "GM", "WM", "lesion")


BAD = {
    "missing file": (lambda f: (f / "imagesTr" / "case0.nii.gz").unlink(), "no such image file"),
    "not gzip": (
        lambda f: (f / "imagesTr" / "case0.nii.gz").write_bytes(b"\x1f\x8bnothing"),
        "not a readable NIfTI",
    ),
    "no dataset.json": (lambda f: (f / "dataset.json").unlink(), "needs a dataset.json"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_data_is_one_message_and_exit_code_2(
    make_folder: Callable[..., Path], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD[fault]
    folder = make_folder(cases=1)
    spoil(folder)
    code = main(["fit", *folder_options(folder, **{"data.held_out": 0}), *FAST, "--quiet"])
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("medseg:")]) == 1


def test_an_option_that_could_have_no_effect_is_not_offered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # the Segmenter sets two rates itself
    assert main(["fit", "--optimizer=torch.optim.SGD"]) == 2
    assert "optimizer" in capsys.readouterr().err


def test_merged_export_reads_back_the_same(tmp_path: Path) -> None:
    model = Segmenter()
    graft, _ = task.graft_arm(model.network, task.PLAN, 0, 0.03)
    with torch.no_grad():
        for i, p in enumerate(graft.parameters()):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    model.classes = ("background", "GM", "WM", "CSF")
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    error = tasks.export_merged(model, graft, tmp_path / "m.safetensors")
    assert error < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())


def test_the_graft_is_under_two_per_cent_and_the_head_starts_from_the_base() -> None:
    base = load_pretrained().model
    total = sum(p.numel() for p in base.parameters())
    _, groups = task.graft_arm(base, task.PLAN, 0, 0.03)
    assert sum(p.numel() for ps, _ in groups for p in ps) < 0.02 * total
    fresh = load_pretrained().model
    rows = fresh.get_submodule(BASE_HEAD).weight.detach().clone()
    [(head, _)] = task.head_arm(fresh, 0, 0.1)
    assert torch.equal(head[0][:3], rows) and sum(p.numel() for p in head) == 36
    assert all(not p.requires_grad for n, p in fresh.named_parameters() if BASE_HEAD not in n)


def test_the_record_of_full_fine_tuning_is_of_this_base_and_these_subjects() -> None:
    record, scores = run.full_fine_tuning()
    assert record.details["subjects"] == task.subjects()
    assert record.details["steps"] == task.STEPS
    assert record.data["mni152-sim-base.safetensors"] == run.base_sha256()
    assert set(scores) == set(task.SEEDS)
    assert all(len(cases) == len(task.subjects()["test"]) for cases in scores.values())
    [row] = record.find(case="mean", metric="dice")
    found = np.mean([metrics.average(cases)["dice"] for cases in scores.values()])
    assert row.value == pytest.approx(found, abs=1e-3)


def test_the_share_of_the_gap_by_hand() -> None:
    def arm(values: list[float]) -> run.Scores:
        return {0: [{"x": Score(v, 0.0, 1.0)} for v in values]}

    out = run.Outcome(run.DemoPlan(), ["a", "b"], torch.zeros(0), torch.zeros(0))
    out.scores = {"head only": arm([0.4, 0.6]), "graft": arm([0.6, 0.7])}
    share, low, high = run.share_of_gap(out, arm([0.8, 0.8]))
    assert share == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_the_demo_in_small_keeps_its_promises(tmp_path: Path) -> None:
    plan = run.DemoPlan(seeds=(0,), steps=3, train=1, test=1)
    threads = torch.get_num_threads()
    out = run.run(plan, tmp_path / "graft", Progress(run.work(plan), quiet=True))
    assert torch.get_num_threads() == threads
    assert all(ok for _, ok in report.proofs(out.proof))
    assert out.file_bytes < 200_000
    report.write(out, tmp_path)
    record = validate_record(tmp_path / "record.json")
    assert {row.variant for row in record.rows} == set(report.ARMS)
    text = report.lines(out, tmp_path)
    assert sum(line.startswith("proof:") for line in text) == 1
    assert [line.split("  ")[0] for line in text[3:7]] == list(report.ARMS)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").stat().st_size > 100_000

"""What `adapt` cannot do is one message, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import graftwork as gw
from graftwork_medseg.app import main
from graftwork_medseg.module import Segmenter
from tests.medseg.adapt_kit import TINY, site, tiny_base

BUDGET = ["--budget=5%", "--shots=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    base = tiny_base(folder / "base.safetensors")
    tiny_base(folder / "nameless.safetensors", classes=())
    tiny_base(folder / "other.safetensors", seed=1)
    site(folder / "site", lacking={"case0": 2, "case1": 2})
    shifted = site(folder / "shifted")
    label = shifted / "labelsTr/case0.nii.gz"
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), label)
    one = site(folder / "one", cases=1)
    assert one
    model = Segmenter(base=str(base))
    card = {"contract": {**model.contract.to_json()}}  # type: ignore[union-attr]
    for name, method in (("lora", gw.LoRA(2)), ("dora", gw.DoRA(2))):
        graft = gw.graft(model.network, method, sites=["*conv1.conv"])
        gw.save(graft, folder / name, app={"medseg": card})
        graft.remove()
    private = gw.graft(model.network, gw.LoRA(1), sites=["*conv1.conv"])
    gw.save(private, folder / "private", app={"medseg": {**card, "shared": "0" * 64}})
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--organ=liver"], "organ 'liver': site has no such label; it has Shell, Core"),
        (["--organ="], "organ: name at least one"),
        (["--organ=core", "--shots=2"], "only 2 of 4 qualify"),
        (["--organ=core", "--shots=0"], "shots 0 must be at least 1"),
        (["--shots=0"], "shots 0 must be at least 1"),
        (["--shots=4"], "must be labelled in 5 case(s), the last is for the audit; only 2 of 4"),
        (["--organ=core", "--fold=-1"], "fold -1 at least 0"),
        (["--budget=much"], "budget 'much': give a share"),
        (["--budget=101%"], "budget '101%': a share must lie above 0 and be at most 100 %"),
        (["--budget=0"], "a share must lie above 0"),
        (["--organ=shell", "--budget=3"], "3 parameters hold no unit, the smallest"),
        (["--organ=shell", "--budget=5%", "--search.warm_up=2"], "search.warm_up 2: "),
        (["--organ=shell", "--budget=5%", "--search.steps=0"], "search.steps 0 must be at least 1"),
        (["--data=one", "--budget=5%"], "needs two labelled cases at least"),
        (["--data=shifted", "--organ=core"], "case0.nii.gz: label grid (21, 20, 24) differs"),
        (["--data=nowhere", "--organ=core"], "nowhere: no such data folder"),
        (["--base=nameless.safetensors", "--organ=core"], "the base states no class names"),
        (["--base=other.safetensors", "--organ=core", "--adapter=lora"], "lora"),
        (["--base=other.safetensors", "--dual=lora", "--graft.rank=2"], "lora"),
        (["--adapter=lora", "--organ=shell"], "lora: has no output for 'Shell'"),
        (["--adapter=lora", "--budget=5%"], "a search starts from the base"),
        (["--dual=lora", "--budget=5%"], "with --dual the sites are the shared graft's"),
        (["--dual=lora", "--adapter=lora"], "adapt starts a new private graft"),
        (["--dual=dora"], "dual: dora: shared: graft 'shared' is not of LoRA alone"),
        (["--dual=lora", "--graft=graftwork.DoRA"], "the private pair is a LoRA, not --graft dora"),
        (["--dual=lora", "--graft=null"], "the private pair is a LoRA, not --graft null"),
        (["--dual=missing"], "missing"),
        (["--dual_moving=true"], "names no shared graft"),
        (["--adapter=private"], "private half of a pair; name the shared graft with --dual"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_message(
    options: list[str],
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    start = ["adapt", "--data=site", "--base=base.safetensors", *TINY]
    assert main([*start, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("medseg: error: ") and message in error, error
    assert "Traceback" not in error
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--data=site", "--dual=lora"], "name the private graft with --adapter"),
        (
            ["predict", "--data=site", "--dual=lora", "--adapter=lora"],
            "lora: is not a private graft",
        ),
        (
            ["predict", "--data=site", "--dual=lora", "--adapter=private"],
            "private: was trained beside another shared graft than lora",
        ),
        (["fit", "--data=site", "--dual=lora"], "fit trains no private graft"),
    ],
)
def test_a_pair_is_used_as_a_pair(
    words: list[str],
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    assert main([*words, "--base=base.safetensors", "--trainer.accelerator=cpu", "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_simulated_scans_are_no_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["adapt", "--organ=GM", "--quiet"]) == 2
    assert "need a folder of cases; name it with --data PATH" in capsys.readouterr().err


def test_an_organ_nowhere_in_the_audit_case_is_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One voxel that resampling to the working grid loses: it is in the label, and in no crop."""
    monkeypatch.chdir(tmp_path)
    folder = site(tmp_path / "site", cases=2)
    for file in sorted((folder / "labelsTr").iterdir()):
        image = nib.load(file)
        label = np.where(np.asarray(image.dataobj) == 2, 1, np.asarray(image.dataobj))
        label[0, 0, 0] = 2
        nib.save(nib.Nifti1Image(label.astype(np.uint8), image.affine), file)
    base = place / "base.safetensors"
    words = ["adapt", "--data=site", f"--base={base}", "--budget=5%", "--data.spacing=9", *TINY]
    assert main(words) == 2
    assert "no voxel of 'core' is in any crop" in capsys.readouterr().err
    assert not Path("runs").exists()

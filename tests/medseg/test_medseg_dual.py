"""`adapt --dual`: a private pair on a shared graft, saved apart, used together, and nothing of it in the shared one."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg.app import main
from graftwork_medseg.data import FolderData
from graftwork_medseg.fewshot import pair
from graftwork_medseg.images.contract import Contract
from graftwork_medseg.module import Segmenter
from tests.medseg.adapt_kit import TINY, site, tiny_base

FIT = [*TINY, "--trainer.max_epochs=2", "--graft.rank=1", "--organ=core,shell", "--shots=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a site, a shared graft, and two runs beside it: frozen (judged) and moving."""
    folder = tmp_path_factory.mktemp("dual")
    base = tiny_base(folder / "base.safetensors")
    site(folder / "site")
    model = Segmenter(base=str(base))
    graft = gw.graft(model.network, gw.LoRA(2), sites=["*conv1.conv"], seed=0)
    with torch.no_grad():  # trained elsewhere
        for p in graft.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    assert model.contract is not None
    app = {"medseg": {"contract": model.contract.to_json()}}
    gw.save(graft, folder / "given", data_card={"data": "elsewhere"}, app=app)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start = ["adapt", "--data=site", "--base=base.safetensors", "--dual=given", *FIT]
        assert main([*start, "--run_dir=frozen"]) == 0
        assert main([*start, "--run_dir=moving", "--dual_moving", "--judge=false"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def tensors(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter.safetensors")


def test_the_private_graft_names_the_shared_one(place: Path) -> None:
    for run, shared in (("frozen", "given"), ("moving", "moving/shared")):
        section = gw.inspect(f"{run}/graft")["app"]["medseg"]
        assert section["shared"] == pair.fingerprint(shared)
        assert section["organs"] == ["core", "Shell"]
    assert not Path("frozen/shared").exists()
    assert pair.fingerprint("moving/shared") != pair.fingerprint("given")
    sites = {run: gw.inspect(f"{run}/graft")["graft"]["sites"] for run in ("frozen", "moving")}
    assert sites["frozen"] == sites["moving"] == gw.inspect("given")["graft"]["sites"]


def test_the_shared_export_holds_nothing_private(place: Path) -> None:
    given, moved, private = (tensors(f) for f in ("given", "moving/shared", "moving/graft"))
    assert moved.keys() == given.keys()
    assert any(not torch.equal(moved[k], given[k]) for k in given)  # it did move
    values = {t.numpy().tobytes() for t in private.values()}
    assert not values & {t.numpy().tobytes() for t in moved.values()}
    ranks = {k: t.shape for k, t in moved.items()}
    assert all(ranks[k] == given[k].shape for k in given)  # not even concatenated
    rows = {k for k in private if k not in given}
    assert rows and all("conv_final" in k for k in rows)  # the new organ's row stays at home
    # the passport, too, is what was given: no organ, range or name of the site
    one, two = gw.inspect("given"), gw.inspect("moving/shared")
    assert (one["app"], one["data_card"]) == (two["app"], two["data_card"])
    text = Path("moving/shared/graft.json").read_text()
    assert not [w for w in ("Shell", "FolderData", "case0", "private") if w in text]


def test_frozen_is_frozen(place: Path) -> None:
    network = Segmenter(base="base.safetensors").network
    graft = pair.start(
        network, "given", gw.LoRA(1), head="conv_final.2.conv", rows=1, moving=False, seed=0
    )
    assert graft.name == "private" and gw.active(network).keys() == {"shared", "private"}
    trains = {id(p) for p in network.parameters() if p.requires_grad}
    assert trains == {id(p) for p in graft.parameters()}
    shared = gw.get(network, "shared").tensors()
    assert all(torch.equal(t, shared[k]) for k, t in tensors("given").items())
    # at the start the pair computes what the shared graft does alone
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        both = network(x)[:, :2]  # its new row apart
        with pair.without(graft):
            assert gw.active(network).keys() == {"shared"}
            assert torch.allclose(network(x), both, atol=1e-6)
    assert gw.active(network).keys() == {"shared", "private"}


def test_predict_uses_both(place: Path) -> None:
    words = ["predict", "--data=site", "--base=base.safetensors", "--trainer.accelerator=cpu"]
    pair_words = ["--adapter=frozen/graft", "--dual=given", "--accept", "--quiet", "--run_dir=p"]
    assert main([*words, *pair_words]) == 0
    found = np.asarray(nib.load(next(Path("p").rglob("case0*.nii.gz"))).dataobj)
    model = Segmenter(base="base.safetensors").eval()
    section = gw.inspect("frozen/graft")["app"]["medseg"]
    model.contract = Contract.from_json(section["contract"], "x")
    data = FolderData("site")
    data.take_on(model.contract, "x", free=True, graft=False)
    volume = data.readers("predict")[0]()
    graft = pair.load(model.network, "given", "frozen/graft")
    assert np.array_equal(found, model.segment(volume))
    with pair.without(graft):
        assert not np.array_equal(found, model.segment(volume))  # the private part counts


def test_the_verdict_compares_with_the_shared_graft_alone(place: Path) -> None:
    scores = json.loads(Path("frozen/judge.json").read_text())
    assert len(scores) == 3
    model = Segmenter(base="base.safetensors").eval()
    data = FolderData("site", roi=[16, 16, 16])
    from graftwork_medseg.images.organs import Organs

    organs = Organs.match(model.base_classes, data.classes, ["core", "shell"])
    data.ask(organs)
    model.ask(organs)
    data.take_on(model.contract, "x", free=True, graft=False)
    gw.load(model.network, "given")
    data.take([], [*scores])
    for name, read in zip(scores, data.readers("validate"), strict=True):
        volume = read()
        dice = [s.dice for s in model.score(volume, model.segment(volume)).values()]
        assert scores[name]["base"] == pytest.approx(sum(dice) / 2)


def test_a_merged_export_holds_both(place: Path) -> None:
    words = ["export", "--data=site", "--base=base.safetensors", "--adapter=frozen/graft"]
    more = ["--dual=given", "--merged", "--output=whole.safetensors", "--run_dir=e", "--quiet"]
    assert main([*words, *more]) == 0
    whole = Segmenter(base="whole.safetensors").network.eval()
    network = Segmenter(base="base.safetensors").network.eval()
    pair.load(network, "given", "frozen/graft")
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(whole(x), network(x), atol=1e-4)


def test_a_shared_graft_with_rows_of_its_own_takes_no_more(place: Path) -> None:
    model = Segmenter(base="base.safetensors")
    rows = [gw.NewRows(model.head, 1)]
    graft = gw.graft(model.network, gw.LoRA(1), sites=["*conv1.conv"], also_train=rows)
    gw.save(graft, "rows")
    network = Segmenter(base="base.safetensors").network
    with pytest.raises(GraftError, match="rows has output rows of its own"):
        pair.start(network, "rows", gw.LoRA(1), head=model.head, rows=1, moving=False, seed=0)
    assert not gw.grafts(network)
    pair.start(network, "rows", gw.LoRA(1), head=model.head, rows=0, moving=False, seed=0)

"""The domain bases: partial labels, patches, cohorts, synthetic images, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from domain_folders import openkbp_folder, real, save, synthseg_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graftwork.errors import GraftError
from graftwork_medseg.domain import openkbp, synth, train
from graftwork_medseg.domain.augment import Augment, cut, middle_of_patch
from graftwork_medseg.domain.content import content_hash
from graftwork_medseg.domain.plans import PLANS
from graftwork_medseg.losses import dice_ce
from graftwork_medseg.networks.network import build, load_pretrained
from graftwork_runs import validate_record

# ---- partial labels ----


@st.composite
def partial_batches(draw: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, c = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = 3 * torch.randn(n, c, 3, 2, 2, generator=seed)
    known = torch.rand(n, c, generator=seed) < 0.5
    known[:, 0] = True
    label = torch.randint(c, (n, 3, 2, 2), generator=seed)
    # What is not annotated has no label.
    seen = known[torch.arange(n)[:, None], label.reshape(n, -1)].reshape(label.shape)
    return logits, label * seen, known


def by_hand(logits: torch.Tensor, label: torch.Tensor, known: torch.Tensor) -> float:
    """The marginal loss of the module's docstring, voxel by voxel in float64."""
    p = torch.softmax(logits.double(), 1).numpy()
    y, k = label.numpy(), known.numpy()
    n, c = k.shape
    entropy = []
    for case in range(n):
        unknown = [j for j in range(c) if not k[case, j]]
        q = p[case].copy()
        q[0] += sum(q[j] for j in unknown)
        for voxel in np.ndindex(*y.shape[1:]):
            entropy.append(-np.log(q[(y[case][voxel], *voxel)]))
    dices = []
    for j in range(1, c):
        cases = [i for i in range(n) if k[i, j]]
        if cases:
            overlap = sum(float(p[i, j][y[i] == j].sum()) for i in cases)
            size = sum(float(p[i, j].sum()) + float((y[i] == j).sum()) for i in cases)
            dices.append((2 * overlap + 1) / (size + 1))
    return float(np.mean(entropy) + (1 - np.mean(dices) if dices else 0.0))


@given(partial_batches())
def test_the_marginal_loss_is_the_equation_by_hand(batch: Any) -> None:
    assert dice_ce(*batch).item() == pytest.approx(by_hand(*batch), abs=2e-5)


@given(partial_batches())
def test_an_unknown_organ_is_not_pushed_against_background(batch: Any) -> None:
    logits, label, known = batch
    logits.requires_grad_(True)
    dice_ce(logits, label, known).backward()
    p, g = torch.softmax(logits.detach(), 1), logits.grad
    assert g is not None
    for case, k in (~known).nonzero().tolist():
        # Along the direction that moves probability between the two the slope is g_k / p_k - g_0 / p_0.
        slope = g[case, k] * p[case, 0] - g[case, 0] * p[case, k]
        assert slope.abs().max() <= 1e-6


def test_without_the_mask_the_same_organ_is_pushed() -> None:
    logits = torch.zeros(1, 3, 2, 2, 2, requires_grad=True)
    dice_ce(logits, torch.zeros(1, 2, 2, 2, dtype=torch.int64)).backward()
    assert logits.grad is not None and (logits.grad[0, 2] - logits.grad[0, 0]).min() > 1e-3


@given(partial_batches())
def test_labels_of_unknown_organs_change_nothing(batch: Any) -> None:
    logits, label, known = batch
    wrong = label.clone()
    for case, k in (~known).nonzero().tolist():
        wrong[case][label[case] == 0] = k
    assert dice_ce(logits, wrong, known).item() == dice_ce(logits, label, known).item()


@given(partial_batches())
def test_when_all_is_annotated_the_loss_is_the_plain_one(batch: Any) -> None:
    logits, label, known = batch
    everything = torch.ones_like(known)
    assert dice_ce(logits, label, everything).item() == pytest.approx(
        dice_ce(logits, label).item(), abs=1e-5
    )


# ---- patches ----


@given(st.data())
def test_an_unturned_patch_is_a_plain_cut_padded_with_zeros(data: Any) -> None:
    shape = data.draw(st.tuples(*[st.integers(2, 9)] * 3))
    size = data.draw(st.tuples(*[st.integers(1, 8)] * 3))
    point = [data.draw(st.integers(0, n - 1)) for n in shape]
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    image = torch.rand(2, *shape, generator=rng) + 0.5
    label = torch.randint(1, 5, shape, generator=rng)
    centre = middle_of_patch(point, shape, size)
    x, y = cut(image, label, centre, size, torch.eye(3))
    low = [round(c - (s - 1) / 2) for c, s in zip(centre, size, strict=True)]
    for have, want, start in zip(shape, size, low, strict=True):
        assert (0 <= start <= have - want) if have > want else -(want - have) <= start <= 0
    padded = torch.nn.functional.pad(image, [10] * 6)
    wanted = padded[:, *(slice(10 + a, 10 + a + s) for a, s in zip(low, size, strict=True))]
    truth = torch.nn.functional.pad(label, [10] * 6)
    assert torch.allclose(x, wanted, atol=1e-4)
    box = tuple(slice(10 + a, 10 + a + s) for a, s in zip(low, size, strict=True))
    assert torch.equal(y, truth[box])


@given(st.integers(0, 10_000))
def test_patches_turn_but_never_mirror_unless_asked(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    assert torch.linalg.det(Augment(turned=1.0).matrix(draw)) > 0
    plain = Augment(turned=0.0).matrix(draw)
    assert torch.equal(plain, torch.eye(3))
    signs = Augment(mirror=(0,), turned=0.0).matrix(draw).diagonal()
    assert signs[0].abs() == 1 and torch.equal(signs[1:], torch.ones(2))


def test_mirrors_come_in_half_of_the_patches() -> None:
    draw = torch.Generator().manual_seed(0)
    flipped = [Augment(mirror=(0,), turned=0.0).matrix(draw)[0, 0].item() for _ in range(200)]
    assert 70 < flipped.count(-1.0) < 130


def test_shading_changes_gain_offset_and_noise_by_seed() -> None:
    x = torch.rand(2, 1, 4, 4, 4)
    once, again, other = (
        Augment().shade(x, torch.Generator().manual_seed(0), seed) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    still = Augment(gain=0, offset=0, noise=0).shade(x, torch.Generator().manual_seed(0), 1)
    assert torch.equal(still, x)


# ---- OpenKBP ----


def test_a_case_knows_what_is_annotated_and_never_shows_a_novel_organ(tmp_path: Path) -> None:
    folder = openkbp_folder(tmp_path)
    case = openkbp.load(folder, ["pt_1"])[0]  # lacks the brainstem
    assert case.known == (True, False, True, True, True, True)
    assert case.truth.max() == 5 and not (case.truth == 1).any()
    original = openkbp.load(folder, ["pt_1"], ("Larynx",))[0]
    assert (original.truth == 1).any()
    assert not case.truth[original.truth == 1].any()  # the larynx is background to the base
    assert set(case.label.unique().tolist()) == {0, 2, 3, 4, 5}
    assert (
        case.image.min() == 0 and case.image.max() <= 1 and case.image.shape[1:] == case.label.shape
    )
    # 3 mm, cut to the body: 20 x 18 x 28 voxels of 3.9 x 3.9 x 2.5 mm with the margin
    assert tuple(case.label.shape) == (26, 23, 23)


def test_voxels_of_an_organ_that_counts_as_not_annotated_are_left_out(tmp_path: Path) -> None:
    folder = openkbp_folder(tmp_path)
    file = folder / "partial.json"
    partial = json.loads(file.read_text())
    partial["pt_1"]["annotated"].remove("Mandible")
    file.write_text(json.dumps(partial))
    case = openkbp.load(folder, ["pt_1"])[0]
    assert case.known == (True, False, True, True, True, False)
    assert set(np.unique(case.truth)) == {0, 2, 3, 4}


def test_what_a_case_restores_lies_where_its_truth_lies(tmp_path: Path) -> None:
    case = openkbp.load(openkbp_folder(tmp_path), ["pt_2"])[0]
    one_hot = nn.functional.one_hot(case.label.long(), 6).movedim(-1, 0).float()
    mask = case.restore(20 * one_hot)
    assert mask.shape == case.truth.shape
    for k in range(1, 6):
        both = ((mask == k) & (case.truth == k)).sum()
        assert 2 * both >= 0.8 * ((mask == k).sum() + (case.truth == k).sum())


def test_sites_and_splits_are_fixed_by_spacing_and_hash(tmp_path: Path) -> None:
    def annotation(spacing: float) -> openkbp.Annotation:
        return openkbp.Annotation(frozenset(), (spacing, spacing, 2.5))

    assert [annotation(s).site for s in (2.7, 4.1, 4.15, 4.2, 5.4)] == [
        "source", "source", None, "shifted", "shifted",
    ]  # fmt: skip
    cases = {f"pt_{i}": annotation(3.9 if i % 3 else 4.6) for i in range(60)}
    cases["between"] = annotation(4.15)
    split = openkbp.split_source(cases)
    assert {k: len(v) for k, v in split.items()} == {"train": 28, "validation": 4, "test": 8}
    everyone = [n for names in split.values() for n in names]
    assert len(set(everyone)) == len(everyone) == 40
    assert all(cases[n].site == "source" for n in everyone)
    assert split == openkbp.split_source(dict(reversed(cases.items())))


def test_a_damaged_partial_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"partial\.json: missing"):
        openkbp.annotations(tmp_path)
    (tmp_path / "partial.json").write_text('{"pt_1": {"annotated": []}}')
    with pytest.raises(GraftError, match=r"partial\.json.*spacing_mm"):
        openkbp.annotations(tmp_path)


def test_content_hashes_follow_voxels_and_place_alone() -> None:
    voxels, affine = np.arange(8).reshape(2, 2, 2), np.eye(4)
    known = content_hash(voxels, affine)
    assert content_hash(voxels.astype(np.float32), affine + 1e-5) == known
    moved = affine.copy()
    moved[0, 3] = 0.01
    other = voxels.copy()
    other[1, 1, 1] += 1
    assert len({known, content_hash(voxels, moved), content_hash(other, affine)}) == 3
    assert content_hash(voxels.reshape(1, 4, 2), affine) != known


# ---- synthetic hippocampi ----


def test_synthetic_images_are_drawn_by_key_and_cut_to_a_box(tmp_path: Path) -> None:
    files = synth.subjects(synthseg_folder(tmp_path))
    assert len(files["test"]) == 3 and not {*files["test"]} & {*files["train"]}
    maps = synth.read_maps(files["train"])
    assert maps.labels.shape == (4, 96, 96, 96) and len(maps.targets) == 2
    image, label, box = synth.example(maps, 1, "a", 0)
    again, other = synth.example(maps, 1, "a", 0), synth.example(maps, 1, "a", 1)
    assert torch.equal(image, again[0]) and torch.equal(label, again[1]) and box == again[2]
    assert not torch.equal(image, other[0])
    assert image.shape == (1, *synth.SIZE) and set(label.unique().tolist()) == {0, 1}
    inside = image[0][box]
    assert inside.mean().abs() < 1e-4 and abs(inside.std() - 1) < 1e-3
    outside = torch.ones(synth.SIZE, dtype=torch.bool)
    outside[box] = False
    assert not image[0][outside].any() and not label[outside].any()
    assert label.sum() > 1000


@settings(max_examples=25)
@given(st.data())
def test_the_box_leaves_a_margin_around_the_target(data: Any) -> None:
    target = torch.zeros(30, 34, 32, dtype=torch.bool)
    low = [data.draw(st.integers(0, 20)) for _ in range(3)]
    high = [data.draw(st.integers(a + 1, 29)) for a in low]
    target[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    box = synth.box_of(target, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    for part, a, b, n in zip(box, low, high, target.shape, strict=True):
        assert part.start == 0 or synth.MARGIN[0] <= a - part.start <= synth.MARGIN[1]
        assert part.stop == n or synth.MARGIN[0] <= part.stop - b <= synth.MARGIN[1]
        assert part.start <= a and part.stop >= b


def test_both_sides_reach_every_contrast(tmp_path: Path) -> None:
    maps = synth.read_maps(synth.subjects(synthseg_folder(tmp_path))["train"][:1])
    brighter = []
    for k in range(12):
        image, label, box = synth.example(maps, k % 2, "contrast", k)
        values, mask = image[0][box], label[box] == 1
        brighter.append(bool(values[mask].mean() > values[~mask].mean()))
    assert {True, False} == set(brighter)


def test_label_maps_of_another_kind_are_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="holds 0 label maps"):
        synth.subjects(tmp_path)
    file = tmp_path / "labels" / "a.nii.gz"
    save(file, np.ones((8, 8, 8), np.int16), np.eye(4))
    with pytest.raises(GraftError, match=r"a\.nii\.gz: label 17"):
        synth.read_maps([file])
    save(file, np.ones((8, 8, 8), np.int16), np.diag([2, 2, 2, 1.0]))
    with pytest.raises(GraftError, match=r"a\.nii\.gz: voxels of 1 mm"):
        synth.read_maps([file])


# ---- the command ----


def test_every_plan_fits_its_file_and_names_its_classes() -> None:
    for plan in PLANS.values():
        model = build(plan.network)
        assert sum(p.numel() for p in model.parameters()) <= 8e6
        tensors = train.narrow(model.state_dict())
        size = sum(
            t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in tensors.values()
        )
        assert size <= 16e6, plan.name
        assert not any(t.dtype == torch.int64 for t in tensors.values())  # half of Swin's file
        contract = plan.contract()
        assert contract.classes == plan.classes and contract.orientation == "RAS"
    assert not {*openkbp.NOVEL_ORGANS} & {*PLANS["openkbp-swin"].classes}


def test_openkbp_trains_scores_and_writes(tmp_path: Path) -> None:
    folder, out = openkbp_folder(tmp_path / "data"), tmp_path / "base.safetensors"
    for name in ("pt_7", "pt_8", "pt_9"):  # the shifted site is never opened
        (folder / "images" / f"{name}.nii.gz").unlink()
    command = ["openkbp-segresnet", "--data", str(folder), "--out", str(out), "--device", "cpu",
               "--steps", "2", "--batch", "1", "--patch", "16", "16", "16", "--threads", "1"]  # fmt: skip
    assert train.main(command) == 0
    assert not train.resume_file(out).exists()
    loaded = load_pretrained(out)
    assert loaded.classes == ("background", *openkbp.BASE_ORGANS)
    assert loaded.meta["contract"]["intensity"][0]["rule"] == "window"
    record = json.loads(out.with_suffix(".json").read_text())
    validate_record(out.with_suffix(".json"))
    rows = {(r["case"], r["metric"]): r for r in record["rows"]}
    split = openkbp.split_source(openkbp.annotations(folder))
    for group in ("validation", "test"):
        for k, organ in enumerate(openkbp.BASE_ORGANS):
            case = openkbp.load(folder, split[group])[0]
            row = rows[f"{group} {organ}", "dice"]
            assert row["n"] == int(case.known[k + 1])
            assert ("1 cases without annotation" in row["note"]) is not case.known[k + 1]
    assert record["verdict"].startswith("not seen")
    assert record["data"]["openkbp train"] and "openkbp test" in record["data"]
    text = out.with_suffix(".md").read_text()
    assert text.startswith("---\nname: base.safetensors\nkind: checkpoint\n") and "larynx" in text


def test_synth_trains_scores_measured_cases_and_writes(tmp_path: Path) -> None:
    folder, out = synthseg_folder(tmp_path / "data"), tmp_path / "synth.safetensors"
    command = ["synth-hippocampus", "--data", str(folder), "--out", str(out), "--device", "cpu",
               "--steps", "1", "--batch", "1", "--limit", "1"]  # fmt: skip
    assert train.main(command) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert [r["case"] for r in record["rows"]] == ["synthetic test hippocampus"] * 3
    assert record["rows"][0]["n"] == 8
    assert "SYNTHETIC" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["nonsense"], "PLAN 'nonsense': choose one of openkbp-swin"),
        (["openkbp-swin", "--steps", "1", "--minutes", "1"], "give one of the two"),
        (["openkbp-swin", "--rate", "-1"], "--rate -1.0 must be positive"),
        (["openkbp-swin"], "partial.json: missing"),
        (["synth-hippocampus"], "holds 0 label maps"),
        (["openkbp-swin", "--real", "x"], "no measured set"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        change[0],
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "o.safetensors"),
        *change[1:],
    ]
    assert train.main(command) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and message in printed and printed.count("\n") == 1


# ---- the real sets ----


def test_the_real_cohort_splits_as_its_card_says() -> None:
    folder = real("openkbp")
    cases = openkbp.annotations(folder)
    sites = [a.site for a in cases.values()]
    assert (sites.count("source"), sites.count("shifted"), sites.count(None)) == (147, 96, 3)
    split = openkbp.split_source(cases)
    assert {k: len(v) for k, v in split.items()} == {"train": 103, "validation": 15, "test": 29}
    case = openkbp.load(folder, split["test"][:1])[0]
    one_hot = nn.functional.one_hot(case.label.long(), 6).movedim(-1, 0).float()
    mask = case.restore(20 * one_hot)
    for k in case.label.unique().tolist()[1:]:
        both = ((mask == k) & (case.truth == k)).sum()
        assert 2 * both > 0.85 * ((mask == k).sum() + (case.truth == k).sum())


def test_the_real_label_maps_give_whole_hippocampi() -> None:
    files = synth.subjects(real("synthseg"))
    assert {k: len(v) for k, v in files.items()} == {"test": 3, "train": 13}
    maps = synth.read_maps(files["test"][:1])
    for i in range(2):
        _, label, box = synth.example(maps, i, "real", i)
        assert 1000 < label.sum() < 9000
        assert all(24 <= part.stop - part.start <= 64 for part in box)

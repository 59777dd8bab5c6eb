"""The preprocessing contract: data that round-trips, what is out of range, and how it travels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_medseg.app import main
from graftwork_medseg.data import ImageFiles
from graftwork_medseg.images.agree import UNSTATED, Options, agree
from graftwork_medseg.images.contract import Contract, Intensity, Observed, Ranges
from graftwork_medseg.images.volume import simulated
from graftwork_medseg.networks import network
from graftwork_medseg.networks.base_contract import measure
from graftwork_medseg.networks.network import NetworkConfig
from graftwork_runs import validate_record
from tests.medseg.conftest import write_nifti
from tests.medseg.kit import noise

CASE = Observed((1.0, 1.0, 2.0), (200.0, 220.0, 240.0), ((-1000.0, 0.0, 400.0),))
OTHER = Observed((0.8, 1.0, 3.0), (180.0, 220.0, 300.0), ((-990.0, 20.0, 500.0),))
CT = Contract(
    classes=("background", "liver"),
    channels=("CT",),
    spacing=(1.5, 1.5, 2.0),
    intensity=Intensity("window", -175, 250),
    patch=(96, 96, 64),
    ranges=Ranges.of([CASE, OTHER]),
)

numbers = st.floats(0.1, 500)
triples = st.tuples(numbers, numbers, numbers)
orientations = st.sampled_from(["RAS", "LPS", "SAR", "PIR", "ijk", "kji", "ikj", "jki"])
rules = st.one_of(
    st.sampled_from([Intensity(r) for r in ("volume", "nonzero", "zscore", "none")]),
    st.just(Intensity("zscore", mask=True)),
    st.builds(lambda a, b: Intensity("window", -a, b), numbers, numbers),
    st.builds(lambda a, b, m, s: Intensity("ct", -a, b, m, s), numbers, numbers, numbers, numbers),
)
observed = st.builds(lambda s, e, q: Observed(s, e, (tuple(sorted(q)),)), triples, triples, triples)


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(st.none(), triples, numbers),
    rules,
    orientations,
    st.one_of(st.none(), st.lists(observed, min_size=1, max_size=3).map(Ranges.of)),
)
def test_a_contract_survives_json(spacing: Any, rule: Any, axes: str, ranges: Any) -> None:
    contract = Contract(("background", "x"), ("CT",), spacing, rule, axes, (8, 9, 10), ranges)
    again = Contract.from_json(json.loads(json.dumps(contract.to_json())), "file")
    assert again == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "contract of version 2, this medseg reads 1"),
        ({"banana": 1}, "unknown field 'banana'"),
        ({"orientation": "RAL"}, "orientation 'RAL'"),
        ({"orientation": "RAs"}, "orientation 'RAs'"),
        ({"spacing": [1, 0, 1]}, "contract.spacing"),
        ({"spacing": [1, float("nan"), 1]}, "contract.spacing"),
        ({"patch": [8, 8]}, "contract.patch"),
        ({"classes": ["background", 3]}, "contract.classes must be printable names"),
        ({"channels": ["\x1b[31mCT"]}, "contract.channels must be printable names"),
        ({"intensity": [{"rule": "magic"}]}, "intensity.rule 'magic'"),
        ({"intensity": [{"rule": "window", "low": 3}]}, "needs high"),
        ({"intensity": [{"rule": "window", "low": 3, "high": 3}]}, "must be below high"),
        ({"intensity": [{"rule": "volume", "low": 3}]}, "takes no low"),
        ({"intensity": [{"rule": "none"}] * 3}, "3 rules for 1 channels"),
        ({"intensity": 7}, "damaged"),
        ({"ranges": {"spacing": [[1, 2]]}}, "three pairs"),
        ({"ranges": {"spacing": [[1, 2], [3, 1], [1, 2]]}}, "three pairs"),
    ],
)
def test_a_damaged_contract_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftError, match=message) as caught:
        Contract.from_json({**CT.to_json(), **change}, "somewhere/graft.json")
    assert "somewhere/graft.json" in str(caught.value)


# -- out of range


@settings(max_examples=50, deadline=None)
@given(st.lists(observed, min_size=1, max_size=4))
def test_training_cases_are_inside_their_own_range(cases: list[Observed]) -> None:
    contract = replace(CT, ranges=Ranges.of(cases))
    assert [contract.warnings(case) for case in cases] == [[]] * len(cases)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2), st.booleans(), st.sampled_from(["spacing", "extent"]), st.floats(1.02, 9))
def test_one_axis_outside_is_one_line_with_its_name(
    axis: int, above: bool, field: str, factor: float
) -> None:
    spans = getattr(CT.ranges, field)
    values = list(getattr(CASE, field))
    values[axis] = spans[axis][1] * factor if above else spans[axis][0] / factor
    [line] = CT.warnings(replace(CASE, **{field: tuple(values)}))
    low, high = spans[axis]
    assert line.startswith(f"outside the training range: {field} {'xyz'[axis]} ")
    assert line.endswith(f"trained on {low:.3g} to {high:.3g}")


def test_the_line_by_hand() -> None:
    [line] = CT.warnings(replace(CASE, spacing=(1.0, 1.0, 7.0)))
    assert line == "outside the training range: spacing z 7 mm, trained on 2 to 3"
    # A tenth of [-1000, 500] is 150: 649 is inside, 651 is not.
    assert not CT.warnings(replace(CASE, percentiles=((-1000.0, 0.0, 649.0),)))
    [line] = CT.warnings(replace(CASE, percentiles=((-1000.0, 0.0, 651.0),)))
    assert line == (
        "outside the training range: intensity of CT, 99.5 % quantile 651, trained on 400 to 500"
    )


def test_the_axis_is_named_by_what_it_is_not_by_its_place() -> None:
    turned = replace(CT, orientation="kji")
    [line] = turned.warnings(replace(CASE, spacing=(9.0, 1.0, 2.0)))
    assert "spacing z 9 mm" in line


def test_ranges_join_and_unknown_ranges_warn_of_nothing() -> None:
    one, other = Ranges.of([CASE]), Ranges.of([OTHER])
    assert one.union(other) == Ranges.of([CASE, OTHER]) and one.union(None) == one
    assert Ranges().union(one).spacing is None
    far = Observed((99.0,) * 3, (9999.0,) * 3, ((-1e6, 1e6, 1e7),))
    assert (
        replace(CT, ranges=None).warnings(far) == replace(CT, ranges=Ranges()).warnings(far) == []
    )


# -- options against a contract


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(spacing=3.0), r"data.spacing 3 mm contradicts runs/a/graft, .* 1.5 x 1.5 x 2 mm"),
        (Options(spacing="own"), r"data.spacing each image's own contradicts .* 1.5 x 1.5 x 2 mm"),
        (
            Options(intensity=Intensity("volume")),
            r"data.intensity volume contradicts .* \[-175, 250\]",
        ),
        (Options(channels=("T1", "T2")), r"has 2 channel\(s\), T1, T2; runs/a/graft .* 1: CT"),
        (Options(classes=("background", "spleen")), "background, spleen; runs/a/graft tells apart"),
    ],
)
def test_a_contradiction_names_both_values(options: Options, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        agree(CT, options, "runs/a/graft", free=False, graft=True)


def test_options_that_say_the_same_are_taken() -> None:
    same = Options((1.5, 1.5, 2.0004), Intensity("window", -175, 250), ("ct",), CT.classes)
    assert agree(CT, same, "x", free=False, graft=True) == CT
    assert agree(CT, Options(), "x", free=False, graft=True) == CT


def test_a_new_graft_may_choose_and_what_nobody_states_must_be_given() -> None:
    options = Options(3.0, Intensity("volume"), ("T1",), ("background", "a", "b"))
    made = agree(CT, options, "base", free=True, graft=False, patch=(8, 8, 8))
    assert made == Contract(
        options.classes, ("T1",), 3.0, Intensity("volume"), "RAS", (8, 8, 8), None
    )
    with pytest.raises(GraftError, match=r"w.pth: states no preprocessing; give data.intensity"):
        agree(None, Options(spacing=2.0), "w.pth", free=False, graft=False)
    own = agree(None, Options("own", Intensity("none")), "w.pth", free=False, graft=False)
    assert own.spacing is None and own.rules == (Intensity("none"),)


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), (1.0, 2.0, 0.0)])
def test_bad_spacing_is_named(tmp_path: Path, spacing: Any) -> None:
    with pytest.raises(GraftError, match=r"data\.spacing"):
        ImageFiles([str(tmp_path / "x.nii")], spacing=spacing)


# -- where it is kept


def test_a_weights_file_carries_its_contract(tmp_path: Path) -> None:
    args = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
    }
    config = NetworkConfig("UNet", args)
    for name, contract in (("with", CT), ("without", None)):
        network.save_weights(
            network.build(config), tmp_path / f"{name}.safetensors",
            config=config, classes=CT.classes, contract=contract,
        )  # fmt: skip
    assert network.load_pretrained(tmp_path / "with.safetensors").contract == CT
    # From before there were contracts: the way in which everything was trained then.
    old = network.load_pretrained(tmp_path / "without.safetensors").contract
    assert old == replace(UNSTATED, classes=CT.classes)
    (tmp_path / "without.contract.json").write_text(json.dumps(CT.to_json()))
    assert network.load_pretrained(tmp_path / "without.safetensors").contract == CT
    (tmp_path / "without.contract.json").write_text("{")
    with pytest.raises(GraftError, match=r"without\.contract\.json: cannot be read as JSON"):
        network.load_pretrained(tmp_path / "without.safetensors")


def test_the_shipped_base_knows_its_scanner() -> None:
    base = network.load_pretrained()
    contract = base.contract
    assert contract is not None and contract.classes == base.classes
    again = measure(2)
    assert replace(again, ranges=None) == replace(contract, ranges=None)
    assert again.ranges is not None and again.ranges.union(contract.ranges) == contract.ranges
    assert contract.warnings(simulated("a", 950, contract=contract).observed) == []
    [line] = contract.warnings(simulated("b", 1001, contract=contract).observed)
    assert "99.5 % quantile" in line and "after normalisation" in line


# -- the command line


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


FAST = [
    "--trainer.max_epochs=1",
    "--data.patches_per_epoch=2",
    "--data.roi=[16,16,16]",
    "--trainer.accelerator=cpu",
]
WINDOW = '{"rule": "window", "low": -1.0, "high": 3.0}'


def test_only_the_adapter_and_the_images_are_needed(
    make_folder: Callable[..., Path],
    tmp_path: Path,
    elsewhere: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = {"0": "background", "1": "shell", "2": "core"}
    folder = make_folder(labels=labels, modality={"0": "CT"})
    data = ["--data=graftwork_medseg.data.FolderData", f"--data.path={folder}"]
    chosen = ["--data.spacing=[2.0,3.0,4.0]", f"--data.intensity={WINDOW}"]
    assert main(["fit", *data, *chosen, "--run_dir=a", *FAST, "--quiet"]) == 0
    section = gw.inspect("a/graft")["app"]["medseg"]
    contract = Contract.from_json(section["contract"], "a/graft")
    assert contract.spacing == (2, 3, 4) and contract.channels == ("CT",)
    assert contract.rules == (Intensity("window", -1.0, 3.0),)
    assert contract.classes == tuple(labels.values()) and contract.patch == (16, 16, 16)
    assert contract.ranges is not None and contract.ranges.spacing == ((2, 2),) * 3

    # An oblique, anisotropic image whose axes are not RAS, with slices of 7 mm.
    matrix = np.array([[0.0, -2.0, 0.2], [2.0, 0.1, 0.0], [0.1, 0.0, 7.0]])
    affine = nib.affines.from_matvec(matrix, [5, 6, 7])
    write_nifti(tmp_path / "scan.nii.gz", noise((33, 36, 10)) / 200, affine)
    predict = ["predict", "--adapter=a/graft", "--trainer.accelerator=cpu"]
    predict += ["--data=graftwork_medseg.data.ImageFiles", "--data.files=[scan.nii.gz]"]
    capsys.readouterr()
    assert main([*predict, "--run_dir=p"]) == 0
    warned = capsys.readouterr().err
    want = "case scan: outside the training range: spacing z 7 mm, trained on 2 to 2"
    assert f"medseg: warning: {want}" in warned
    record = validate_record(tmp_path / "p" / "record.json")
    assert want.removeprefix("case scan: ") in record.details["outside the training range"]["scan"]
    assert Contract.from_json(record.details["contract"], "record") == contract
    assert "spacing z 7 mm" in (tmp_path / "p" / "report.html").read_text(encoding="utf8")
    mask, source = nib.load("p/predictions/scan.nii.gz"), nib.load("scan.nii.gz")
    assert mask.shape == source.shape and mask.affine.tobytes() == source.affine.tobytes()

    # The same values given again are fine; others are refused, with both.
    for options, code, message in (
        (chosen, 0, ""),
        (["--data.spacing=1.0"], 2, "data.spacing 1 mm contradicts a/graft"),
        (["--data.spacing=own"], 2, "was trained at 2 x 3 x 4 mm"),
        (['--data.intensity={"rule": "volume"}'], 2, "data.intensity volume contradicts a/graft"),
    ):
        assert main([*predict, *options, "--run_dir=q"]) == code
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert (tmp_path / "q").exists() == (code == 0)
        if code == 0:
            (tmp_path / "q").rename(tmp_path / "q0")

    # The whole network, merged, states it too.
    merged = ["--adapter=a/graft", "--merged=true", "--output=m.safetensors", "--run_dir=e"]
    assert main(["export", *data, *merged]) == 0
    assert network.load_pretrained("m.safetensors").contract == contract

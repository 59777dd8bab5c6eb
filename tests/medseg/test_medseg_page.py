"""The local page over HTTP: scans in, masks and report out, and nothing for anybody else."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from graftwork_medseg.demo import sim, task
from graftwork_medseg.page import desk as desks
from graftwork_medseg.page import niivue
from graftwork_medseg.prediction import metrics
from graftwork_runs import Page
from tests.medseg.page_session import cells, desk_of, fetch, oblique, opened, post


def test_the_front_page_says_what_is_in_use_and_what_it_is_not(session: Page) -> None:
    status, content, headers = fetch(session.url)
    text = content.decode()
    assert status == 200 and "No medical device: for research only" in text
    assert "18; also trained: 27 modules" in text and "23,673 parameters, 1.99 %" in text
    assert "base.file (SegResNet)" in text and "none &lt;b&gt;" in text and "none <b>" not in text
    assert "GM, WM, CSF" in text and session.token in text
    names = [n for group in desk_of(session).examples().values() for n in group]
    assert len(names) == 16 and all(f"value='{n}'" in text for n in names)
    # None of the examples was trained on.
    trained = {f"-{s:04d}" for s in task.subjects()["train"]}
    assert not [n for n in names if n[1:] in trained]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_no_inline_script_runs_and_nothing_comes_from_elsewhere(
    session: Page, example: tuple[str, str]
) -> None:
    _, content, _ = fetch(session.url)
    for text in (content.decode(), example[1]):
        policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
        assert policy
        rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
        assert rules["default-src"] == "'none'" and "unsafe" not in rules["script-src"]
        sources = " ".join(rules.values())
        assert "http" not in sources and "*" not in sources
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', text)
        assert not re.findall(r"\son\w+=", text)


def test_an_example_is_segmented_by_base_and_graft(
    session: Page, example: tuple[str, str], tmp_path: Path
) -> None:
    url, page = example
    desk = desk_of(session)
    case = desk.cases[url.rsplit("/", 1)[1]]
    masks = {}
    for mask in ("base", "adapted", "truth"):
        status, content, headers = fetch(f"{url}/{mask}.nii.gz")
        assert status == 200 and headers["Content-Type"] == "application/gzip"
        name = f"simulated-{desk.examples()['b'][0]}-{mask}.nii.gz"
        assert headers["Content-Disposition"] == f'attachment; filename="{name}"'
        masks[mask] = np.asarray(opened(content, tmp_path).dataobj)
    assert set(np.unique(masks["base"])) <= {0, 1, 2}
    assert (masks["base"] != masks["adapted"]).any()
    assert (masks["truth"] == sim.simulate("b", task.subjects()["test"][0]).label.numpy()).all()
    found = cells(page)
    for k, name in enumerate(sim.CLASSES[1:], 1):
        volume = {m: f"{(a == k).sum() * 0.008:,.1f}" for m, a in masks.items()}
        truth = metrics.score(masks["adapted"] == k, masks["truth"] == k, [2.0] * 3).dice
        assert found[name][1:3] == [volume["adapted"], volume["truth"]]
        assert found[name][4] == f"{truth:.3f}"
        assert found[name][0] == (volume["base"] if k < 3 else "–")
    assert found["CSF"][3] == "–" and "The base has no output for CSF" in page
    assert case.simulated and "is simulated" in page


def test_the_viewer_is_told_every_file_and_colour(session: Page, example: tuple[str, str]) -> None:
    _, page = example
    found = re.search(r'data-case="(.*?)"', page)
    assert found
    told = json.loads(unescape(found[1]))
    assert list(told["masks"]) == ["base", "adapted", "truth"]
    assert told["classes"] == list(sim.CLASSES) and len(told["colours"]) == 3
    assert all(0 < x < 1 for x in told["start"])
    for address in [told["image"], *told["masks"].values()]:
        assert fetch(session.url.rstrip("/") + address)[0] == 200
    status, widget, headers = fetch(session.url.rstrip("/") + told["widget"])
    assert status == 200 and headers["Content-Type"].startswith("text/javascript")
    path = niivue.find()
    assert path is not None and widget == path.read_bytes()


def test_niivue_is_found_without_importing_its_package() -> None:
    code = (
        "import sys; from graftwork_medseg.page import niivue; assert niivue.find();"
        "print([m for m in ('ipyniivue', 'anywidget', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_there_are_slices_and_the_remedy(
    session: Page, example: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niivue, "PACKAGE", "a-package-that-is-not-there")
    assert niivue.find() is None
    _, content, _ = fetch(example[0])
    text = content.decode()
    assert "graftwork-medseg[viewer]" in text and 'id="viewer"' not in text
    assert text.count('class="plane"') == 3 and "data:image/png" in text
    assert fetch(session.url + "niivue/widget.js")[0] == 404


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_an_upload_comes_back_on_its_own_grid(session: Page, tmp_path: Path, name: str) -> None:
    source = oblique(tmp_path / "mine", name)
    status, page, headers = post(session, "upload", {"image": source})
    text = page.decode()
    assert status == 200 and "<h1>scan</h1>" in text and "30 × 34 × 16" in text
    assert "Dice" not in "".join(cells(text)) and 'value="truth"' not in text
    assert cells(text).keys() == set(sim.CLASSES[1:])
    want = nib.load(source)
    status, content, kinds = fetch(headers["url"] + "/adapted.nii.gz")
    assert status == 200 and 'filename="scan-adapted.nii.gz"' in kinds["Content-Disposition"]
    mask = opened(content, tmp_path)
    assert mask.shape == want.shape and mask.affine.tobytes() == want.affine.tobytes()
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
                  "qoffset_y", "qoffset_z", "pixdim", "qform_code", "sform_code"):  # fmt: skip
        assert mask.header[field].tobytes() == want.header[field].tobytes(), field
    assert np.asarray(mask.dataobj).dtype == np.uint8
    desk = desk_of(session)
    case = desk.cases[headers["url"].rsplit("/", 1)[1]]
    assert (np.asarray(mask.dataobj) == case.masks["adapted"]).all()
    # The scan that the viewer gets is the file that was sent.
    assert fetch(f"{headers['url']}/{case.image}")[1] == source.read_bytes()


def test_labels_of_an_upload_give_dice_and_a_report(session: Page, tmp_path: Path) -> None:
    image = oblique(tmp_path / "a")
    label = np.zeros((30, 34, 16), np.uint8)
    label[5:20, 5:20, 4:12] = 3
    truth = oblique(tmp_path / "b", "label.nii.gz", voxels=label)
    status, page, headers = post(session, "upload", {"image": image, "label": truth})
    assert status == 200 and "Dice, adapted" in page.decode()
    mask = opened(fetch(headers["url"] + "/adapted.nii.gz")[1], tmp_path)
    want = metrics.dice(np.asarray(mask.dataobj) == 3, label == 3)
    assert cells(page.decode())["CSF"][4] == f"{want:.3f}"
    status, report, kinds = fetch(headers["url"] + "/report.html")
    text = report.decode()
    assert status == 200 and 'filename="scan-report.html"' in kinds["Content-Disposition"]
    assert "No medical device" in text and "Dice, adapted" in text and "23,673" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)


def bad_upload(kind: str, folder: Path) -> dict[str, Path]:
    image = oblique(folder)
    if kind == "text":
        image.write_text("not an image")
    elif kind == "short":
        image.write_bytes(image.read_bytes()[:2000])
    elif kind == "checksum":
        content = bytearray(image.read_bytes())
        content[-6] ^= 1
        image.write_bytes(content)
    elif kind == "four":
        oblique(folder, voxels=np.zeros((4, 4, 4, 2), np.float32))
    elif kind == "nan":
        oblique(folder, voxels=np.full((8, 8, 8), np.nan, np.float32))
    elif kind == "bomb":
        # A header that promises more than the memory holds, in a file of a few bytes.
        header = nib.Nifti1Header()
        header.set_data_shape((32000, 32000, 32000))
        header["magic"] = b"n+1"
        header.set_sform(np.eye(4), 1)
        image.write_bytes(gzip.compress(header.binaryblock + b"\0" * 64))
    elif kind == "grid":
        return {"image": image, "label": oblique(folder, "label.nii", voxels=np.ones((4, 4, 4)))}
    elif kind == "values":
        label = np.full((30, 34, 16), 9, np.uint8)
        return {"image": image, "label": oblique(folder, "label.nii", voxels=label)}
    elif kind == "ending":
        return {"image": image.rename(folder / "scan.png")}
    elif kind == "empty":
        image.write_bytes(b"")
    return {"image": image}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "scan.nii.gz: not a readable NIfTI file"),
        ("short", "scan.nii.gz: its voxels cannot be read"),
        ("checksum", "scan.nii.gz: its voxels cannot be read"),
        ("four", "a 3D image is needed"),
        ("nan", "voxels are NaN or infinite"),
        ("bomb", "GiB of memory"),
        ("grid", "label.nii: label grid"),
        ("values", "label.nii: label values 9"),
        ("ending", "scan.png: not a readable NIfTI file"),
        ("empty", "No image was chosen"),
    ],
)
def test_a_bad_upload_is_named_and_leaves_nothing(
    session: Page, tmp_path: Path, kind: str, words: str
) -> None:
    desk = desk_of(session)
    before = list(desk.cases), sorted(desk.folder.iterdir())
    status, page, _ = post(session, "upload", bad_upload(kind, tmp_path / "mine"))
    text = unescape(page.decode())
    assert status == 400 and words in text
    assert "Traceback" not in text and "graftwork-" not in text.partition("<main>")[2]
    assert (list(desk.cases), sorted(desk.folder.iterdir())) == before


def test_a_form_needs_this_page_and_this_host(session: Page, tmp_path: Path) -> None:
    desk = desk_of(session)
    before = list(desk.cases)
    name = desk.examples()["b"][0]
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert post(session, "example", headers=headers, example=name)[0] == 403
    assert post(session, "example", token="guess", example=name)[0] == 403
    assert post(session, "upload", {"image": oblique(tmp_path)}, token="")[0] == 403
    assert fetch(session.url, headers={"Host": "evil.example"})[0] == 403
    assert post(session, "example", example="b-1002")[0] == 400  # trained on, so no example
    assert post(session, "elsewhere")[0] == 404
    assert list(desk.cases) == before


@pytest.mark.parametrize(
    "tail",
    ["../../graft.json", "%2e%2e%2fgraft.json", "passwd", "adapted.nii", "./adapted.nii.gz", "x/y"],
)
def test_only_a_cases_own_files_are_served(
    session: Page, example: tuple[str, str], tail: str
) -> None:
    url, _ = example
    (desk_of(session).folder / "graft.json").write_text("private")
    try:
        for address in (f"{url}/{tail}", f"{session.url}case/unknown/{tail}"):
            status, content, _ = fetch(address)
            assert status == 404 and b"private" not in content
    finally:
        (desk_of(session).folder / "graft.json").unlink()


def test_uploads_have_a_limit(
    session: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "limit", 1000)
    status, page, _ = post(session, "upload", {"image": oblique(tmp_path)})
    assert status == 413 and b"larger than" in page


def test_the_oldest_case_goes_first(
    session: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(session)
    monkeypatch.setattr(desks, "KEPT", len(desk.cases) + 1)
    source = oblique(tmp_path)
    _, _, first = post(session, "upload", {"image": source})
    before = list(desk.cases)
    desk.cases.move_to_end(before[-1], last=False)
    gone = desk.cases[before[-1]].folder
    post(session, "upload", {"image": source})
    assert before[-1] not in desk.cases and not gone.exists()
    assert fetch(first["url"])[0] == 404 and set(before[:-1]) < set(desk.cases)

"""The local page over HTTP: scans in, masks and report out, and nothing for anybody else."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import graftwork as gw
from graftwork import GraftError
from graftwork_medseg import demo_report, fewshot, metrics, sim
from graftwork_medseg.module import Segmenter
from graftwork_medseg.network import NetworkConfig
from graftwork_medseg.page import desk as desks
from graftwork_medseg.page import niivue
from graftwork_medseg.page.desk import Desk
from graftwork_medseg.page.finished import newest_demo
from graftwork_medseg.page.server import TITLE, CasePages
from graftwork_runs import Page, Record, Row, RunFolder

COMMAND = "from graftwork_medseg.app import main; import sys; sys.exit(main(sys.argv[1:]))"
GRID = nib.affines.from_matvec(
    np.array([[0.0, -1.4, 0.2], [1.1, 0.1, 0.0], [0.1, 0.0, 2.5]]), [5, 6, 7]
)


def made_graft(model: Segmenter) -> gw.Graft:
    """A graft of the demo's shape whose masks differ from the base's: its tensors are random."""
    graft, _ = fewshot.graft_arm(model.network, fewshot.PLAN, 0, fewshot.HEAD_RATE)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return graft


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "graft"
    card = {"card": "none <b>", "classes": list(sim.CLASSES)}
    gw.save(made_graft(Segmenter()), folder, data_card=card)
    return folder


@pytest.fixture(scope="module")
def session(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page whose first case is an example, seen once for all tests."""
    model = Segmenter()
    graft = gw.load(model.network, adapter)
    folder = tmp_path_factory.mktemp("session")
    desk = Desk(model, graft, gw.inspect(adapter), folder, base="base.file", classes=sim.CLASSES)
    with Page(TITLE, root=folder / "runs", pages=CasePages(desk)) as page:
        yield page
    desk.close()
    assert not list(folder.iterdir())


def desk_of(page: Page) -> Desk:
    assert isinstance(page.pages, CasePages)
    return page.pages.desk


Got = tuple[int, bytes, dict[str, str]]


def fetch(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Got:
    """Status, content and headers; redirects are followed."""
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as got:
            return got.status, got.read(), {**got.headers, "url": got.url}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def post(
    page: Page,
    where: str,
    files: dict[str, Path] | None = None,
    headers: dict[str, str] | None = None,
    **fields: str,
) -> Got:
    parts = {"token": page.token, **fields}
    body = b"".join(
        f'--XX\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in parts.items()
    )
    for name, path in (files or {}).items():
        head = f'name="{name}"; filename="{path.name}"'
        body += f"--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
        body += path.read_bytes() + b"\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    return fetch(page.url + where, body + b"--XX--\r\n", {**kind, **(headers or {})})


@pytest.fixture(scope="module")
def example(session: Page) -> tuple[str, str]:
    """Address and HTML of the example's page."""
    name = desk_of(session).examples()["b"][0]
    status, page, headers = post(session, "example", example=name)
    assert status == 200
    return headers["url"], page.decode()


def oblique(folder: Path, name: str = "scan.nii.gz", **options: Any) -> Path:
    """A small scan on an oblique grid whose qform and sform differ, as scanners write them."""
    noise = np.random.default_rng(0).normal(size=(30, 34, 16)).astype(np.float32)
    image = nib.Nifti1Image(options.get("voxels", noise), GRID)
    image.set_qform(GRID, 1, strip_shears=True)
    image.set_sform(GRID, 2)
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(image, folder / name)
    return folder / name


def opened(content: bytes, folder: Path) -> Any:
    path = folder / "got.nii.gz"
    path.write_bytes(content)
    return nib.load(path)


def cells(page: str) -> dict[str, list[str]]:
    """The rows of the page's table by class."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
    text = [
        (re.sub("<.*?>", "", name), re.findall(r"<td.*?>(.*?)</td>", rest)) for name, rest in rows
    ]
    return {name: [re.sub("<.*?>", "", c) for c in found] for name, found in text}


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
    trained = {f"-{s:04d}" for s in fewshot.subjects()["train"]}
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
    assert (masks["truth"] == sim.simulate("b", fewshot.subjects()["test"][0]).label.numpy()).all()
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
    url, page = example
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


def test_classes_that_nobody_named_are_numbered(adapter: Path, tmp_path: Path) -> None:
    model = Segmenter()
    graft = gw.load(model.network, adapter)
    desk = Desk(model, graft, gw.inspect(adapter), tmp_path, base="b")
    assert desk.classes == ("background", "GM", "WM", "class 3")
    # A simulated truth has other classes, so nothing is compared with it.
    assert not desk._dice({"base": np.zeros(1), "adapted": np.zeros(1)})
    renamed = ("background", "lesion", "WM", "CSF")
    other = Desk(model, graft, gw.inspect(adapter), tmp_path, base="b", classes=renamed)
    assert [other.holds("base", k) for k in (1, 2, 3)] == [False, True, False]
    assert all(other.holds("adapted", k) for k in (1, 2, 3))


def test_a_network_of_several_channels_is_refused(tmp_path: Path) -> None:
    args = {"spatial_dims": 3, "in_channels": 2, "out_channels": 3, "init_filters": 8}
    model = Segmenter(NetworkConfig("SegResNet", args))
    graft = gw.graft(model.network, gw.LoRA(rank=1), sites=["conv_final.2.conv"])
    with pytest.raises(GraftError, match="takes 2 channels"):
        Desk(model, graft, {}, tmp_path, base="b")


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_dice_is_symmetric_and_one_only_for_equals(seed: int, a: float, b: float) -> None:
    draw = np.random.default_rng(seed)
    p, r = draw.random((3, 4, 5)) < a, draw.random((3, 4, 5)) < b
    value = metrics.dice(p, r)
    assert value == metrics.dice(r, p) == metrics.score(p, r, [1.0] * 3).dice
    assert 0 <= value <= 1 and (value == 1) == bool((p == r).all())
    assert (value == 0) == bool(not (p & r).any() and (p | r).any())


def finished(root: Path, name: str, record: str, graft: bool = True) -> RunFolder:
    run = RunFolder.create("medseg", name, root)
    if graft:
        run.graft.mkdir()
    rows = [Row(case="mean", variant="graft", metric="dice", value=0.5)]
    made = demo_report.environment("cpu")
    run.write_record(Record(record=record, claim="c", command="medseg demo", **made, rows=rows))
    return run


def test_the_newest_finished_demo_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraftError, match="run `medseg demo` first"):
        newest_demo()
    runs = [finished(Path("runs"), "demo", "medseg/demo")]
    runs += [finished(Path("runs"), "fit", "medseg/fit")]
    runs += [finished(Path("runs"), "demo", "medseg/demo", graft=False)]
    RunFolder.create("medseg", "demo", "runs")  # not finished
    assert newest_demo() == runs[0].graft
    newer = finished(Path("runs"), "other", "medseg/demo")
    later = time.time() + 10
    import os

    os.utime(newer.path / ".graftwork-run.json", (later, later))
    assert newest_demo() == newer.graft
    newer.record.write_text("{}")
    assert newest_demo() == runs[0].graft
    assert newest_demo(str(newer.path)) == newer.path / "graft"
    with pytest.raises(GraftError, match="name the folder of a finished run"):
        newest_demo("nowhere")


def command(*options: str, cwd: Path) -> subprocess.Popen[str]:
    # A shell that starts jobs in the background lets them ignore Ctrl-C; the command must not inherit that.
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "demo", "--serve", *options],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_serves_until_it_is_told_to_end(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setenv("TMPDIR", str(kept))
    with command("--adapter", str(adapter), cwd=tmp_path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "demo:" in first
        line = process.stdout.readline()
        found = re.match(r"page: (http://127\.0\.0\.1:(\d+)/) ", line)
        assert found, line + process.stdout.read()
        status, page, _ = fetch(found[1])
        assert status == 200 and b"GM, WM, CSF" in page
        assert list(kept.iterdir()), "the session has a folder of its own"
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(60) == code, rest
    assert "Traceback" not in rest
    assert not [p for p in kept.iterdir() if p.name.startswith("medseg")]
    assert not (tmp_path / "runs").exists()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(found[2])))


@pytest.fixture
def inside() -> Callable[..., int]:
    from graftwork_medseg.app import main

    return lambda *options: main(["demo", "--serve", *options])


def test_the_command_names_what_is_missing(
    inside: Callable[..., int],
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside() == 2
    assert "run `medseg demo` first" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert inside("--adapter", str(adapter), "--port", str(port)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"port {port}: cannot be opened" in said
    assert inside("--adapter", str(adapter), "--port", "99999") == 2
    assert "port 99999" in capsys.readouterr().err
    assert inside("--adapter", str(adapter), "--dry_run") == 0
    assert not (tmp_path / "runs").exists()

"""Reports: one offline file, hostile text harmless, worst case open, small enough to mail."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftwork import GraftError
from graftwork_runs import (
    Case,
    Figure,
    Measure,
    Picture,
    Record,
    Report,
    Row,
    Text,
    Tree,
    Volume,
    environment,
    side_by_side,
)

HOSTILE = "\"'><img src=x onerror=alert(1)></script><script>alert(2)</script>&lt;b&gt;\x00"


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all elements were closed in order."""

    VOID = frozenset({"meta", "img", "input", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def a_volume(shape: tuple[int, int, int] = (20, 24, 18), text: str = "graft") -> Volume:
    rng = np.random.default_rng(0)
    truth = np.zeros(shape, dtype=np.uint8)
    truth[4:12, 5:15, 3:9] = 1
    wrong = np.roll(truth, 2, axis=0)
    return Volume(
        rng.random(shape), {"reference": truth, text: wrong}, (1, 1, 2.5), {1: text or "CSF"}
    )


def a_full_report(text: str) -> Report:
    record = Record.model_validate(
        {
            **environment(),
            "record": "demo/medseg",
            "claim": text,
            "command": text,
            "rows": [Row(case=text, variant="graft", metric="dice", value=0.5, note=text)],
            "notes": [text],
            "data": {text: "0" * 64},
        }
    )
    return (
        Report(text, verdict=text, kicker=text)
        .figures([Figure(text, text, text), Figure("Dice", Measure(0.5, 0.4, 0.6), text, True)])
        .cases(
            [
                Case(text, 0.4, [a_volume(text=text)], {text: text}),
                Case("b", 0.6, [Text({text: text}), Tree(text, (text, [text, ("x", [text])]))]),
                Case("c", 0.7, [Picture(np.zeros((8, 9)), name=text)]),
            ],
            score=text,
        )
        .table(text, [text, "n"], [[text, 1], ["b", Measure(None)]], caption=text)
        .curves(text, {text: [(0, 1.0), (1, 0.5)], "b": [(0, 1.0)]}, x=text, y=text, caption=text)
        .dots(text, {text: {text: Measure(0.5, 0.4, 0.6)}}, x=text, caption=text)
        .block(text, Text({text: text}))
        .text(text, text)
        .notes([text])
        .record(record, {text: text})
    )


def test_hostile_text_stays_text() -> None:
    plain, hostile = Tags(a_full_report("plain").html()), Tags(a_full_report(HOSTILE).html())
    # The same document: only the text differs. No tag and no attribute came out of a string.
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in hostile.tags]
    assert [set(a) for _, a in plain.tags] == [set(a) for _, a in hostile.tags]
    assert not [a for _, a in hostile.tags if any(name.startswith("on") for name in a)]
    assert hostile.text.count("<img src=x onerror=alert(1)>") >= 20


def test_the_report_is_one_offline_file(tmp_path: Path) -> None:
    path = a_full_report("plain").write(tmp_path / "report.html")
    page = Tags(path.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
    assert "link" not in {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|https?://", path.read_text(encoding="utf-8"))
    policy = page.named("meta")[2]["content"]
    assert policy and "default-src 'none'" in policy
    assert "prefers-color-scheme: dark" in page.text


def test_the_worst_case_is_first_and_open() -> None:
    scores = {"Ada": 0.9, "Bo": float("nan"), "Cy": 0.1, "Al": None}
    cases = [Case(name, score, [Text({"a": "1"})]) for name, score in scores.items()]
    page = Tags(Report("r").cases(cases, score="Dice").html())
    shown = [a for a in page.named("div") if a.get("class") == "case"]
    assert ["hidden" in a for a in shown] == [False, True, True, True]
    assert [b["aria-pressed"] for b in page.named("button")] == ["true", "false", "false", "false"]

    def order(html: str) -> list[str]:
        return re.findall(r"<h3>(\w+)</h3>", html)

    assert order(Report("r").cases(cases, score="Dice").html()) == ["Cy", "Ada", "Al", "Bo"]
    distance = Report("r").cases(cases, score="HD95", higher_is_better=False).html()
    assert order(distance) == ["Ada", "Cy", "Al", "Bo"]
    assert "No cases" in Report("r").cases([], score="Dice").html()


def pixels(attributes: dict[str, str | None]) -> np.ndarray:
    source = attributes["src"] or ""
    data = base64.b64decode(source.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_a_volume_opens_on_the_slice_that_is_most_wrong_and_shows_its_masks() -> None:
    shape = (10, 12, 14)
    truth, wrong = np.zeros(shape, int), np.zeros(shape, int)
    truth[2:5, 3:7, 2:10] = 1
    wrong[:] = truth
    wrong[2:5, 3:7, 8] = 0  # one axial slice is missed
    page = Tags(Volume(np.ones(shape), {"reference": truth, "graft": wrong}).html())
    stacks = [a["style"] or "" for a in page.named("div") if a.get("class") == "stack"]
    assert len(stacks) == 3 and "--n:8;--k:6" in stacks[0]  # axial 2..9, opened on 8
    assert "9 of 14" in page.text
    axial, coronal, _ = (page.named("img")[i : i + 3] for i in (0, 3, 6))
    fill = pixels(axial[2]).reshape(8, 12, 10, 4)[..., 3]
    assert fill[5].any() and not fill[6].any()  # the graft missed slice 8
    outline = pixels(axial[1]).reshape(8, 24, 20, 4)[6]
    rim = outline[..., 3] == 255
    # Rows run from front to back: y 3..6 is drawn at rows 12-7 to 12-3, doubled.
    assert rim[10:18, 4:10].any() and not rim[12:16, 6:8].any()
    assert not np.delete(rim, np.s_[10:18], axis=0).any()
    # coronal slices are those with a difference (y 3..6), z is up
    filled = pixels(coronal[2]).reshape(4, 14, 10, 4)[0, ..., 3] > 0
    assert filled[::-1].T.astype(int).tolist() == wrong[:, 3, :].tolist()


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraftError, match=r"layer 'graft' has shape \(2, 2, 3\)"):
        Volume(np.zeros((2, 2, 2)), {"graft": np.zeros((2, 2, 3), int)}).html()
    with pytest.raises(GraftError, match="cannot be shown"):
        Volume(np.zeros((2, 2))).html()
    with pytest.raises(GraftError, match=r"give \(H, W\) numbers"):
        Picture(np.zeros((4, 4, 2), np.uint8)).html()


@pytest.mark.parametrize("fill", [0.0, np.nan, np.inf, -3.0])
def test_flat_and_broken_images_are_shown(fill: float) -> None:
    page = Tags(Volume(np.full((5, 6, 7), fill)).html())
    assert [i["max"] for i in page.named("input")] == ["6", "5", "4"]
    assert len(page.named("img")) == 3


def test_colour_pictures_and_big_ones() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (400, 500, 3), dtype=np.uint8)
    page = Tags(Picture(noise, {"found": np.eye(400, 500, dtype=int)}).html())
    photo = page.named("img")[0]["src"] or ""
    assert photo.startswith("data:image/jpeg")
    small = Tags(Picture(noise[:20, :30]).html()).named("img")[0]
    assert np.array_equal(pixels(small)[..., :3], noise[:20, :30])


def test_eight_cases_of_three_planes_stay_below_five_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.random((24, 28, 24)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    image = coarse + 0.15 * rng.random(coarse.shape)  # grain compresses as badly as real tissue
    truth = np.digitize(coarse, [0.5, 0.7, 0.9])
    layers = {"reference": truth, "base": truth * 0 + 1, "graft": np.roll(truth, 1, 0)}
    cases = [Case(f"case {i}", i / 10, [Volume(image, layers)]) for i in range(8)]
    path = Report("size").cases(cases, score="Dice").write(tmp_path / "report.html")
    assert path.stat().st_size < 5_000_000


def test_numbers_are_aligned_and_gaps_are_said() -> None:
    rows = [["a", 1234567, Measure(0.5, 0.4, 0.6, digits=2)], ["b", None, Measure(float("nan"))]]
    html = Report("t").table("T", ["what", "n", "Dice"], rows, strong=[0]).html()
    page = Tags(html)
    assert "1,234,567" in page.text and "0.50 0.40 to 0.60" in page.text
    assert html.count('title="not defined"') == 2
    assert [a.get("class") for a in page.named("th")][:3] == [None, "num", "num"]
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        Report("t").table("T", ["a", "b"], [[1, 2, 3]])


def test_curves_leave_gaps_and_stay_small() -> None:
    points = [(i, float(np.sin(i / 50))) for i in range(20_000)]
    points[100] = (100, float("nan"))
    page = Tags(Report("t").curves("C", {"a": points}, x="step", y="loss").html())
    lines = page.named("polyline")
    assert len(lines) == 2
    assert sum(len((a["points"] or "").split()) for a in lines) <= 600
    logged = Tags(
        Report("t")
        .curves("C", {"a": [(0, 0.0), (1, 10.0), (2, 1000.0)]}, x="", y="", log=True)
        .html()
    )
    assert len(logged.named("polyline")) == 1
    assert "no finite values" in Report("t").curves("C", {"a": []}, x="", y="").html()
    assert "no defined values" in Report("t").dots("D", {"a": {"b": Measure(None)}}, x="").html()


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [1e-9, 2e-9], [-3e8, 4e8], [0.1, 0.35]])
def test_axes_enclose_the_values(values: list[float]) -> None:
    html = Report("t").curves("C", {"a": list(enumerate(values))}, x="", y="").html()
    numbers = [float(n) for p in re.findall(r'points="([^"]*)"', html) for n in re.split("[ ,]", p)]
    numbers += [float(n) for n in re.findall(r'c[xy]="([^"]*)"', html)]
    assert numbers and all(0 <= n <= 720 for n in numbers)


def test_a_picture_for_a_readme() -> None:
    image, mask = np.random.default_rng(0).random((40, 50)), np.zeros((40, 50), int)
    mask[10:20, 10:30] = 1
    png = side_by_side(
        image, {"image": None, "base": mask * 0, "graft": mask}, outline=mask, labels={1: "CSF"}
    )
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    assert sheet.shape == (350 + 54, 3 * 280 + 16, 3)
    amber = (np.abs(sheet.astype(int) - [255, 176, 0]).sum(axis=2) < 30)[:350]
    assert all(amber[:, i * 288 : i * 288 + 280].any() for i in range(3))

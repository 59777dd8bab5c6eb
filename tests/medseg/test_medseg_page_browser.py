"""The local page in a real browser: NiiVue draws, nothing complains, and the mask comes down."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_opening

from graftwork_runs import Page
from tests.browser import needs_chromium
from tests.medseg.page_session import desk_of, oblique

pytestmark = needs_chromium


class Visit:
    """A tab, with what its console and its network had to complain about."""

    def __init__(self, tab: Any, home: str) -> None:
        self.tab, self.complaints = tab, []
        tab.on("console", lambda m: m.type in ("error", "warning") and self._heard(m.text))
        tab.on("pageerror", lambda error: self._heard(str(error)))
        tab.on("requestfailed", lambda request: self._heard(f"{request.url} {request.failure}"))
        tab.on("request", lambda request: self._asked(request.url, home))

    def _heard(self, text: str) -> None:
        # What the driver of the drawing in software says of its own speed is none of the page's.
        if "GPU stall due to ReadPixels" not in text:
            self.complaints.append(text)

    def _asked(self, url: str, home: str) -> None:
        if not url.startswith((home, "data:", "blob:")):
            self._heard(f"left this computer: {url}")

    def ready(self) -> None:
        self.tab.wait_for_selector("#viewer[data-state=ready]", timeout=90_000)

    def picture(self, panel: int) -> Any:
        """What a panel's canvas shows, (H, W, 3); two frames later, so that it is drawn."""
        self.tab.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        canvas = self.tab.locator(".panel canvas").nth(panel)
        shot = Image.open(io.BytesIO(canvas.screenshot()))
        return np.asarray(shot.convert("RGB")).astype(int)


@pytest.fixture
def visit(browser: Any, session: Page) -> Iterator[Visit]:
    tab = browser.new_page()
    yield Visit(tab, session.url)
    tab.close()


def coloured(picture: Any, colour: tuple[int, int, int]) -> int:
    """How many pixels have the hue of a class's colour, at whatever brightness."""
    bright = picture.sum(-1) > 120
    shares = picture / np.maximum(picture.sum(-1, keepdims=True), 1)
    want = np.array(colour) / sum(colour)
    return int((bright & (np.abs(shares - want).max(-1) < 0.05)).sum())


GM, WM = (255, 176, 0), (86, 180, 233)


def test_an_example_is_drawn_compared_and_taken_along(
    session: Page, visit: Visit, tmp_path: Path
) -> None:
    tab, desk = visit.tab, desk_of(session)
    tab.goto(session.url)
    name = desk.examples()["b"][1]
    tab.select_option("select[name=example]", name)
    tab.click("text=Segment the example")
    visit.ready()
    case = list(desk.cases.values())[-1]
    assert tab.inner_text("h1") == desk.title(name)
    assert tab.locator(".panel canvas").count() == 2
    base, adapted = visit.picture(0), visit.picture(1)
    assert coloured(base, GM) > 1000 and coloured(adapted, GM) + coloured(adapted, WM) > 1000
    assert (base != adapted).any(-1).mean() > 0.01
    # The 3D mask with one class alone has one colour.
    tab.check("input[name=view][value=mask]")
    tab.uncheck("input[name=class][value='1']")
    alone = visit.picture(0)
    assert coloured(alone, WM) > 1000 > 20 * coloured(alone, GM)
    # Reading a slice names the class of every mask there.
    tab.check("input[name=class][value='1']")
    tab.check("input[name=show][value=truth]")
    tab.check("input[name=view][value=axial]")
    tab.locator(".panel canvas").first.click()
    where = tab.inner_text(".where")
    assert "mm" in where and all(f"{mask}: " in where for mask in case.masks) and "?" not in where
    with tab.expect_download() as coming:
        tab.click("text=Adapted mask")
    assert coming.value.suggested_filename == f"simulated-{name}-adapted.nii.gz"
    coming.value.save_as(tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    image = nib.load(case.folder / case.image)
    assert mask.affine.tobytes() == image.affine.tobytes()
    assert (np.asarray(mask.dataobj) == case.masks["adapted"]).all()
    assert visit.complaints == []


def test_left_is_left_and_the_slices_say_so(session: Page, visit: Visit, tmp_path: Path) -> None:
    """A bright block in the patient's right front lies on the right and at the top of the axial slice."""
    voxels = np.random.default_rng(0).uniform(0, 0.1, (40, 40, 40)).astype(np.float32)
    voxels[26:36, 24:36] = 1.0
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])  # stored with x to the patient's left
    image = nib.Nifti1Image(voxels[::-1], affine)
    nib.save(image, tmp_path / "block.nii.gz")
    visit.tab.goto(session.url)
    visit.tab.set_input_files("input[name=image]", tmp_path / "block.nii.gz")
    visit.tab.click("text=Segment the file")
    visit.ready()
    visit.tab.check("input[name=show][value=adapted]")
    visit.tab.check("input[name=view][value=axial]")
    visit.tab.locator("input[name=opacity]").fill("0")
    bright = visit.picture(0).sum(-1) > 600
    height, width = bright.shape
    block = binary_opening(bright, np.ones((15, 15)))  # without letters and crosshair
    y, x = (axis.mean() for axis in np.nonzero(block))
    assert x > 0.55 * width and y < 0.45 * height
    assert visit.complaints == []


def test_a_bad_file_is_said_on_the_page(session: Page, visit: Visit, tmp_path: Path) -> None:
    broken = oblique(tmp_path)
    broken.write_text("not an image")
    visit.tab.goto(session.url)
    visit.tab.set_input_files("input[name=image]", broken)
    visit.tab.click("text=Segment the file")
    visit.tab.wait_for_selector(".problem")
    assert "scan.nii.gz: not a readable NIfTI file" in visit.tab.inner_text(".problem")


def test_without_webgl_the_slices_open(session: Page, visit: Visit, tmp_path: Path) -> None:
    visit.tab.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    visit.tab.goto(session.url)
    visit.tab.set_input_files("input[name=image]", oblique(tmp_path))
    visit.tab.click("text=Segment the file")
    visit.tab.wait_for_selector("#viewer[data-state=off]")
    assert "no WebGL 2" in visit.tab.inner_text(".where")
    assert visit.tab.locator("#slices .plane img").first.is_visible()
    assert not visit.tab.locator(".panels").is_visible()

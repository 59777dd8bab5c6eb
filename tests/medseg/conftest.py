"""Small NIfTI folders that the medseg tests read, and one session of the local page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import graftwork as gw
from graftwork_medseg.demo import sim
from graftwork_medseg.module import Segmenter
from graftwork_medseg.page.desk import Desk
from graftwork_medseg.page.server import TITLE, CasePages
from graftwork_runs import Page
from tests.medseg.page_session import desk_of, made_graft, post

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_nifti(path: Path, array: Any, affine: Any = AFFINE) -> Path:
    """Save an array as NIfTI; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def ball(shape: tuple[int, int, int] = (36, 32, 34)) -> tuple[Any, Any]:
    """An image with a bright ball around a brighter one, and its labels 0, 1, 2."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij"))
    radius = np.linalg.norm(grid, axis=0)
    label = (radius < 12).astype(np.uint8) + (radius < 6)
    noise = np.random.default_rng(0).normal(0, 0.05, shape)
    return (label + noise).astype(np.float32), label


def msd_folder(folder: Path, cases: int = 3, **meta: Any) -> Path:
    """A folder in the Decathlon's layout with `cases` training cases and one labelled test case."""
    image, label = ball()
    names = [f"case{i}" for i in range(cases)]
    for which, members in (("Tr", names), ("Ts", ["other"])):
        for name in members:
            write_nifti(folder / f"images{which}" / f"{name}.nii.gz", image)
            write_nifti(folder / f"labels{which}" / f"{name}.nii.gz", label)

    def entry(which: str, name: str) -> dict[str, str]:
        return {
            "image": f"./images{which}/{name}.nii.gz",
            "label": f"./labels{which}/{name}.nii.gz",
        }

    content = {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": [entry("Tr", name) for name in names],
        "test": [entry("Ts", "other")],
        **meta,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return msd_folder(tmp_path / "data")


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    return lambda **meta: msd_folder(tmp_path / "data", **meta)


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


@pytest.fixture(scope="module")
def example(session: Page) -> tuple[str, str]:
    """Address and HTML of the example's page."""
    name = desk_of(session).examples()["b"][0]
    status, page, headers = post(session, "example", example=name)
    assert status == 200
    return headers["url"], page.decode()

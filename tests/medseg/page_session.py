"""What the tests of the local page share: a graft, requests, and scans on an oblique grid."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

import graftwork as gw
from graftwork_medseg.demo import task
from graftwork_medseg.module import Segmenter
from graftwork_medseg.page.desk import Desk
from graftwork_medseg.page.server import CasePages
from graftwork_runs import Page

GRID = nib.affines.from_matvec(
    np.array([[0.0, -1.4, 0.2], [1.1, 0.1, 0.0], [0.1, 0.0, 2.5]]), [5, 6, 7]
)


def made_graft(model: Segmenter) -> gw.Graft:
    """A graft of the demo's shape whose masks differ from the base's: its tensors are random."""
    graft, _ = task.graft_arm(model.network, task.PLAN, 0, task.HEAD_RATE)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return graft


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

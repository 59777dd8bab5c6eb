"""A wheel holds every file of its package (code, checkpoint, configs, py.typed) and the licence."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tools.environment import ROOT, members
from tools.wheels import build, pyproject

SHIPPED = {
    ".py",
    ".typed",
    ".json",
    ".safetensors",
    ".yaml",
    ".toml",
    ".csv",
    ".lark",
    ".html",
    ".css",
    ".js",
}


@pytest.mark.parametrize("member", members(), ids=lambda m: m.name)
def test_wheel_content(member: Path, tmp_path: Path) -> None:
    wheel = build(member, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        information = {name for name in archive.namelist() if ".dist-info/" in name}
        source = member / "src"
        package = pyproject(member)["project"]["name"].replace("-", "_")
        files = {
            path.relative_to(source).as_posix()
            for path in (source / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert inside == files
        assert {Path(name).suffix for name in files} <= SHIPPED
        assert f"{package}/py.typed" in inside
        licence = next(name for name in information if name.endswith("licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        if member.parent.name == "apps":
            checkpoints = [name for name in inside if name.endswith(".safetensors")]
            assert checkpoints, "an app's wheel holds its checkpoint"
            for name in checkpoints:
                assert archive.read(name) == (source / name).read_bytes()
    assert wheel.stat().st_size < 100e6  # what package indexes take

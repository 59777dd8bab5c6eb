"""The members agree on one version, and an installed sibling is always the one of this tree."""

from __future__ import annotations

import importlib
import json
import sysconfig
import tomllib
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import graftwork
from tools.environment import ROOT, members

MEMBERS = {m.relative_to(ROOT).as_posix(): m for m in members()}
PROJECTS: dict[str, dict[str, Any]] = {
    folder: tomllib.loads((path / "pyproject.toml").read_text())["project"]
    for folder, path in MEMBERS.items()
}
# Not all of sys.path: setuptools puts packages of its own there when somebody imports it.
PACKAGES = sysconfig.get_path("purelib")
NAMES = {project["name"] for project in PROJECTS.values()}


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(r) for group in [project["dependencies"], *extras] for r in group]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_members_are_found() -> None:
    assert {"shared", "packages/llm", "packages/runs", "apps/medseg", "apps/maritime"} <= set(
        MEMBERS
    )


@pytest.mark.parametrize("folder", MEMBERS)
def test_one_version_everywhere(folder: str) -> None:
    project = PROJECTS[folder]
    assert project["version"] == graftwork.__version__
    assert distribution(project["name"]).version == graftwork.__version__
    module = importlib.import_module(project["name"].replace("-", "_"))
    assert getattr(module, "__version__", graftwork.__version__) == graftwork.__version__
    for requirement in requirements(project):
        if requirement.name in NAMES:
            assert str(requirement.specifier) == f"=={graftwork.__version__}", requirement


@pytest.mark.parametrize("folder", MEMBERS)
def test_no_sibling_came_from_an_index(folder: str) -> None:
    text = distribution(PROJECTS[folder]["name"]).read_text("direct_url.json")
    assert text is not None, f"{PROJECTS[folder]['name']} was installed from an index"
    origin = json.loads(text)
    assert origin["url"] == MEMBERS[folder].as_uri()
    assert origin["dir_info"] == {"editable": True}


@pytest.mark.parametrize("folder", MEMBERS)
def test_commands_and_apps_are_registered(folder: str) -> None:
    project = PROJECTS[folder]
    kinds = {"graftwork.apps": "app ", "graftwork.verbs": "verb ", "graftwork.reports": "report "}
    declared = dict(project.get("scripts", {}))
    for group, points in project.get("entry-points", {}).items():
        declared |= {kinds[group] + name: value for name, value in points.items()}
    known = {
        kinds.get(point.group, "") + point.name: point
        for point in distribution(project["name"]).entry_points
    }
    assert {name: point.value for name, point in known.items()} == declared
    for point in known.values():
        point.load()
    if folder.startswith("apps/"):
        app = Path(folder).name
        assert {app, f"app {app}"} == set(declared)


def test_the_core_needs_three_packages() -> None:
    needed = {Requirement(r).name for r in PROJECTS["shared"]["dependencies"]}
    assert needed == {"torch", "numpy", "safetensors"}


def test_constraints_pin_this_environment() -> None:
    pinned = pins()
    local = {canonicalize_name(name) for name in NAMES}
    here = {
        canonicalize_name(d.name): d.version.split("+")[0] for d in distributions(path=[PACKAGES])
    }
    wrong = {
        name: (version, pinned.get(name, "not pinned"))
        for name, version in here.items()
        if name not in local and pinned.get(name) != version
    }
    assert not wrong, f"installed version, version in constraints.txt: {wrong}"


def test_constraints_name_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "@" not in text and "--" not in text


def test_the_licence_page_lists_every_pinned_package() -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    listed = {canonicalize_name(row) for row in rows}
    assert not set(pins()) - listed

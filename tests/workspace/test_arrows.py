"""Imports point one way, `apps -> packages -> shared`, and only at what a member declares."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import ROOT, members

LAYERS = ("shared", "packages", "apps")
PACKAGES = {next((m / "src").glob("graftwork*/")).name: m for m in members()}
CORE = {"torch", "numpy", "safetensors"}


def layer(member: Path) -> int:
    return LAYERS.index(member.relative_to(ROOT).parts[0])


def imports(node: ast.AST, outermost: bool = False) -> Iterator[str]:
    """Top-level names that a syntax tree imports; `outermost` leaves out those that load late."""
    for child in ast.iter_child_nodes(node):
        late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if outermost and (late or typing):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield child.module.split(".")[0]
        else:
            yield from imports(child, outermost)


def sources(package: str) -> list[Path]:
    return sorted((PACKAGES[package] / "src").rglob("*.py"))


def third_party(names: Iterator[str]) -> set[str]:
    return {n for n in names if n not in sys.stdlib_module_names and n not in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows(package: str) -> None:
    wrong = []
    for path in sources(package):
        for name in imports(ast.parse(path.read_text())):
            if name == package or name not in PACKAGES:
                continue
            here, there = layer(PACKAGES[package]), layer(PACKAGES[name])
            if there > here or (there == here and LAYERS[here] == "apps"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_core_imports_three_packages() -> None:
    wrong = {}
    for path in sources("graftwork"):
        if "lightning" not in path.relative_to(PACKAGES["graftwork"]).parts:
            found = third_party(imports(ast.parse(path.read_text()), outermost=True)) - CORE
            if found:
                wrong[path.relative_to(ROOT).as_posix()] = found
    assert not wrong


def declared_by(member: Path) -> set[str]:
    """Distributions that a member declares, extras included, and those of its siblings."""
    project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    names = {
        canonicalize_name(Requirement(r).name)
        for group in [project["dependencies"], *extras]
        for r in group
    }
    siblings = [m for package, m in PACKAGES.items() if package.replace("_", "-") in names]
    return names.union(*map(declared_by, siblings))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package: str) -> None:
    declared = declared_by(PACKAGES[package])
    homes = packages_distributions()
    wrong: dict[str, set[str]] = {}
    for path in sources(package):
        for name in third_party(imports(ast.parse(path.read_text()))):
            if not {canonicalize_name(home) for home in homes.get(name, [name])} & declared:
                wrong.setdefault(path.relative_to(ROOT).as_posix(), set()).add(name)
    assert not wrong


def test_the_scan_sees_what_it_should() -> None:
    tree = ast.parse(
        "import a.b\n"
        "from c.d import e\n"
        "from . import f\n"
        "if TYPE_CHECKING:\n    import g\n"
        "try:\n    import h\nexcept ImportError:\n    pass\n"
        "def i():\n    import j\n"
        "class K:\n    import l\n"
    )
    assert set(imports(tree)) == {"a", "c", "g", "h", "j", "l"}
    assert set(imports(tree, outermost=True)) == {"a", "c", "h", "l"}

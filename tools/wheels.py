"""Builds every member's wheel into dist/, then tries each one in an empty environment of its own.

    .venv/bin/python -m tools.wheels [MEMBER ...]    a member is a folder: shared, apps/medseg

Trying a wheel means: install it with the siblings that stand in dist/, make sure that none of them
came from an index, and run the demo that the member's pyproject.toml names ([tool.graftwork] demo).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tools.environment import ROOT, members

DIST = ROOT / "dist"
LEFT_OUT = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")


def pyproject(member: Path) -> dict[str, Any]:
    return tomllib.loads((member / "pyproject.toml").read_text(encoding="utf8"))


def build(member: Path, out: Path) -> Path:
    """Builds the wheel of a member from a copy, so that no earlier build's leftovers slip in."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(member, Path(scratch) / member.name, ignore=LEFT_OUT))
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "-w", scratch, str(copy)], check=True)
        wheel = next(Path(scratch).glob("*.whl"))
        return Path(shutil.copy(wheel, out))


def try_out(member: Path, wheels: dict[str, Path]) -> None:
    """Installs a member's wheel in an empty environment and runs its demo there."""
    settings = pyproject(member)
    name = settings["project"]["name"]
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = f"{scratch}/bin/python"
        siblings = [str(wheels[s]) for s in sibling_closure(name, wheels)]
        install = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*install, str(wheels[name]), *siblings], check=True)
        listing = subprocess.run(
            [python, "-m", "pip", "inspect"], check=True, capture_output=True, text=True
        )
        for found in json.loads(listing.stdout)["installed"]:
            sibling = found["metadata"]["name"]
            source = found.get("direct_url", {}).get("url", "an index")
            if sibling in wheels and source != wheels[sibling].as_uri():
                raise SystemExit(
                    f"{name}: its sibling {sibling} came from {source}, not from dist/"
                )
        command, *arguments = settings["tool"]["graftwork"]["demo"]
        print(f"{name}: {' '.join([command, *arguments])}", flush=True)
        subprocess.run([f"{scratch}/bin/{command}", *arguments], check=True, cwd=scratch)


def sibling_closure(name: str, wheels: dict[str, Path]) -> set[str]:
    """The siblings that a member needs, directly or through another one."""
    needs: set[str] = set()
    queue = [name]
    by_name = {pyproject(m)["project"]["name"]: m for m in members()}
    while queue:
        for requirement in pyproject(by_name[queue.pop()])["project"]["dependencies"]:
            sibling = Requirement(requirement).name
            if sibling in wheels and sibling not in needs:
                needs.add(sibling)
                queue.append(sibling)
    return needs


def main(chosen: list[str]) -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    wheels = {pyproject(m)["project"]["name"]: build(m, DIST) for m in members()}
    for member in [ROOT / folder for folder in chosen] or members():
        try_out(member, wheels)
        wheel = wheels[pyproject(member)["project"]["name"]]
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, installed and run", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

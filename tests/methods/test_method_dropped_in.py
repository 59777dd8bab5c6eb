"""A new method is new files alone: the docs' SSF, dropped into a copy of the sources and of the suite, has everything.

No file that was there is changed: the method is one, its equation by hand and its invariants' tests are two more.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to-add-a-method.md"
SUITE = ("conftest.py", "browser.py", "mutant_hunt.py", "warm.py", "methods")

BY_HAND = """
from method_by_hand import broadcast, by_hand, dense

@by_hand("ssf")
def ssf(method, layer, p):
    made = dense(layer, {})
    gamma, beta = broadcast(layer, p["gamma"]), broadcast(layer, p["beta"])
    made.forward = lambda x, **call: gamma * layer(x, **call) + beta

    def energy(x, **call):
        y = layer(x, **call)
        return y**2 + ((gamma - 1) * y) ** 2 + beta**2 + 0 * y

    made.energy = energy
    made.tensors = {
        "weight": stretched(layer, p["gamma"]), "bias": p["gamma"] * layer.bias + p["beta"]
    }
    return made

def stretched(layer, gamma):
    from method_by_hand import output_channels
    weight = layer.weight.clone()
    for c, index in output_channels(layer):
        weight[index] = gamma[c] * layer.weight[index]
    return weight
"""
TESTS = """
import torch
from method_invariants import invariant
from torch import nn
import graftwork as gw

@invariant("ssf", 1, 2, 3)
def test_start_merge_and_count():
    layer, x = nn.Linear(3, 4), torch.randn(2, 3)
    y = layer(x)
    g = gw.graft(layer, gw.SSF())
    assert torch.equal(layer(x), y) and sum(p.numel() for p in g.parameters()) == 8
    g.load_tensors({"gamma": torch.full((4,), 2.0), "beta": torch.ones(4)})
    torch.testing.assert_close(layer(x), 2 * y + 1)
"""
ELSEWHERE = """
from pathlib import Path
import graftwork
from benchmarks.tables import methods
from tinyapp.app import app
import yaml

assert graftwork.__file__.startswith({source!r})
assert "`gw.SSF`" in methods()
Path("mine.yaml").write_text("graft: {{class_path: graftwork.SSF}}\\nsites: ['0']\\n")
assert app.main(["fit", "--config", "short", "--config", "mine.yaml"]) == 0
kept = yaml.safe_load(Path("runs/tinyapp/fit/config.yaml").read_text())
assert kept["graft"]["class_path"] == "graftwork.SSF"
assert app.main(["test", "--run_dir", "tested", "--adapter", "runs/tinyapp/fit/graft"]) == 0
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy, with the method dropped in."""
    top = tmp_path_factory.mktemp("dropped")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "shared/src/graftwork", top / "shared/src/graftwork", ignore=skip)
    (top / "tests").mkdir()
    for name in SUITE:
        copy = shutil.copy2 if name.endswith(".py") else shutil.copytree
        copy(ROOT / "tests" / name, top / "tests" / name)
    shutil.copy2(ROOT / "pyproject.toml", top)
    text = PAGE.read_text(encoding="utf8")
    (found,) = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', text, re.M | re.S)
    new = {
        found[0]: found[1],
        "tests/methods/method_by_hand_ssf.py": BY_HAND,
        "tests/methods/test_method_ssf.py": TESTS,
    }
    for path, body in new.items():
        assert not (top / path).exists()
        (top / path).write_text(body, encoding="utf8")
    for there in (top / "shared/src/graftwork/methods", top / "tests/methods"):
        was = ROOT / there.relative_to(top)
        compared = filecmp.dircmp(there, was, ignore=["__pycache__"])
        assert not compared.diff_files and not compared.right_only
        assert {str(there.relative_to(top) / n) for n in compared.left_only} <= set(new)
    return top


def run(top: Path, *command: str, **more: str) -> str:
    sources = [
        top / "shared/src",
        *(ROOT / p for p in ("packages/runs/src", "tests/lightning", ".")),
    ]
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    path = os.pathsep.join([*map(str, sources), *others])
    done = subprocess.run(
        [sys.executable, *command], cwd=top, env={**os.environ, "PYTHONPATH": path, **more},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_the_suite_finds_it_and_it_passes(tree: Path) -> None:
    files = [
        f"tests/methods/test_method_{n}.py" for n in ("battery", "headers", "conformance", "ssf")
    ]
    options = ["-v", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-k", "ssf or ssf-"]
    out = run(tree, "-m", "pytest", *options, *files, GRAFTWORK_TEST_CASES="2")
    assert "failed" not in out and "skipped" not in out
    for name in ("merge_unmerge_merge", "saves_itself", "compiles_to_one_graph", "checkpointing"):
        assert re.search(rf"test_\w*{name}\w*\[.*ssf.*\] PASSED", out), name
    kinds = re.findall(r"test_generated_cases\[ssf-(\w+)\] PASSED", out)
    assert len(kinds) == 8 and {"linear", "conv_transpose3d"} <= set(kinds)
    assert re.search(r"test_every_invariant_has_a_test\w*\[ssf\] PASSED", out)


@pytest.mark.timeout(600)
def test_configs_docs_and_the_command_line_know_it(tree: Path) -> None:
    script = tree / "elsewhere.py"
    source = str(tree / "shared/src")
    script.write_text(ELSEWHERE.format(source=source), encoding="utf8")
    run(tree, str(script))
    assert re.search(
        r"^ssf +scaling +weight +yes", run(tree, "-m", "graftwork.cli", "methods"), re.M
    )

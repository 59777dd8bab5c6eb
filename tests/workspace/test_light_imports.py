"""What an import may load and cost: each case runs in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "numpy", "lightning", "transformers", "timm", "monai", "matplotlib", "scipy"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "graftwork",
        "graftwork.cli",
        "graftwork_runs",
        "graftwork_contamination.verb",
        "graftwork_llm",
        "graftwork_medseg.app",
        "graftwork_maritime.app",
    ],
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    loaded = python(
        f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert json.loads(loaded) == []


def test_the_core_loads_no_framework() -> None:
    # what it costs in time is measured by benchmarks/import_cost.py
    loaded = python(
        "import sys, json, graftwork\n"
        "graftwork.graft, graftwork.LoRA, graftwork.save, graftwork.load\n"
        "frameworks = ('transformers', 'lightning', 'timm', 'monai')\n"
        "print(json.dumps([m for m in frameworks if m in sys.modules]))"
    )
    assert json.loads(loaded) == []


BARE = """
import importlib.abc, importlib.metadata, pkgutil, re, sys

def closure(names):
    found, queue = set(), list(names)
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        queue += [re.match(r"[\\w.-]+", r)[0] for r in needs if "extra ==" not in r]
    return found

allowed = closure(["torch", "numpy", "safetensors"]) | {"graftwork"}
homes = {
    module: {re.sub(r"[-_.]+", "-", d).lower() for d in found}
    for module, found in importlib.metadata.packages_distributions().items()
}

class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in homes and not homes[top] & allowed:
            raise ModuleNotFoundError(f"No module named {top!r} (not a need of the core)", name=top)

assert "torch" in allowed and "lightning" not in allowed, allowed
sys.meta_path.insert(0, Bare())
try:
    import lightning
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the blocker let lightning through")

import graftwork
names = [m.name for m in pkgutil.walk_packages(graftwork.__path__, "graftwork.",
                                               onerror=lambda name: None)]
count = 0
for name in names:
    if not name.startswith("graftwork.lightning") and not name.endswith("__main__"):
        importlib.import_module(name)
        count += 1
for name in graftwork.__all__:
    getattr(graftwork, name)
print(count)
"""


def test_the_core_imports_with_torch_numpy_and_safetensors_alone() -> None:
    assert int(python(BARE)) > 20

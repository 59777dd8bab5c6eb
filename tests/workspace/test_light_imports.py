"""What an import may load and cost: each case runs in an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

import graftwork as gw

HEAVY = ["torch", "numpy", "lightning", "transformers", "timm", "monai", "matplotlib", "scipy"]


TESTS = Path(__file__).parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
ENV["PYTHONPATH"] = os.pathsep.join(
    filter(None, [ENV.get("PYTHONPATH"), str(TESTS / "lightning"), str(TESTS.parent)])
)


def python(code: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=cwd, env=ENV,
    )  # fmt: skip
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


#: every heavy library that tests find installed
LIBRARIES = [
    *HEAVY,
    "torchvision",
    "tensorboard",
    "pandas",
    "sklearn",
    "peft",
    "nibabel",
    "nilearn",
]
DOORS = {
    "graftwork": "graftwork.cli",
    "medseg": "graftwork_medseg.app",
    "maritime": "graftwork_maritime.app",
    "tinyapp": "tinyapp.app",
}
TRAINING = "torch numpy lightning tensorboard"
#: a command line, and the heavy libraries that it may load
MAY_LOAD = {
    "graftwork --help": "",
    "graftwork --version": "",
    "graftwork methods": "",
    "graftwork apps": "",
    "graftwork merge --help": "",
    "graftwork convert --help": "",
    "graftwork train-many --help": "",
    "graftwork inspect adapter": "",
    "graftwork merge --base base.safetensors --adapter adapter --out new.safetensors": "torch numpy",
    "medseg --help": "",
    "medseg --version": "",
    "medseg config list": "",
    "maritime --help": "",
    "maritime --version": "",
    "maritime scenario --help": "",
    "maritime scenario --exercise --count 1": "numpy",
    "tinyapp --help": "",
    # matplotlib, where it is installed: what Lightning takes of torchmetrics can draw
    "tinyapp fit --trainer.max_steps 1": f"{TRAINING} matplotlib",
}


@pytest.mark.parametrize("line", MAY_LOAD)
def test_a_verb_loads_what_it_uses_alone(line: str, tmp_path: Path) -> None:
    command, *words = line.split()
    if "adapter" in words:
        model = nn.Sequential(nn.Linear(4, 4))
        save_file(model.state_dict(), tmp_path / "base.safetensors")
        gw.save(gw.graft(model, gw.LoRA(rank=1), sites=["*"]), tmp_path / "adapter")
    code = (
        f"import json, sys; sys.argv = [{command!r}, *{words!r}]\n"
        f"from {DOORS[command]} import main\n"
        "try:\n    code = main()\nexcept SystemExit as end:\n    code = end.code\n"
        "assert not code\n"
        f"print(json.dumps([m for m in {LIBRARIES} if m in sys.modules]))"
    )
    loaded = json.loads(python(code, tmp_path).splitlines()[-1])
    assert set(loaded) <= set(MAY_LOAD[line].split())


TORCHMETRICS = """
import sys
from graftwork.lightning.starting import defer_torchmetrics
assert defer_torchmetrics() and defer_torchmetrics()
import lightning.pytorch
from lightning.pytorch.utilities.types import Metric
import torchmetrics
assert "torchmetrics.functional" not in sys.modules
assert not hasattr(torchmetrics, "__wrapped__") and torchmetrics.__version__
assert "torchmetrics.functional" not in sys.modules
{use}
from torchmetrics import Accuracy, functional
import torchmetrics.classification as classification
assert type(torchmetrics) is type(sys) and torchmetrics.classification is classification
assert Accuracy is classification.Accuracy is torchmetrics.Accuracy
assert issubclass(Accuracy, Metric) and torchmetrics.Metric is Metric is torchmetrics.metric.Metric
assert torchmetrics._logger.handlers and functional.accuracy and not hasattr(torchmetrics, "none")
"""


@pytest.mark.parametrize(
    "use",
    [
        "assert 'Accuracy' in dir(torchmetrics); from torchmetrics import *; MeanMetric, Metric",
        "from torchmetrics.classification import Accuracy",
    ],
)
def test_torchmetrics_is_whole_as_soon_as_it_is_asked_for(use: str) -> None:
    python(TORCHMETRICS.format(use=use))


def test_a_torchmetrics_that_cannot_wait_does_not(tmp_path: Path) -> None:
    package = tmp_path / "torchmetrics"
    (package / "utilities").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '9'\nclass Metric: ...\nnames = 1\n")
    (package / "utilities" / "__init__.py").write_text("from torchmetrics.metric import Metric\n")
    python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from graftwork.lightning.starting import defer_torchmetrics\n"
        "assert not defer_torchmetrics() and 'torchmetrics' not in sys.modules\n"
        "import torchmetrics; assert torchmetrics.names == 1 and not defer_torchmetrics()"
    )


def test_the_collector_waits_while_libraries_load_and_goes_on() -> None:
    python(
        "import gc\n"
        "from graftwork.lightning.starting import loading\n"
        "with loading(for_good=False):\n    assert not gc.isenabled()\n"
        "assert gc.isenabled() and gc.get_freeze_count() == 0\n"
        "try:\n    with loading(for_good=True):\n        raise KeyError\n"
        "except KeyError:\n    assert gc.isenabled() and gc.get_freeze_count() == 0\n"
        "with loading(for_good=True):\n    pass\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 1000\n"
        "gc.disable()\nwith loading(for_good=False):\n    pass\nassert not gc.isenabled()"
    )


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

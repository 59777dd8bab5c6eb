"""Run a method's tests on each mutant of a file of sources, in a process of its own each.

    python hunt_mutants.py METHOD MUTANTS.json

Reads a list of {"module", "source"}; prints one line of JSON per entry: pytest's exit code on it. The
first entry may have `source` None: the unchanged method, which must pass. torch is imported once and every mutant
runs in a fork, so a mutant costs its tests alone. An entry with "tests" (paths, separated by spaces)
is no method's, and is tried on these.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
import types
from pathlib import Path

HERE = Path(__file__).parent
os.environ["GRAFTWORK_TEST_CASES"] = "8"
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis  # noqa: F401, E402
import pytest  # noqa: E402
import torch  # noqa: E402
import transformers.pytorch_utils  # noqa: F401, E402

torch.set_num_threads(1)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self.source, f"<mutant of {self.name}>", "exec"), module.__dict__)


def run(method_id: str, entry: dict[str, str | None]) -> int:
    """pytest's exit code for this entry, from a forked child."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    null = os.open(os.devnull, os.O_WRONLY)
    shown = os.dup(2)
    os.dup2(null, 1)
    os.dup2(null, 2)
    code = 99
    try:
        if entry["source"] is not None:
            assert entry["module"] is not None and entry["module"] not in sys.modules
            sys.meta_path.insert(0, Mutated(entry["module"], entry["source"]))
        files = [HERE / f"test_method_{method_id}.py", HERE / "test_method_conformance.py"]
        chosen = [str(f) for f in files if f.exists()]
        keyword = f"test_method_{method_id} or {method_id}-"
        if entry.get("tests"):
            chosen, keyword = str(entry["tests"]).split(" "), ""
        options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is here already
        # one seed, so that chance decides neither about a mutant nor about the unchanged method
        options += ["--hypothesis-seed=0"]
        code = int(
            pytest.main([*options, "-k", keyword, "--rootdir", str(HERE.parents[1]), *chosen])
        )
    except BaseException:
        os.write(shown, traceback.format_exc().encode())
    finally:
        os._exit(code)


def main() -> None:
    method_id, path = sys.argv[1:]
    for entry in json.loads(Path(path).read_text(encoding="utf8")):
        print(json.dumps(run(method_id, entry)), flush=True)


if __name__ == "__main__":
    main()

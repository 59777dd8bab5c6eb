"""Runs tests on mutants of a source, each in a fork of one warm process.

Reads a line of JSON a run from stdin: `module` and `source` (both None: the sources as they are), `tests`
(files or test ids), `keyword`, `first` (ids of tests to begin with), and `warm` (libraries that the tests import).
Answers with a line: pytest's exit code and the ids of the tests that failed, of which the first ends the run.
What is imported once for all is torch and the like, so that a mutant costs its tests alone.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
os.environ["GRAFTWORK_TEST_CASES"] = "8"
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis  # noqa: F401, E402
import pytest  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402  the first step of any optimizer imports it
import transformers.pytorch_utils  # noqa: F401, E402

torch.set_num_threads(1)

OPTIONS = [
    "-x",
    "-q",
    "--tb=no",
    "--assert=plain",
    "-p",
    "no:cacheprovider",
    "--rootdir",
    str(ROOT),
]
# one seed, so that chance decides neither about a mutant nor about the unchanged source
OPTIONS += ["--hypothesis-seed=0"]
#: the plugins that the settings and the generated cases need, without those that cost an import each
PLUGINS = ["-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"]


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


class Failures:
    """A pytest plugin that runs some tests first and remembers which failed."""

    def __init__(self, first: list[str]) -> None:
        self.first = first
        self.ids: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: item.nodeid not in self.first)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.ids.append(report.nodeid)


def run(entry: dict[str, Any]) -> dict[str, Any]:
    """`code`, pytest's exit code for this entry, and `failed`, from a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _run_in_child(entry, write)
    os.close(write)
    with open(read, encoding="utf8") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(told) if told else {"code": os.waitstatus_to_exitcode(status), "failed": []}


def _run_in_child(entry: dict[str, Any], write: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    shown = os.dup(2)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        if entry["source"] is not None:
            assert entry["module"] not in sys.modules
            sys.meta_path.insert(0, Mutated(entry["module"], entry["source"]))
        seen = Failures(entry["first"])
        chosen = [*OPTIONS, *PLUGINS, "-k", entry["keyword"], *entry["tests"]]
        answer = {"code": int(pytest.main(chosen, plugins=[seen])), "failed": seen.ids}
        os.write(write, json.dumps(answer).encode())
    except BaseException:
        os.write(shown, traceback.format_exc().encode())
        os._exit(99)
    os._exit(0)


def main() -> None:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # nothing but answers on the pipe
    for line in sys.stdin:
        entry = json.loads(line)
        for name in entry["warm"]:
            importlib.import_module(name)
        gc.freeze()  # a child's collections pass over what the parent holds
        print(json.dumps(run(entry)), file=answers, flush=True)


if __name__ == "__main__":
    main()

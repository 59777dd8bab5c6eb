"""Runs tests on a mutant of a source; imported by the warm process of `tests.mutant_hunt`.

What is imported here once for all is torch and the like, so that a mutant costs its tests alone; nothing of what is
mutated may be.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types

import hypothesis  # noqa: F401
import pytest
import torch
import torch._dynamo  # the first step of any optimizer imports it
import transformers.pytorch_utils  # noqa: F401

torch.set_num_threads(1)

OPTIONS = ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
# one seed, so that chance decides neither about a mutant nor about the unchanged source
OPTIONS += ["--hypothesis-seed=0"]
#: the plugins that the settings and the generated cases need, without those that cost an import each
OPTIONS += ["-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"]

ENV = {"GRAFTWORK_TEST_CASES": "8", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


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


def run(
    module: str | None, source: str | None, tests: list[str], keyword: str, first: list[str]
) -> tuple[int, list[str]]:
    """pytest's exit code and the ids of the tests that failed, of which the first ends the run.

    Args:
        module: which gets another source, if any.
        source: that source.
        tests: files or ids.
        keyword: pytest's `-k`.
        first: ids of tests to begin with.
    """
    os.environ.update(ENV)
    if module is not None and source is not None:
        assert module not in sys.modules
        sys.meta_path.insert(0, Mutated(module, source))
    seen = Failures(first)
    code = pytest.main([*OPTIONS, "-k", keyword, *tests], plugins=[seen])
    return int(code), seen.ids

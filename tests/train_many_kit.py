"""What tests of `train-many` begin with: the installed apps, a folder of their own, a parser left as it was."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import _common

from graftwork.lightning.many import built, run
from graftwork.lightning.output import settle_output


@contextlib.contextmanager
def kept_parser() -> Iterator[None]:
    """An app's allow-list must not outlive its test."""
    before = dict(_common.parsing_settings)
    yield
    _common.parsing_settings.clear()
    _common.parsing_settings.update(before)


@contextlib.contextmanager
def alone(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    write_report: Callable[[Path], Any],
    apps: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Runs are made in `folder`, by `apps` (those that are installed), and reported by `write_report`."""
    if apps is not None:
        monkeypatch.setattr(built, "apps", lambda: apps)
    monkeypatch.setattr(run, "write_report", write_report)
    monkeypatch.chdir(folder)
    with kept_parser(), warnings.catch_warnings():
        settle_output(quiet=False, verbose=False)
        yield

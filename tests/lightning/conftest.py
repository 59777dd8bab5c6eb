"""Lightning's own noise is not ours to mend, and an app's allow-list must not outlive its test."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from graftwork.lightning.output import settle_output
from tests.train_many_kit import kept_parser


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        settle_output(quiet=False, verbose=False)
        yield


@pytest.fixture(autouse=True)
def parser_settings() -> Iterator[None]:
    with kept_parser():
        yield

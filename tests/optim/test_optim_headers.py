"""Every invariant that a header states has a test, and every claim stands in a header."""

from __future__ import annotations

import importlib
import re

import pytest
from optim_helpers import CLAIMED

HOMES = {
    "loft": ("graftwork.optim.loft", "test_optim_loft"),
    "lora_plus": ("graftwork.optim.lora_plus", "test_optim_lora_plus"),
}


@pytest.mark.parametrize("room", HOMES)
def test_every_invariant_has_a_test(room: str) -> None:
    module, tests = HOMES[room]
    importlib.import_module(tests)  # the claims are made where the tests are defined
    header = importlib.import_module(module).__doc__ or ""
    _, _, listed = header.partition("\nInvariants:\n")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers
    assert sorted(n for r, n in CLAIMED if r == room) == numbers
    assert all(word in header for word in ("Departures:", "Refuses:"))

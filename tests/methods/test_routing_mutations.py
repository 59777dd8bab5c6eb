"""Hand-made mutants of the shared router: the tests of the methods behind it catch every one."""

from __future__ import annotations

import pytest

from tests.mutant_hunt import Hunter, check_edits

TESTS = ["methods/test_method_moe_lora.py", "methods/test_method_goat.py"]
MUTANTS = [
    ("sign", "router.to(wide)).softmax", "-router.to(wide)).softmax"),
    ("scale", "leave(balance * balance_loss", "leave(balance_loss"),
    ("scale", "return experts * (share", "return (share"),
    ("transpose", "for t in (chosen, odds)", "for t in (odds, odds)"),
    ("dropped term", "kept / kept.sum(-1, keepdim=True)", "kept"),
    ("dropped term", "enabled=False", "enabled=True"),
    ("dropped term", "and odds.numel() > 0", ""),
    ("dropped term", "_chosen(odds, count)", "_chosen(odds, 1)"),
    ("wrong start", "bound = 1 / math.sqrt(in_)", "bound = 1 / in_"),
    ("wrong start", "-bound, bound", "0.0, bound"),
]


@pytest.mark.timeout(900)
def test_every_mutant_is_caught(hunter: Hunter) -> None:
    check_edits(hunter, "graftwork.routing", TESTS, MUTANTS)

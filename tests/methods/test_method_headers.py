"""Headers and cards: what they must hold, and that every stated invariant has a test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from method_invariants import CLAIMED, header, stated

from graftwork.cards import cards
from graftwork.methods import method_class

HERE = Path(__file__).parent
IDS = [c["id"] for c in cards()]


@pytest.fixture(scope="module", autouse=True)
def claims() -> None:
    """The claims are made where the tests are defined: load those files, whichever were selected."""
    for method_id in IDS:
        name = f"test_method_{method_id}"
        if (HERE / f"{name}.py").exists() and name not in sys.modules:
            importlib.import_module(name)


@pytest.mark.parametrize("method_id", IDS)
def test_every_invariant_has_a_test_and_every_test_an_invariant(method_id: str) -> None:
    numbers = stated(method_id)
    assert numbers == list(range(1, len(numbers) + 1)) and numbers
    claimed = sorted(n for m, n in CLAIMED if m == method_id)
    assert claimed == numbers, f"{method_id}: header states {numbers}, tests claim {claimed}"


def test_no_test_claims_an_unknown_method() -> None:
    assert {m for m, _ in CLAIMED} <= set(IDS)


@pytest.mark.parametrize("method_id", IDS)
def test_header_has_every_part(method_id: str) -> None:
    text = header(method_id)
    missing = [w for w in ("Shapes", "nitialisation", "Departures:", "Refuses:") if w not in text]
    assert not missing, f"{method_id}: the header lacks {missing}"
    assert "paper, " in text or "=" in text


@pytest.mark.parametrize("card", cards(), ids=IDS)
def test_card_says_what_the_class_does(card: dict[str, object]) -> None:
    cls = method_class(str(card["id"]))
    assert cls.__name__ == card["class"]
    assert cls.id == card["id"]
    assert cls.changes == card["changes"]
    assert list(cls.layer_kinds) == card["layer_kinds"]
    assert cls().mergeable is card["mergeable"]
    assert set(cls.default_kinds) <= set(cls.layer_kinds)

"""Mutants of every method's file are caught by that method's tests: some in `make test`, all in `make thorough`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from method_mutants import KINDS, mutants
from thorough import some_of

from graftwork.cards import cards
from tests.mutant_hunt import TESTS, Chosen, Hunter, survivors

KINDS_OF = {c["id"]: c["layer_kinds"] for c in cards()}
#: the first of these catches most mutants
GENERATED = "tests/methods/test_method_conformance.py::test_generated_cases[{}-{}]"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method_id", KINDS_OF)
def test_every_mutant_is_caught(
    method_id: str, hunter: Hunter, record_property: Callable[[str, object], None]
) -> None:
    made = some_of(mutants(method_id), lambda m: m.kind)
    assert {m.kind for m in made} == set(KINDS), "a kind of mutation is missing"
    files = [TESTS / "methods" / f"test_method_{n}.py" for n in (method_id, "conformance")]
    chosen = Chosen(
        [str(f) for f in files if f.exists()],
        keyword=f"test_method_{method_id} or {method_id}-",
        first=[GENERATED.format(method_id, KINDS_OF[method_id][0])],
    )
    left = survivors(hunter, method_id, made, chosen)
    numbers = {"methods": 1, "made": len(made), "survivors": len(left)}
    record_property("figures", ("mutants of the methods", numbers))
    assert not left

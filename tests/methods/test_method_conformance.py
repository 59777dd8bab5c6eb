"""Generated cases: every registered method on every layer kind it serves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import graftwork as gw
import pytest
from graftwork.cards import cards
from graftwork.methods.base import Method
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from method_checks import Figures, check_case, graft
from method_layers import LAYERS, LayerCase
from method_settings import settings_of

#: served cases of each pair; fewer while mutants are hunted
CASES = int(os.environ.get("GRAFTWORK_TEST_CASES", "100"))
PAIRS = [(card["id"], kind) for card in cards() for kind in card["layer_kinds"]]


def needless(case: LayerCase, method: Method) -> bool:
    """LoRA, DoRA, DiaBlo and IA3 refuse only what rewrites the table or has no dense gradient."""
    return case.kind == "embedding" and bool(case.args["max_norm"] or case.args["sparse"])


def no_bias(case: LayerCase, method: Any) -> bool:
    absent = case.args.get("bias") is False or "RMSNorm" in case.make.__name__
    return absent and (case.kind == "norm" or not method.new_biases)


#: when a method may refuse a legal layer; a method that is not here may refuse nothing but what the algebra does
MAY_REFUSE: dict[str, Callable[[LayerCase, Any], bool]] = {"bitfit": no_bias}


# torch's own remark on the base layer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("method_id", "kind"), PAIRS, ids=[f"{m}-{k}" for m, k in PAIRS])
def test_generated_cases(
    method_id: str, kind: str, record_property: Callable[[str, object], None]
) -> None:
    figures = Figures()

    @settings(
        max_examples=2 * CASES,  # some are drawn twice
        database=None,
        deadline=None,
        phases=[Phase.generate] if CASES < 100 else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=LAYERS[kind], method=settings_of(method_id))
    def run(case: LayerCase, method: Method) -> None:
        if len(figures.served) >= CASES and not figures.failed:
            return
        try:
            graft(case.build(), method, case)
        except gw.GraftError as refusal:
            figures.refused += 1
            check_refusal(case, method, refusal)
            reject()
        if not check_case(method, case, figures):
            reject()
        figures.served.add(repr((case, method)))

    run()
    record_property("figures", ("generated cases of the methods", figures.numbers()))
    print(f"{method_id} on {kind}: {figures.numbers()}")
    assert len(figures.served) >= CASES


def check_refusal(case: LayerCase, method: Method, refusal: gw.GraftError) -> None:
    """A refusal must be on the list, in words that the header has."""
    allowed = needless(case, method) or MAY_REFUSE.get(method.id, lambda *_: False)(case, method)
    assert allowed, f"{method} refuses {case}: {refusal}"
    header = import_module(type(method).__module__).__doc__ or ""
    assert re.search(r"^Refuses: ", header, re.MULTILINE), f"{method.id}: no list of refusals"

"""Generated cases: every registered method on every layer kind it serves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from method_checks import Figures, check_case, graft
from method_layers import LAYERS, LayerCase
from method_settings import settings_of
from thorough import thorough

import graftwork as gw
from graftwork.cards import cards
from graftwork.methods.base import Method

#: served cases of each pair: 30, `make thorough` 100; fewer while mutants are hunted
CASES = int(os.environ.get("GRAFTWORK_TEST_CASES", "100" if thorough() else "30"))
PAIRS = [(card["id"], kind) for card in cards() for kind in card["layer_kinds"]]


def by_algebra(case: LayerCase, method: Method) -> bool:
    """What the algebra refuses for every method: it rewrites the table, or has no dense gradient."""
    return case.kind == "embedding" and bool(case.args["max_norm"] or case.args["sparse"])


def no_bias(case: LayerCase, method: Any) -> bool:
    absent = case.args.get("bias") is False or "RMSNorm" in case.make.__name__
    return absent and (case.kind == "norm" or not method.new_biases)


#: methods that refuse nothing legal but what the algebra does
REFUSES_NOTHING = {"lora", "dora", "diablo", "ia3", "adaptformer", "norm_affine"}
REFUSES_NOTHING |= {"loretta_adp", "serial_adapter"}
#: when others may; a method that is in neither must quote its header's list, three words in a row
MAY_REFUSE: dict[str, Callable[[LayerCase, Any], bool]] = {"bitfit": no_bias}


# torch's own remark on the base layer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("method_id", "kind"), PAIRS, ids=[f"{m}-{k}" for m, k in PAIRS])
def test_generated_cases(
    method_id: str,
    kind: str,
    record_property: Callable[[str, object], None],
) -> None:
    figures = Figures()

    @settings(
        max_examples=2 * CASES,  # some are drawn twice
        database=None,
        deadline=None,
        phases=[Phase.generate] if CASES < 30 else [Phase.generate, Phase.shrink],
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
    """A refusal must be on the list that the header gives after "Refuses:"."""
    header = import_module(type(method).__module__).__doc__ or ""
    listed = re.search(r"^Refuses: (.*?)(\n\n|\n[A-Z]\w*:|\Z)", header, re.MULTILINE | re.DOTALL)
    assert listed, f"{method.id}: no list of refusals"
    if method.id in MAY_REFUSE or method.id in REFUSES_NOTHING:
        allowed = MAY_REFUSE.get(method.id, lambda *_: False)(case, method)
    else:
        allowed = bool(_phrases(str(refusal)) & _phrases(listed[1]))
    assert allowed or by_algebra(case, method), f"{method} refuses {case}: {refusal}"


def _phrases(text: str) -> set[tuple[str, ...]]:
    """Every three words in a row."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))

"""Outputs found by name: the base's places stay, new organs come last, and nothing is said of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_medseg.images.organs import Organs, sided

NAMES = ("Larynx", "Mandible", "oesophagus", "Left lung", "spleen")


@st.composite
def matches(draw: Any) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """(base, site, asked), the same name perhaps in another case on either side."""

    def some(least: int) -> list[str]:
        names = draw(st.permutations(NAMES))[: draw(st.integers(least, len(NAMES)))]
        return [draw(st.sampled_from([n, n.upper(), n.lower()])) for n in names]

    site = some(1)
    asked = [n.swapcase() for n in draw(st.permutations(site))[: draw(st.integers(1, len(site)))]]
    return ("background", *some(0)), ("air", *site), asked


@given(matches())
def test_outputs_are_found_by_name_whatever_the_case(found: Any) -> None:
    base, site, asked = found
    organs = Organs.match(base, site, asked)
    assert organs.classes[: len(base)] == base  # the base's outputs keep their places and names
    known = {n.casefold() for n in base}
    new = [n for n in site if n.casefold() in {a.casefold() for a in asked} - known]
    assert {*organs.classes[len(base) :]} == {*new}
    assert len({n.casefold() for n in organs.classes}) == len(organs.classes)
    assert [n.casefold() for n in organs.asked] == [a.casefold() for a in asked]
    # each label value goes to the output of its own name, and only where it was asked for
    for value, name in enumerate(site):
        output = organs.table[value]
        if name.casefold() in {a.casefold() for a in asked}:
            assert organs.classes[output].casefold() == name.casefold() and output > 0
            assert value in organs.values()
        else:
            assert output == 0 and value not in organs.values()
    assert organs.known[0] and sum(organs.known) == 1 + len(asked)
    assert all(organs.known[organs.classes.index(n)] for n in organs.asked)


@given(matches(), st.integers(0, 2**32 - 1))
def test_labels_become_outputs_and_what_was_not_asked_for_background(found: Any, seed: int) -> None:
    base, site, asked = found
    organs = Organs.match(base, site, asked)
    label = np.random.default_rng(seed).integers(0, len(site), (3, 4, 5)).astype(np.uint8)
    mask = organs.remap(label)
    assert mask.dtype == np.uint8 and mask.shape == label.shape
    for name in asked:
        value = [s.casefold() for s in site].index(name.casefold())
        output = [c.casefold() for c in organs.classes].index(name.casefold())
        assert np.array_equal(mask == output, label == value)
    assert np.array_equal(mask > 0, np.isin(label, organs.values()))


@pytest.mark.parametrize(
    ("base", "asked", "message"),
    [
        ((), ["larynx"], "the base states no class names"),
        (("background",), [], "name at least one"),
        (("background",), ["liver"], "'liver': here has no such label; it has larynx, Bone"),
        (("background",), ["LARYNX", "larynx"], "'larynx' is asked for twice"),
        (("bone", "larynx"), ["Bone"], "'Bone' is the background of the base"),
        (("background",), ["air"], "'air': here has no such label"),  # the site's background
    ],
)
def test_names_that_lead_nowhere_are_refused(
    base: tuple[str, ...], asked: list[str], message: str
) -> None:
    with pytest.raises(GraftError, match=message):
        Organs.match(base, ("air", "larynx", "Bone"), asked, where="here")


def test_a_name_with_a_side_is_seen() -> None:
    assert sided(["background", "RightParotid"]) and sided(["LEFT kidney"])
    assert not sided(["background", "Larynx"])

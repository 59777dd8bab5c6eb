"""Spoken forms: each pair of functions is an exact inverse, and what is wrong is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_maritime import spoken
from graftwork_maritime.spoken.alphabet import FIGURES, LETTERS

positions = st.builds(
    lambda lat, lon, one_by_one, decimals, connector: spoken.Position(
        lat, lon, one_by_one, *decimals, connector
    ),
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.booleans(),
    st.sampled_from([(None, None), (0, 0), (0, 2), (2, 0), (2, 2)]),
    st.sampled_from(["decimal", "point"]),
)


def test_the_alphabet_has_each_letter_and_figure_once() -> None:
    assert "".join(LETTERS) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert len({*LETTERS.values(), *FIGURES.values()}) == 36
    assert spoken.spell("QX9") == "Quebec X-ray nine"


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=12))
def test_spelling_and_back(text: str) -> None:
    assert spoken.unspell(spoken.spell(text)) == text
    assert spoken.unspell(spoken.spell(text).upper()) == text


def test_other_spellings_are_read() -> None:
    assert spoken.unspell("Alpha Juliett Whiskey Xray niner fower tree") == "AJWX943"
    assert spoken.unspell("unaone kartefour novenine") == "149"


@given(st.integers(0, 999_999))
def test_numbers_and_back(number: int) -> None:
    for form in (spoken.cardinal, spoken.digits, spoken.thousands):
        assert spoken.read_number(form(number)) == str(number)


@given(st.text("0123456789", min_size=1, max_size=15))
def test_rows_of_digits_keep_their_zeros(row: str) -> None:
    assert spoken.read_number(spoken.digits(row)) == row
    assert spoken.read_number(spoken.digits(row).replace(" ", "-")) == row


@given(st.integers(0, 9999), st.integers(0, 99), st.sampled_from(["decimal", "point"]))
def test_fractions_and_back(whole: int, fraction: int, connector: str) -> None:
    number = f"{whole}.{fraction:02}"
    assert spoken.read_number(spoken.decimal(number, connector)) == number


def test_numbers_as_people_say_them() -> None:
    said = {
        "one five zero": "150",
        "one hundred fifty": "150",
        "one zero thousand": "10000",
        "eleven twenty five": "1125",
        "forty eight point five": "48.5",
        "twenty": "20",
        "two thousand five hundred": "2500",
    }
    assert {words: spoken.read_number(words) for words in said} == said


@given(positions)
def test_positions_and_back(position: spoken.Position) -> None:
    said = position.rounded()
    assert spoken.read_position(position.words()) == (said.lat, said.lon)
    assert said.words() == position.words() or abs(said.lat) == 0 or abs(said.lon) == 0


@pytest.mark.parametrize("step", [1, 7])
def test_every_whole_minute_of_both_axes(step: int) -> None:
    for total in range(0, 90 * 60 + 1, 3):
        position = spoken.Position(total / 60, -2 * total / 60, step == 1, 0, 0)
        lat, lon = spoken.read_position(position.words())
        assert (round(lat * 60), round(-lon * 60)) == (total, 2 * total)
        assert "six zero minutes" not in position.words()


def test_minutes_never_reach_sixty() -> None:
    for value in (9.9999999, 89.9999999, 0.99999):
        words = spoken.Position(value, value, False, 0, 2).words()
        assert "sixty minutes" not in words and "six zero decimal" not in words
    assert spoken.Position(90, -180).words() == (
        "nine zero degrees zero zero minutes North, one eight zero degrees zero zero minutes West"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("five degrees north", "1 axes"),
        ("ninety one degrees north, one degrees east", "ends at 90"),
        ("ten degrees sixty minutes north, one degrees east", "under 60"),
        ("ten degrees east, one degrees north", "latitude first"),
    ],
)
def test_wrong_positions(text: str, reason: str) -> None:
    with pytest.raises(GraftError, match=reason):
        spoken.read_position(text)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"lat": 91}, "position.lat"),
        ({"lon": -181}, "position.lon"),
        ({"minutes": 1}, "position.minutes"),
        ({"minutes": None}, "lon_minutes"),
        ({"connector": "dot"}, "position.connector"),
        ({"lat": float("nan")}, "position.lat"),
    ],
)
def test_wrong_fields(values: dict[str, object], field: str) -> None:
    with pytest.raises(GraftError, match=field):
        spoken.Position(**{"lat": 0.0, "lon": 0.0, **values})  # type: ignore[arg-type]


def test_bearings_and_times_and_back() -> None:
    assert [spoken.read_bearing(spoken.bearing(d)) for d in range(1, 361)] == list(range(1, 361))
    times = [f"{h:02}:{m:02}" for h in range(24) for m in range(60)]
    assert [spoken.read_clock(spoken.clock(t)) for t in times] == times
    for wrong in (0, 361):
        with pytest.raises(GraftError, match="360"):
            spoken.bearing(wrong)
    for time in ("24:00", "1:00", "12:60"):
        with pytest.raises(GraftError, match="HH:MM"):
            spoken.clock(time)


@pytest.mark.parametrize(
    "call",
    [
        lambda: spoken.spell("Ä"),
        lambda: spoken.unspell("Alfa banana"),
        lambda: spoken.unspell(""),
        lambda: spoken.read_number("five apples"),
        lambda: spoken.read_number(""),
        lambda: spoken.digits("1.5"),
        lambda: spoken.cardinal(1_000_000),
    ],
)
def test_what_has_no_spoken_form_is_refused(call) -> None:
    with pytest.raises(GraftError):
        call()

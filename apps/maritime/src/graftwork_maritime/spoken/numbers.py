"""Numbers as words, digit by digit or as cardinals, and back.

digits("150")      ->  "one five zero"
cardinal(150)      ->  "one hundred fifty"
thousands(12000)   ->  "one two thousand"      the phrase book's one exception
decimal("4.25")    ->  "four decimal two five"
read_number("one five zero")  ->  "150"        as text: "007" keeps its zeros
"""

from __future__ import annotations

from graftwork.errors import GraftError

from .alphabet import FIGURE_OF, FIGURES, PRONOUNCED, words_of

TEENS = {
    word: value
    for value, word in enumerate(
        [
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ],
        10,
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2
    )
}
SCALES = {"hundred": 100, "thousand": 1000, "tousand": 1000}
DECIMAL = ("decimal", "point")
NUMBER_WORDS = {*FIGURE_OF, *PRONOUNCED, *TEENS, *TENS, *SCALES}
LIMIT = 1_000_000
_SMALL = FIGURES | {str(value): word for word, value in (TEENS | TENS).items()}


def digits(number: str | int) -> str:
    """A number's digits one by one: "007" -> "zero zero seven".

    Raises GraftError for anything but digits.
    """
    text = str(number)
    if not (text.isascii() and text.isdigit()):
        raise GraftError(f"{text!r} is no row of digits; a fraction is said with `decimal`")
    return " ".join(FIGURES[c] for c in text)


def cardinal(number: int) -> str:
    """A whole number from 0 to 999,999 as in reading aloud: 125 -> "one hundred twenty five".

    Raises GraftError outside of that range.
    """
    if not 0 <= number < LIMIT:
        raise GraftError(f"{number} is not from 0 to 999,999; say it digit by digit")
    if number >= 1000:
        head, rest = divmod(number, 1000)
        return " ".join([cardinal(head), "thousand", *([cardinal(rest)] if rest else [])])
    if number >= 100:
        head, rest = divmod(number, 100)
        return " ".join([cardinal(head), "hundred", *([cardinal(rest)] if rest else [])])
    if str(number) in _SMALL:
        return _SMALL[str(number)]
    return f"{_SMALL[str(number // 10 * 10)]} {_SMALL[str(number % 10)]}"


def thousands(number: int) -> str:
    """As the phrase book says numbers: digit by digit, but whole thousands with "thousand" as a word.

    Raises GraftError for a negative number.
    """
    if number and number % 1000 == 0:
        return f"{digits(number // 1000)} thousand"
    return digits(number)


def decimal(number: str, connector: str = "decimal") -> str:
    """A number with a fraction, digit by digit: "12.5" -> "one two decimal five"."""
    whole, _, fraction = number.partition(".")
    return f"{digits(whole)} {connector} {digits(fraction)}" if fraction else digits(whole)


def read_number(text: str | list[str]) -> str:
    """The number that words say, as text: "one five zero" -> "150", "forty eight point five" -> "48.5".

    Cardinals that follow each other are put side by side, as times are said: "eleven twenty five" -> "1125".
    Raises GraftError that names a word which belongs to no number.
    """
    words = words_of(text) if isinstance(text, str) else text
    for place, word in enumerate(words):
        if word in DECIMAL:
            return f"{_whole(words[:place])}.{_whole(words[place + 1 :])}"
    return _whole(words)


def _whole(words: list[str]) -> str:
    bad = next((word for word in words if word not in NUMBER_WORDS), None if words else "nothing")
    if bad:
        raise GraftError(f"{' '.join(words)!r} is no number: {bad!r} is no number word")
    if "thousand" in words or "tousand" in words:
        place = next(i for i, word in enumerate(words) if SCALES.get(word) == 1000)
        head, rest = _hundreds(words[:place]) or "1", _hundreds(words[place + 1 :])
        return f"{int(head)}{rest.zfill(3)}"
    return _hundreds(words)


def _hundreds(words: list[str]) -> str:
    """Groups below a thousand, side by side."""
    said, place = "", 0
    while place < len(words):
        group, place = _group(words, place)
        said += group
    return said


def _group(words: list[str], place: int) -> tuple[str, int]:
    value, place = _pair(words, place)
    if place < len(words) and words[place] == "hundred":
        place += 1
        rest = "0"
        if place < len(words) and words[place] != "hundred":
            rest, place = _pair(words, place)
        return f"{int(value) * 100 + int(rest)}", place
    return value, place


def _pair(words: list[str], place: int) -> tuple[str, int]:
    """A figure, a teen, or tens with their unit."""
    word, place = words[place], place + 1
    if word in SCALES:
        return "1" if word == "hundred" else "1000", place - (word == "hundred")
    if word in TEENS:
        return str(TEENS[word]), place
    if word not in TENS:
        return (FIGURE_OF | PRONOUNCED)[word], place
    unit = (FIGURE_OF | PRONOUNCED).get(words[place]) if place < len(words) else None
    if unit and unit != "0" and not (place + 1 < len(words) and words[place + 1] == "hundred"):
        return str(TENS[word] + int(unit)), place + 1
    return str(TENS[word]), place

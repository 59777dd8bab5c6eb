"""Letters and figures spoken one at a time (ITU Radio Regulations, Appendix 14).

    spell("OZ4B")  ->  "Oscar Zulu four Bravo"
    unspell("Oscar Zulu four Bravo")  ->  "OZ4B"

Reading also takes other spellings of the letters ("Alpha", "Whiskey", "Xray"), the figures as they are
pronounced ("tree", "fower", "niner") and the ITU's figure words ("unaone").
"""

from __future__ import annotations

import re

from graftwork.errors import GraftError

LETTERS = {
    word[0].upper(): word
    for word in [
        "Alfa",
        "Bravo",
        "Charlie",
        "Delta",
        "Echo",
        "Foxtrot",
        "Golf",
        "Hotel",
        "India",
        "Juliet",
        "Kilo",
        "Lima",
        "Mike",
        "November",
        "Oscar",
        "Papa",
        "Quebec",
        "Romeo",
        "Sierra",
        "Tango",
        "Uniform",
        "Victor",
        "Whisky",
        "X-ray",
        "Yankee",
        "Zulu",
    ]
}
FIGURES = dict(
    zip(
        "0123456789",
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
        strict=True,
    )
)
LETTER_OF = {word.lower(): letter for letter, word in LETTERS.items()} | {
    "alpha": "A",
    "juliett": "J",
    "whiskey": "W",
    "xray": "X",
}
FIGURE_OF = {word: figure for figure, word in FIGURES.items()}
# Words that plain English has too ("too", "to", "for") are no figures.
PRONOUNCED = {
    "zeero": "0",
    "wun": "1",
    "tree": "3",
    "fower": "4",
    "fife": "5",
    "ait": "8",
    "niner": "9",
} | {
    word: str(figure)
    for figure, word in enumerate(
        [
            "nadazero",
            "unaone",
            "bissotwo",
            "terrathree",
            "kartefour",
            "pantafive",
            "soxisix",
            "setteseven",
            "oktoeight",
            "novenine",
        ]
    )
}
_WORDS = LETTER_OF | FIGURE_OF | PRONOUNCED


def spell(text: str) -> str:
    """Letters and figures as words: "MQ3" -> "Mike Quebec three".

    Raises GraftError for a character that is neither A to Z nor 0 to 9.
    """
    try:
        return " ".join(LETTERS.get(c) or FIGURES[c] for c in text.upper())
    except KeyError as bad:
        raise GraftError(
            f"{text!r} holds {bad.args[0]!r}, which has no spoken letter or figure; write it with A to Z and 0 to 9"
        ) from None


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; hyphens part them, except in "X-ray"."""
    return re.findall(r"x-ray|[a-z]+", text.lower())


def unspell(text: str) -> str:
    """Spoken letters and figures back into characters; the inverse of `spell`.

    Raises GraftError that names a word which is neither.
    """
    words = words_of(text)
    unknown = [word for word in words if word not in _WORDS]
    if unknown or not words:
        raise GraftError(
            f"{text!r} is not spelled: {unknown[0] if unknown else 'nothing'!r} is no word of the alphabet"
        )
    return "".join(_WORDS[word] for word in words)

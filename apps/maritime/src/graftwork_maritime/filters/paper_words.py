"""Words that the paper's filters look for, and its reading of numbers: facts of arXiv 2603.04423 and its scripts."""

from __future__ import annotations

import re

KEYWORDS: dict[str, tuple[str, ...]] = {
    "fire": ("fire", "explosion"),
    "flooding": ("flood", "taking on water", "taken on water", "took on water"),
    "collision": ("collide", "collision"),
    "grounding": ("grounding", "grounded", "aground"),
    "list": ("list", "capsiz"),
    "sinking": ("sink",),
    "adrift": ("disabled", "drift"),
    "attack": ("attack", "armed", "pirate", "armament", "weapon", "gun"),
    "overboard": ("overboard", "over board", "fell", "fall"),
}
# An undesignated distress may say none of these; collision's, adrift's, "fell" and "fall" are not among them.
_ALLOWED = {"collide", "collision", "disabled", "drift", "fell", "fall"}
UNDESIGNATED = tuple(w for words in KEYWORDS.values() for w in words if w not in _ALLOWED)
CATEGORIES = (*KEYWORDS, "undesignated")

VESSEL_TYPES = (
    "Cargo Vessel", "Fishing Vessel", "Pleasure Craft", "Sailing Vessel", "Tanker", "Towing Vessel",
    "Passenger Vessel", "Tugboat", "Search and Rescue Vessel", "Law Enforcement Vessel", "Military Vessel",
    "Pilot Vessel", "Port Tender", "Anti-Pollution Vessel", "Medical Transport Vessel",
)  # fmt: skip
COAST_GUARD = (
    "this is coast guard",
    "this is the coast guard",
    "coast guard here",
    "coast guard responding",
)

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TEENS = (
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
WHOLE_NUMBERS = (*_TENS[1:], "hundred", "thousand", "million")
LETTERS = frozenset((
    "alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima", "mike",
    "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor", "whisky", "x-ray", "yankee",
    "zulu",
))  # fmt: skip
_NUMBER_WORDS = {*UNITS, *_TENS, *_TEENS, "hundred", "thousand"}


def number(words: str) -> int:
    """The number that the paper's evaluation reads in some words.

    It is off by ten from twenty on and by one in the teens, on both sides of each comparison alike; kept, so that the
    same dialogues pass.
    """
    total = current = 0
    after_tens = False
    for word in words.replace("-", " ").split():
        if word in UNITS:
            unit = UNITS.index(word)
            current = current + unit if after_tens else current * 10 + unit
        elif word in _TENS:
            current += 10 * _TENS.index(word)
        elif word in _TEENS:
            current += 10 + _TEENS.index(word)
        elif word == "hundred":
            current *= 100
        elif word == "thousand":
            total, current = total + 1000 * current, 0
        elif word.isdigit():
            current += int(word)
        else:
            continue
        after_tens = word in _TENS
    return total + current


def numbers(text: str) -> set[int]:
    """The numbers that it reads in a text: one for each run of words that hold a number word."""
    runs: list[list[str]] = [[]]
    for word in text.lower().split():
        if _NUMBER_WORDS.intersection(word.replace("-", " ").split()):
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return {number(" ".join(run)) for run in runs if run}


def sentences(text: str) -> list[str]:
    """Split on a full stop or question mark before a space; a turn's last sentence goes on in the next turn."""
    return [s.strip() for s in re.split(r"\. |\? ", text) if s.strip()]


def plain_words(line: str) -> str:
    """Without punctuation, lower case, single spaces."""
    return " ".join(re.sub(r"[^\w\s]", "", line).lower().split())

"""One turn's parts in their order: what the grammar of `turn.lark` finds, put together into facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from itertools import takewhile

from lark import Lark, Token, Tree

from graftwork.errors import GraftError

from ..spoken import read_clock, read_number
from ..spoken.alphabet import LETTER_OF
from ..spoken.numbers import DECIMAL, NUMBER_WORDS
from .axes import axes, positions
from .item import Item, kind_at, skip

_LETTERS = re.compile(r"[A-Z]{3,7}")
_NEARLY_MMSI = (7, 8, 10, 11)  # figures by which a station says who it is, and which are not nine
_BETWEEN = {"is", "number", "of", "and", "are", "we", "have", "total", "my", "the"}


@cache
def _parser() -> Lark:
    def words(known: set[str]) -> str:
        return "|".join(sorted(known, key=lambda w: (-len(w), w)))

    grammar = (files(__package__) / "turn.lark").read_text(encoding="utf8")
    grammar = grammar.replace("@LETTERS@", words(set(LETTER_OF)))
    grammar = grammar.replace("@FIGURES@", words(NUMBER_WORDS))
    return Lark(grammar, parser="lalr")


def read_items(text: str) -> list[Item]:
    """The parts of a turn. No text fails."""
    tree = _parser().parse(text)
    items = [item for child in tree.children for item in _first_pass(child)]
    for step in (axes, positions, _keyed, _counted, _codes):
        items = step(items)
    return items


def _first_pass(child: Token | Tree[Token]) -> Iterator[Item]:
    if isinstance(child, Token):
        yield _token(child)
        return
    run, unit = (child.children[0], child.children[1]) if child.data == "measure" else (child, None)
    assert isinstance(run, Tree)
    tokens = [token for token in run.children if isinstance(token, Token)]
    letters = [token for token in tokens if token.type == "LETTER"]
    start, end = _span(tokens[0])[0], _span(tokens[-1])[1]
    if letters:
        if len(tokens) < 3 or (len(letters) == len(tokens) == 3 and tokens[0].islower()):
            yield from (_token(token) for token in tokens)
        else:
            yield Item("code", _characters(tokens), start, end)
        if isinstance(unit, Token):
            yield _token(unit)
        return
    number = _number(tokens)
    if not isinstance(unit, Token):
        yield Item("number", number, start, end)
    elif unit.type == "UTC" and str(unit).lower() == "hours" and len(number) != 4:
        yield Item("number", number, start, end)  # a while, no time of day
    elif unit.type == "UTC":
        yield _time(number, start, _span(unit)[1])
    else:
        yield Item(unit.type.lower(), number, start, _span(unit)[1])


def _token(token: Token) -> Item:
    return Item(token.type.lower(), str(token), *_span(token))


def _span(token: Token) -> tuple[int, int]:
    assert token.start_pos is not None and token.end_pos is not None
    return token.start_pos, token.end_pos


def _number(tokens: list[Token]) -> str:
    """Digits of words and numerals in a row."""
    if all(token.type == "NUMERAL" for token in tokens):
        return "".join(tokens).replace(",", ".")
    said = ""
    words: list[str] = []
    for token in tokens:
        word = _word(token)
        if token.type == "NUMERAL" or word in DECIMAL:
            said += (read_number(words) if words else "") + ("." if word in DECIMAL else word)
            words = []
        else:
            words.append(word)
    return said + (read_number(words) if words else "")


def _characters(tokens: list[Token]) -> str:
    return "".join(
        LETTER_OF.get(token.lower())
        or (token if token.type == "NUMERAL" else read_number([_word(token)]))
        for token in tokens
        if token.lower() not in DECIMAL
    )


def _word(token: Token) -> str:
    """A figure's word, without the "and" of "one hundred and ten"."""
    return re.split(r"[ -]+and$", token.lower())[0]


def _time(number: str, start: int, end: int) -> Item:
    if len(number) == 6 and number.isdigit() and 1 <= int(number[:2]) <= 31:
        number = number[2:]  # the day of the month before the time
    if evening := re.fullmatch(
        r"20([123])00", number
    ):  # "twenty-three hundred", read as 20 and 300
        number = f"2{evening[1]}00"
    try:
        return Item("time", read_clock(" ".join(_figures(number.replace(".", "")))), start, end)
    except GraftError:
        return Item(
            "fault",
            ("time-form", f"{number} is no time of day", "say four figures, 0000 to 2359"),
            start,
            end,
        )


def _figures(number: str) -> list[str]:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return [names[int(c)] for c in number.zfill(4)]


def _keyed(items: list[Item]) -> list[Item]:
    """A keyword with its number: MMSI, call sign, channel."""
    out: list[Item] = []
    place = 0
    while place < len(items):
        item = items[place]
        found = skip(items, place + 1, *_BETWEEN)
        value = items[found] if found is not None and found <= place + 4 else None
        make = _KEYED.get(item.kind)
        if make and found is not None and value is not None and value.kind in ("number", "code"):
            if item.kind == "mmsi":
                value, found = _joined(items, found)
            out.append(make(value, item.start))
            place = found + 1
        elif (
            item.kind == "call_sign" and value is not None and _LETTERS.fullmatch(str(value.value))
        ):
            out += [Item("call_sign", value.value, item.start, value.end)]
            place = (found or place) + 1
        elif item.kind == "call_sign" and found is not None and (wrong := _misspelt(items, found)):
            out.append(wrong)
            place = found
        else:
            out.append(Item("word", item.value, item.start, item.end) if make else item)
            place += 1
    return out


def _misspelt(items: list[Item], place: int) -> Item | None:
    """The fault of a call sign in which some words are of the alphabet and one is not."""
    said = list(
        takewhile(
            lambda i: i.kind in ("letter", "code", "number", "word"), items[place : place + 8]
        )
    )
    spelled = [i for i in said if i.kind != "word"]
    words = [i for i in said if i.kind == "word" and i.value[:1].isupper()]
    if not spelled or not words or words[0].start > spelled[-1].end + 1:
        return None
    fault = (
        "call-sign-form",
        f"{words[0].value} is no word of the alphabet",
        "spell with the alphabet",
    )
    return Item("fault", fault, said[0].start, said[-1].end)


def _joined(items: list[Item], place: int) -> tuple[Item, int]:
    """A number with those after commas, as MMSI are said in groups; and where it ends."""
    item = items[place]
    while (after := skip(items, place + 1)) == place + 2 and items[after].kind == "number":
        if len(item.value) + len(items[after].value) > 9:
            break
        item = Item("number", item.value + items[after].value, item.start, items[after].end)
        place = after
    return item, place


def _mmsi(item: Item, start: int) -> Item:
    if item.kind == "number" and item.value.isdigit() and len(item.value) == 9:
        return Item("mmsi", item.value, start, item.end)
    fault = (
        "mmsi-form",
        f"an MMSI of {len(str(item.value))} characters",
        "an MMSI has nine figures",
    )
    return Item("fault", fault, start, item.end)


def _call_sign(item: Item, start: int) -> Item:
    if 3 <= len(item.value) <= 7 and not item.value.isdigit() and item.value.isalnum():
        return Item("call_sign", item.value, start, item.end)
    fault = ("call-sign-form", f"{item.value} is no call sign", "say 3 to 7 letters and figures")
    return Item("fault", fault, start, item.end)


def _channel(item: Item, start: int) -> Item:
    return Item("channel_number", str(item.value).lstrip("0") or "0", start, item.end)


_KEYED: dict[str, Callable[[Item, int], Item]] = {
    "mmsi": _mmsi,
    "call_sign": _call_sign,
    "channel": _channel,
}


def _counted(items: list[Item]) -> list[Item]:
    """Persons before or after their number; numerals of nine figures are an MMSI without the word."""
    out: list[Item] = []
    place = 0
    while place < len(items):
        item = items[place]
        if item.kind == "persons" and not item.value[:1].isdigit():
            found = skip(items, place + 1, *_BETWEEN)
            paused = any(i.kind == "pause" for i in items[place + 1 : found])
            ends = found is not None and kind_at(items, found + 1) in (None, "stop", "pause")
            near = found is not None and found <= place + 3 and items[found].kind == "number"
            if found is not None and near and (ends or not paused):
                out.append(Item("persons", items[found].value, item.start, items[found].end))
                place = found + 1
                continue
            item = Item("word", item.value, item.start, item.end)
        elif item.kind == "number" and len(item.value) == 9 and item.value.isdigit():
            item = Item("mmsi", item.value, item.start, item.end)
        elif (
            (
                item.kind == "number"
                and item.value.isdigit()
                and kind_at(out, len(out) - 1) == "this_is"
            )
            and len(item.value) in _NEARLY_MMSI
            and kind_at(items, place + 1) in ("pause", "stop")
        ):
            item = _mmsi(item, item.start)
        out.append(item)
        place += 1
    return out


# Of the length of a call sign, but a gas, a number of dangerous goods, or a channel.
_NO_CALL_SIGN = re.compile(r"(CO|SO|NO|NH|CH|H2S|N2O)\d?|UN\d{4}|\d{1,2}[AB]")


def _codes(items: list[Item]) -> list[Item]:
    """A code of the length of a call sign is one."""
    return [
        Item("call_sign", i.value, i.start, i.end)
        if i.kind == "code" and 3 <= len(i.value) <= 7 and not _NO_CALL_SIGN.fullmatch(i.value)
        else Item("word", i.value, i.start, i.end)
        if i.kind in ("letter", "side", "code")
        else i
        for i in items
    ]

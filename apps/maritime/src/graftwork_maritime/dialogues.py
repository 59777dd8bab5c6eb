"""A dialogue and how it is read: JSONL lines, or plain text with a turn a line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError

from . import NOTICE

SPEAKERS = ("ship", "coast", "other")
MAX_TEXT = 10_000_000  # bytes of a plain text, which is one dialogue
MAX_LINE = 1_000_000  # bytes of a JSONL line
MAX_TURNS = 1_000
MAX_TURN = 20_000  # characters of a turn, of which judging takes seconds
_LABEL = re.compile(r"\s*(SHIP|COAST|OTHER)(?:\s*\(([^)]*)\))?\s*:\s*", re.IGNORECASE)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Turn:
    """What one station says. `speaker`: ship, coast or other; `name`: the station's, where it is known."""

    speaker: str
    text: str
    name: str | None = None


@dataclass(frozen=True)
class Dialogue:
    """Turns in the order in which they were said, and what is known of them.

    Args:
        turns: at least one.
        scenario: the scenario's JSON, where the dialogue has one.
        category: of the distress, or the kind of traffic; `None` when nobody said.
        line: of the file, counted from 1.
    """

    turns: tuple[Turn, ...]
    id: str = ""
    scenario: Mapping[str, Any] | None = None
    category: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None

    @property
    def text(self) -> str:
        """The turns' texts, one a line."""
        return "\n".join(turn.text for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        """The fields of a JSONL line."""
        return {
            "id": self.id,
            "scenario": dict(self.scenario) if self.scenario is not None else None,
            "category": self.category,
            "turns": [{"speaker": t.speaker, "name": t.name, "text": t.text} for t in self.turns],
            "provenance": dict(self.provenance),
            "notice": NOTICE,
        }


def from_text(text: str, **known: Any) -> Dialogue:
    """A dialogue of plain text: a turn a line, labelled `SHIP:`, `COAST:` or `OTHER (NAME):`, or by turns.

    Args:
        text: empty lines are skipped; lines without a label follow the last labelled one's alternation.
        known: further fields of the Dialogue.

    Raises:
        GraftError: no turn, or more than a dialogue can have.
    """
    turns: list[Turn] = []
    for line in filter(str.strip, text.splitlines()):
        label = _LABEL.match(line)
        if label:
            speaker, name = label[1].lower(), (label[2] or "").strip() or None
            turns.append(Turn(speaker, line[label.end() :].strip(), name))
        else:
            last = turns[-1].speaker if turns else "coast"
            turns.append(Turn("coast" if last == "ship" else "ship", line.strip()))
    if not turns:
        raise GraftError("an empty dialogue; write one turn a line")
    if len(turns) > MAX_TURNS:
        raise GraftError(
            f"{len(turns)} turns, and a dialogue has at most {MAX_TURNS}; put several dialogues into a JSONL "
            "file, one a line"
        )
    return Dialogue(tuple(turns), **known)


def from_json(raw: Any) -> Dialogue:
    """A dialogue of the fields of a JSONL line.

    Raises:
        GraftError: a field that is missing or of another kind, by name.
    """
    if not isinstance(raw, dict):
        raise GraftError(f"a {type(raw).__name__}, not an object with turns")
    turns = raw.get("turns")
    if not isinstance(turns, list) or not turns:
        raise GraftError('turns: missing or empty; expected [{"speaker": ..., "text": ...}, ...]')
    if len(turns) > MAX_TURNS:
        raise GraftError(f"turns: {len(turns)}, and a dialogue has at most {MAX_TURNS}")
    scenario, provenance = raw.get("scenario"), raw.get("provenance") or {}
    for name, value in (("scenario", scenario or {}), ("provenance", provenance)):
        if not isinstance(value, dict):
            raise GraftError(f"{name}: a {type(value).__name__}, not an object")
    category = raw.get("category")
    if category is not None and not isinstance(category, str):
        raise GraftError(f"category: a {type(category).__name__}, not a text")
    return Dialogue(
        tuple(_turn(n, t) for n, t in enumerate(turns, 1)),
        id=str(raw.get("id") or ""),
        scenario=scenario or None,
        category=category,
        provenance=provenance,
    )


def _turn(n: int, raw: Any) -> Turn:
    if not isinstance(raw, dict):
        raise GraftError(f"turn {n}: a {type(raw).__name__}, not an object")
    speaker, name, text = raw.get("speaker"), raw.get("name"), raw.get("text")
    if speaker not in SPEAKERS:
        raise GraftError(f"turn {n}: speaker {speaker!r}; expected one of {', '.join(SPEAKERS)}")
    if not isinstance(text, str):  # "" is read: what a model wrote is judged, not refused
        raise GraftError(f"turn {n}: text is missing")
    if name is not None and not isinstance(name, str):
        raise GraftError(f"turn {n}: name is a {type(name).__name__}, not a text")
    return Turn(speaker, " ".join(text.split()), name)


def read(file: str | Path, encoding: str | None = None) -> Iterator[Dialogue]:
    """The dialogues of a file, one by one: JSONL when its first character is `{`, else one of plain text.

    Args:
        file: UTF-8, or UTF-16 that begins with its mark.
        encoding: another one, by Python's name for it.

    Raises:
        GraftError: a file that cannot be read, with the line and the remedy.
    """
    file = Path(file)
    encoding = encoding or _encoding(file)
    if _first(file, encoding) == "{":
        yield from _lines(file, encoding)
        return
    if (size := file.stat().st_size) > MAX_TEXT:
        raise GraftError(
            f"{file}: {size / 1e6:.1f} MB of plain text would be one dialogue; the limit is "
            f"{MAX_TEXT // 10**6} MB; put several dialogues into a JSONL file, one a line"
        )
    text = "\n".join(line for _, line in _decoded(file, encoding, limit=MAX_TEXT))
    try:
        yield _short(from_text(text, id=file.stem, line=1))
    except GraftError as error:
        raise GraftError(f"{file}: {error}") from None


def _lines(file: Path, encoding: str) -> Iterator[Dialogue]:
    for n, line in _decoded(file, encoding, limit=MAX_LINE):
        if not line.strip():
            continue
        try:
            found = _short(from_json(json.loads(line)))
        except json.JSONDecodeError as error:
            raise GraftError(
                f"{file}: line {n}: not JSON ({error.msg} at character {error.pos + 1}); "
                "JSONL has one whole object a line"
            ) from None
        except RecursionError:
            raise GraftError(f"{file}: line {n}: nested too deeply to be a dialogue") from None
        except GraftError as error:
            raise GraftError(f"{file}: line {n}: {error}") from None
        yield Dialogue(
            found.turns,
            found.id or f"{file.stem}:{n}",
            found.scenario,
            found.category,
            found.provenance,
            n,
        )


def _short(one: Dialogue) -> Dialogue:
    for n, turn in enumerate(one.turns, 1):
        if len(turn.text) > MAX_TURN:
            raise GraftError(
                f"turn {n} has {len(turn.text):,d} characters, and a turn has at most {MAX_TURN:,d}; part it into turns"
            )
    return one


def _encoding(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            head = opened.read(4)
    except OSError as error:
        raise GraftError(f"{file}: {error.strerror}") from None
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


def _first(file: Path, encoding: str) -> str:
    for _, line in _decoded(file, encoding, limit=MAX_TEXT):
        if line.strip():
            return line.strip()[0]
    raise GraftError(f"{file}: is empty")


def _decoded(file: Path, encoding: str, limit: int) -> Iterator[tuple[int, str]]:
    """(number, text) of each line; of one that is too long nothing is kept."""
    n = 1
    try:
        with file.open(encoding=encoding, newline=None) as opened:
            while line := opened.readline(limit + 1):
                if len(line) > limit:
                    raise GraftError(
                        f"{file}: line {n}: longer than {limit // 10**6} MB; JSONL has one dialogue a line"
                    )
                if "\0" in line:
                    raise GraftError(
                        f"{file}: line {n}: holds NUL bytes, so it is no text in {encoding}; save it as UTF-8, or "
                        "name its encoding with --encoding"
                    )
                yield n, line.rstrip("\n")
                n += 1
    except (UnicodeDecodeError, UnicodeError) as error:
        raise GraftError(
            f"{file}: line {_line_of(file, encoding)}: not {encoding} text ({error}); save it as UTF-8, or name "
            "its encoding, such as --encoding cp1252"
        ) from None
    except LookupError:
        raise GraftError(f"--encoding {encoding}: unknown; for example utf-8, cp1252") from None
    except OSError as error:
        raise GraftError(f"{file}: {error.strerror}") from None


def _line_of(file: Path, encoding: str) -> int:
    """The first line that does not decode; text is decoded in blocks, so the reader is ahead of it."""
    decoder, n = codecs.getincrementaldecoder(encoding)(), 1
    with file.open("rb") as opened:
        for raw in opened:
            try:
                decoder.decode(raw)
            except UnicodeError:
                return n
            n += 1
    return n

"""The cards' counts, and the page's rules, are those of the code."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from graftwork_maritime.grammar import RULES
from graftwork_maritime.grammar.phrases import categories, procedure
from graftwork_maritime.scenario.kinds import CATEGORIES
from graftwork_maritime.scenario.names import NAMES

ROOT = Path(__file__).parents[2]


def sizes(card: str) -> list[int]:
    text = (ROOT / "data_cards" / f"{card}.md").read_text(encoding="utf8")
    (size,) = re.findall(r"^size: (.*)$", text, re.MULTILINE)
    return [int(number) for number in re.findall(r"\d+", size)]


def rows(table: str) -> int:
    data = files("graftwork_maritime.scenario") / "data" / table
    return len(data.read_text(encoding="utf8").splitlines()) - 1


def test_the_tables_card() -> None:
    counts = [rows("mids.csv"), rows("places.csv"), rows("seas.csv"), len(NAMES)]
    assert sizes("maritime-tables") == counts


def test_the_generators_card() -> None:
    pairs = sum(len(names) for names in CATEGORIES.values())
    wordings = [w for part in procedure().values() if isinstance(part, list) for w in part]
    for table in categories().values():
        wordings += table["nature"]
        wordings += [
            w for k, fact in table.items() if k != "nature" for w in fact["say"] + fact["ask"]
        ]
    assert sizes("maritime-scenarios") == [pairs, len(wordings)]


def test_the_page_lists_the_rules() -> None:
    page = (ROOT / "docs" / "maritime-scenarios.md").read_text(encoding="utf8")
    assert (
        dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page.split("## Rules")[1], re.MULTILINE))
        == RULES
    )

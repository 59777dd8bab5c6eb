"""Every data card has the front matter that data_cards/README.md asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CARDS = Path(__file__).parents[2] / "data_cards"
README = (CARDS / "README.md").read_text(encoding="utf8")
KINDS = ("data", "generator", "checkpoint")


def required(kind: str) -> set[str]:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", README, re.MULTILINE)
    assert len(rows) >= 9
    return {name for name, kinds in rows if kinds == "all" or kind in kinds.split(", ")}


def front_matter(text: str) -> dict[str, Any]:
    begun, head, body = text.split("---\n", 2)
    assert begun == "" and body.strip()
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "card", sorted(p for p in CARDS.glob("*.md") if p.name != "README.md"), ids=lambda p: p.name
)
def test_a_card_says_what_it_must(card: Path) -> None:
    found = front_matter(card.read_text(encoding="utf8"))
    assert found["kind"] in KINDS
    missing = {f for f in required(found["kind"]) if found.get(f) in (None, "", [], {})}
    assert not missing, f"{card.name}: {sorted(missing)}"
    if "sha256" in found:
        hashes = (
            found["sha256"].values() if isinstance(found["sha256"], dict) else [found["sha256"]]
        )
        assert all(re.fullmatch(r"[0-9a-f]{64}", h) for h in hashes)


def test_the_readme_follows_its_own_rule() -> None:
    example = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert example is not None
    found = front_matter(example[1] + "text")
    assert required(found["kind"]) <= set(found)

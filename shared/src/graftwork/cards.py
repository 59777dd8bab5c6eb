"""The methods' cards, read from their files without importing torch.

Each file of `graftwork/methods/` that defines a method carries a literal `CARD`; dropping such a
file in is all that registers a method. Light verbs (`graftwork methods`) and the lazy package
namespace read the cards from the syntax tree, so they cost milliseconds.
"""

from __future__ import annotations

import ast
import functools
from importlib.resources import files
from typing import Any

FIELDS = (
    "id",
    "class",
    "kind",
    "changes",
    "mergeable",
    "layer_kinds",
    "parameters",
    "paper",
    "choose",
)


@functools.cache
def cards() -> tuple[dict[str, Any], ...]:
    """All method cards, sorted by id; each holds the keys of `FIELDS` and `module`.

    Raises:
        ValueError: a card lacks a field, has an unknown one, or repeats an id or class.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in sorted(files("graftwork").joinpath("methods").iterdir(), key=lambda e: e.name):
        if not entry.name.endswith(".py") or entry.name.startswith("_"):
            continue
        card = _literal_card(entry.read_text(encoding="utf8"))
        if card is None:
            continue
        wrong = set(FIELDS) ^ set(card)
        if wrong:
            raise ValueError(
                f"methods/{entry.name}: CARD fields missing or unknown: {sorted(wrong)}"
            )
        clash = [c["id"] for c in found.values() if c["class"] == card["class"]]
        if card["id"] in found or clash:
            raise ValueError(f"methods/{entry.name}: method {card['id']!r} is defined twice")
        card["layer_kinds"] = list(expand_kinds(card["layer_kinds"]))
        card["module"] = "graftwork.methods." + entry.name.removesuffix(".py")
        found[card["id"]] = card
    return tuple(found[k] for k in sorted(found))


#: every kind with one weight; a card or class writes "layers" for all of them
LAYERS = (
    "linear",
    "transposed_linear",
    "embedding",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)


def expand_kinds(kinds: list[str]) -> tuple[str, ...]:
    """Replace the word "layers" by every kind that has one weight; `-kind` takes one out again."""
    out = [k for word in kinds if word[0] != "-" for k in (LAYERS if word == "layers" else (word,))]
    return tuple(k for k in out if f"-{k}" not in kinds)


def _literal_card(source: str) -> dict[str, Any] | None:
    for node in ast.parse(source).body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "CARD"
            and node.value is not None
        ):
            card = ast.literal_eval(node.value)
            assert isinstance(card, dict)
            return card
    return None

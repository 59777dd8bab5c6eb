"""`graftwork methods`: the registered methods, from their cards."""

from __future__ import annotations

import argparse
import json

from graftwork.cards import FIELDS, LAYERS, cards
from graftwork.cli.table import table

SHOWN = tuple(f for f in FIELDS if f != "class")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def run(options: argparse.Namespace) -> int | None:
    found = [{key: card[key] for key in SHOWN} for card in cards()]
    if options.json:
        print(json.dumps(found, indent=1))
        return None
    rows = [
        [
            c["id"],
            c["kind"],
            c["changes"],
            "yes" if c["mergeable"] else "no",
            _kinds(c["layer_kinds"]),
            c["parameters"],
            c["paper"],
            c["choose"],
        ]
        for c in found
    ]
    head = ["method", "kind", "changes", "merges", "serves", "parameters", "paper"]
    print(table([*head, "choose it for"], rows))
    print(
        "\nparameters per site: r, c, N are settings; in, out channels; g groups; k kernel elements"
    )
    return None


def _kinds(kinds: list[str]) -> str:
    """Layer kinds in few words: "layers" stands for every kind with one weight."""
    left_out = [k for k in LAYERS if k not in kinds]
    extra = [k for k in kinds if k not in LAYERS]
    if len(left_out) > 2:
        return ", ".join(kinds)
    return ", ".join(["layers" + "".join(f" but {k}" for k in left_out), *extra])

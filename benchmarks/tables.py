"""Fill the tables of README.md and of the docs from the records and from the methods' cards.

python -m benchmarks.tables            # rewrite what differs
python -m benchmarks.tables --check    # exit 1, with the difference, when something differs
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from graftwork.cards import cards
from graftwork.errors import GraftError
from graftwork_runs.tables import Tables, markdown

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
PAGES = ("README.md", "docs/**/*.md", "*/README.md", "apps/*/README.md", "packages/*/README.md")


def methods() -> str:
    """Every registered method, from its card."""
    return markdown(
        ["method", "kind", "changes", "merges", "trained per layer", "layer kinds", "paper"],
        [
            [
                f"`gw.{card['class']}`",
                card["kind"],
                card["changes"],
                "yes" if card["mergeable"] else "no",
                f"`{card['parameters']}`",
                _families(card["layer_kinds"]),
                card["paper"],
            ]
            for card in cards()
        ],
    )


def _families(kinds: Sequence[str]) -> str:
    """ "conv1d, conv2d, conv3d" as "conv1d/2d/3d"."""
    names: dict[str, list[str]] = {}
    for kind in kinds:
        family = re.sub(r"\dd$", "", kind)
        names.setdefault(family, []).append(kind[len(family) :])
    return ", ".join(family + "/".join(ends) for family, ends in names.items())


GENERATORS = {"methods": methods}


def pages() -> Iterator[Path]:
    for pattern in PAGES:
        yield from ROOT.glob(pattern)


def project_tables() -> Tables:
    return Tables(ROOT, RECORDS, GENERATORS, set(pages()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 on a difference"
    )
    check = parser.parse_args(arguments).check
    try:
        differences = project_tables().update(check=check)
    except GraftError as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    for difference in differences:
        print(difference)
    if check and differences:
        print("These tables are not current: python -m benchmarks.tables", file=sys.stderr)
        return 1
    print(f"{len(differences)} pages {'differ' if check else 'rewritten'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

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

from benchmarks import pages as by_case
from benchmarks.contamination import page as contamination
from benchmarks.fewshot import page as fewshot
from benchmarks.maritime import headline_page
from benchmarks.maritime import page as maritime
from benchmarks.methods import beside
from benchmarks.methods.page import experiments, verdict_of
from benchmarks.quantised import page as quantised
from benchmarks.speed import page as speed
from benchmarks.tenants import page as tenants
from benchmarks.trees import page as trees
from graftwork.cards import cards
from graftwork.errors import GraftError
from graftwork_runs import validate_record
from graftwork_runs.tables import Tables, markdown

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
PAGES = ("README.md", "docs/**/*.md", "*/README.md", "apps/*/README.md", "packages/*/README.md")


def methods() -> str:
    """Every registered method, from its card, with the verdict of its experiment."""
    return markdown(
        [
            *("method", "kind", "changes", "merges", "trained per layer", "layer kinds", "paper"),
            *("choose it for", "paper's effect here"),
        ],
        [
            [
                f"`gw.{card['class']}`",
                card["kind"],
                card["changes"],
                "yes" if card["mergeable"] else "no",
                f"`{card['parameters']}`",
                _families(card["layer_kinds"]),
                card["paper"],
                card["choose"],
                verdict_of(card["id"]),
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


def demo() -> str:
    """The medseg demo's table: what each arm reached on the test subjects, and what it trained."""
    record = validate_record(RECORDS / "medseg" / "demo.json")

    def cell(arm: str, metric: str, case: str = "mean", digits: int = 3) -> str:
        [row] = record.find(variant=arm, metric=metric, case=case)
        text = f"{row.value:.{digits}f}"
        if case == "mean" and row.lo is not None and row.lo != row.hi:
            text += f" ({row.lo:.{digits}f} to {row.hi:.{digits}f})"
        return text

    def trained(arm: str) -> int:
        [row] = record.find(variant=arm, metric="trained parameters")
        return int(row.value or 0)

    arms = list(dict.fromkeys(row.variant for row in record.rows))
    # Full fine-tuning trains the base and the one new row of its last convolution.
    whole = trained("full fine-tuning")
    rows = [
        [
            arm,
            cell(arm, "dice"),
            cell(arm, "dice", "CSF"),
            cell(arm, "hd95", digits=1),
            f"{trained(arm):,} ({100 * trained(arm) / whole:.3g} %)",
        ]
        for arm in arms
    ]
    [share] = record.find(metric="share of gap")
    [size] = record.find(metric="file")
    cases = share.n
    columns = [
        "trained",
        "Dice (range over seeds)",
        "Dice of the new tissue",
        "HD95 mm",
        "parameters",
    ]
    return markdown(columns, rows) + (
        f"\n\n{cases} simulated test subjects, {len(record.seeds)} seeds, {record.details['steps']} steps. "
        f"The graft's folder is {(size.value or 0) / 1000:.0f} kB; of the gap between the last convolution "
        f"alone and full fine-tuning it wins back {100 * (share.value or 0):.0f} % "
        f"(95 % interval {100 * (share.lo or 0):.0f} to {100 * (share.hi or 0):.0f} %).\n"
    )


GENERATORS = {
    "demo": demo,
    "methods": methods,
    "experiments": experiments,
    **beside.GENERATORS,
    **contamination.GENERATORS,
    **fewshot.GENERATORS,
    **speed.GENERATORS,
    **quantised.GENERATORS,
    **trees.GENERATORS,
    **tenants.GENERATORS,
    **by_case.GENERATORS,
    **maritime.GENERATORS,
    **headline_page.GENERATORS,
}


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

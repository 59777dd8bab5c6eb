"""Makes the adapter that the app's wheel holds from a graft that `headline` has trained.

    python -m benchmarks.maritime.ship --out OUT --job DiaBlo-0 --base FOLDER --to FOLDER

Its tensors are written in bfloat16, the precision in which the base computes; its passport has the form of the
dialogues, the figures of its job in the record, and what it was trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.maritime.headline import COUNTS, FORM
from benchmarks.maritime.headline_table import TARGET
from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_runs import validate_record

CARD = (
    f"{COUNTS['train']:,d} dialogues of exercises, composed in the form of the paper's (seed 0), of scenarios with "
    "invented names; see data_cards/maritime-scenarios.md."
)


def metrics_of(arm: str, record: Path) -> dict[str, Any]:
    """The arm's figures in the record: means over the seeds that are there.

    Raises GraftError when it has none.
    """
    rows = validate_record(record).find(variant=arm)
    found = {row.metric: row.value for row in rows if row.value is not None}
    if not found:
        raise GraftError(f"{record}: has no figure of {arm}; write the table first")
    return found


def ship(out: Path, job: str, base: str, to: Path, record: Path = TARGET) -> Path:
    """Read a trained graft and write it small; the folder."""
    import graftwork as gw
    from graftwork_llm import bases

    known = json.loads((out / "grafts" / f"{job}.json").read_text())
    model, _ = bases.load(base, "bfloat16")
    graft = gw.load(model, out / "grafts" / job)
    return gw.save(
        graft, to, dtype="bfloat16", overwrite=True, data_card=CARD,
        metrics={
            **metrics_of(job.rpartition("-")[0], record),
            "validation loss": known["validation loss"], "rate": known["rate"],
        },
        app={"maritime": {"base": Path(base).name, "form": FORM, "notice": NOTICE}},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.ship", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the headline's results")
    parser.add_argument("--job", required=True, help="an arm and a seed, as its files are named")
    parser.add_argument("--base", required=True, help="the folder that it was trained on")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        print(ship(args.out, args.job, args.base, args.to))
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Makes the adapters of the app's wheel, from a graft of `headline` and from the one of `pack` that answers live.

    python -m benchmarks.maritime.ship --out OUT/headline --job DiaBlo-0 --base FOLDER --to FOLDER
    python -m benchmarks.maritime.ship --out OUT/live --base FOLDER --to FOLDER

Its tensors are written in bfloat16, the precision in which the base computes; its passport has the form of the
dialogues, its figures in the records, and what it was trained on. The live one is measured as shipped, so it is made
twice: before `live` measures it, without figures, and then with them.
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
from benchmarks.maritime.live import ALL, RECORDS
from benchmarks.maritime.pack.jobs import BLIND, LIVE_GRAFT
from benchmarks.maritime.pack.work import FORM as LIVE_FORM
from benchmarks.maritime.pack.work import LESSONS
from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_runs import validate_record

CARD = (
    f"{COUNTS['train']:,d} dialogues of exercises, composed in the form of the paper's (seed 0), of scenarios with "
    "invented names; see data_cards/maritime-scenarios.md."
)
LIVE_CARD = (
    "{:,d} lessons (seed 0): exchanges with a scripted coast station and the right reply to each move, of scenarios "
    "with invented names; see data_cards/maritime-scenarios.md."
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


def live_metrics(base: str, records: Path = RECORDS) -> dict[str, Any]:
    """The figures of its own replies in wordings that no lesson has, of the records that are there."""
    found = {}
    for said in BLIND:
        file = records / f"live-model-{said}.json"
        if file.is_file():
            rows = validate_record(file).find(case=ALL, variant=f"{base}, graft, {said} wordings")
            found |= {f"{row.metric}, {said} wordings": row.value for row in rows}
    return found


def ship(
    graft: Path, base: str, to: Path, *, form: str, card: str, metrics: dict[str, Any]
) -> Path:
    """Read a trained graft and write it small; the folder."""
    import graftwork as gw
    from graftwork_llm import bases

    model, _ = bases.load(base, "bfloat16")
    return gw.save(
        gw.load(model, graft), to, dtype="bfloat16", overwrite=True, data_card=card, metrics=metrics,
        app={"maritime": {"base": Path(base).name, "form": form, "notice": NOTICE}},
    )  # fmt: skip


def ship_job(out: Path, job: str, base: str, to: Path, record: Path = TARGET) -> Path:
    """The graft of a headline's job."""
    known = json.loads((out / "grafts" / f"{job}.json").read_text())
    metrics = {
        **metrics_of(job.rpartition("-")[0], record),
        "validation loss": known["validation loss"], "rate": known["rate"],
    }  # fmt: skip
    return ship(out / "grafts" / job, base, to, form=FORM, card=CARD, metrics=metrics)


def ship_live(out: Path, base: str, to: Path, records: Path = RECORDS) -> Path:
    """The graft that answers live."""
    run = out / "run"
    [loss] = validate_record(run / "record.json").find(metric="val_loss")
    took = json.loads((out / f"{LIVE_GRAFT}.json").read_text())
    metrics = {
        **live_metrics(Path(base).name, records),
        "validation loss": loss.value, "training seconds": took["seconds"],
    }  # fmt: skip
    card = LIVE_CARD.format(LESSONS["train"])
    return ship(run / LIVE_GRAFT, base, to, form=LIVE_FORM, card=card, metrics=metrics)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.ship", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of a part's results")
    parser.add_argument("--job", help="an arm and a seed, as its files are named; default: live")
    parser.add_argument("--base", required=True, help="the folder that it was trained on")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        if args.job:
            print(ship_job(args.out, args.job, args.base, args.to))
        else:
            print(ship_live(args.out, args.base, args.to))
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

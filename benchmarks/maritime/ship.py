"""Makes the adapters of the app's wheel, from a graft of `headline` and from those of `pack` that answer live.

    python -m benchmarks.maritime.ship --out OUT/headline --job DiaBlo-0 --base FOLDER --to FOLDER
    python -m benchmarks.maritime.ship --out OUT/live --plays ship --base FOLDER --to FOLDER
    python -m benchmarks.maritime.ship --out OUT/live --plays coast --base FOLDER --to FOLDER

Their tensors are written in bfloat16, the precision in which the base computes; a passport has the form of the
dialogues, the figures in the records, and what the graft was trained on. Those that answer live are measured as
shipped, so they are made twice: before `live` measures them, without figures, and then with them.
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
from benchmarks.maritime.live_roles import COAST, ROLES, SHIP, Role
from benchmarks.maritime.pack.jobs import LIVE_BOTH, LIVE_GRAFT
from benchmarks.maritime.pack.lessons import FORM as LIVE_FORM
from benchmarks.maritime.pack.lessons import STAGES, run_of
from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_runs import validate_record

CARD = (
    f"{COUNTS['train']:,d} dialogues of exercises, composed in the form of the paper's (seed 0), of scenarios with "
    "invented names; see data_cards/maritime-scenarios.md."
)
LIVE_CARDS = {
    SHIP.name: "{:,d} lessons of a ship's part: exchanges with a scripted coast station ",
    COAST.name: "{:,d} lessons of a ship's part, then {:,d} of which half are a coast station's: exchanges with a "
    "scripted station ",
}
LEARNT = "and the right reply to each move, of scenarios with invented names; see data_cards/maritime-scenarios.md."


def metrics_of(arm: str, record: Path) -> dict[str, Any]:
    """The arm's figures in the record: means over the seeds that are there.

    Raises GraftError when it has none.
    """
    rows = validate_record(record).find(variant=arm)
    found = {row.metric: row.value for row in rows if row.value is not None}
    if not found:
        raise GraftError(f"{record}: has no figure of {arm}; write the table first")
    return found


def live_metrics(base: str, role: Role, records: Path = RECORDS) -> dict[str, Any]:
    """The figures of its own replies in a part, in wordings that no lesson has, of the records that are there."""
    found = {}
    for said in role.sets:
        file = records / f"{role.records}-model-{said}.json"
        if said not in role.known["model"] and file.is_file():
            rows = validate_record(file).find(case=ALL, variant=f"{base}, graft, {said} wordings")
            found |= {f"{row.metric}, {said} wordings": row.value for row in rows}
    return found


def ship(
    graft: Path,
    base: str,
    to: Path,
    *,
    form: str,
    card: str,
    metrics: dict[str, Any],
    plays: Sequence[str] | None = None,
) -> Path:
    """Read a trained graft and write it small; the folder."""
    import graftwork as gw
    from graftwork_llm import bases

    parts = {"plays": list(plays)} if plays else {}
    model, _ = bases.load(base, "bfloat16")
    return gw.save(
        gw.load(model, graft), to, dtype="bfloat16", overwrite=True, data_card=card, metrics=metrics,
        app={"maritime": {"base": Path(base).name, "form": form, **parts, "notice": NOTICE}},
    )  # fmt: skip


def ship_job(out: Path, job: str, base: str, to: Path, record: Path = TARGET) -> Path:
    """The graft of a headline's job."""
    known = json.loads((out / "grafts" / f"{job}.json").read_text())
    metrics = {
        **metrics_of(job.rpartition("-")[0], record),
        "validation loss": known["validation loss"], "rate": known["rate"],
    }  # fmt: skip
    return ship(out / "grafts" / job, base, to, form=FORM, card=CARD, metrics=metrics)


def ship_live(out: Path, role: Role, base: str, to: Path, records: Path = RECORDS) -> Path:
    """The graft that plays a part live: of a ship the first stage's, of a coast station the second's."""
    keys = (LIVE_GRAFT,) if role is SHIP else (LIVE_GRAFT, LIVE_BOTH)
    run, stages = run_of(out, keys[-1]), [STAGES[key] for key in keys]
    [loss] = validate_record(run / "record.json").find(metric="val_loss")
    took = [json.loads((out / f"{key}.json").read_text())["seconds"] for key in keys]
    metrics = {
        **live_metrics(Path(base).name, role, records),
        "validation loss": loss.value, "training seconds": round(sum(took), 2),
    }  # fmt: skip
    card = LIVE_CARDS[role.name].format(*(stage.count for stage in stages)) + LEARNT
    plays = stages[-1].plays
    return ship(run / "graft", base, to, form=LIVE_FORM, card=card, metrics=metrics, plays=plays)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.ship", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of a part's results")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--job", help="an arm and a seed, as its files are named")
    which.add_argument("--plays", choices=tuple(ROLES), help="the part of one that answers live")
    parser.add_argument("--base", required=True, help="the folder that it was trained on")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        if args.job:
            print(ship_job(args.out, args.job, args.base, args.to))
        else:
            print(ship_live(args.out, ROLES[args.plays], args.base, args.to))
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

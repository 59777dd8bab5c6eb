"""Score the weights of a finished domain base again, and write its record and card anew.

    python -m graftwork_medseg.domain.rescore RECORD.json CARD.md --data FOLDER

RECORD is what `domain.train` wrote. What it says of the training stays; rows, verdict, notes on scoring and
tolerance are replaced by what is measured here, with the plan's present tolerance. Weights and data must
be the record's, by their hashes, so figures of another checkpoint or of other patients cannot get in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from graftwork.errors import GraftError
from graftwork_runs import environment

from ..files import CHECKPOINTS, publish, read_json
from ..networks.network import load_pretrained
from .card import card
from .plans import plan_of
from .train import open_data, predictor, rows_of, verdict_of


def options() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="graftwork_medseg.domain.rescore", description=__doc__)
    parser.add_argument("record", metavar="RECORD", type=Path, help="of domain.train; rewritten")
    parser.add_argument("card", metavar="CARD", type=Path, help="Markdown; rewritten")
    parser.add_argument("--data", type=Path, required=True, help="prepared folder of its set")
    parser.add_argument("--real", type=Path, help="as for domain.train, when it was given there")
    parser.add_argument("--weights", type=Path, help="default: the shipped file that it names")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=8, help="that read files")
    return parser


def rescore(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Check, score, write; the record.

    Raises:
        GraftError: no record of a domain base, or weights or data that are not the record's.
    """
    begun = time.perf_counter()
    here = {k: v for k, v in environment(args.device).items() if v is not None}
    record = read_json(args.record, "domain.train writes one")
    try:
        details, hashes = record["details"], dict(record["data"])
        plan = replace(plan_of(details["plan"]), patch=tuple(details["patch"]))
        [name] = [key for key in hashes if key.endswith(".safetensors")]
        args.limit = details["limit"]
    except (KeyError, TypeError, ValueError) as error:
        raise GraftError(f"{args.record}: not a record of domain.train: {error!r}") from error
    weights = args.weights or CHECKPOINTS / name
    if not weights.is_file():
        raise GraftError(f"{weights}: no such weights file; name it with --weights")
    if (found := hashlib.sha256(weights.read_bytes()).hexdigest()) != hashes[name]:
        raise GraftError(
            f"{weights}: SHA-256 {found[:12]}..., {args.record} is of {hashes[name][:12]}..."
        )
    data = open_data(plan, args)
    say(f"read {data.summary()}")
    model = load_pretrained(weights).model.to(args.device)
    scored = list(data.score(predictor(model, plan, args.device)))
    other = sorted(k for k, v in data.content().items() if hashes.get(k) != v)
    if other:
        raise GraftError(
            f"{args.data}: {', '.join(other)}: other files than those of {args.record}; rebuild the folder "
            "with data_cards/prepare.py"
        )
    rows = [row for group in scored for row in rows_of(group)]
    record |= {"rows": rows, "verdict": verdict_of(rows)}
    details["tolerance_mm"] = plan.tolerance_mm
    details["scored"] = {
        "command": f"python -m graftwork_medseg.domain.rescore {args.record.name} {args.card.name} "
        f"--data FOLDER{' --real FOLDER' if args.real else ''} --device {args.device}",
        **here,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    for path, text in (
        (args.record, json.dumps(record, indent=1) + "\n"),
        (args.card, card(record)),
    ):
        with publish(path) as file:
            file.write_text(text, encoding="utf-8")
        say(f"wrote {path}")
    return record


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code: 0 done, 2 bad input."""
    args = options().parse_args(argv)
    try:
        rescore(args, lambda text: print(text, flush=True))
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

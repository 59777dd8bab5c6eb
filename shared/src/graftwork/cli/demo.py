"""`graftwork demo`: train a small network, graft it for a new task, prove the promises. Needs the core alone."""

from __future__ import annotations

import argparse
import json
import sys
import time


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, help="of the data and the training (default 0)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="keep the adapter folder here")
    parser.add_argument(
        "--json", action="store_true", help="the figures as one object, for programs"
    )


def run(options: argparse.Namespace) -> int | None:
    begun = time.perf_counter()
    say = sys.stderr if options.json else sys.stdout
    print(
        "graftwork demo: a network that knows drawn shapes meets a new camera (synthetic data)",
        file=say,
        flush=True,
    )
    from graftwork.cli.demo_run import rehearse, report

    result = rehearse(options.seed, options.out, lambda line: print(line, file=say, flush=True))
    result["seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(result, indent=1) if options.json else report(result))
    return 0 if all(result["proof"].values()) else 1

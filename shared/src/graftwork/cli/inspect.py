"""`graftwork inspect FOLDER`: an adapter's passport, read without torch."""

from __future__ import annotations

import argparse
import json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="adapter folder, or its graft.json")
    parser.add_argument("--json", action="store_true", help="the whole passport, for programs")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also compare the tensor file's SHA-256 with the passport",
    )


def run(options: argparse.Namespace) -> int | None:
    from graftwork.store.passport import describe, inspect

    passport = inspect(options.folder, verify=options.verify)
    print(json.dumps(passport, indent=1) if options.json else describe(passport))
    return None

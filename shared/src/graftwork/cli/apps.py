"""`graftwork apps`: the installed applications, found by the entry-point group `graftwork.apps`."""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

from graftwork.cli.table import table

if TYPE_CHECKING:
    from graftwork.lightning.app import App


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def run(options: argparse.Namespace) -> int | None:
    found = [_facts(app) for app in installed().values()]
    if options.json:
        print(json.dumps(found, indent=1))
    elif not found:
        print("no application is installed; for example: pip install graftwork-medseg")
    else:
        rows = [[f["name"], f["version"], f["summary"]] for f in found]
        print(table(["command", "version", "what it does"], rows))
        print("\n`COMMAND --help` lists a command's verbs; `COMMAND demo` runs its example")
    return None


def installed() -> dict[str, App]:
    """The apps by name; the core alone has none, and then nothing beyond the core is imported."""
    if not metadata.entry_points(group="graftwork.apps"):
        return {}
    from graftwork.lightning.app import apps

    return apps()


def _facts(app: App) -> dict[str, Any]:
    return {
        "name": app.name,
        "version": app.version(),
        "summary": app.summary,
        "verbs": list(app.all_verbs()),
    }

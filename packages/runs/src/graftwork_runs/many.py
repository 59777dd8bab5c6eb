"""The report of a shared run, from its `many.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_runs.report import Figure, Report


def report(folder: Path) -> Path:
    """Write `<folder>/report.html`: every job's curve, the plans, their waste, and how right the cost model was.

    Raises:
        GraftError: the folder has no readable `many.json`.
    """
    source = Path(folder) / "many.json"
    try:
        told = json.loads(source.read_text(encoding="utf8"))
        return _report(told).write(Path(folder) / "report.html")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraftError(f"{source}: cannot be read as a shared run ({error})") from None


def _report(told: dict[str, Any]) -> Report:
    jobs = told["jobs"]
    done = sum(j["status"] == "done" for j in jobs)
    page = Report(
        f"{len(jobs)} jobs on one backbone",
        verdict=f"{done} of {len(jobs)} jobs are done.",
        kicker="Graftwork shared run",
    )
    predicted, measured = told.get("predicted round"), told.get("measured round")
    page.figures(
        [
            Figure("jobs", len(jobs)),
            Figure("backbone, MiB", round(told["backbone"] / 2**20, 1)),
            Figure("passes a round", sum(told["turns"])),
            *([Figure("a round, ms", round(1e3 * measured, 2))] if measured else []),
        ]
    )
    page.table(
        "Jobs",
        ["job", "app", "method", "trained", "priority", "status", "steps", "rows", "last loss"],
        [
            [
                j["name"],
                j["app"],
                j["method"],
                j["trained"],
                j["priority"],
                j["status"],
                f"{j['step']} of {j['steps']}",
                j["rows"],
                j["curve"][-1][1] if j["curve"] else None,
            ]
            for j in jobs
        ],
    )
    curves = {j["name"]: [(s, v) for s, v in j["curve"]] for j in jobs if j["curve"]}
    if curves:
        page.curves("Training loss", curves, x="step", y="loss")
    page.table(
        "Plans",
        ["plan", "passes", "predicted ms", "predicted MiB", "fits", "fair"],
        [
            [
                name,
                p["groups"],
                round(1e3 * p["seconds"], 3),
                round(p["bytes"] / 2**20, 1),
                "yes" if p["fits"] else "no",
                "yes" if p["fair"] else "no",
            ]
            for name, p in told["plans"].items()
        ],
        caption="One step of every job. Groups: "
        + " | ".join(" + ".join(group) for group in told["groups"]),
        strong=[0],
    )
    _waste(page, told["waste"])
    _errors(page, told, predicted, measured)
    faults = [f"{j['name']}: {fault}" for j in jobs for fault in j["failures"]]
    notes = ["The losses are those of training batches; measure with the app's own verb `test`."]
    return page.notes([*notes, *faults])


def _waste(page: Report, waste: dict[str, dict[str, float]]) -> None:
    layouts = [
        k for k in ("padded", "chunked", "packed", "taken") if any(k in w for w in waste.values())
    ]
    if not layouts:
        return
    rows = [
        [name, *(f"{w[k]:.1%}" if k in w else None for k in layouts)] for name, w in waste.items()
    ]
    page.table(
        "Waste",
        ["plan", *layouts],
        rows,
        caption="Rows without a token, as a share of all rows, of the jobs' first batches.",
        strong=[0],
    )


def _errors(
    page: Report, told: dict[str, Any], predicted: float | None, measured: float | None
) -> None:
    errors = told["errors"]
    rows = []
    for i, run in enumerate(told["runs"]):
        time = errors["time"][i] if errors else None
        size = None if run["bytes"] is None else round(run["bytes"] / 2**20, 1)
        rows.append(
            [
                run["tasks"],
                run["rows"],
                round(1e3 * run["seconds"], 3),
                None if time is None else f"{time:+.1%}",
                size,
            ]
        )
    caption = "Passes that were timed before training, and how far the fitted model is off."
    if predicted and measured:
        caption += (
            f" A round was predicted to take {1e3 * predicted:.3g} ms and took {1e3 * measured:.3g} ms (median), "
            "with each job's own data, loss and optimizer, which the model does not count."
        )
    page.table("Cost model", ["jobs", "rows", "ms", "model off by", "MiB"], rows, caption=caption)

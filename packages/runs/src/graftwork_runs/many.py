"""The report of a shared run, from its `many.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork_runs.report import Figure, Measure, Report

#: jobs of one plot: so many colours there are
CURVES = 8


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
    failed = [j["name"] for j in jobs if j["status"] == "failed"]
    page = Report(
        f"{len(jobs)} jobs on one backbone",
        verdict=f"{done} of {len(jobs)} jobs are done"
        + (f"; failed: {', '.join(failed)}." if failed else "."),
        kicker="Graftwork shared run",
    )
    predicted, measured = told.get("predicted round"), told.get("measured round")
    devices = told.get("devices", 1)
    page.figures(
        [
            Figure("jobs", len(jobs)),
            *([Figure("devices", devices)] if devices > 1 else []),
            Figure("backbone", _size(told["backbone"])),
            Figure("passes a round", sum(told["turns"])),
            *(
                [Figure("a round", Measure(1e3 * measured, digits=1, unit="ms"))]
                if measured
                else []
            ),
        ]
    )
    page.table(
        "Jobs",
        [
            "job",
            "app",
            "method",
            "status",
            "steps",
            "priority",
            "trained",
            "rows of passes",
            "last loss",
        ],
        [
            [
                j["name"],
                j["app"],
                j["method"],
                j["status"],
                f"{j['step']} of {j['steps']}",
                j["priority"],
                j["trained"],
                j["rows"],
                j["curve"][-1][1] if j["curve"] else None,
            ]
            for j in jobs
        ],
    )
    _curves(page, "Training loss", {j["name"]: j["curve"] for j in jobs}, "loss")
    for metric in dict.fromkeys(k for j in jobs for k in j.get("validation", {})):
        found = {j["name"]: j["validation"].get(metric, []) for j in jobs}
        _curves(page, f"Validation: {metric}", found, metric)
    page.table(
        "Plans",
        ["plan", "fits", "fair", "passes", "predicted time", "predicted memory"],
        [
            [
                name,
                "yes" if p["fits"] else "no",
                "yes" if p["fair"] else "no",
                p["groups"],
                Measure(1e3 * p["seconds"], digits=1, unit="ms"),
                Measure(p["bytes"] / 2**20, digits=1, unit="MiB"),
            ]
            for name, p in told["plans"].items()
        ],
        caption="One step of every job. Jobs that share a pass: "
        + " | ".join(" + ".join(group) for group in told["groups"]),
        strong=[0],
    )
    _waste(page, told["waste"])
    _errors(page, told, predicted, measured)
    faults = [f"{j['name']}: {fault}" for j in jobs for fault in j["failures"]]
    notes = [
        "Training losses are those of batches that train; measure with the app's own verb test."
    ]
    return page.notes([*notes, *faults])


def _curves(page: Report, title: str, curves: dict[str, list[list[float]]], y: str) -> None:
    names = [name for name, curve in curves.items() if curve]
    for first in range(0, len(names), CURVES):
        some = names[first : first + CURVES]
        of = f", {some[0]} to {some[-1]}" if len(names) > CURVES else ""
        page.curves(title + of, {n: [(s, v) for s, v in curves[n]] for n in some}, x="step", y=y)


def _waste(page: Report, waste: dict[str, dict[str, float]]) -> None:
    layouts = [
        k for k in ("padded", "chunked", "packed", "taken") if any(k in w for w in waste.values())
    ]
    if not layouts:
        return
    rows = [
        [name, *(Measure(100 * w[k], digits=1, unit="%") if k in w else None for k in layouts)]
        for name, w in waste.items()
    ]
    page.table(
        "Waste",
        ["plan", *layouts],
        rows,
        caption="Rows without a token, as a share of all rows, of the jobs' first batches, in each layout; taken: in "
        "those that the run takes.",
        strong=[0],
    )


def _errors(
    page: Report, told: dict[str, Any], predicted: float | None, measured: float | None
) -> None:
    errors = told["errors"]
    sized = iter(errors["memory"] if errors else ())  # of those runs alone that measured it
    rows = []
    for i, run in enumerate(told["runs"]):
        time = errors["time"][i] if errors else None
        memory = next(sized, None) if run["bytes"] is not None else None
        size = None if run["bytes"] is None else run["bytes"] / 2**20
        rows.append(
            [
                run["tasks"],
                run["rows"],
                Measure(1e3 * run["seconds"], digits=1, unit="ms"),
                _off(time),
                Measure(size, digits=1, unit="MiB"),
                _off(memory),
            ]
        )
    caption = "Passes that were timed before training, and how far the fitted model is off."
    if predicted and measured:
        caption += (
            f" A round was predicted to take {1e3 * predicted:.3g} ms and took {1e3 * measured:.3g} ms (median), "
            "with each job's own data, loss and optimizer, which the model does not count."
        )
    columns = ["jobs", "rows", "time", "model off by", "memory", "model off by"]
    page.table("Cost model", columns, rows, caption=caption)


def _off(share: float | None) -> Measure:
    return Measure(None if share is None else 100 * share, digits=1, unit="%")


def _size(count: int) -> str:
    """Bytes in the unit in which they are 1 or more."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:,.3g} {units[0]}" if value < 1000 else f"{value:,.0f} {units[0]}"

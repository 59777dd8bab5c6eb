"""What a run leaves beside its graft: losses by dialogue, record and report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_runs import Record, Report, Row, environment
from graftwork_runs.files import write_atomic

from .. import NOTICE
from ..scenario import PRESETS, Engine, Scenario, read_scenarios
from .data import DialogueData
from .module import Writer


def drawn(file: str | None, count: int, preset: str, form: str, seed: int) -> Sequence[Scenario]:
    """The scenarios of a file, or as many as `count` from a preset, for exercises.

    Raises GraftError for a file that holds none, or settings that are not there.
    """
    from ..grammar import FORMS

    if form not in FORMS:
        raise GraftError(f"form {form!r}; choose one of {', '.join(FORMS)}")
    if file is not None:
        return read_scenarios(file)
    if count < 1:
        raise GraftError(f"count must be at least 1, not {count}")
    if preset not in PRESETS:
        raise GraftError(f"preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return list(Engine(preset=preset, exercise=True).scenarios(seed, count))


def write_losses(losses: Sequence[float], data: DialogueData, folder: Path) -> Path:
    """Write a JSONL line for each dialogue: its name, mean loss in nats a token, and perplexity."""
    source = data.source("test")
    lines = [
        json.dumps({"id": source[i][0], "loss": loss, "perplexity": math.exp(min(loss, 700)), "notice": NOTICE})
        for i, loss in enumerate(losses)
    ]  # fmt: skip
    return write_atomic(folder / "predictions.jsonl", "\n".join(lines) + "\n")


def write_report(
    model: Writer, data: DialogueData, graft: gw.Graft | None, folder: Path, verb: str, *, command: str
) -> Path:  # fmt: skip
    """Write report.html and, last, record.json of a run; the report's path."""
    trained = sum(p.numel() for p in graft.parameters()) if graft else 0
    total = sum(p.numel() for p in model.network.parameters())
    losses = dict(model.scores)
    if model.predicted:
        losses["mean loss of a dialogue"] = sum(model.predicted) / len(model.predicted)
    rows = [
        Row(case="dialogues", variant=verb, metric=name, value=value, unit="nats a token")
        for name, value in losses.items()
    ]
    rows.append(Row(case="network", variant=verb, metric="graft parameters", value=trained))
    record = Record(
        record=f"maritime/{verb}",
        claim=f"maritime {verb} with base {Path(model.base).name}",
        command=command,
        **environment(model.device),
        rows=rows,
        notes=[NOTICE],
        details={"base": Path(model.base).name, "base parameters": total, "data": data.card()},
    )
    report = Report(f"maritime {verb}", kicker="maritime")
    report.text("For training", f"Dialogues and grafts are {NOTICE}.")
    report.table(
        "Measured", ["what", "value"], [[r.metric, f"{r.value:,.4g}"] for r in rows if r.value is not None]
    )  # fmt: skip
    curve = _curve(folder / "metrics.csv")
    if curve:
        report.curves("Training", {"loss": curve}, x="step", y="loss in nats a token")
    path = report.notes(record.notes).record(record).write(folder / "report.html")
    record.write(folder / "record.json")
    return path


def _curve(path: Path) -> list[tuple[float, float]]:
    """(step, loss) of a run; empty when nothing was logged."""
    if not path.is_file():
        return []
    with path.open(encoding="utf8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "loss"]
    return [(float(row["step"]), float(row["value"])) for row in rows]

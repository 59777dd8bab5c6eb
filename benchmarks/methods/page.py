"""The table of the experiments of methods: what each paper expects beside what was measured here, and on what."""

from __future__ import annotations

from pathlib import Path

from benchmarks.methods.harness import RECORDS, only
from graftwork.errors import GraftError
from graftwork_runs import Record, validate_record
from graftwork_runs.record import VERDICTS
from graftwork_runs.tables import figure, markdown

#: seeds below which a spread says little
SEEDS = 5
#: methods that are measured in the experiment of another name
INSIDE = {"direft": "loreft", "lora": "sfed_lora"}


def experiments(folder: Path = RECORDS) -> str:
    """Every record of a method's experiment, larger plans last; model size and data stand in the figures' cell.

    Raises:
        GraftError: a record that does not say on what it was measured, or rests on too few seeds.
    """
    paths = [*sorted(folder.glob("*.json")), *sorted(folder.glob("larger/*.json"))]
    records = [validate_record(path) for path in paths]
    if not records:
        raise GraftError(f"{folder}: no record of an experiment.")
    columns = ["experiment", "what the paper expects", "measured here, and on what", "verdict"]
    return markdown(columns, [_line(record) for record in records])


def verdict_of(method_id: str, folder: Path = RECORDS) -> str:
    """The word of a method's experiment, linked to its row in the page of experiments; "none" without one."""
    path = folder / f"{INSIDE.get(method_id, method_id)}.json"
    if not path.exists():
        return "none"
    record = validate_record(path)
    return f"[{_word(record)}](experiments.md#{_anchor(record)})"


def _word(record: Record) -> str:
    return next(word for word in VERDICTS if str(record.verdict).startswith(word))


def _anchor(record: Record) -> str:
    return record.record.replace("/", "-")


def _line(record: Record) -> list[str]:
    about = record.details
    missing = [key for key in ("model", "data", "shown") if not about.get(key)]
    if missing:
        raise GraftError(f"{record.record}: no {', '.join(missing)} in details; run its command")
    if len(record.seeds) < SEEDS:
        raise GraftError(f"{record.record}: {len(record.seeds)} seeds, and {SEEDS} are the fewest")
    figures: dict[str, list[str]] = {}  # arms that differ in nothing else share a line
    for case, variant, metric in about["shown"]:
        try:
            row = only(record.rows, case, variant, metric)
        except LookupError as error:
            raise GraftError(f"{record.record}: shown, but not measured: {error}") from error
        figures.setdefault(f"{case}, {metric}", []).append(f"{variant} {figure(row)}")
    where = f"*On: {about['model']}; {about['data']}; {len(record.seeds)} seeds.*"
    lines = [f"{what}: {'; '.join(found)}" for what, found in figures.items()]
    word = _word(record)
    verdict = f"**{word}**{str(record.verdict).removeprefix(word)}"
    name = f'<a id="{_anchor(record)}"></a>`{record.record}`'
    return [name, record.claim, "<br>".join([*lines, where]), verdict]

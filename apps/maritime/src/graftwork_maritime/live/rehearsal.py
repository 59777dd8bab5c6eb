"""One exchange with a fixed coast station, printed and reported: what `maritime demo` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graftwork_runs import Record, Report, Row, environment

from .. import NOTICE
from .session import Exchange, Session


def turns(session: Session) -> Iterator[str]:
    """What the coast station says, a step each; empty: it says nothing."""
    scenario = session.scenario
    call = f"{scenario.vessel.name}, this is {scenario.station.name}."
    wrong = (scenario.vessel.persons + 1) % 10
    yield f"Mayday. {call} Received Mayday. What is your position? Over."
    yield f"{call} I understand {scenario.vessel.persons // 10}{wrong} persons on board, is that correct? Over."
    yield f"{call} What assistance do you require? Over."
    yield ""
    yield f"{call} What is the colour of your funnel? Over."
    yield f"Mayday. All stations, all stations, all stations. This is {scenario.station.name}. Seelonce Mayday. Out."
    yield f"{call} Say again your call sign. Over."
    yield f"{call} A lifeboat is on the way. Let all persons put on lifejackets. Over."


def play(session: Session, say: Callable[[str], None]) -> list[Exchange]:
    """The steps, each told as it is done."""
    steps = [session.open()]
    _tell(steps[0], say)
    for text in turns(session):
        steps.append(session.hear(text))
        _tell(steps[-1], say)
    return steps


def write(steps: list[Exchange], title: str, folder: Path, command: str, device: object) -> Path:
    """Write report.html and, last, record.json; the report's path."""
    seconds = sorted(step.seconds for step in steps)
    values = {
        "steps": (len(steps), "1"),
        "replies": (sum(s.reply is not None for s in steps), "1"),
        "replies that change a fact": (sum(bool(s.changed) for s in steps), "1"),
        "slowest reply": (seconds[-1], "s"),
    }
    record = Record(
        record="maritime/demo",
        claim=f"one live exchange, ship: {title}",
        command=command,
        rows=[
            Row(case="exchange", variant=title, metric=n, value=v, unit=u)
            for n, (v, u) in values.items()
        ],
        notes=[NOTICE],
        **environment(device),
    )
    report = Report("maritime demo", kicker="maritime")
    report.text("For training", f"A live exchange, {NOTICE}. The ship is played by: {title}.")
    report.table(
        "The exchange", ["who", "what", "kind", "found"], [r for s in steps for r in _rows(s)]
    )
    final = steps[-1].state.as_dict()
    known = [[k.replace("_", " "), _shown(k, v)] for k, v in final.items() if k != "violations"]
    report.table("What was understood at the end", ["what", "value"], known)
    report.table("Measured", ["what", "value"], [[n, f"{v:,.3g}"] for n, (v, _) in values.items()])
    path = report.notes(record.notes).record(record).write(folder / "report.html")
    record.write(folder / "record.json")
    return path


def _shown(key: str, value: Any) -> str:
    """A field of the state as people write it, and a position as on a chart: 48.2105 is 48° 12.63′ N."""
    if key == "position" and value:
        return ", ".join(
            _axis(v, w, s) for v, w, s in zip(value, (2, 3), ("NS", "EW"), strict=True)
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _axis(degrees: float, width: int, sides: str) -> str:
    whole, hundredths = divmod(round(abs(degrees) * 6000), 6000)
    return f"{whole:0{width}}° {hundredths / 100:05.2f}′ {sides[degrees < 0]}"


def _tell(step: Exchange, say: Callable[[str], None]) -> None:
    for who, text, kind, found in _rows(step):
        say(f"{who:<6}{text}{f'  [{kind}]' if kind else ''}{f'  ! {found}' if found else ''}")


def _rows(step: Exchange) -> Iterator[list[str]]:
    last = len(step.state.messages)
    said = last if step.reply else None
    heard = (last - 1 if step.reply else last) if step.heard else None
    found = {
        n: "; ".join(v.rule for v in step.violations if v.line == n) for n in (heard, said) if n
    }
    if step.heard:
        yield ["COAST", step.heard.text, "", found.get(heard, "")]
    elif last > bool(step.reply):  # what follows is said since nobody answered
        yield ["COAST", "(nothing)", "", ""]
    yield ["SHIP", step.reply.text if step.reply else "(nothing)", step.kind, found.get(said, "")]

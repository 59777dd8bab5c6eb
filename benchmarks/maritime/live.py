"""500 live exchanges with a scripted station: right kind of reply, changed facts, time.

    python -m benchmarks.maritime.live --partner composer
    python -m benchmarks.maritime.live --partner composer --role coast
    python -m benchmarks.maritime.live --partner model --base FOLDER --adapter GRAFT --out OUT.json

An exchange is a move of a script of `graftwork_maritime.lessons` and the reply to it; a dialogue has ten or a few
more. The partner plays the ship, with --role coast the coast station. With a model every dialogue is held twice, the
second time with facts and silence kept (`keep`), which is told apart; --once leaves that out. A dialogue that fails
leaves its error in the record and the others go on. With --lines FILE finished dialogues are kept there, and a stopped
run goes on. Several processes share the dialogues with --part 0/4 --lines 0.jsonl and so on; the same command with all
their files and without --part writes the record. --tiny rehearses in seconds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.maritime.live_roles import MOVES, ROLES, SHIP, Role
from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_maritime.lessons import LEARNT_KINDS
from graftwork_maritime.lessons.script import OTHER
from graftwork_maritime.live import Composer, Partner, Session
from graftwork_maritime.scenario import Engine, Scenario
from graftwork_runs import Record, Row, environment
from graftwork_runs.files import write_atomic
from graftwork_runs.surroundings import device_name

RECORDS = Path(__file__).parents[1] / "records" / "maritime"
EXCHANGES, SEED, FIRST = 500, 9001, "first"  # scenarios of this seed are in no training set
ALL, WANTED, QUICK = "all", 0.9, 2.0
_KNOWN = {
    "composer": (
        "in wordings that were known when its ear was mended",
        "The composer's ear was mended by one who had read these wordings and what it missed of them.",
        "A first look: the author of these wordings had not seen the composer, whose ear was finished then.",
    ),
    "model": (
        "in the wordings that its lessons have",
        "A model that is trained for live exchanges has these wordings in its lessons.",
        "A first look: the model's lessons have none of these wordings.",
    ),
}
Maker = Callable[[Scenario, int], Partner]


def scenarios() -> Iterator[Scenario]:
    """Scenarios in which a ship calls first with a matter of its own."""
    engine, index = Engine("coastal", exercise=True), 0
    while True:
        found = engine.scenario(SEED, index)
        index += 1
        if found.kind in LEARNT_KINDS:
            yield found


def dialogue(
    scenario: Scenario, partner: Partner, keep: bool, said: str = FIRST, role: Role = SHIP
) -> list[dict[str, Any]]:
    """A line for each exchange of one dialogue, in which the scripted station has the wordings of a set."""
    second = Composer(scenario) if keep else None
    session, lines = Session(scenario, partner, role.name, second), []
    session.open()
    for move in role.moves(scenario, SEED, role.sets[said]):
        name = OTHER if role.names and move.speaker == "other" else None
        done = session.hear(move.text, move.speaker, name)
        lines.append({
            "scenario": scenario.id, "kind": move.kind, "heard": move.text, "wanted": list(move.replies),
            "key": move.key, "reply": done.reply.text if done.reply else None, "got": done.kind, "by": done.by,
            "right": role.right(move, done, scenario), "changed": list(done.changed), "seconds": done.seconds,
        })  # fmt: skip
    return lines


def hold(
    make: Maker,
    count: int,
    variant: str,
    keep: bool,
    files: Sequence[Path] = (),
    say: Callable[[str], None] = print,
    part: tuple[int, int] = (0, 1),
    said: str = FIRST,
    role: Role = SHIP,
) -> list[dict[str, Any]]:
    """A line for each of at least `count` exchanges of a variant; a dialogue that failed is `MOVES` lines.

    Args:
        make: makes the partner of a scenario. keep: facts and silence are kept.
        files: of lines of earlier runs; new ones are written to the first.
        say: is told the progress.
        part: (i, n) holds each n-th dialogue from the i-th.
        said: the scripted station's set of wordings. role: the part that the partner plays.
    """
    known: dict[str, list[dict[str, Any]]] = {}
    for line in (line for file in files for line in _kept(file) if line["variant"] == variant):
        known.setdefault(line["scenario"], []).append(line)
    lines: list[dict[str, Any]] = []
    for number, scenario in enumerate(scenarios()):
        if len(lines) >= count or (part[1] > 1 and number >= -(-count // MOVES)):
            return lines
        if number % part[1] != part[0]:
            continue
        if scenario.id not in known:
            new = _held(make, scenario, variant, keep, said, role)
            if files:
                old = files[0].read_text("utf8") if files[0].exists() else ""
                write_atomic(files[0], old + "".join(json.dumps(line) + "\n" for line in new))
            known[scenario.id] = new
        lines += known[scenario.id]
        say(f"{variant}: {len(lines)} exchanges, {_share(lines, 'right'):.0%} right")
    raise AssertionError("scenarios do not end")


def _held(
    make: Maker, scenario: Scenario, variant: str, keep: bool, said: str, role: Role
) -> list[dict[str, Any]]:
    try:
        partner = make(scenario, SEED)
        where = device_name(getattr(partner, "device", "cpu"))
        new = [{**line, "device": where} for line in dialogue(scenario, partner, keep, said, role)]
    except Exception as error:  # the others go on, and the record says it
        traceback.print_exc()
        new = [{"scenario": scenario.id, "error": f"{type(error).__name__}: {error}"}] * MOVES
    return [{"variant": variant, **line, "notice": NOTICE} for line in new]


def rows(
    lines: Sequence[dict[str, Any]], variant: str, keep: bool = False, role: Role = SHIP
) -> list[Row]:
    """Shares by kind of move, the total first, and the time of a reply; a failed exchange is neither right nor kept."""
    found = []
    for kind in (ALL, *role.kinds):
        some = [line for line in lines if kind in (ALL, line.get("kind"))]
        if not some:
            continue
        shares = {
            "right kind": _share(some, "right"),
            "no fact changed": sum(line.get("changed") == [] for line in some) / len(some),
            "right, no fact changed": sum(_good(line) for line in some) / len(some),
        }
        found += [
            Row(case=kind, variant=variant, metric=m, value=round(v, 4), unit="share", n=len(some))
            for m, v in shares.items()
        ]
    more: list[tuple[str, float, str, int]] = []
    seconds = sorted(line["seconds"] for line in lines if "seconds" in line)
    for name, part in (("median", 0.5), ("p95", 0.95)):
        if seconds:
            value = seconds[min(int(part * len(seconds)), len(seconds) - 1)]
            more.append((f"reply time, {name}", value, "s", len(seconds)))
    helped = sum(line.get("by") in ("redrawn", "composer", "silence kept") for line in lines)
    more.append(("failed", sum("error" in line for line in lines), "1", len(lines)))
    if keep:
        more.append(("redrawn or said for it", helped / len(lines), "share", len(lines)))
    found += [
        Row(case=ALL, variant=variant, metric=m, value=round(v, 4), unit=u, n=n)
        for m, v, u, n in more
    ]
    return found


def verdict(found: Sequence[Row], variant: str) -> str:
    """Seen: 90 % right without a changed fact, and p95 under 2 s."""
    known = {(r.case, r.metric): r.value or 0.0 for r in found if r.variant == variant}
    good, late = (
        known[ALL, "right, no fact changed"],
        known.get((ALL, "reply time, p95"), float("inf")),
    )
    word = (
        "seen"
        if good >= WANTED and late < QUICK
        else "partly"
        if good >= WANTED
        else "not seen at this scale"
    )
    return f"{word}: {variant}: {good:.1%} right without a changed fact, 95 % of replies within {late:.2g} s"


def makers(args: argparse.Namespace) -> dict[str, tuple[Maker, bool]]:
    """(maker of the partner, keep) by variant."""
    if args.partner == "composer":
        return {"composer, no model": (Composer, False)}
    import graftwork as gw
    from graftwork_llm import bases
    from graftwork_llm.decoding import Sampling
    from graftwork_maritime.live.model import Model, line_ends

    network, tokenizer = bases.load(args.base, "auto")
    if args.adapter:
        gw.load(network, args.adapter)
    network.to(args.device)
    stops, sampling = (
        line_ends(tokenizer),
        Sampling(args.temperature, 0.9, 400, 8 if args.tiny else 200),
    )

    def made(scenario: Scenario, seed: int) -> Partner:
        return Model(
            network, tokenizer, sampling, stops=stops, seed=seed, device=args.device, form=args.form
        )

    name = f"{Path(args.base).name}{', graft' if args.adapter else ''}"
    kept = {} if args.once else {f"{name}, facts kept": (made, True)}
    return {name: (made, False), **kept}


def _good(line: dict[str, Any]) -> bool:
    return bool(line.get("right")) and not line["changed"]


def _share(lines: Sequence[dict[str, Any]], key: str) -> float:
    return sum(bool(line.get(key)) for line in lines) / len(lines)


def _kept(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    found = [json.loads(line) for line in file.read_text("utf8").splitlines()]
    return [line for line in found if "error" not in line]


def _part(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise argparse.ArgumentTypeError(f"{text!r}; write I/N, I from 0 to N - 1")
    return int(i), int(n)


def main(argv: Sequence[str] | None = None) -> int:
    """Hold the exchanges, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maritime.live", description=__doc__)
    parser.add_argument("--partner", choices=("composer", "model"), default="composer")
    parser.add_argument("--role", choices=tuple(ROLES), default=SHIP.name, help="that it plays")
    parser.add_argument("--base", default="tiny", help="tiny, smollm2, or a folder")
    parser.add_argument("--adapter", help="folder of a graft")
    parser.add_argument("--form", default="full")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--once", action="store_true", help="not a second time with facts kept")
    parser.add_argument("--exchanges", type=int, default=EXCHANGES)
    parser.add_argument(
        "--lines", type=Path, nargs="+", default=[], help="JSONL of the exchanges, to go on with"
    )
    parser.add_argument(
        "--part", type=_part, default=(0, 1), help="I/N: each N-th dialogue from the I-th"
    )
    parser.add_argument(
        "--wordings", default=FIRST, help="what the other station says: first, second ..."
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="20 exchanges, eight tokens a reply")
    args = parser.parse_args(argv)
    if args.exchanges < 1:
        raise GraftError(f"--exchanges {args.exchanges}; give at least 1")
    role = ROLES[args.role]
    if args.wordings not in role.sets:
        raise GraftError(f"--wordings {args.wordings}; choose one of {', '.join(role.sets)}")
    count = 20 if args.tiny else args.exchanges
    found: list[Row] = []
    said: list[str] = []
    where: set[str] = set()  # other machines, where --lines came from them
    for variant, (make, keep) in makers(args).items():
        variant += "" if args.wordings == FIRST else f", {args.wordings} wordings"
        lines = hold(
            make, count, variant, keep, args.lines, partial(print, flush=True), args.part, args.wordings, role,
        )  # fmt: skip
        if args.part[1] > 1:
            continue  # a part may have no dialogue
        where |= {line["device"] for line in lines if "device" in line}
        found += rows(lines, variant, keep, role)
        how, *notes = _KNOWN[args.partner]
        seen = args.wordings in role.known[args.partner]
        said.append(verdict(found, variant) + (f", {how}" if seen else ""))
    if args.part[1] > 1:
        print("part done; the record is written without --part")
        return 0
    given = [shlex.quote(Path(a).name if "/" in a else a) for a in argv or sys.argv[1:]]
    name = args.partner if args.wordings == FIRST else f"{args.partner}-{args.wordings}"
    record = Record(
        record=f"maritime/{role.records}-{name}",
        claim=f"In live exchanges with a scripted {role.other} 90 % of replies are of the right kind and change no "
        "fact.",
        command=" ".join(["python -m benchmarks.maritime.live", *given]),
        rows=found,
        notes=[
            NOTICE,
            notes[0] if seen else notes[1],
            "Kinds of reply and changed facts are told by words and patterns, not by a reader.",
            f"The replies were made on: {', '.join(sorted(where)) or 'not known'}.",
            *(
                [f"{len(args.lines)} processes shared it; times are theirs."]
                if args.lines[1:]
                else []
            ),
        ],
        verdict="; ".join(said),
        **environment(args.device),
    )
    record.write(args.out or RECORDS / f"{role.records}-{name}.json")
    print(record.verdict)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

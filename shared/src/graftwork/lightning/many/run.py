"""One shared run: build, plan, train, save, tell."""

from __future__ import annotations

import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork.lightning.checkpoint_io import write_atomically
from graftwork.lightning.exits import DONE, FAILED, INTERRUPTED
from graftwork.lightning.many.built import Shared, build, task_of
from graftwork.lightning.many.jobs import Jobs
from graftwork.lightning.many.planning import Planning
from graftwork.lightning.many.processes import first, processes
from graftwork.lightning.many.table import Board
from graftwork.lightning.many.validating import Validation
from graftwork.lightning.output import settle_output
from graftwork.tenants.cost import CostModel
from graftwork.tenants.runner import Runner

STATE, TOLD = "state.pt", "many.json"
#: entry points that write a run folder's report from `many.json`
REPORTS = "graftwork.reports"


def train_many(
    jobs: Jobs,
    *,
    resume: bool = False,
    quiet: bool = False,
    check: bool = False,
    devices: int = 1,
) -> int:
    """Train all jobs on one backbone; the exit code.

    Args:
        jobs: the file's.
        resume: go on from the run folder's last state.
        quiet: print results and errors only.
        check: build and plan, and stop there.
        devices: processes that share every job's batches, each on a device of its own.

    Raises:
        GraftError: whatever can be refused before training.
    """
    settle_output(quiet=True, verbose=False)
    if devices < 1:
        raise GraftError(f"devices must be 1 or more, not {devices}")
    if first():  # the others start when it has written already
        _check_folder(jobs.run_dir, resume)
    with processes(devices):
        return _train(jobs, resume, quiet or not first(), check)


def _train(jobs: Jobs, resume: bool, quiet: bool, check: bool) -> int:
    folder = jobs.run_dir
    shared = build(jobs)
    runner = Runner(
        shared.model,
        [task_of(b, shared.model) for b in shared.jobs],
        body=shared.body,
        join=shared.join,
        record=jobs.record,
    )
    earlier = _read(folder / TOLD) if resume else None
    planning = Planning(shared, jobs.memory, jobs.fairness, _cost(earlier))
    if planning.cost is None:
        planning.measure(runner)
    planning.agree(runner.ranks)
    runner.plan = planning
    plan = planning(runner.running)
    if not quiet:
        print(f"plan: {plan}")
        if planning.fitted is not None:
            print(f"cost model: {planning.fitted}")
    if check:
        if first():
            print("check: all right")
        return DONE
    if first():
        for b in shared.jobs:
            _write(folder / b.job.name / "config.yaml", _config(b.cli))
    validation = Validation(shared, jobs.validate_every, (earlier or {}).get("jobs", ()))
    if resume:
        runner.load(folder / STATE)
        validation.resumed(runner)
    told = {**(earlier or planning.told()), "predicted round": planning.seconds(plan)}
    told["devices"] = 1 if runner.ranks is None else runner.ranks.count
    _tell(folder, runner, shared, told, validation)
    runner.save(folder / STATE)
    counts = {b.job.name: b.count for b in shared.jobs}
    rounds: list[float] = []
    began = time.perf_counter()

    def progress(runner: Runner) -> None:
        nonlocal began
        rounds.append(time.perf_counter() - began)
        validation(runner)
        board.show(runner)
        if runner.rounds % jobs.checkpoint_every == 0:
            runner.save(folder / STATE)
            _tell(folder, runner, shared, told, validation)
        began = time.perf_counter()

    said = None if jobs.validate_every is None else validation.last
    with Board(counts, quiet, validated=said) as board:
        whole = runner.run(progress=progress)
    runner.save(folder / STATE)
    told["measured round"] = _middle(rounds[: _first_ends(shared, runner)]) if rounds else None
    report = _finish(folder, runner, shared, told, validation) if first() else None
    failed = [t.name for t in runner.tenants.values() if t.status == "failed"]
    if not quiet:
        print(board.line(runner))
        if runner.recordings is not None:
            print(f"recorded: {runner.recordings}")
        print(f"run folder: {folder}" + (f"; report: {report}" if report else ""))
    if first():
        for name in failed:
            print(f"{name}: {runner.tenants[name].failures[-1]}")
        if not whole:
            print(f"interrupted; --resume goes on: {folder}")
    if not whole:
        return INTERRUPTED
    return FAILED if failed else DONE


def _finish(
    folder: Path, runner: Runner, shared: Shared, told: dict[str, Any], validation: Validation
) -> Path | None:
    """Write the adapters, what there is to tell, and the report."""
    for b in shared.jobs:
        tenant = runner.tenants[b.job.name]
        if tenant.step:
            b.cli.graft = tenant.graft
            b.cli.save_graft(folder / b.job.name / "graft")
    _tell(folder, runner, shared, told, validation)
    return write_report(folder)


def write_report(folder: Path) -> Path | None:
    """The report of a run folder, by whatever installed distribution offers one; `None` where none does."""
    for entry in metadata.entry_points(group=REPORTS, name="many"):
        return Path(entry.load()(folder))
    return None


def _check_folder(folder: Path, resume: bool) -> None:
    there = (folder / TOLD).exists()
    if resume and not (folder / STATE).exists():
        raise GraftError(f"resume: {folder / STATE} does not exist")
    if there and not resume:
        raise GraftError(f"run_dir: {folder} holds a run already; give another folder, or --resume")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise GraftError(f"resume: {path} cannot be read: {error}") from None
    if not isinstance(found, dict) or "cost" not in found:
        raise GraftError(f"resume: {path} is not that of a shared run")
    return found


def _cost(earlier: dict[str, Any] | None) -> CostModel | None:
    return None if earlier is None else CostModel.from_row(earlier["cost"])


def _config(cli: Any) -> str:
    text = cli._parser(cli.verb).dump(cli.config[cli.verb], skip_none=False, format="yaml")
    return str(text)


def _tell(
    folder: Path, runner: Runner, shared: Shared, told: dict[str, Any], validation: Validation
) -> None:
    """What the report is made from; the first process writes it."""
    if not first():
        return
    rows = {r["name"]: r for r in runner.table()}
    jobs = []
    for b in shared.jobs:
        tenant = runner.tenants[b.job.name]
        jobs.append(
            {
                "name": b.job.name,
                "app": b.job.app,
                "priority": b.job.priority,
                "steps": b.count,
                "method": rows[b.job.name]["method"],
                "status": tenant.status,
                "step": tenant.step,
                "rows": tenant.rows,
                "trained": sum(p.numel() for p in tenant.parameters),
                "curve": [[int(s), float(v)] for s, v in tenant.curve],
                "logged": b.logged,
                "validation": validation.curves.get(b.job.name, {}),
                "failures": [
                    *tenant.failures,
                    *([note] if (note := validation.notes.get(b.job.name)) else []),
                ],
            }
        )
    text = json.dumps({**told, "backbone": shared.backbone, "jobs": jobs}, indent=1)
    _write(folder / TOLD, text + "\n")


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def _first_ends(shared: Shared, runner: Runner) -> int:
    """Rounds in which all jobs took part."""
    return max(1, min(runner.tenants[b.job.name].step for b in shared.jobs))


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]

"""`graftwork train-many` in two processes: `python -m tests.tenants.many_ranks FOLDER`, or `... train-many jobs.yaml`.

In the first form two forks run each case; in the second it is the command, with the tests' app installed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import manyapp.app
import manyapp.cli
import torch
import torch.distributed as dist
import transformers.models.llama.modeling_llama
import yaml

from graftwork.cli import main
from graftwork.lightning.many import built, run
from graftwork_runs.many import report
from tests.tenants.ranks_kit import COUNT, forked, single

LOADED = (manyapp.cli, transformers.models.llama.modeling_llama)
JOBS: dict[str, dict[str, Any]] = {
    "short": {},
    "long": {
        "data.longest": 40,
        "data.seed": 3,
        "seed_everything": 5,
        "graft.rank": 3,
        "trainer.accumulate_grad_batches": 2,
        "trainer.gradient_clip_val": 0.1,
    },
    "other": {"graft": {"class_path": "graftwork.IA3"}, "trainer.max_steps": 3},
}


#: AdamW would divide a gradient that is nothing but rounding by itself
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.3, "momentum": 0.9}}


def write(name: str, batch: int, only: Sequence[str] = tuple(JOBS), **top: Any) -> str:
    jobs = [
        {
            "name": n,
            "app": "manyapp",
            "set": {"data.batch_size": batch, "data.val": 8, "optimizer": SGD, **JOBS[n]},
        }
        for n in only
    ]
    Path(name).write_text(
        yaml.safe_dump({"layout": "padded", "validate_every": 2, **top, "jobs": jobs})
    )
    return name


def install() -> None:
    built.apps = lambda: {"manyapp": manyapp.app.app}
    run.write_report = report


def pressed(after: int) -> Any:
    """Ctrl-C in the second process while round `after` ends."""
    show = run.Board.show

    def pressing(self: Any, runner: Any) -> None:
        show(self, runner)
        if runner.rounds == after and dist.get_rank() == 1:
            signal.raise_signal(signal.SIGINT)

    run.Board.show = pressing  # type: ignore[method-assign]
    return show


def cases(rank: int) -> dict[str, Any]:
    """Exit codes; the runs' folders lie beside them."""
    out: dict[str, Any] = {}
    words = ["--quiet", "--devices", "2"]
    if rank == 0:
        one = write("one.yaml", 4, run_dir="one")
        out["one"] = single(lambda: main(["train-many", one, "--quiet"]))
    dist.barrier()
    two, parts = (write(f"{n}-{rank}.yaml", 2, run_dir=n) for n in ("two", "parts"))
    out["two"] = main(["train-many", two, *words])
    show = pressed(1)
    out["stopped"] = main(["train-many", parts, *words])
    run.Board.show = show  # type: ignore[method-assign]
    half = json.loads(Path("parts/many.json").read_text()) if rank == 0 else {}
    out["steps"] = [j["step"] for j in half.get("jobs", [])]
    dist.barrier()
    if rank == 0:
        for name in ("other-batch", "in-one"):
            Path(name).mkdir()
            for file in ("state.pt", "many.json"):
                (Path(name) / file).write_bytes((Path("parts") / file).read_bytes())
        in_one = write("in-one.yaml", 4, run_dir="in-one")
        out["in one"] = single(lambda: main(["train-many", in_one, "--quiet", "--resume"]))
    dist.barrier()
    other = write(f"other-{rank}.yaml", 3, run_dir="other-batch")
    out["other batch"] = main(["train-many", other, *words, "--resume"])
    out["resumed"] = main(["train-many", parts, *words, "--resume"])
    return out


def worker(folder: Path, rank: int, port: int) -> None:
    os.chdir(folder)
    with (folder / f"{rank}.err").open("w") as errors:
        os.dup2(errors.fileno(), 2)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=COUNT
    )
    try:
        (folder / f"{rank}.json").write_text(json.dumps(cases(rank)))
    except BaseException:
        traceback.print_exc()
        raise
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    install()
    if sys.argv[1] == "train-many":
        raise SystemExit(main())
    place = Path(sys.argv[1])
    raise SystemExit(forked(COUNT, lambda rank, port: worker(place, rank, port)))

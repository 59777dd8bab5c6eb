"""What waiting costs: imports beyond torch's, grafting 1,600 layers, the light commands, and a fit of one step.

    python -m benchmarks.import_cost
    python -m benchmarks.import_cost --beside ../other-checkout

Each figure is from a fresh interpreter, which is what a user waits for; the variants take turns. Seconds are of the
processor, user and system, in which a busy neighbour does not count: a start is one thread's work. `--beside` runs the
commands of another checkout too.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.fit.runs import OURS, Run, Work, arguments_of
from benchmarks.timing import median_row
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parent / "records" / "speed" / "import-cost.json"
HEAVY = ("transformers", "lightning", "timm", "monai")
LAYERS = 1600

# Each prints seconds. torch is loaded before the clock starts: it is there in any case.
IMPORT_OURS = f"""
import sys, time, torch, numpy, safetensors.torch
begun = time.process_time()
import graftwork as gw
gw.graft, gw.LoRA, gw.save, gw.load
print(time.process_time() - begun)
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
"""
IMPORT_PEFT = """
import time, torch, numpy, safetensors.torch
begun = time.process_time()
import peft
print(time.process_time() - begun)
"""
NETWORK = f"""
import time, torch
from torch import nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))
model = nn.ModuleDict({{"blocks": nn.ModuleList(Block() for _ in range({LAYERS} // 4))}})
"""
GRAFT_OURS = f"""{NETWORK}
import graftwork as gw
method = gw.LoRA(rank=8)
begun = time.process_time()
graft = gw.graft(model, method, sites=["type:Linear"])
print(time.process_time() - begun)
assert sum(p.numel() for p in graft.parameters()) == {LAYERS} * 8 * 128
"""
GRAFT_PEFT = f"""{NETWORK}
import peft
config = peft.LoraConfig(r=8, target_modules=["q", "k", "v", "o"])
begun = time.process_time()
adapted = peft.get_peft_model(model, config)
print(time.process_time() - begun)
assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == {LAYERS} * 8 * 128
"""
SAVE = """
import sys, torch, graftwork as gw
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
gw.save(gw.graft(model, gw.LoRA(rank=8), sites=["*"]), sys.argv[1])
"""

ROOT = Path(__file__).parents[1]
#: the parts of a checkout that are imported
SOURCES = ("shared/src", "packages/runs/src", "packages/contamination/src", "packages/llm/src",
           "apps/medseg/src", "apps/maritime/src", "")  # fmt: skip
DOORS = {
    "graftwork": "graftwork.cli",
    "medseg": "graftwork_medseg.app",
    "maritime": "graftwork_maritime.app",
}
#: what one step of a fit is measured with
STEP = "tiny"
STEP_CASE = "a fit of one step"


def surroundings(tree: Path) -> dict[str, str]:
    """The environment in which a checkout is imported."""
    given = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(tree / part) for part in SOURCES]
    # an installed package has its bytecode; a setting of this shell must not take that away
    return {**given, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def inner(code: str, tree: Path = ROOT) -> float:
    """The seconds that a snippet prints, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings(tree),
    )
    if done.returncode != 0:
        raise RuntimeError(f"a snippet failed:\n{code}\n{done.stderr}")
    return float(done.stdout)


def door(line: str) -> list[str]:
    """The arguments after `python` that run a command line as its installed script does."""
    name, *words = line.split()
    code = f"import sys; sys.argv[0] = {name!r}; from {DOORS[name]} import main; sys.exit(main())"
    return ["-c", code, *words]


def used() -> float:
    """Processor seconds of the processes that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def whole(arguments: list[str], tree: Path = ROOT) -> float:
    """Seconds of a process from start to end; it must succeed."""
    begun = used()
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=surroundings(tree),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return used() - begun


def first_line(arguments: list[str], tree: Path = ROOT) -> float:
    """Seconds until a process's first line of output; it is then stopped."""
    begun = used()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=surroundings(tree),
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    if not line.strip() or "Traceback" in line or "error" in line.lower():
        raise RuntimeError(f"{' '.join(arguments)} began with {line!r}")
    return used() - begun


def one_step(scratch: Path, variant: str, tree: Path = ROOT) -> float:
    """Seconds of a fit of one step: ours through the command line, or peft's in the Trainer."""
    work = Work(scratch / "fit")
    run = Run(STEP, variant, 1, 1)
    place = Path(tempfile.mkdtemp(dir=scratch))
    words = arguments_of(run, work.prepare(STEP, 1), place, place / "noted.json")
    return whole(words, tree)


def measurements(
    adapter: str, scratch: Path, beside: Path | None = None
) -> dict[tuple[str, str], Callable[[], float]]:
    """(case, variant) -> one measurement in seconds."""
    layers, step = f"adapt {LAYERS:,} linear layers", STEP_CASE
    found: dict[tuple[str, str], Callable[[], float]] = {
        ("import, beyond torch", "peft"): lambda: inner(IMPORT_PEFT),
        (layers, "peft"): lambda: inner(GRAFT_PEFT),
        (step, "peft"): lambda: one_step(scratch, "peft, default"),
    }
    for variant, tree in (("graftwork", ROOT), *([(BESIDE, beside)] if beside else [])):
        found["import, beyond torch", variant] = lambda tree=tree: inner(IMPORT_OURS, tree)
        if tree == ROOT:
            found[layers, variant] = lambda: inner(GRAFT_OURS)
        found[step, variant] = lambda tree=tree: one_step(scratch, OURS, tree)
        for line in LINES:
            words = door(line.replace("ADAPTER", adapter))
            found[f"`{line.partition(' ADAPTER')[0]}`", variant] = lambda w=words, tree=tree: whole(
                w, tree
            )
        for verb in ("fit", "predict", "adapt", "demo"):
            words = door(f"medseg {verb} --run_dir {scratch}/{verb}")
            found[f"first line of `medseg {verb}`", variant] = lambda w=words, tree=tree: (
                first_line(w, tree)
            )
    return dict(sorted(found.items(), key=lambda item: item[0][0].startswith(("`", "first"))))


BESIDE = "graftwork, the other checkout"
LINES = (
    "graftwork --help",
    "graftwork methods",
    "graftwork inspect ADAPTER",
    "medseg --help",
    "medseg --version",
    "maritime --help",
    "maritime scenario --exercise",
)


# What the project promises, in seconds.
LIMITS = {
    "import, beyond torch": 0.05,
    f"adapt {LAYERS:,} linear layers": 1.0,
    "`graftwork --help`": 0.3,
    "`graftwork methods`": 0.3,
    "`graftwork inspect`": 0.3,
}
LIMIT = 1.0
UNPROMISED = ("`maritime scenario --exercise`",)
#: what a fit of one step may take of peft's in the Hugging Face Trainer
OF_PEFT = 1.0


def named(tree: Path) -> str:
    """A checkout by its commit."""
    done = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no repository"


def verdict(rows: list[Row]) -> str:
    limits = {
        r.case: OF_PEFT * (r.value or 0)
        for r in rows
        if r.case == STEP_CASE and r.variant == "peft"
    }
    limits |= LIMITS
    rows = [row for row in rows if row.case not in UNPROMISED]
    over = [
        f"{row.case} took {row.value:.3g} s, promised {limits.get(row.case, LIMIT):.3g} s"
        for row in rows
        if row.variant == "graftwork" and (row.value or 0) > limits.get(row.case, LIMIT)
    ]
    return f"partly: {'; '.join(over)}." if over else "seen: every figure is within its limit."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--beside", type=Path, help="another checkout, measured too")
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    beside = options.beside.resolve() if options.beside else None
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        adapter = f"{scratch}/adapter"
        subprocess.run([sys.executable, "-c", SAVE, adapter], check=True, env=surroundings(ROOT))
        tasks = list(measurements(adapter, Path(scratch), beside).items())
        for turn in range(options.rounds + 1):
            random.Random(turn).shuffle(tasks)
            for key, measure in tasks:
                value = measure()
                print(f"round {turn}: {key[0]}, {key[1]}: {value:.3f} s", flush=True)
                if turn > 0:  # the first round reads the files into memory
                    seconds.setdefault(key, []).append(value)
    order = list(measurements("", Path(), beside))
    rows = [
        median_row(case, variant, "wait", seconds[case, variant], "s") for case, variant in order
    ]
    record = Record(
        record="speed/import-cost",
        claim="The core costs under 50 ms beyond torch, grafts 1,600 layers within 1 s, and light "
        "commands answer within 0.3 s and 1 s; a fit of one step takes no longer than peft's in the Hugging Face "
        "Trainer.",
        command=f"python -m benchmarks.import_cost --rounds {options.rounds}",
        rows=rows,
        notes=[
            (
                "Processor seconds, user and system, medians with quartiles; each figure from an interpreter of its "
                "own, with the files in the page cache."
            ),
            "peft imports transformers; its import time is that too.",
            "a fit of one step: of a tiny decoder of transformers, the whole process, by `benchmarks.fit`.",
            "maritime scenario reads a mask of all seas, 933 MB of which it keeps a bit a cell; nothing is promised.",
            *([f"the other checkout: {named(beside)}."] if beside else []),
        ],
        verdict=verdict(rows),
        **environment(),
    )
    for row in rows:
        print(f"{row.case}, {row.variant}: {row.value} s ({row.lo} to {row.hi})")
    print(record.verdict)
    print(record.write(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

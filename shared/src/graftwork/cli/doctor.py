"""`graftwork doctor`: versions, devices and memory; what is missing and the command that brings it; what does not
compute right here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from typing import Any

from graftwork.cli.table import size, table

#: libraries that no declared requirement names -> what they are good for
USEFUL = {
    "peft": "comparing with it (its folders are read and written without it)",
    "transformers": "grafting transformers models",
    "timm": "grafting timm models",
    "monai": "grafting MONAI models",
}
#: how long importing torch and asking it for its devices may take, in seconds
PATIENCE = 120

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*[\"']([^\"']+))?")
_ASK_TORCH = """
import json, torch
devices = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        devices.append({"device": f"cuda:{i}", "name": p.name, "memory": p.total_memory})
if torch.backends.mps.is_available():
    devices.append({"device": "mps", "name": "Apple GPU", "memory": None})
x = torch.eye(2)
assert bool((x @ x == x).all())
print(json.dumps({"threads": torch.get_num_threads(), "devices": devices}))
"""
# A small convolution in half precision: on CPUs with AMX, oneDNN's kernels (torch 2.14) crash on it or are wrong.
_CONVOLVE = """
import torch
torch.manual_seed(0)
settings = (None, (2, 1, 1), (1, 0, 1), (2, 2, 2))
for depth in (1, 5):
    x, w = torch.randn(2, 8, depth, 5, 5), torch.randn(3, 8, 2, 2, 2)
    for dtype in (torch.bfloat16, torch.float16):
        try:
            y = torch.conv3d(x.to(dtype), w.to(dtype), *settings).double()
        except RuntimeError:
            continue  # not offered here, which is no wrong value
        exact = torch.conv3d(x.to(dtype).double(), w.to(dtype).double(), *settings)
        assert bool(((y - exact).abs() <= 0.02 * exact.abs().max()).all()), "wrong values"
"""
_SAFE_KERNELS = "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object, for programs")


def run(options: argparse.Namespace) -> int | None:
    found = examine()
    print(json.dumps(found, indent=1) if options.json else _text(found))
    return 0 if found["ok"] else 1


def examine() -> dict[str, Any]:
    """Everything there is to say; `ok` is whether the core can work here, `advice` what to set all the same.

    torch is imported in a process of its own: a broken installation then is a line, not a crash.
    """
    packages = _packages()
    devices, fault = _devices()
    faults = [f"{p['name']}: {p['remedy']}" for p in packages if p["needed"] and p["remedy"]]
    if fault:
        faults.append(f"torch: {fault}")
    apps, app_faults = _apps()
    return {
        "ok": not faults and not app_faults,
        "graftwork": _version("graftwork"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory": _memory(),
        "devices": devices,
        "packages": packages,
        "apps": apps,
        "faults": faults + app_faults,
        "advice": _convolutions() if devices else [],
    }


def _packages() -> list[dict[str, Any]]:
    rows = []
    try:
        declared = metadata.requires("graftwork") or []
    except metadata.PackageNotFoundError:
        remedy = "it runs from a folder, not an installation: pip install graftwork"
        declared = []
        rows.append(_row("graftwork", None, True, remedy, ""))
    for line in declared:
        match = _REQUIREMENT.match(line)
        assert match is not None, line
        name, wanted, extra = match[1], match[2].strip(" ()"), match[3]
        have = _version(name)
        target = f"graftwork[{extra}]" if extra else f"{name}{wanted}"
        fits = have is not None and _at_least(have, wanted)
        remedy = "" if fits else f"pip install '{target}'"
        rows.append(_row(name, have, not extra, remedy, f"extra {extra}" if extra else "core"))
    for name, why in USEFUL.items():
        have = _version(name)
        rows.append(_row(name, have, False, "" if have else f"pip install {name}", why))
    return rows


def _row(name: str, version: str | None, needed: bool, remedy: str, why: str) -> dict[str, Any]:
    return {"name": name, "version": version, "needed": needed, "remedy": remedy, "for": why}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _at_least(have: str, wanted: str) -> bool:
    """Whether a version reaches the lower bound in a specifier such as `>=2.11` (others pass)."""
    bound = re.search(r">=\s*([\d.]+)", wanted)
    return bound is None or _numbers(have) >= _numbers(bound[1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def _devices() -> tuple[list[dict[str, Any]], str]:
    if _version("torch") is None:
        return [], ""  # the packages' rows say so
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return [], f"did not answer within {PATIENCE} s; a driver may hang"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [], f"does not work here ({last}); reinstall it: pip install --force-reinstall torch"
    told = json.loads(done.stdout.splitlines()[-1])
    cpu = {"device": "cpu", "name": f"{told['threads']} threads", "memory": _memory()["total"]}
    return [cpu, *told["devices"]], ""


def _convolutions() -> list[str]:
    """What to set where half precision convolutions fail on the CPU; each trial is a process that may crash."""
    if _convolves({}):
        return []
    what = "convolutions in bfloat16 or float16 crash or are wrong on this CPU"
    name, value = _SAFE_KERNELS.split("=")
    if _convolves({name: value}):
        return [f"{what}: set {_SAFE_KERNELS} in the environment, or train in float32"]
    return [f"{what}: train in float32"]


def _convolves(environment: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CONVOLVE],
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _memory() -> dict[str, int | None]:
    """Physical and available bytes; `None` where the system does not tell."""
    out: dict[str, int | None] = {"total": None, "available": None}
    for key, name in (("total", "SC_PHYS_PAGES"), ("available", "SC_AVPHYS_PAGES")):
        if hasattr(os, "sysconf") and name in os.sysconf_names:
            out[key] = os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    return out


def _apps() -> tuple[list[dict[str, str]], list[str]]:
    """Installed apps, each entry point on its own, so that a broken one does not hide the others."""
    rows, faults = [], []
    for entry in metadata.entry_points(group="graftwork.apps"):
        try:
            app = entry.load()
            rows.append({"name": app.name, "version": app.version()})
        except Exception as e:  # an app's import may fail in any way; that is the finding
            name = entry.dist.name if entry.dist else entry.name
            faults.append(
                f"app {entry.name}: does not load ({e}); pip install --force-reinstall {name}"
            )
    return rows, faults


def _text(found: dict[str, Any]) -> str:
    memory = found["memory"]
    lines = [
        f"graftwork {found['graftwork']}, Python {found['python']}, {found['system']}",
        f"{found['cores']} cores, memory {_size(memory['total'])}, {_size(memory['available'])} free",
        *(f"device {d['device']}: {d['name']}, {_size(d['memory'])}" for d in found["devices"]),
        *(f"app {a['name']} {a['version']}" for a in found["apps"]),
        "",
        table(
            ["package", "version", "for", "to get it"],
            [[p["name"], p["version"] or "-", p["for"], p["remedy"]] for p in found["packages"]],
        ),
        "",
    ]
    if found["faults"]:
        lines += ["to mend:", *(f"  {fault}" for fault in found["faults"])]
    else:
        lines.append("ready; `graftwork demo` shows it at work")
    if found["advice"]:
        lines += ["advice:", *(f"  {line}" for line in found["advice"])]
    return "\n".join(lines)


def _size(count: int | None) -> str:
    return "unknown" if count is None else size(count)

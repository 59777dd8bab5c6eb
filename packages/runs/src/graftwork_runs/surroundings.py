"""Where a figure was measured: versions, device, cores, memory, commit and date.

Nothing heavy is imported to find out: versions come from package metadata, and torch is asked about
a GPU only when the caller names one, which means that torch is loaded already.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "graftwork",
    "graftwork-runs",
    "graftwork-contamination",
    "graftwork-llm",
    "graftwork-medseg",
    "graftwork-maritime",
    "torch",
    "numpy",
    "safetensors",
    "lightning",
    "jsonargparse",
    "monai",
    "nibabel",
    "nilearn",
    "timm",
    "transformers",
    "peft",
    "liger_kernel",
)


def environment(device: object = "cpu") -> dict[str, Any]:
    """The fields of a record that say where it was made.

    `device` is what the work ran on ("cpu", "cuda:0" or a torch.device). Returns the keys `commit`
    (None outside the project's own git tree), `date` (UTC, to the second), `device`, `cores`,
    `memory_bytes` and `versions` (installed packages only), as a Record takes them.
    """
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "device": device_name(device),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "versions": versions(),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those `packages` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def device_name(device: object = "cpu") -> str:
    """The marketing name of the processor or of the GPU that `device` means."""
    text = str(device)
    if text.startswith("cuda"):
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            return str(torch.cuda.get_device_name(torch.device(text)))
    if text != "cpu":
        return text
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "cpu"


def cores() -> int:
    """Processors this process may use; a container's quota counts."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    return count


def memory_bytes() -> int | None:
    """Physical memory of the machine in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory_bytes() -> int | None:
    """The most memory this process has held so far, in bytes."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def commit(source: Path = Path(__file__)) -> str | None:
    """The commit of the tree that `source` belongs to; "+changes" when tracked files differ from it.

    Records and Markdown pages do not count as changes: measuring rewrites them. None when the file
    is not tracked: an installed package may lie inside somebody else's repository, whose commit
    would say nothing.
    """
    here = source.resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    head = _git(here.parent, "rev-parse", "HEAD")
    if head is None:
        return None
    written = (":(top,exclude)benchmarks/records", ":(top,exclude)*.md")
    changed = _git(here.parent, "status", "--porcelain", "-uno", "--", ":(top)", *written)
    return head + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""Is this the process that speaks and writes? Told by what launchers put into the environment, without torch."""

from __future__ import annotations

import os

#: what names a process among several: torchrun and Lightning, nodes, SLURM
_NUMBERS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def primary() -> bool:
    """Whether this process is the first, or the only one, of its run."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in _NUMBERS)

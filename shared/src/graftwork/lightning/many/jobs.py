"""The file of jobs: plain YAML, read and checked before anything heavy is imported.

run_dir: runs/many/monday          # default: runs/many/<the file's name>
memory: 20 GiB                     # cap on what a pass may take; default: none
fairness: 0.5                      # of its share of the time alone, what each job gets at least
layout: planned                    # of token sequences: planned, padded, chunked, packed
chunk: 128                         # tokens of a chunk; default: chosen
checkpoint_every: 100              # rounds between two checkpoints
validate_every: 50                 # steps of a job between two validations; default: none
record: true                       # replay passes that come again as CUDA graphs; default: false
jobs:
  - name: site-a
    app: medseg                    # an installed app
    config: site-a.yaml            # of its verb `fit`, beside this file; or the name of a shipped one
    priority: 2                    # its weight in the sharing of time; default 1
    set: {trainer.max_steps: 200}  # fields that differ from the config
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork.lightning import configs
from graftwork.tenants.layouts import LAYOUTS, PLANNED

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        name: of the task and of its folder.
        app: command of the app.
        config: file or shipped name; `None`: the app's default.
        priority: weight in the sharing of time.
        set: dotted field -> value, over the config.
    """

    name: str
    app: str
    config: str | None = None
    priority: int = 1
    set: Mapping[str, Any] | None = None

    def arguments(self) -> list[str]:
        """What its app's verb `fit` is called with."""
        out = [] if self.config is None else ["--config", self.config]
        for key, value in (self.set or {}).items():
            out.append(f"--{key}={_word(value)}")
        return [*out, "--quiet"]


@dataclass(frozen=True)
class Jobs:
    """The whole file."""

    jobs: tuple[Job, ...]
    run_dir: Path
    memory: int | None = None
    fairness: float = 0.5
    layout: str = PLANNED
    chunk: int | None = None
    checkpoint_every: int = 100
    validate_every: int | None = None
    record: bool = False


def read(file: str | Path) -> Jobs:
    """Read a file of jobs.

    Raises:
        GraftError: no such file, no plain YAML, or a field that is unknown, missing or out of range, by its name.
    """
    file = Path(file)
    data = configs.check(file)
    known = {"jobs", *Jobs.__dataclass_fields__}
    _unknown(data, known, str(file))
    listed = data.get("jobs")
    if not isinstance(listed, list) or not listed:
        raise GraftError(f"{file}: jobs: list one or more jobs, each with a name and an app")
    jobs = tuple(_job(item, f"{file}: jobs[{i}]", file.parent) for i, item in enumerate(listed))
    names = [j.name for j in jobs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise GraftError(f"{file}: two jobs are called {twice[0]!r}; give each its own name")
    run_dir = data.get("run_dir") or Path("runs") / "many" / file.stem
    fairness = data.get("fairness", 0.5)
    if isinstance(fairness, bool) or not isinstance(fairness, int | float) or not 0 < fairness <= 1:
        raise GraftError(f"{file}: fairness must lie in (0, 1], not {fairness!r}")
    layout = data.get("layout", PLANNED)
    if layout not in (PLANNED, *LAYOUTS):
        raise GraftError(f"{file}: layout: {layout!r} is none of {', '.join((PLANNED, *LAYOUTS))}")
    chunk = data.get("chunk")
    return Jobs(
        jobs,
        Path(str(run_dir)),
        memory_bytes(data.get("memory"), str(file)),
        float(fairness),
        layout,
        _some(chunk, f"{file}: chunk"),
        _whole(data.get("checkpoint_every", 100), f"{file}: checkpoint_every"),
        _some(data.get("validate_every"), f"{file}: validate_every"),
        _switch(data.get("record", False), f"{file}: record"),
    )


def memory_bytes(value: Any, where: str) -> int | None:
    """Bytes of `8 GiB` or of a number; `None` of nothing.

    Raises:
        GraftError: neither.
    """
    if value is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(value))
    unit = (found.group(2) or "B") if found else ""
    try:
        bytes_ = int(float(found.group(1)) * UNITS[unit]) if found else 0
    except (KeyError, ValueError):
        bytes_ = 0
    if isinstance(value, bool) or bytes_ < 1:
        raise GraftError(f"{where}: memory: {value!r} is no size; write 20 GiB, or bytes")
    return bytes_


def _job(item: Any, where: str, beside: Path) -> Job:
    if not isinstance(item, dict):
        raise GraftError(f"{where}: a job is a mapping with a name and an app, not {item!r}")
    _unknown(item, set(Job.__dataclass_fields__), where)
    for field in ("name", "app"):
        if not isinstance(item.get(field), str) or not item[field]:
            raise GraftError(f"{where}: {field} is missing")
    if not NAME.fullmatch(item["name"]):
        raise GraftError(
            f"{where}: name {item['name']!r}: use letters, digits, '_' and '-', at most 64, a letter or digit first"
        )
    changes = item.get("set")
    if changes is not None and not isinstance(changes, dict):
        raise GraftError(f"{where}: set: give dotted fields and values, not {changes!r}")
    config = item.get("config")
    if config is not None:
        config = str(config)
        if (beside / config).exists():
            config = str(beside / config)
    priority = _whole(item.get("priority", 1), f"{where}: priority")
    return Job(item["name"], item["app"], config, priority, changes)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise GraftError(f"{where} must be a whole number of at least 1, not {value!r}")
    return value


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise GraftError(f"{where} must be true or false, not {value!r}")
    return value


def _some(value: Any, where: str) -> int | None:
    return None if value is None else _whole(value, where)


def _unknown(given: Mapping[str, Any], known: set[str], where: str) -> None:
    odd = sorted(str(k) for k in given if k not in known)
    if odd:
        raise GraftError(
            f"{where}: unknown field {odd[0]!r}; there are: {', '.join(sorted(known))}"
        )


def _word(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)

"""Where a run keeps its files: `runs/<app>/<name>/`, one run per folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError
from graftwork.lightning.checkpoint_io import write_atomically

CONFIG = "config.yaml"
CHECKPOINT = Path("checkpoints") / "last.ckpt"


def choose(
    wanted: str | None,
    app: str,
    verb: str,
    resume: bool,
    resumes_from: Sequence[Path] = (CHECKPOINT,),
) -> Path:
    """The folder of this run.

    Args:
        wanted: the user's choice; `None` takes `runs/<app>/<verb>`, `<verb>-2` and so on: the first free
            one, or, to resume, the last one that holds a checkpoint.
        app: name of the app.
        verb: name of the verb.
        resume: continue the run in the folder.
        resumes_from: files of the folder, one of which must be there to resume.

    Raises:
        GraftError: the folder is taken, or there is nothing to resume.
    """
    if wanted is not None:
        folder = Path(wanted)
        taken = (folder / CONFIG).exists()
        if taken and not resume:
            raise GraftError(
                f"run_dir: {folder} holds a run already; give another folder, or --resume"
            )
        if folder.exists() and not folder.is_dir():
            raise GraftError(f"run_dir: {folder} is a file")
        if resume and not _begun(folder, resumes_from):
            raise GraftError(f"resume: {folder / resumes_from[0]} does not exist")
    elif resume:
        there = [f for f in _existing(app, verb) if _begun(f, resumes_from)]
        if not there:
            raise GraftError(f"resume: no run of {verb!r} under runs/{app} holds {resumes_from[0]}")
        folder = there[-1]
    else:
        folder = next(f for f in _numbered(app, verb) if not f.exists())
    return folder


def _begun(folder: Path, resumes_from: Sequence[Path]) -> bool:
    return any((folder / file).exists() for file in resumes_from)


def _numbered(app: str, verb: str) -> Iterator[Path]:
    base = Path("runs") / app
    yield base / verb
    yield from (base / f"{verb}-{n}" for n in count(2))


def _existing(app: str, verb: str) -> Iterator[Path]:
    for folder in _numbered(app, verb):
        if not folder.exists():
            return
        yield folder


def create(folder: Path, parser: Any, config: Any) -> None:
    """Make the folder and write the resolved config into it.

    Raises:
        GraftError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraftError(f"run_dir: cannot create {folder}: {error.strerror}") from None
    text = parser.dump(config, skip_none=False, format="yaml")
    write_atomically(folder / CONFIG, text.encode())

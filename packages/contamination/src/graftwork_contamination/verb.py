"""`graftwork contamination`, and the same verb for an app's command line:

App(..., light={"contamination": (SUMMARY, "graftwork_contamination.verb:for_app")})
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftError
from graftwork_contamination.parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.lightning.app import App
    from graftwork_contamination.detection import Scored

SUMMARY = "Ask whether a language model has memorised prompts that it should not have seen."
HELP = {
    "samples": "of CDD, beside the greedy answer",
    "temperature": "of the samples",
    "alpha": "share of an answer's tokens by which a sample may differ",
    "max_new_tokens": "of an answer",
    "l_max": "tokens of an answer that are compared",
    "max_tokens": "of a prompt that perplexity and Min-K %% read",
    "k": "percent of Min-K %%",
    "n": "words of an n-gram",
    "seed": "of samples, intervals and halves",
    "resamples": "of an interval, and permutations of the test",
    "level": "at which the gate finds memorisation",
    "rows": "sequences answered at once",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("items", metavar="ITEMS", help="JSONL: prompt, group (suspected, clean)")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="of transformers, local")
    parser.add_argument("--adapter", metavar="FOLDER", help="a graft; the base is its reference")
    parser.add_argument("--reference", metavar="FOLDER", help="the base of a fully tuned model")
    parser.add_argument("--training", metavar="FILE", help="JSONL of training texts, for n-grams")
    parser.add_argument("--out", required=True, metavar="FILE", help="JSONL; a stopped run goes on")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    for f in fields(Parameters):
        kind = float if f.type == "float" else int
        name = f"--{f.name.replace('_', '-')}"
        parser.add_argument(
            name, type=kind, default=f.default, help=f"{HELP[f.name]} ({f.default})"
        )


def run(options: argparse.Namespace) -> int | None:
    """Score, print the table, and leave every item's scores and the result in the file."""
    told = Parameters(**{f.name: getattr(options, f.name) for f in fields(Parameters)})
    from graftwork_contamination.items import check_items, read_items, read_texts

    items = read_items(options.items)
    training = read_texts(options.training) if options.training else None
    check_items(items, training)
    if options.adapter and options.reference:
        raise GraftError("--reference: an adapter has its own base; give the one or the other")
    header = {
        "parameters": told.as_dict(),
        "model": _name(options.model),
        "adapter": _name(options.adapter),
        "reference": _name(options.reference),
        "items": _hash(options.items),
        "training": _hash(options.training),
    }
    out = Path(options.out)
    known, finished = _known(out, header)

    model, tokenizer = _load(options.model, options.device)
    from graftwork_contamination.detection import detect

    graft, reference = None, None
    if options.adapter:
        import graftwork as gw

        graft = gw.load(model, options.adapter)
        model.to(options.device)
    if options.reference:
        reference, _ = _load(options.reference, options.device)
    if known:
        print(f"{out}: {len(known)} of {len(items)} items are scored already", flush=True)
    with _appending(out) as file:
        if file.tell() == 0:
            _line(file, header)

        def keep(scored: Scored) -> None:
            _line(file, scored.as_dict())

        result = detect(
            model, tokenizer, items, told, graft=graft, reference=reference, training=training,
            known=known, keep=keep,
        )  # fmt: skip
        if not finished:
            _line(file, {"result": result.as_dict()})
    print(result.table())
    return None


def for_app(app: App, args: Sequence[str]) -> int:
    """The verb under an app's name; returns the exit code. Raises GraftError for bad input."""
    parser = argparse.ArgumentParser(
        prog=f"{app.name} contamination", description=SUMMARY, allow_abbrev=False
    )
    arguments(parser)
    return run(parser.parse_args(list(args))) or 0


def _load(folder: str, device: str) -> tuple[Any, Any]:
    from graftwork.cli.bases import from_folder

    path = Path(folder)
    model = from_folder(path)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraftError(
            f"{folder}: holds no tokenizer ({text}); save it beside the model"
        ) from None
    try:
        return model.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise GraftError(f"--device {device}: {str(error).splitlines()[0]}") from None


def _known(out: Path, header: dict[str, Any]) -> tuple[list[Scored], bool]:
    """Items of an earlier run of the same question, and whether it ended; a last line cut short is dropped."""
    if not out.exists():
        if not out.parent.is_dir():
            raise GraftError(f"--out {out}: there is no folder {out.parent}")
        return [], False
    from graftwork_contamination.detection import Scored

    try:
        raw = out.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.decode().splitlines()]
    except (OSError, ValueError) as error:
        raise GraftError(f"--out {out}: exists, and is no result of this verb ({error})") from None
    if lines and lines[0] != header:
        what = lines[0] if isinstance(lines[0], dict) else {}
        differs = sorted(k for k in header if what.get(k) != header[k])
        raise GraftError(f"--out {out}: answers another {', '.join(differs)}; choose another file")
    if len(whole) != len(raw):
        with open(out, "r+b") as file:
            file.truncate(len(whole))
    items = [Scored.from_dict(line) for line in lines[1:] if "id" in line]
    return items, bool(lines) and "result" in lines[-1]


def _appending(out: Path) -> Any:
    try:
        return open(out, "a", encoding="utf-8")
    except OSError as error:
        raise GraftError(f"--out {out}: cannot be written ({error.strerror})") from None


def _line(file: Any, value: dict[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _name(folder: str | None) -> str | None:
    return None if folder is None else Path(folder).resolve().name


def _hash(path: str | None) -> str | None:
    if path is None:
        return None
    import hashlib

    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise GraftError(f"{path}: cannot be read ({error.strerror})") from None

"""Dialogues of scenarios, written in batches to a JSONL file that a stopped run goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning.data import mixed_seed
from graftwork_llm.batches import encode
from graftwork_llm.decoding import Sampling, complete
from graftwork_llm.pieces import Pieces
from graftwork_runs.files import unwritable

from ..scenario import Scenario
from .constrained import FactGuide
from .prompts import SYSTEM, prompt, written


@dataclass(frozen=True)
class Origin:
    """What a written dialogue's provenance says; the same for all of a file.

    Args:
        base: the model's name or folder's name.
        adapter: SHA-256 of the graft's tensors; `None` for the base alone.
        form: of the dialogues that were asked for.
        seed: of the draws.
        sampling: how tokens were chosen.
        version: of the app.
        constrained: whether no fact could be said otherwise than the scenario has it (`constrained.FactGuide`).
    """

    base: str
    adapter: str | None
    form: str
    seed: int
    sampling: Sampling
    version: str
    constrained: bool = False

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def tensors_digest(graft: gw.Graft) -> str:
    """SHA-256 of a graft's tensors, by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(graft.tensors().items()):
        data = tensor.detach().cpu().contiguous()
        found.update(f"{name} {data.dtype} {tuple(data.shape)} ".encode())
        found.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def generate(
    model: Any,
    tokenizer: Any,
    scenarios: Sequence[Scenario],
    file: Path,
    origin: Origin,
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda line: None,
    ask: Callable[[Scenario], str] | None = None,
) -> int:
    """Write a dialogue for each scenario that the file lacks, in the scenarios' order; how many were written.

    A row's random numbers follow its scenario's id, so a file that was continued is that of one run.

    Args:
        model: a causal language model of transformers, grafted or not.
        tokenizer: its tokenizer.
        scenarios: with ids that differ.
        file: JSONL; finished lines of an earlier run with the same origin are kept.
        origin: of every line.
        batch: rows that are written at once.
        device: the model's.
        say: is told the progress.
        ask: what the model is asked of a scenario; default: `prompt` in the origin's form.

    Raises:
        GraftError: two scenarios of one id, a file of another origin, or one that cannot be written.
    """
    ids = [s.id for s in scenarios]
    if len({*ids}) < len(ids):
        double = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise GraftError(f"scenario {double}: twice; ids must differ")
    if batch < 1:
        raise GraftError(f"batch must be at least 1, not {batch}")
    done = finished_lines(file, origin)
    todo = [s for s in scenarios if s.id not in done]
    if done:
        say(f"{file}: {len(ids) - len(todo)} of {len(ids)} dialogues are there already")
    if todo:
        say(f"{len(todo)} dialogues to write, {min(batch, len(todo))} at once")
    model.eval()
    asked = ask or partial(prompt, form=origin.form)
    pieces = Pieces(tokenizer) if origin.constrained else None
    try:
        with file.open("a", encoding="utf-8") as out:
            for n, group in enumerate(_grouped(todo, batch)):
                for line in _written(model, tokenizer, group, origin, device, asked, pieces):
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
                out.flush()
                os.fsync(out.fileno())
                say(f"{min((n + 1) * batch, len(todo))} of {len(todo)} written")
    except OSError as error:
        raise unwritable(file, error) from error
    return len(todo)


def finished_lines(file: Path, origin: Origin) -> set[str]:
    """The ids of the whole lines in a file; half a last line is cut off.

    Raises GraftError for a file of another origin, or one that is not such a file.
    """
    if not file.exists():
        return set()
    done: set[str] = set()
    whole = 0
    wanted = json.loads(json.dumps(origin.to_json()))
    with file.open("rb") as old:
        for n, line in enumerate(old, 1):
            if not line.endswith(b"\n"):
                break
            try:
                raw = json.loads(line)
                known = {"constrained": False, **raw["provenance"]}
                found = {k: known.get(k) for k in wanted}
                done.add(str(raw["id"]))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise GraftError(
                    f"{file}: line {n}: not a dialogue that generate wrote; name another output"
                ) from None
            if found != wanted:
                changed = ", ".join(k for k in wanted if found[k] != wanted[k])
                raise GraftError(
                    f"{file}: line {n}: written with another {changed}; name another output, or the same settings"
                )
            whole += len(line)
    if file.stat().st_size > whole:
        with file.open("r+b") as old:
            old.truncate(whole)
    return done


def _grouped(todo: Sequence[Scenario], batch: int) -> Iterator[Sequence[Scenario]]:
    for at in range(0, len(todo), batch):
        yield todo[at : at + batch]


def _written(
    model: Any, tokenizer: Any, group: Sequence[Scenario], origin: Origin, device: torch.device | str,
    ask: Callable[[Scenario], str], pieces: Pieces | None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    prompts = [encode(tokenizer, ask(s), system=SYSTEM).prompt for s in group]
    seeds = [mixed_seed("dialogue", origin.seed, s.id) for s in group]
    end = tokenizer.eos_token_id
    guides = [FactGuide(s, pieces, end) for s in group] if pieces is not None else None
    found = complete(
        model, prompts, seeds, end=end, sampling=origin.sampling, device=device, guides=guides
    )
    for n, (scenario, tokens) in enumerate(zip(group, found, strict=True)):
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        provenance = {
            **origin.to_json(),
            "tokens": len(tokens),
            "cut": len(tokens) == origin.sampling.most,
        }
        if guides is not None:
            provenance["refused"] = guides[n].refused
        dialogue = written(
            text, id=scenario.id, scenario=scenario.as_dict(), category=scenario.category
        )
        yield replace(dialogue, provenance=provenance).to_json()

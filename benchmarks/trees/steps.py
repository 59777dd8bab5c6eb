"""What a step of each arm costs: time over the floor and peak memory, all arms in turns in one process.

The floor is the frozen model's forward pass and the backward pass to its input, on the same batch; the others are
whole training steps, GAST's support gradient in every tenth left out. Rows with one name end in peft's are the same
through peft; its PiSSA, rsLoRA and LoRA+ run LoRA's step and have no row.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from benchmarks.joblist import pool
from benchmarks.speed.measure import FLOOR, Build, Case, Step, Turns
from benchmarks.speed.measure import measure as measured
from benchmarks.trees import arms
from benchmarks.trees.arms import ARMS, OURS, PEFT
from benchmarks.trees.text import draws, encode
from benchmarks.trees.training import loss_of, step_of
from benchmarks.trees.work import Setting
from graftwork.errors import GraftError
from graftwork_llm import smollm2
from graftwork_llm.batches import Batch, collate
from graftwork_runs import Record, environment

CLAIM = "A step of an adapted SmolLM2-135M costs little over the frozen floor, and no more than the same through peft."
TIMED = ("LoRA", "DoRA", "IA3")  # of peft's
NOTES = [
    "Bounds are quartiles over the rounds of one run; a ratio is taken within a round.",
    "issue: the time until a step's work is handed over; on a CPU it is the wall time.",
    "peak: as if the row were alone in memory with the base and the inputs.",
    "The loss's head runs on the answers' tokens alone, in the floor too.",
]


def measure(
    setting: Setting, rounds: int, rows: Sequence[str], say: Callable[[str], None]
) -> Record:
    """The record of the steps; a row that fails says why.

    Raises:
        GraftError: bad input, as `smollm2.load` and `episodes.read`; fewer than two rounds.
    """
    if rounds < 2:
        raise GraftError(f"--rounds {rounds}: must be at least 2, for a figure has quartiles")
    begun = time.perf_counter()
    pool.prepare_process(setting.device)
    base, tokenizer = smollm2.load(Path(setting.model), setting.device)
    known = setting.read()
    examples = [encode(tokenizer, known.prompt(e), str(e.tree)) for e in known.parts["train"]]
    plan = setting.plan
    [chosen] = draws([len(e) for e in examples], plan.batch, 1, 0)
    taken = [examples[i] for i in chosen]
    batch, support = (
        collate(some, tokenizer.pad_token_id, setting.device)
        for some in (taken, taken[: plan.support])
    )
    name = f"SmolLM2-135M, {batch.ids.shape[0]} x {batch.ids.shape[1]} tokens"
    turns = Turns(setting.device, rounds, 1, 1 if setting.tiny else 3, rows)
    found = measured(Case(name, variants(base, batch, support)), turns)
    for row in found:
        say(
            f"{row.variant}: {row.metric} {row.note if row.value is None else row.value} {row.unit or ''}"
        )
    ratios = {r.variant: r.value for r in found if r.metric == "ratio to floor" and r.value}
    pairs = [(n, ratios.get(n), ratios.get(f"{n}, peft")) for n in TIMED]
    both = [(n, a, b) for n, a, b in pairs if a and b]
    ahead = [n for n, a, b in both if a <= b]
    word = (
        "seen"
        if both and len(ahead) == len(TIMED)
        else "partly"
        if ahead
        else "not seen at this scale"
    )
    told = "; ".join(f"{n} {a:.2f} and {b:.2f}" for n, a, b in both)
    return Record(
        record="trees/steps",
        claim=CLAIM,
        command="python -m benchmarks.trees all",
        seeds=[0],
        seconds=round(time.perf_counter() - begun, 1),
        rows=found,
        notes=NOTES,
        details={"rounds": rounds, "tiny": setting.tiny, "batch": list(batch.ids.shape)},
        verdict=f"{word}: over the floor, ours and peft's: {told or 'no pair was measured'}",
        **environment(setting.device),
    )


def variants(base: nn.Module, batch: Batch, support: Batch) -> dict[str, Build]:
    """The floor and every arm on one batch; `support` is GAST's."""
    out: dict[str, Build] = {FLOOR: functools.partial(_floor, base, batch)}
    for library, names in ((OURS, tuple(ARMS)), (PEFT, TIMED)):
        for name in names:
            end = "" if library == OURS else ", peft"
            out[name + end] = functools.partial(_training, base, library, name, batch, support)
    return out


def twin(module: nn.Module) -> nn.Module:
    """A copy of the modules that shares every tensor."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(t): t for t in tensors})


def _floor(base: nn.Module, batch: Batch) -> Step:
    whole = twin(base).train()
    table = whole.get_input_embeddings()  # type: ignore[operator]
    table.register_forward_hook(lambda module, args, out: out.requires_grad_())
    return lambda: loss_of(whole, batch).backward()


def _training(base: nn.Module, library: str, name: str, batch: Batch, support: Batch) -> Step:
    try:
        ready = arms.adapt(twin(base), library, name, 1e-4, 0, len(batch.ends))
    except ValueError as error:  # a row of its own says it, as for the errors of torch
        raise RuntimeError(str(error)) from error
    ready.model.train()
    if ready.gast is not None:
        ready.gast.support(loss_of(ready.model, support))
    step = step_of(ready.model, ready.optimizer, ready.gast)
    return lambda: step(batch, None, 0)

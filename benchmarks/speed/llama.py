"""A Llama-shaped decoder: every way to train it, over the frozen floor.

Frozen tensors are shared by all variants, so that many of them fit one card. LoRA-like adapters sit on all seven
linears of each block.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed import liger
from benchmarks.speed.liger import LIGER
from benchmarks.speed.measure import CHANGED, ENDS, FLOOR, Build, Case, Step, graphed, under
from graftwork.fast import changed, reads

CLAIM = "A step of LoRA, DoRA and DiaBlo stays within its limit over the frozen floor on a Llama-shaped model."
NOTES = [
    "A bf16 base unless the case says otherwise, SDPA, AdamW fused; adapters on all seven linears of a block.",
    "The input asks for its gradient in every row, so all backward passes go equally far.",
    "fp32 masters: trained tensors in float32, cast to bf16 for the step.",
    "liger: norms, SwiGLU and rotary positions through liger's kernels, over the floor without them; not compiled.",
]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: rows that differ from others on a half-precision base alone
HALF = (
    "graftwork LoRA 16, bf16 factors",
    "graftwork LoRA 16, changed weights",
    "peft LoRA 16, autocast_adapter_dtype=False",
    f"peft LoRA 16, autocast_adapter_dtype=False{LIGER}",
    "full fine-tuning, pure bf16",
    "full fine-tuning, fp32 masters",
)
#: ends the name of the row that leaves out the one pass over dy
ONE_READ = ", one read of dy"
Model = nn.Module
Change = Callable[[Model], tuple[Model, Iterable[Tensor]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the model and of a batch."""
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--modes", nargs="+", choices=tuple(ENDS), default=["eager"])


def cases(options: argparse.Namespace) -> list[Case]:
    """`hidden` (a loss on the last hidden state) and `head` (language-model head and cross-entropy)."""
    if options.tiny:
        options.layers, options.hidden, options.batch, options.tokens = 2, 64, 2, 16
        options.vocabulary = 128
    size = f"{options.layers} layers of {options.hidden}, {options.batch} x {options.tokens} tokens"
    if options.dtype == "float32":
        size += ", float32"
    base = functools.cache(lambda: decoder(options, getattr(torch, options.dtype)))
    sites = len(LINEARS) * options.layers
    return [
        Case(f"{kind}: {size}", variants(base, kind, options), base, lambda: sites)
        for kind in ("hidden", "head")
    ]


def decoder(options: argparse.Namespace, dtype: torch.dtype = torch.bfloat16) -> Model:
    """The frozen base with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(4, options.hidden // 64)
    config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        vocab_size=options.vocabulary,
        max_position_embeddings=max(options.tokens, 32),
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        model = LlamaForCausalLM(config)
    return model.to(dtype).requires_grad_(False)


def variants(base: Callable[[], Model], kind: str, options: argparse.Namespace) -> dict[str, Build]:
    """Every row of a case, eager and compiled as asked."""
    changes: dict[str, Change] = {
        **{f"graftwork LoRA {r}": ours(gw.LoRA(r)) for r in (16, 8, 64)},
        f"graftwork LoRA 16{ONE_READ}": ours(gw.LoRA(16)),
        f"graftwork LoRA 16{CHANGED}": ours(gw.LoRA(16)),
        f"graftwork LoRA 16{LIGER}": ours(gw.LoRA(16)),
        "graftwork LoRA 16, bf16 factors": ours(gw.LoRA(16), torch.bfloat16),
        "graftwork LoRA 16, dropout 0.05": ours(gw.LoRA(16, dropout=0.05)),
        "graftwork DoRA 16": ours(gw.DoRA(16)),
        f"graftwork DoRA 16{ONE_READ}": ours(gw.DoRA(16)),
        "graftwork DiaBlo 64": ours(gw.DiaBlo(64)),
        **{f"peft LoRA {r}": peft(r) for r in (16, 8, 64)},
        "peft LoRA 16, autocast_adapter_dtype=False": peft(16, autocast=False),
        f"peft LoRA 16, autocast_adapter_dtype=False{LIGER}": peft(16, autocast=False),
        "peft LoRA 16, dropout 0.05": peft(16, lora_dropout=0.05),
        "peft DoRA 16": peft(16, use_dora=True),
        "full fine-tuning, pure bf16": lambda model: (model, model.parameters()),
        "full fine-tuning, fp32 masters": lambda model: (model, model.parameters()),
    }
    if options.dtype == "float32":  # where all is float32, these rows would be others' twins
        for name in HALF:
            del changes[name]
        changes["full fine-tuning"] = lambda model: (model, model.parameters())
    out: dict[str, Build] = {}
    for mode in options.modes:
        end = ENDS[mode]
        out[FLOOR + end] = functools.partial(_floor, base, kind, options, mode)
        for name, change in changes.items():
            if mode == "compiled" and name.endswith(LIGER):
                continue  # the compiler fuses what these kernels do
            out[name + end] = functools.partial(_training, base, change, name, kind, options, mode)
    return out


def ours(method: Any, dtype: torch.dtype | None = None) -> Change:
    """A graft; its tensors in `dtype` where one is given (they start in float32)."""

    def change(model: Model) -> tuple[Model, Iterable[Tensor]]:
        places = [f"*.{name}" for name in LINEARS]  # a rehearsal's are narrower than a row's rank
        graft = gw.graft(model, method, sites=places, seed=0, any_rank=True)
        if dtype is not None:
            for p in graft.parameters():
                p.data = p.data.to(dtype)
        return model, graft.parameters()

    return change


def peft(rank: int, *, autocast: bool = True, **more: Any) -> Change:
    """The same adapter through peft."""

    def change(model: Model) -> tuple[Model, Iterable[Tensor]]:
        import peft as theirs

        config = theirs.LoraConfig(r=rank, lora_alpha=rank, target_modules=LINEARS, **more)
        wrapped = theirs.get_peft_model(model, config, autocast_adapter_dtype=autocast)
        return wrapped.base_model.model, [p for p in wrapped.parameters() if p.requires_grad]

    return change


def twin(model: Model) -> Model:
    """A copy of the modules that shares every tensor, and what a quantised one is decoded by."""
    states = (getattr(m, "quant_state", None) for m in model.modules())
    shared = [*model.parameters(), *model.buffers(), *(s for s in states if s is not None)]
    return copy.deepcopy(model, {id(t): t for t in shared})


def _pass(model: Model, kind: str, options: argparse.Namespace, mode: str) -> Step:
    """Forward and backward on fixed inputs."""
    draw = torch.Generator().manual_seed(0)
    shape = (options.batch, options.tokens)
    x = torch.randn(*shape, options.hidden, generator=draw).to(
        options.device, getattr(torch, options.dtype)
    )
    labels = torch.randint(options.vocabulary, shape, generator=draw).to(options.device)
    called: Any = model if kind == "head" else model.model
    block = graphed(called) if mode == "graphed" else None
    if mode == "compiled":
        called = torch.compile(called)

    def run() -> None:
        leaf = x.clone().requires_grad_()
        if kind == "head":
            loss = called(inputs_embeds=leaf, labels=labels).loss
        else:
            loss = called(inputs_embeds=leaf).last_hidden_state.float().square().mean()
        loss.backward()

    run.block = block  # type: ignore[attr-defined]  # lasts as long as the step
    return run


def _floor(base: Callable[[], Model], kind: str, options: argparse.Namespace, mode: str) -> Step:
    return _pass(twin(base()).train(), kind, options, mode)


def _training(
    base: Callable[[], Model],
    change: Change,
    name: str,
    kind: str,
    options: argparse.Namespace,
    mode: str,
) -> Step:
    full = name.startswith("full")
    model = copy.deepcopy(base()).requires_grad_(True) if full else twin(base())
    if name.endswith(LIGER):
        liger.replace(model)
    model, parameters = change(model.train())
    work = _pass(model, kind, options, mode)
    trained = list(parameters)
    if name.endswith(ONE_READ):
        work = under(reads, "allowed", True, work)
    if name.endswith(LIGER):
        work = liger.during(work)
    if name.endswith(CHANGED):
        work = under(changed, "allowed_in_half", True, work)
    if name.endswith("fp32 masters"):
        return _with_masters(work, trained)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        work()
        optimizer.step()

    return step


def _with_masters(work: Step, trained: list[Tensor]) -> Step:
    """Train float32 copies: gradients are widened to them, and they are rounded back after a step."""
    masters = [p.detach().float() for p in trained]
    optimizer = torch.optim.AdamW(masters, lr=1e-4, fused=True)

    def step() -> None:
        work()
        for p, master in zip(trained, masters, strict=True):
            master.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_copy_(trained, masters)

    return step

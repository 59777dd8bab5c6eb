"""What a merge loses: our merged layers and peft's against the unmerged ones, under one and the same change."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.quantised.forms import linears
from benchmarks.rows import figure
from benchmarks.speed.llama import LINEARS, twin
from benchmarks.timing import median_row
from graftwork.algebra import quantised
from graftwork.errors import GraftError
from graftwork.rounding import Roundings
from graftwork_runs import Row

RANK = 16
#: rows of each layer's input that its output is compared on
ROWS = 256
OURS, PLAIN, PEFT = "graftwork merge(round=True)", "graftwork merge()", "peft merge_adapter()"
OF_CHANGE, OF_WEIGHT = "weight's error over the change", "weight's error over the weight"
OUTPUT, NETWORK = "layer output's error over its change", "network output's error over its change"
RESTORED, APART = "layers as before after unmerge", "reported error apart from measured"
REFUSED = "refused"
Factors = Mapping[str, tuple[Tensor, Tensor]]


class Loss(NamedTuple):
    """Errors of a merged layer, Frobenius norms: over the change, over the weight, of the output over its change."""

    of_change: float
    of_weight: float
    output: float


@dataclass
class Before:
    """The unmerged network.

    Args:
        x: what the decoder reads, (1, tokens, hidden).
        base, grafted: its output without the change and with it, float32.
        inputs: rows that each layer read, by name.
    """

    x: Tensor
    base: Tensor
    grafted: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)


def change_of(base: nn.Module, size: float) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, in) and B (out, r) of each linear layer, float32; B A is `size` times its weight in the Frobenius norm."""
    draw = torch.Generator().manual_seed(1)
    found = {}
    for name, layer in linears(base):
        weight = dense(layer)
        a = torch.randn(RANK, weight.shape[1], generator=draw).to(weight.device)
        b = torch.randn(weight.shape[0], RANK, generator=draw).to(weight.device)
        found[name] = (a, b * (size * weight.norm() / (b @ a).norm()))
    return found


def merge_rows(case: str, base: nn.Module, size: float, tokens: int) -> list[Row]:
    """What our merge and peft's lose of a change of relative `size`; what fails or is refused says why.

    Args:
        base: the frozen decoder with its linear layers in the form; it is left as it was.
        tokens: length of the sequence that the outputs are of.
    """
    factors = change_of(base, size)
    before = _before(base, factors, tokens)
    rows = []
    for variant, measure in ((OURS, _ours), (PEFT, _theirs)):
        try:
            rows += measure(case, base, factors, before)
        except Exception as error:  # libraries fail in many ways; the other rows go on
            rows.append(figure(case, variant, OF_CHANGE, None, note=said(error)))
    return rows


def said(error: Exception) -> str:
    """An error's kind and first line, as a row without a value tells it."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]


def dense(layer: Any) -> Tensor:
    """The frozen weight that a layer stands for, float32; peft's layers are looked into."""
    layer = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    if quantised.scheme(layer) is not None:
        return quantised.dense(layer)
    weight: Tensor = layer.weight.detach()
    return weight.float()


def losses(base: nn.Module, merged: nn.Module, factors: Factors, before: Before) -> dict[str, Loss]:
    """Of each layer, the base's weight with the change against the merged one, as the layer multiplies by it."""
    found = {}
    for name, layer in linears(base):
        a, b = factors[name]
        weight, change = dense(layer), b @ a
        seen = dense(merged.get_submodule(name)).to(before.x.dtype).float()
        error = seen - weight - change
        x = before.inputs[name].float()
        found[name] = Loss(
            float(error.norm() / change.norm()),
            float(error.norm() / (weight + change).norm()),
            float((x @ error.T).norm() / (x @ change.T).norm()),
        )
    return found


def _before(base: nn.Module, factors: Factors, tokens: int) -> Before:
    model: Any = twin(base).eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, tokens, model.config.hidden_size, generator=draw).to(
        model.device, model.dtype
    )
    plain = _output(model, x)
    graft = _grafted(model, factors)
    found = Before(x, plain, plain)
    with _watched(model, found.inputs):
        found.grafted = _output(model, x)
    graft.remove()
    return found


def _grafted(model: nn.Module, factors: Factors) -> gw.Graft:
    graft = gw.graft(model, gw.LoRA(RANK), sites=[f"*.{name}" for name in LINEARS], seed=0)
    held = dict(graft.named_parameters())
    with torch.no_grad():
        for name, (a, b) in factors.items():
            held[f"{name}.A"].copy_(a)
            held[f"{name}.B"].copy_(b)
    return graft


def _ours(case: str, base: nn.Module, factors: Factors, before: Before) -> list[Row]:
    model = twin(base).eval()
    graft = _grafted(model, factors)
    rows = []
    stored = any(quantised.scheme(layer) is not None for _, layer in linears(base))
    if stored:
        rows.append(_refusal(case, PLAIN, graft.merge))
    told: list[Roundings] = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line a layer
        refused = _refusal(case, OURS, lambda: told.append(graft.merge(round=True)))
    if refused.value:
        return [*rows, refused]
    lost = losses(base, model, factors, before)
    rows += _figures(case, OURS, lost, _network(model, before))
    graft.unmerge()
    rows.append(_restored(case, OURS, base, model))
    if stored:
        apart = max(abs(told[0][n].of_change / loss.of_change - 1) for n, loss in lost.items())
        rows.append(figure(case, OURS, APART, float(f"{apart:.3g}")))
    return rows


def _theirs(case: str, base: nn.Module, factors: Factors, before: Before) -> list[Row]:
    import peft

    model: Any = copy.deepcopy(base).eval()  # it writes into the weights
    if any(not torch.equal(dense(model.get_submodule(n)), dense(m)) for n, m in linears(base)):
        raise GraftError("a copy of the base has other weights than the base")
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LINEARS)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wrapped: Any = peft.get_peft_model(model, config).eval()
        for name, (a, b) in factors.items():
            layer = model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
        wrapped.merge_adapter()
        rows = _figures(case, PEFT, losses(base, model, factors, before), _network(model, before))
        wrapped.unmerge_adapter()
    return [*rows, _restored(case, PEFT, base, model)]


def _figures(case: str, variant: str, lost: Mapping[str, Loss], network: float) -> list[Row]:
    rows = []
    for metric, index in ((OF_CHANGE, 0), (OF_WEIGHT, 1), (OUTPUT, 2)):
        values = [loss[index] for loss in lost.values()]
        rows.append(median_row(case, variant, metric, values))
        rows.append(figure(case, variant, f"{metric}, worst", float(f"{max(values):.5g}")))
    return [*rows, figure(case, variant, NETWORK, float(f"{network:.5g}"))]


def _restored(case: str, variant: str, base: nn.Module, model: nn.Module) -> Row:
    same = [torch.equal(dense(model.get_submodule(n)), dense(layer)) for n, layer in linears(base)]
    return figure(case, variant, RESTORED, sum(same), f"of {len(same)}")


def _refusal(case: str, variant: str, merge: Callable[[], object]) -> Row:
    """Whether a merge was refused, and what it said."""
    try:
        merge()
    except GraftError as why:
        return figure(case, variant, REFUSED, 1.0, note=str(why).splitlines()[0][:300])
    return figure(case, variant, REFUSED, 0.0)


def _output(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.model(inputs_embeds=x).last_hidden_state
    return found.float()


def _network(model: nn.Module, before: Before) -> float:
    error = _output(model, before.x) - before.grafted
    return float(error.norm() / (before.grafted - before.base).norm())


@contextlib.contextmanager
def _watched(model: nn.Module, inputs: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[name] = args[0].detach().flatten(0, -2)[:ROWS].clone()

        return hook

    hooks = [m.register_forward_pre_hook(keep(name)) for name, m in linears(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

"""The fixed-topology baselines of few-shot segmentation, each at a cap of trained parameters.

    trained = at_cap("lora", network, cap=50_000, new=1)     # the largest rank that fits
    optimizer = torch.optim.AdamW([{"params": p, "lr": rate} for p, rate in trained.groups])

The list and the rates are those of FSEFT (Silva-Rodríguez et al., Medical Image Analysis 103, 2025). Every
baseline also trains the head: for an organ that the base knows the whole last convolution, for new organs new
rows of it that start at zero. At the start each one computes what the base computes.

| name | trains | size |
| --- | --- | --- |
| `head` | the head alone | fixed |
| `bias` | biases of linear and convolution layers (BitFit) | fixed |
| `affine` | gains and biases of the norms | fixed |
| `lora` | a low-rank change of every linear and convolution layer | rank |
| `adaptformer` | a parallel bottleneck beside each MLP block; without any, each convolution | bottleneck |
| `spatial1`, `spatial3` | two 1^3 or 3^3 convolutions on the features before the head | fixed |
| `full` | every weight; the reference without a cap | fixed |

Departures: FSEFT adapts the encoder alone and LoRA its attention alone; here `bias`, `affine` and `lora` reach the
whole network, so that a convolutional network is served by the same rule. The spatial adapters are black boxes:
they read what enters the head and need no access to the rest; the ReLU between their convolutions is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import GraftError

from ..module import find_head

LEVELS = (64, 32, 16, 8, 4, 2, 1)  # sizes tried, largest first
_LAYERS = (nn.Linear, nn.Conv3d, nn.ConvTranspose3d)


@dataclass
class Trained:
    """What a baseline trains: parameter groups with their rate, `level` (rank or bottleneck, 0 if it has
    none), and the graft if it is one."""

    name: str
    groups: list[tuple[list[nn.Parameter], float]]
    level: int = 0
    graft: gw.Graft | None = None

    @property
    def count(self) -> int:
        """How many parameters train."""
        return sum(p.numel() for parameters, _ in self.groups for p in parameters)


Build = Callable[[nn.Module, str, int, int, int], "gw.Graft | list[nn.Parameter]"]


@dataclass(frozen=True)
class Baseline:
    """A way to adapt: `build(model, head, new rows, level, seed)` gives a graft or what trains.

    `rate`: the published learning rate; `sized`: whether it has levels; `capped`: whether a cap applies.
    """

    name: str
    build: Build
    rate: float
    sized: bool = False
    capped: bool = True


def layers_of(model: nn.Module, head: str) -> list[str]:
    """Names of the linear and convolution layers, the head apart."""
    return [n for n, m in model.named_modules() if isinstance(m, _LAYERS) and n != head]


def _beside(head: str, new: int) -> list[str | gw.NewRows]:
    return [gw.NewRows(head, new)] if new else [head]


def head_graft(model: nn.Module, head: str, new: int, seed: int, name: str = "default") -> gw.Graft:
    """The head alone as a graft: `new` rows of it, or with none the whole last convolution."""
    # No site: the graft is what trains beside it.
    beside = _beside(head, new)
    return gw.graft(model, gw.LoRA(1), sites=[], also_train=beside, name=name, seed=seed)


def _head(model: nn.Module, head: str, new: int, _level: int, seed: int) -> gw.Graft:
    return head_graft(model, head, new, seed)


def _bias(model: nn.Module, head: str, new: int, _level: int, seed: int) -> gw.Graft:
    sites = [n for n in layers_of(model, head) if model.get_submodule(n).bias is not None]
    if not sites:
        raise GraftError(f"{type(model).__name__} has no bias besides its head's to train")
    return gw.graft(model, gw.BitFit(), sites=sites, also_train=_beside(head, new), seed=seed)


def _affine(model: nn.Module, head: str, new: int, _level: int, seed: int) -> gw.Graft:
    return gw.graft(model, gw.NormAffine(), also_train=_beside(head, new), seed=seed)


def _lora(model: nn.Module, head: str, new: int, level: int, seed: int) -> gw.Graft:
    sites = layers_of(model, head)
    beside = _beside(head, new)  # one level for all layers, narrow ones too
    return gw.graft(model, gw.LoRA(level), sites=sites, also_train=beside, seed=seed, any_rank=True)


def _adaptformer(model: nn.Module, head: str, new: int, level: int, seed: int) -> gw.Graft:
    blocks = [n for n, _ in model.named_modules() if n.endswith(".mlp")]
    sites = blocks or layers_of(model, head)
    method = gw.AdaptFormer(level)
    return gw.graft(model, method, sites=sites, also_train=_beside(head, new), seed=seed)


class SpatialHead(nn.Module):
    """A head on adapted features: head(x + B relu(A x)), A and B convolutions of one size, B zero at first.

    FSEFT's black-box adapter; 2 c^2 k^3 parameters for c channels, no biases.
    """

    def __init__(self, head: nn.Conv3d, size: int, seed: int) -> None:
        super().__init__()
        width, device = head.in_channels, head.weight.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv3d(width, width, size, padding=size // 2, bias=False).to(device)
        self.last = nn.Conv3d(width, width, size, padding=size // 2, bias=False).to(device)
        nn.init.zeros_(self.last.weight)
        self.head = head  # after the others: the last convolution is the head

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, C, ...) of features (N, c, ...)."""
        scores: Tensor = self.head(x + self.last(torch.relu(self.first(x))))
        return scores


def widen(model: nn.Module, head: str, new: int) -> nn.Conv3d:
    """Give the head `new` more outputs, zero at the start; the head that the model then has."""
    old = model.get_submodule(head)
    if not isinstance(old, nn.Conv3d) or old.kernel_size != (1, 1, 1):
        raise GraftError(f"{head}: a 1x1x1 convolution is needed as head, not {old}")
    if not new:
        return old
    wide = nn.Conv3d(old.in_channels, old.out_channels + new, 1, bias=old.bias is not None)
    with torch.no_grad():
        for mine, theirs in zip(wide.parameters(), old.parameters(), strict=True):
            mine.zero_()
            mine[: old.out_channels] = theirs
    wide = wide.to(old.weight.device, old.weight.dtype)
    _put(model, head, wide)
    return wide


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _spatial(size: int) -> Build:
    def build(model: nn.Module, head: str, new: int, _level: int, seed: int) -> list[nn.Parameter]:
        model.requires_grad_(False)
        block = SpatialHead(widen(model, head, new), size, seed).requires_grad_(True)
        _put(model, head, block)
        return list(block.parameters())

    return build


def _full(model: nn.Module, head: str, new: int, _level: int, _seed: int) -> list[nn.Parameter]:
    widen(model, head, new)
    return list(model.requires_grad_(True).parameters())


BASELINES = {
    b.name: b
    for b in (
        Baseline("head", _head, 1e-2),
        Baseline("bias", _bias, 1e-2),
        Baseline("affine", _affine, 1e-2),
        Baseline("lora", _lora, 1e-3, sized=True),
        Baseline("adaptformer", _adaptformer, 1e-2, sized=True),
        Baseline("spatial1", _spatial(1), 1e-4),
        Baseline("spatial3", _spatial(3), 1e-4),
        Baseline("full", _full, 1e-4, capped=False),
    )
}


def apply(
    name: str, model: nn.Module, *, new: int = 0, level: int = 1, rate: float | None = None,
    seed: int = 0,
) -> Trained:  # fmt: skip
    """Make baseline `name` the only thing that trains in `model`, in place.

    `new`: output rows for classes that the base lacks; `rate`: instead of the published one.
    Raises GraftError for an unknown name and for a network that the baseline cannot serve.
    """
    if name not in BASELINES:
        raise GraftError(f"baseline {name!r}: choose one of {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    model.requires_grad_(False)
    built = baseline.build(model, find_head(model), new, level, seed)
    graft = built if isinstance(built, gw.Graft) else None
    parameters = list(built.parameters()) if isinstance(built, gw.Graft) else built
    return Trained(
        name, [(parameters, rate or baseline.rate)], level if baseline.sized else 0, graft
    )


def at_cap(
    name: str, model: nn.Module, cap: int, *, new: int = 0, rate: float | None = None,
    seed: int = 0, levels: Sequence[int] = LEVELS,
) -> Trained:  # fmt: skip
    """Baseline `name` with the largest level that trains at most `cap` parameters; `full` has no cap.

    Raises GraftError when even the smallest is above the cap (`model` is left as it was then), and as `apply`.
    """
    sized = name in BASELINES and BASELINES[name].sized
    if name in BASELINES and not BASELINES[name].capped:
        return apply(name, model, new=new, rate=rate, seed=seed)
    smallest = 0
    for level in levels if sized else (1,):
        smallest = apply(name, copy.deepcopy(model), new=new, level=level).count
        if smallest <= cap:
            return apply(name, model, new=new, level=level, rate=rate, seed=seed)
    raise GraftError(f"baseline {name!r} trains at least {smallest} parameters, the cap is {cap}")

"""The arms: what trains in a base's copy, under a cap.

Beside the baselines of `graftwork_medseg.fewshot.baselines`:

| arm | trains |
| --- | --- |
| `lora-last`, `lora-first` | LoRA of rank 4 on as many layers as fit, counted from the output or from the input |
| `adaptformer-last` | a bottleneck of 4 beside as many layers as fit, counted from the output |
| `random` | units of the search in random order, each that fits |
| `sea-peft` | the units that the search chose, trained afresh |
| `scratch` | nnU-Net's residual-encoder U-Net (Isensee et al., MICCAI 2024), all of it from random weights |

The first three are there because one rank on every layer of a narrow convolutional network is above 1 % of it. The
head trains in every arm and counts towards its cap.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.allocation import Plan, Unit, conv_units, graft_units
from graftwork.allocation.plan import parameter_budget
from graftwork.allocation.unit import exclusions
from graftwork.errors import GraftError
from graftwork_medseg.fewshot import baselines
from graftwork_medseg.networks.network import find_head

LEVELS = {"lora": (1, 2, 4), "adaptformer": (1, 2, 4)}  # of the search's units
PART_LEVELS = (4, 2, 1)
PARTS: dict[str, tuple[Callable[[int], Any], bool]] = {
    "lora-last": (gw.LoRA, True),
    "lora-first": (gw.LoRA, False),
    "adaptformer-last": (gw.AdaptFormer, True),
}


class DoesNotFit(Exception):
    """An arm's smallest form is above the cap."""


@dataclass
class Ready:
    """A network with what trains in it: parameters of the body and of the head, and a few plain facts."""

    network: nn.Module
    body: list[nn.Parameter]
    head: list[nn.Parameter]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> int:
        """How many parameters train."""
        return sum(p.numel() for p in (*self.body, *self.head))


def cap_of(network: nn.Module, budget: float | None) -> int | None:
    """A share of the network's parameters as a count."""
    return None if budget is None else parameter_budget(network, budget)


def split(network: nn.Module, facts: dict[str, Any]) -> Ready:
    """What requires gradients, the head's apart."""
    prefix = f"{find_head(network)}."
    body: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            (head if name.startswith(prefix) else body).append(p)
    return Ready(network, body, head, facts)


def prepare(
    arm: str, network: nn.Module, *, new: int, cap: int | None, seed: int, size: Sequence[int]
) -> Ready:
    """Make `arm` the only thing that trains in `network`, in place.

    Args:
        arm: all but `sea-peft` and `scratch`.
        new: output rows for classes that the base lacks.
        cap: parameters; None: no cap, and the smallest level.
        seed: of start values and of random sets.
        size: a patch, to see in which order layers run.

    Raises:
        DoesNotFit: as it says, with the smallest count.
    """
    if arm in PARTS:
        assert cap is not None
        return _part(arm, network, new, cap, seed, size)
    if arm == "random":
        assert cap is not None
        units = random_set(units_of(network), cap - head_count(network, new), seed)
        return with_units(network, units, new, seed)
    if cap is None:
        trained = baselines.apply(arm, network, new=new, level=1, seed=seed)
    else:
        try:
            trained = baselines.at_cap(arm, network, cap, new=new, seed=seed)
        except GraftError as refusal:
            raise DoesNotFit(str(refusal)) from None
    return split(network, {"level": trained.level})


def head_count(network: nn.Module, new: int) -> int:
    """Parameters of the head that train: new rows, or all of it where there are none."""
    head = network.get_submodule(find_head(network))
    assert isinstance(head, nn.Conv3d)
    rows = new or head.out_channels
    return rows * (head.in_channels + (head.bias is not None))


def units_of(network: nn.Module) -> list[Unit]:
    """The search space of a convolutional base."""
    return conv_units(network, levels=LEVELS, leave_out=[find_head(network)])


def with_units(network: nn.Module, units: Sequence[Unit], new: int, seed: int) -> Ready:
    """Graft a set of units afresh, beside the head."""
    head = baselines.apply("head", network, new=new, seed=seed).graft
    assert head is not None
    spec = head.spec()
    head.remove()
    graft_units(network, list(units), beside=[spec], seed=seed)
    facts = {"units": [u.name for u in units], "cost": sum(u.cost for u in units)}
    return split(network, facts)


def random_set(units: Sequence[Unit], budget: int, seed: int) -> list[Unit]:
    """Units in random order, each that still fits and excludes none before it."""
    order = list(units)
    random.Random(f"random allocation {seed}").shuffle(order)
    excludes = exclusions(units)
    taken: list[Unit] = []
    for unit in order:
        if unit.cost <= budget and not excludes[unit.name] & {u.name for u in taken}:
            taken.append(unit)
            budget -= unit.cost
    return taken


def _part(
    arm: str, network: nn.Module, new: int, cap: int, seed: int, size: Sequence[int]
) -> Ready:
    method, last = PARTS[arm]
    head = find_head(network)
    order = running_order(network, baselines.layers_of(network, head), size)
    if last:
        order.reverse()
    room = cap - head_count(network, new)
    for level in PART_LEVELS:
        taken, left = [], room
        for name in order:
            cost = _cost(network, method(level), name)
            if cost > left:
                break
            taken.append(name)
            left -= cost
        if taken:
            beside: list[Any] = [gw.NewRows(head, new)] if new else [head]
            network.requires_grad_(False)
            gw.graft(
                network, method(level), sites=taken, also_train=beside, seed=seed, any_rank=True
            )
            return split(network, {"level": level, "layers": len(taken), "of": len(order)})
    least = _cost(network, method(PART_LEVELS[-1]), order[0])
    raise DoesNotFit(f"{arm} trains at least {least + cap - room} parameters, the cap is {cap}")


def _cost(network: nn.Module, method: Any, name: str) -> int:
    graft = gw.graft(network, method, sites=[name], name="probe", any_rank=True)
    try:
        return sum(p.numel() for p in graft.parameters())
    finally:
        graft.remove()


@torch.no_grad()
def running_order(network: nn.Module, names: Sequence[str], size: Sequence[int]) -> list[str]:
    """The layers `names` in the order in which they run on a patch of `size`."""
    seen: dict[str, None] = {}
    hooks = [
        network.get_submodule(n).register_forward_hook(lambda *_, n=n: seen.setdefault(n))
        for n in names
    ]
    try:
        first = next(network.parameters())
        network(torch.zeros((1, 1, *size), device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen)


def search_plan(tiny: bool = False) -> Plan:
    """The search's plan, some ten times shorter than the published one, audits and votes in proportion."""
    if tiny:
        return Plan(
            warm_up=8, steps=4, audit_every=2, allocate_every=2, votes=1, guard=0, share=0.02
        )
    return Plan(
        warm_up=120, steps=480, audit_every=24, allocate_every=48, share=0.25, memory=0.7, votes=2,
        guard=1,
    )  # fmt: skip


def unet(classes: int, size: Sequence[int], seed: int) -> nn.Module:
    """nnU-Net's residual-encoder U-Net as its planner would size it for a patch of `size`: features 32 to
    320, blocks 1, 3, 4, 6, 6 ..., halved while every axis keeps at least 4 voxels.

    Raises GraftError when the package is not installed.
    """
    try:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    except ImportError:
        raise GraftError(
            "scratch: needs dynamic-network-architectures; pip install 'graftwork-medseg[nnunet]'"
        ) from None
    stages = 1
    while all(n % 2**stages == 0 and n // 2**stages >= 4 for n in size) and stages < 6:
        stages += 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Logits(
            ResidualEncoderUNet(
                1,
                stages,
                [min(320, 32 * 2**i) for i in range(stages)],
                nn.Conv3d,
                3,
                [1] + [2] * (stages - 1),
                [(1, 3, 4, 6, 6, 6)[i] for i in range(stages)],
                classes,
                [1] * (stages - 1),
                conv_bias=True,
                norm_op=nn.InstanceNorm3d,
                norm_op_kwargs={"eps": 1e-5, "affine": True},
                nonlin=nn.LeakyReLU,
                nonlin_kwargs={"inplace": True},
            )
        )


class Logits(nn.Module):
    """A network whose input is made contiguous in channels-last memory, as the base's is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (N, C, ...) of images (N, 1, ...)."""
        out: Tensor = self.network(x.contiguous(memory_format=torch.channels_last_3d))
        return out

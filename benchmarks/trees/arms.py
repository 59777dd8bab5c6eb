"""The ways to adapt the model: ours, and through peft what peft has.

Adapters sit on the seven linears of each block. Where a method has a rank it is 16, and the other sizes are such that
as much trains as with LoRA where the method can; the table has the shares. IA3 scales keys, values and what the last
linear of a block reads, as in its paper; LoReFT edits hidden states behind each block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16
OURS, PEFT, NONE = "graftwork", "peft", "none"
Rates = tuple[float, float, float]
# a first grid, lower by a step, had its best at the upper end for every arm that was run
LOW: Rates = (3e-4, 1e-3, 3e-3)
MIDDLE: Rates = (1e-3, 3e-3, 1e-2)
HIGH: Rates = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Arm:
    """A way to adapt: what is grafted, the three rates that are tried, the optimizer, GAST's share of a batch.

    `peft` is peft's configuration of the same, where it has one.
    """

    method: Callable[[], Any]
    rates: Rates
    optimizer: str = "AdamW"
    sites: tuple[str, ...] | None = tuple(f"*.{name}" for name in LINEARS)
    overrides: Mapping[str, Any] | None = None
    keep: float | None = None
    peft: Callable[[], Any] | None = None


@dataclass
class Ready:
    """An adapted model with what trains it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    trained: int
    graft: gw.Graft | None = None
    gast: gw.GAST | None = None

    def file_size(self) -> int:
        """Bytes of the adapter's folder, as its library saves it."""
        with tempfile.TemporaryDirectory() as folder:
            if self.graft is not None:
                gw.save(self.graft, Path(folder) / "adapter")
            else:
                # nothing of the embedding trains; the default looks for that on the network
                self.model.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
                (Path(folder) / "README.md").unlink(missing_ok=True)  # peft's template of a card
            return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


def _lora(**more: Any) -> Callable[[], Any]:
    def config() -> Any:
        import peft

        targets = list(LINEARS)
        return peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, **more)

    return config


def _ia3() -> Any:
    import peft

    feedforward = ["down_proj"]
    return peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=feedforward
    )


ARMS: dict[str, Arm] = {
    "LoRA": Arm(lambda: gw.LoRA(RANK), MIDDLE, peft=_lora()),
    "DoRA": Arm(lambda: gw.DoRA(RANK), MIDDLE, peft=_lora(use_dora=True)),
    "PiSSA": Arm(lambda: gw.PiSSA(RANK), LOW, peft=_lora(init_lora_weights="pissa_niter_4")),
    "rsLoRA": Arm(lambda: gw.LoRA(RANK, rslora=True), LOW, peft=_lora(use_rslora=True)),
    "LoRA+": Arm(lambda: gw.LoRA(RANK), LOW, optimizer="LoRA+", peft=_lora()),
    "LoFT": Arm(lambda: gw.LoRA(RANK), LOW, optimizer="LoFT"),
    "DiaBlo": Arm(lambda: gw.DiaBlo(24), MIDDLE),
    "GOAT": Arm(lambda: gw.GOAT(RANK, experts=4, top_k=2), LOW),
    "LoRA-SP": Arm(lambda: gw.LoRASP(2 * RANK), MIDDLE),
    "LoRETTA": Arm(lambda: gw.LoRETTA(RANK), HIGH),
    "WeGeFT": Arm(lambda: gw.WeGeFT(RANK), MIDDLE),
    "LoReFT": Arm(lambda: gw.LoReFT(8, first=4, last=4), HIGH, sites=None),
    "IA3": Arm(
        gw.IA3,
        (3e-3, 1e-2, 3e-2),
        sites=("*.k_proj", "*.v_proj", "*.down_proj"),
        overrides={"*.down_proj": {"scale": "input"}},
        peft=_ia3,
    ),
    "BitFit": Arm(lambda: gw.BitFit(new_biases=True), HIGH),
    "GAST": Arm(lambda: gw.LoRA(RANK), MIDDLE, keep=0.5),
}
TWINS = tuple(name for name, arm in ARMS.items() if arm.peft is not None)


def adapt(base: nn.Module, library: str, name: str, rate: float, seed: int, batch: int) -> Ready:
    """Adapt `base` in place.

    Args:
        library: OURS or PEFT.
        batch: examples of a batch, of which GAST keeps a share.

    Raises:
        GraftError: an arm that is not there, or that peft does not have.
    """
    if name not in ARMS or (library == PEFT and ARMS[name].peft is None):
        raise GraftError(f"{library} {name}: no such arm; there are {', '.join(ARMS)}")
    arm = ARMS[name]
    torch.manual_seed(seed)
    if library == PEFT:
        return _through_peft(base, arm, rate)
    more: dict[str, Any] = {} if arm.overrides is None else {"overrides": arm.overrides}
    graft = gw.graft(base, arm.method(), sites=arm.sites, seed=seed, **more)
    optimizer: torch.optim.Optimizer
    if arm.optimizer == "LoFT":
        optimizer = gw.LoFT(graft, lr=rate, weight_decay=0.0)
    elif arm.optimizer == "LoRA+":
        optimizer = gw.LoRAPlus(graft, lr=rate, weight_decay=0.0)
    else:
        optimizer = _adamw(gw.paced(graft, lr=rate), rate, base)
    gast = (
        None
        if arm.keep is None
        else gw.GAST(graft, keep=max(1, round(arm.keep * batch)), seed=seed)
    )
    trained = sum(p.numel() for p in graft.parameters())
    return Ready(base, optimizer, trained, graft, gast)


def _through_peft(base: nn.Module, arm: Arm, rate: float) -> Ready:
    import peft

    assert arm.peft is not None
    model = peft.get_peft_model(base, arm.peft())
    tensors = [p for p in model.parameters() if p.requires_grad]
    if arm.optimizer == "LoRA+":
        from peft.optimizers import create_loraplus_optimizer

        optimizer = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=16.0, weight_decay=0.0
        )
    else:
        optimizer = _adamw(tensors, rate, base)
    return Ready(model, optimizer, sum(p.numel() for p in tensors))


def _adamw(tensors: Any, rate: float, base: nn.Module) -> torch.optim.Optimizer:
    cuda = next(base.parameters()).is_cuda
    return torch.optim.AdamW(tensors, lr=rate, weight_decay=0.0, fused=cuda or None)

"""Vision networks: every way to train them, over the frozen floor.

ViT-B/16 with LoRA 16 on its linears, SegResNet and U-Net with LoRA 8 on their 3 x 3 x 3 convolutions, Swin-UNETR with
LoRA 16 on its linears. Precisions: `TF32` (float32 tensors, of which tensor cores round what they
multiply), `bf16` (everything) and `autocast` (float32 weights, bfloat16 arithmetic). Frozen tensors are shared by all
variants of a case.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from benchmarks.speed.llama import twin
from benchmarks.speed.measure import CHANGED, ENDS, FLOOR, Build, Case, Step, graphed, under
from graftwork.fast import changed

CLAIM = (
    "A convolution LoRA step through Graftwork costs at most 1.35 times the frozen floor on SegResNet and "
    "U-Net, and never more than full fine-tuning; a ViT step at most 1.25 times."
)
NOTES = [
    "AdamW fused. The input asks for its gradient in every row, so all backward passes go equally far.",
    "peft adapts 3 x 3 x 3 convolutions alone (it crashes on kernel 1), so all rows do.",
    "Adapters are float32 unless the row says otherwise; full fine-tuning trains weights in their own dtype.",
]
Network = tuple[nn.Module, Tensor]
Change = Callable[[nn.Module, "Setting"], tuple[nn.Module, Iterable[Tensor]]]


@dataclass(frozen=True)
class Setting:
    """A network, a batch and what is adapted.

    Attributes:
        make: builds the network and a batch in float32 on the CPU, tiny ones if asked.
        layers: type of the adapted layers.
        rank: of the LoRA.
        precision: "TF32", "bf16" or "autocast".
        size: of the full network and batch, in words.
    """

    make: Callable[[bool], Network]
    layers: type[nn.Module]
    rank: int
    precision: str
    size: str


def vit(tiny: bool) -> Network:
    import timm

    small: dict[str, Any] = {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 4}
    model = timm.create_model("vit_base_patch16_224", num_classes=10, **(small if tiny else {}))
    return model, torch.randn(2, 3, 32, 32) if tiny else torch.randn(64, 3, 224, 224)


def segresnet(filters: int, tiny: bool) -> Network:
    from monai.networks.nets import SegResNet

    network = SegResNet(init_filters=8 if tiny else filters, in_channels=1, out_channels=3)
    return network, _volume(tiny)


def unet(tiny: bool) -> Network:
    from monai.networks.nets import UNet

    channels = (8, 16, 32, 64) if tiny else (32, 64, 128, 256)
    network = UNet(3, 1, 3, channels, strides=(2, 2, 2), num_res_units=2)
    return network, _volume(tiny)


def swin_unetr(tiny: bool) -> Network:
    from monai.networks.nets import SwinUNETR

    if tiny:  # the least that leaves its last instance norm two voxels
        depths = (1, 1, 1, 1)
        network = SwinUNETR(in_channels=1, out_channels=3, feature_size=12, depths=depths)
        return network, torch.randn(1, 1, 64, 32, 32)
    return SwinUNETR(in_channels=1, out_channels=3, feature_size=24), _volume(tiny)


def _volume(tiny: bool) -> Tensor:
    side = 16 if tiny else 96
    return torch.randn(2, 1, side, side, side)


SEG = functools.partial(functools.partial, segresnet)
SETTINGS = {
    "vit": Setting(vit, nn.Linear, 16, "bf16", "ViT-B/16, 64 x 224^2"),
    "segresnet16": Setting(SEG(16), nn.Conv3d, 8, "TF32", "SegResNet 16, 2 x 96^3"),
    "segresnet32": Setting(SEG(32), nn.Conv3d, 8, "TF32", "SegResNet 32, 2 x 96^3"),
    "segresnet32-autocast": Setting(SEG(32), nn.Conv3d, 8, "autocast", "SegResNet 32, 2 x 96^3"),
    "segresnet32-bf16": Setting(SEG(32), nn.Conv3d, 8, "bf16", "SegResNet 32, 2 x 96^3"),
    "unet": Setting(unet, nn.Conv3d, 8, "TF32", "U-Net 32 to 256, 2 x 96^3"),
    "unet-autocast": Setting(unet, nn.Conv3d, 8, "autocast", "U-Net 32 to 256, 2 x 96^3"),
    "unet-bf16": Setting(unet, nn.Conv3d, 8, "bf16", "U-Net 32 to 256, 2 x 96^3"),
    "swin-unetr": Setting(swin_unetr, nn.Linear, 16, "TF32", "Swin-UNETR 24, 2 x 96^3"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this table."""
    parser.add_argument("--modes", nargs="+", choices=tuple(ENDS), default=["eager"])


def cases(options: argparse.Namespace) -> list[Case]:
    """One case per network and precision."""
    out = []
    for name, setting in SETTINGS.items():
        base = functools.cache(functools.partial(network, setting, options))
        size = f"{setting.size}, {setting.precision}" + (", in small" if options.tiny else "")
        adapted = functools.partial(_adapted, base, setting)
        out.append(Case(f"{name}: {size}", variants(base, setting, options), base, adapted))
    return out


def _adapted(base: Callable[[], Network], setting: Setting) -> int:
    return len(sites(base()[0], setting))


def network(setting: Setting, options: argparse.Namespace) -> Network:
    """The frozen network and a batch, on the device and in the dtype of its weights."""
    torch.manual_seed(0)
    model, x = setting.make(options.tiny)
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    return model.to(options.device, dtype).requires_grad_(False), x.to(options.device, dtype)


def variants(
    base: Callable[[], Network], setting: Setting, options: argparse.Namespace
) -> dict[str, Build]:
    """Every row of a case, eager and compiled as asked."""
    changes: dict[str, Change] = {
        "graftwork": ours,
        "peft": peft,
        "full fine-tuning": lambda model, setting: (model, model.parameters()),
    }
    if setting.precision == "bf16":
        if setting.layers is nn.Linear:
            changes[f"graftwork{CHANGED}"] = ours
        changes["graftwork, bf16 factors"] = functools.partial(ours, dtype=torch.bfloat16)
        changes["peft, autocast_adapter_dtype=False"] = functools.partial(peft, autocast=False)
    out: dict[str, Build] = {}
    for mode in options.modes:
        end = ENDS[mode]
        out[FLOOR + end] = functools.partial(_floor, base, setting, mode)
        for name, change in changes.items():
            full = name.startswith("full")
            build = functools.partial(_training, base, change, setting, full, mode, options.tiny)
            out[name + end] = functools.partial(_with_changed, build) if CHANGED in name else build
    return out


def _with_changed(build: Build) -> Step:
    """A step that is built and run with changed weights in half precision."""
    step: Any = under(changed, "allowed_in_half", True, build)()
    return under(changed, "allowed_in_half", True, step)


def sites(model: nn.Module, setting: Setting) -> list[str]:
    """Names of the adapted layers: linears but a classifier's, or convolutions of kernel 3."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is setting.layers
        and getattr(module, "kernel_size", (3, 3, 3)) == (3, 3, 3)
        and not name.startswith("head")
    ]


def ours(
    model: nn.Module, setting: Setting, dtype: torch.dtype | None = None
) -> tuple[nn.Module, Iterable[Tensor]]:
    """A graft; its tensors in `dtype` where one is given (they start in float32)."""
    places = sites(model, setting)  # of all sizes, at one rank
    graft = gw.graft(model, gw.LoRA(setting.rank), sites=places, seed=0, any_rank=True)
    if dtype is not None:
        for p in graft.parameters():
            p.data = p.data.to(dtype)
    return model, graft.parameters()


def peft(
    model: nn.Module, setting: Setting, autocast: bool = True
) -> tuple[nn.Module, Iterable[Tensor]]:
    """The same adapter through peft."""
    import peft as theirs

    names = sites(model, setting)
    config = theirs.LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=names)
    wrapped = theirs.get_peft_model(model, config, autocast_adapter_dtype=autocast)
    return wrapped.base_model.model, [p for p in wrapped.parameters() if p.requires_grad]


def forward(model: Any, x: Tensor, setting: Setting) -> Tensor:
    """The network's output in the setting's precision."""
    tf32 = setting.precision == "TF32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    with torch.autocast(x.device.type, torch.bfloat16, enabled=setting.precision == "autocast"):
        y: Tensor = model(x)
    return y


def _pass(model: nn.Module, x: Tensor, setting: Setting, mode: str) -> Step:
    called: Any = torch.compile(model) if mode == "compiled" else model
    block = graphed(model) if mode == "graphed" else None

    def run() -> None:
        leaf = x.clone().requires_grad_()
        forward(called, leaf, setting).float().square().mean().backward()

    run.block = block  # type: ignore[attr-defined]  # lasts as long as the step
    return run


def _floor(base: Callable[[], Network], setting: Setting, mode: str) -> Step:
    model, x = base()
    return _pass(twin(model).train(), x, setting, mode)


def _training(
    base: Callable[[], Network],
    change: Change,
    setting: Setting,
    full: bool,
    mode: str,
    checked: bool,
) -> Step:
    frozen, x = base()
    model = copy.deepcopy(frozen).requires_grad_(True) if full else twin(frozen)
    model, parameters = change(model.train(), setting)
    trained = list(parameters)
    if checked:
        _check(frozen, model, x, setting, None if full else trained)
    work = _pass(model, x, setting, mode)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        work()
        optimizer.step()

    return step


def _check(
    frozen: nn.Module, model: nn.Module, x: Tensor, setting: Setting, trained: list[Tensor] | None
) -> None:
    """The variant starts at the base, and trains as many numbers as the LoRA has.

    Raises:
        RuntimeError: it does not.
    """
    with torch.no_grad():
        expected = forward(copy.deepcopy(frozen).train(), x, setting)
        torch.testing.assert_close(forward(model, x, setting), expected)
    if trained is not None:
        weights = [frozen.get_submodule(name).weight for name in sites(frozen, setting)]
        wanted = sum(setting.rank * (w[0].numel() + w.shape[0]) for w in weights)
        found = sum(p.numel() for p in trained)
        if found != wanted:
            raise RuntimeError(f"trains {found:,} numbers, a LoRA on these layers has {wanted:,}")

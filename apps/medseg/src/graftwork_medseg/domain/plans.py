"""The domain bases: which network learns what from which data, and how an image must reach it.

| plan | network | learns | from |
| --- | --- | --- | --- |
| `openkbp-swin` | Swin UNETR | five head-and-neck organs | OpenKBP CT, source site |
| `openkbp-segresnet` | SegResNet | the same | the same |
| `synth-hippocampus` | SegResNet | hippocampus | synthetic MR drawn from SynthSeg label maps |

Swin UNETR at its usual feature size 24 has 15.7 million parameters, 31 MB at half precision, most of them in
its convolutional decoder. Feature size 12 has 4.0 million, 8 MB, and with 1, 2, 4 and 8 heads each head is
12 wide, as in the published 3, 6, 12, 24 heads at feature size 36.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graftwork.errors import GraftError

from ..images.contract import Contract, Intensity, Ranges
from ..networks.network import NetworkConfig
from . import openkbp, synth


@dataclass(frozen=True)
class Plan:
    """One base checkpoint.

    `classes` from background on; `channel` what the image is; `spacing` of the working grid in mm, RAS;
    `intensity` the rule by which its values become the network's input, on that grid; `patch` in voxels of
    it, also the window of the sliding prediction; `batch` patches a step; `rate` the peak rate of AdamW;
    `tolerance_mm` of the NSD; `average` the decay of the weights' moving average; `steps` a full training,
    when neither --minutes nor --steps is given.
    """

    name: str
    data: str
    network: NetworkConfig
    classes: tuple[str, ...]
    patch: tuple[int, int, int]
    batch: int
    rate: float
    channel: str
    spacing: float
    intensity: Intensity
    tolerance_mm: float
    weight_decay: float = 1e-2
    average: float = 0.998
    steps: int = 5000
    channels_last: bool = True
    summary: str = ""

    def contract(self, ranges: Ranges | None = None) -> Contract:
        """What an image must become before the network sees it; `ranges` of the training images."""
        return Contract(
            self.classes,
            (self.channel,),
            self.spacing,
            self.intensity,
            patch=self.patch,
            ranges=ranges,
        )


CT: dict[str, Any] = {
    "channel": "CT",
    "spacing": openkbp.SPACING,
    "intensity": openkbp.INTENSITY,
    "tolerance_mm": 4.0,  # about a voxel of its files
}
MR: dict[str, Any] = {
    "channel": "MR",
    "spacing": 1.0,
    "intensity": Intensity("volume"),
    "tolerance_mm": 1.0,
}


def _segresnet(outputs: int, filters: int = 16) -> NetworkConfig:
    return NetworkConfig(
        "SegResNet",
        # "deconv": see network.BASE_NETWORK.
        {"spatial_dims": 3, "in_channels": 1, "out_channels": outputs, "init_filters": filters,
         "upsample_mode": "deconv"},
    )  # fmt: skip


_ORGANS = ("background", *openkbp.BASE_ORGANS)
PLANS = {
    plan.name: plan
    for plan in (
        Plan(
            "openkbp-swin",
            "openkbp",
            NetworkConfig(
                "SwinUNETR",
                {"in_channels": 1, "out_channels": len(_ORGANS), "feature_size": 12,
                 "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "use_v2": False},
            ),
            _ORGANS,
            (96, 96, 96),
            batch=4,
            rate=1e-3,
            **CT,
            # Its attention works on (windows, tokens, channels): channels-last convolutions would copy.
            channels_last=False,
            summary="head-and-neck organs on CT, a transformer",
        ),
        Plan(
            "openkbp-segresnet",
            "openkbp",
            _segresnet(len(_ORGANS)),
            _ORGANS,
            (96, 96, 96),
            batch=4,
            rate=2e-3,
            **CT,
            summary="head-and-neck organs on CT, a convolutional network",
        ),
        Plan(
            "synth-hippocampus",
            "synthseg",
            _segresnet(len(synth.CLASSES), filters=8),  # small boxes, and sites without a GPU
            synth.CLASSES,
            synth.SIZE,
            batch=8,
            rate=2e-3,
            **MR,
            steps=10_000,
            summary="hippocampus on MR of any contrast, trained on synthetic images alone",
        ),
    )
}  # fmt: skip


def plan_of(name: str) -> Plan:
    """The plan of a name. Raises GraftError for an unknown one."""
    if name not in PLANS:
        raise GraftError(f"PLAN {name!r}: choose one of {', '.join(PLANS)}")
    return PLANS[name]

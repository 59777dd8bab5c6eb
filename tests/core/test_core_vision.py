"""Every method on vision networks of timm and MONAI, trained, merged and taken off again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graftwork as gw
from tests.core.core_helpers import close, picture, stir, train
from tests.core.zoo import MONAI, TIMM

pytestmark = pytest.mark.filterwarnings("ignore")  # monai and timm warn of themselves as they load

WHICH = {
    str(a): a
    for a in (*TIMM, *MONAI)
    if a.name
    in (
        "mobilenetv3_small_050",
        "vit_tiny_patch16_224",
        "beit_base_patch16_224",
        "swinv2_tiny_window8_256",
        "UNet",
        "BasicUNet",
        "DynUNet",
        "UNETR",
    )
}
METHODS: dict[str, Any] = {
    "lora": gw.LoRA(4),
    "dora": gw.DoRA(4),
    "diablo": gw.DiaBlo(4),
    "ia3": gw.IA3(),
    "bitfit": gw.BitFit(),
    "norm_affine": gw.NormAffine(),
    "adaptformer": gw.AdaptFormer(4),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", WHICH)
def test_train_merge_remove(which: str, method: str) -> None:
    torch.manual_seed(0)
    model, (x, *_) = WHICH[which].build().eval(), WHICH[which].inputs()  # type: ignore[misc]
    assert isinstance(x, torch.Tensor)
    before = picture(model)
    default = {"method": METHODS[method]}
    fused = which.split(":")[1].startswith(("beit", "swinv2"))
    if method == "norm_affine" and not [m for m in model.modules() if norm_with_tensors(m)]:
        with pytest.raises(gw.GraftError, match="no normalisation layer"):
            gw.graft(model, **default)
        return
    graft = gw.graft(model, **default)
    if method == "adaptformer" and fused:  # its default sites are the feed-forward blocks
        assert all(name.endswith("mlp") for name, *_ in graft.summary().rows)
    if "UNETR" in which and method in ("bitfit", "norm_affine"):
        # MONAI's transformer block holds a norm for a cross attention that it does not have
        with pytest.raises(gw.GraftError, match=r"norm_cross_attn .*not reached"):
            gw.check_reach(model, x)
    else:
        gw.check_reach(model, x)
    train(model, graft, lambda: out_of(model(x)), steps=2, lr=1e-3)
    stir(graft, 0.01)
    model.eval()
    with torch.no_grad():
        out = out_of(model(x))
        if graft.method.mergeable:
            graft.merge()
            merged = out_of(model(x))
            close(merged, out, 1e-4)
            graft.unmerge()
        else:
            with pytest.raises(gw.GraftError, match="activations"):
                graft.merge()
    graft.remove()
    assert picture(model) == before


def norm_with_tensors(module: torch.nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and bool(list(module.parameters(recurse=False)))


def out_of(out: Any) -> torch.Tensor:
    while not isinstance(out, torch.Tensor):
        out = out[0]
    return out

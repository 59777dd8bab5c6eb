"""Write the golden PEFT folders of this directory with the installed peft: `python tests/store/make_golden.py`.

Each folder holds what PEFT saved, and `case.safetensors` with the base's tensors, an input and PEFT's
output, all in float64.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.store.peft_cases import CASES, GOLDEN, NETS


def keep_groups_apart(model: nn.Module) -> None:
    """Zero the entries of PEFT's A that cross groups, which no grouped weight can express."""
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Conv2d) and base.groups > 1 and hasattr(module, "lora_A"):
            g = base.groups
            with torch.no_grad():
                for a in module.lora_A.parameters():
                    view = a.view(g, a.shape[0] // g, g, a.shape[1] // g, *a.shape[2:])
                    for i in range(g):
                        for j in range(g):
                            if i != j:
                                view[i, :, j] = 0


def main() -> None:
    for seed, (case, (net, kind, fields)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model, x = NETS[net]()
        model = model.double().eval()
        x = x.double() if x.is_floating_point() else x
        base = {f"base.{k}": v.clone() for k, v in model.state_dict().items()}
        config = (LoraConfig if kind == "LORA" else IA3Config)(**fields)
        peft = get_peft_model(model, config).double().eval()
        with torch.no_grad():
            for p in peft.parameters():
                if p.requires_grad:
                    p.add_(0.3 * torch.randn_like(p))
        keep_groups_apart(peft)
        folder = GOLDEN / case
        peft.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        with torch.no_grad():
            y = peft(x)
        save_file({**base, "x": x, "y": y}, folder / "case.safetensors")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

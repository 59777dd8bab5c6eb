"""Liger's kernels in one Llama-shaped model, while the process's other models stay as they are.

Source: liger_kernel 0.8 (https://github.com/linkedin/Liger-Kernel). Its own patch for Llama replaces names of
transformers for the whole process; here modules are replaced in one model, and the rotary function during its steps.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from benchmarks.speed.measure import Step, under

#: ends the names of rows with these kernels
LIGER = ", liger"


def replace(model: nn.Module) -> None:
    """Let a Llama's norms and MLPs run through liger's kernels, with the tensors and under the names that they have.

    Args:
        model: a `LlamaForCausalLM` without adapters, changed in place.

    Raises:
        ImportError: liger_kernel or the Triton that it needs is not installed.
        ValueError: the model has no norm or no MLP of a Llama.
    """
    theirs: Any = importlib.import_module("liger_kernel.transformers")
    llama: Any = importlib.import_module("transformers.models.llama.modeling_llama")
    found = {llama.LlamaRMSNorm: 0, llama.LlamaMLP: 0}
    for name, old in list(model.named_modules()):
        if type(old) not in found:
            continue
        with torch.device("meta"):
            if type(old) is llama.LlamaMLP:
                new = theirs.LigerSwiGLUMLP(old.config)
            else:
                new = theirs.LigerRMSNorm(old.weight.numel(), eps=old.variance_epsilon)
        for part in (*old._parameters, *dict(new.named_children())):
            setattr(new, part, getattr(old, part))
        model.set_submodule(name, new.train(old.training))
        found[type(old)] += 1
    if not all(found.values()):
        raise ValueError(f"{type(model).__name__} has no norm or no MLP of a Llama to replace")


def during(work: Step) -> Step:
    """Steps in which rotary positions run through liger's kernel too."""
    theirs: Any = importlib.import_module("liger_kernel.transformers")
    llama = importlib.import_module("transformers.models.llama.modeling_llama")
    return under(llama, "apply_rotary_pos_emb", theirs.liger_rotary_pos_emb, work)

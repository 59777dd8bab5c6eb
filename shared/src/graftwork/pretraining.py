"""A graft and its base as one network that trains from scratch, as NOBLE's paper has it (arXiv 2603.06492)."""

from __future__ import annotations

import math

import torch

from graftwork.handle import Graft
from graftwork.ledger import ledger_of


def pretrain(graft: Graft) -> None:
    """Make a graft of NOBLE and its base one network that trains from scratch: the paper's use.

    Under each site the weight is drawn anew, from half the usual spread, and the bias is zero; what trained in the
    base before the graft trains again. Save the whole with `state_dict` and `gw.save`; give an optimizer
    `gw.paced(model, lr)`.
    """
    for site, _ in graft.entry.sites:
        tensors = graft.model.get_submodule(site.module)._parameters
        weight, bias = tensors[site.weight], tensors.get(site.bias)
        assert weight is not None and site.geo is not None
        with torch.no_grad():
            weight.normal_(std=0.5 / math.sqrt(site.geo.in_))
            if bias is not None:
                bias.zero_()
    named = dict(graft.model.named_parameters())
    for name in ledger_of(graft.model).trained:
        named[name].requires_grad_(True)

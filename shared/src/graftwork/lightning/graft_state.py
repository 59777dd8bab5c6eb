"""What of a module goes into a checkpoint: its grafts and whatever else trains, never the frozen base."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graftwork import Graft, graft_from_spec, grafts
from graftwork.errors import GraftError
from graftwork.ledger import ATTRIBUTE

# what a config file says better; a checkpoint need not repeat it, and only pickle could hold some of it
_HYPER_PARAMETERS = (
    *("hyper_parameters", "hparams_name", "hparams_type"),
    *("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type"),
)


def handles(module: nn.Module) -> dict[tuple[str, str], Graft]:
    """Every graft inside `module`, by (name of the grafted module, name of the graft)."""
    return {
        (path, name): graft
        for path, root in module.named_modules()
        if ATTRIBUTE in root.__dict__
        for name, graft in grafts(root).items()
    }


def parameter_names(module: nn.Module) -> dict[int, str]:
    """A stable name for each parameter, by its id: `<module>/<graft>/<key>` for the grafts' own."""
    names = {id(p): name for name, p in module.named_parameters()}
    for (path, graft_name), graft in handles(module).items():
        names.update((id(p), f"{path}/{graft_name}/{key}") for key, p in graft.named_parameters())
    return names


def pack(checkpoint: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """A copy of Lightning's checkpoint with `state_dict` replaced by the grafts and what else trains.

    A module without grafts keeps its `state_dict`. `grafts` is a list of {module, name, spec, tensors};
    `beside` holds trainable parameters that no graft owns, and the buffers of their modules.
    """
    out = {k: v for k, v in checkpoint.items() if k not in _HYPER_PARAMETERS}
    found = handles(module)
    if not found:
        return out
    if merged := [graft.name for graft in found.values() if graft.merged]:
        raise GraftError(
            f"checkpoint: graft {merged[0]!r} is merged into the base; call unmerge() first"
        )
    out["state_dict"] = {}
    out["grafts"] = [
        {"module": path, "name": name, "spec": graft.spec(), "tensors": graft.tensors()}
        for (path, name), graft in found.items()
    ]
    out["beside"] = _beside(module, found)
    return out


def unpack(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Put a checkpoint's grafts into `module`, grafting a fresh base where needed.

    Raises:
        GraftError: a graft of another method, other sites or shapes, an unknown module, or tensors
            missing or left over.
    """
    found = handles(module)
    for item in checkpoint.get("grafts", ()):
        key = (item["module"], item["name"])
        if key not in found:
            graft_from_spec(
                _submodule(module, key[0]), item["spec"], name=key[1], tensors=item["tensors"]
            )
            continue
        differ = [k for k, v in found[key].spec().items() if v != item["spec"].get(k)]
        if differ:
            raise GraftError(
                f"checkpoint: graft {key[1]!r} differs in {', '.join(differ)} from the one in the model; "
                "graft the model as in the interrupted run, or leave it ungrafted"
            )
        found[key].load_tensors(item["tensors"])
    if "grafts" in checkpoint:
        extra = sorted(set(found) - {(i["module"], i["name"]) for i in checkpoint["grafts"]})
        if extra:
            raise GraftError(
                f"checkpoint: it has no graft {extra[0][1]!r} of {extra[0][0] or 'the module'!r}"
            )
        _fill("beside", _beside(module, handles(module)), checkpoint["beside"])
    else:
        _fill("state_dict", module.state_dict(), checkpoint["state_dict"])


def optimizer_by_name(
    state: dict[str, Any], optimizer: Optimizer, names: dict[int, str]
) -> dict[str, Any]:
    """An optimizer's state dictionary with parameter names for its running numbers."""
    order = _order(optimizer, names)
    groups = [
        {**group, "params": [order[i] for i in group["params"]]} for group in state["param_groups"]
    ]
    return {"state": {order[i]: s for i, s in state["state"].items()}, "param_groups": groups}


def optimizer_by_number(
    state: dict[str, Any], optimizer: Optimizer, names: dict[int, str]
) -> dict[str, Any]:
    """The inverse of `optimizer_by_name`, for the parameter order of this optimizer.

    Raises:
        GraftError: the optimizer has other parameters or groups than the checkpoint.
    """
    number = {name: i for i, name in enumerate(_order(optimizer, names))}
    mine = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    theirs = [set(group["params"]) for group in state["param_groups"]]
    if mine != theirs:
        differ = sorted(set().union(*mine) ^ set().union(*theirs)) or ["the grouping"]
        raise GraftError(
            f"checkpoint: the optimizer holds other parameters than the model's; first difference: {differ[0]}"
        )
    groups = []
    for group, current in zip(state["param_groups"], optimizer.param_groups, strict=True):
        groups.append({**group, "params": [number[names[id(p)]] for p in current["params"]]})
    return {
        "state": {number[name]: s for name, s in state["state"].items()},
        "param_groups": groups,
    }


def _order(optimizer: Optimizer, names: dict[int, str]) -> list[str]:
    order = [names.get(id(p), "") for group in optimizer.param_groups for p in group["params"]]
    if "" in order:
        raise GraftError(
            "checkpoint: the optimizer holds a tensor that is no parameter of the module; "
            "register it on the module so that it can be saved"
        )
    return order


def _beside(module: nn.Module, found: dict[tuple[str, str], Graft]) -> dict[str, Tensor]:
    owned = {id(p) for graft in found.values() for p in graft.parameters()}
    out: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        loose = {
            n: p
            for n, p in part.named_parameters(recurse=False)
            if p.requires_grad and id(p) not in owned
        }
        if loose:
            buffers = {n: b for n, b in part.named_buffers(recurse=False) if n in part.state_dict()}
            out.update(
                {f"{path}.{n}".lstrip("."): t.detach() for n, t in {**loose, **buffers}.items()}
            )
    return out


def _fill(what: str, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    faults = [f"{k}: missing in the file" for k in mine.keys() - theirs.keys()]
    faults += [f"{k}: not in the model" for k in theirs.keys() - mine.keys()]
    faults += [
        f"{k}: shape {tuple(theirs[k].shape)}, expected {tuple(t.shape)}"
        for k, t in mine.items()
        if k in theirs and theirs[k].shape != t.shape
    ]
    if faults:
        raise GraftError(
            f"checkpoint: its {what} does not fit the model:\n  " + "\n  ".join(sorted(faults))
        )
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(theirs[name])


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise GraftError(f"checkpoint: it grafts {path!r}, which the model does not have") from None

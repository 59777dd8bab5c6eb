"""A frozen base in shards: each process keeps a part of every frozen weight and gathers a block's when it runs.

torch's `fully_shard` (FSDP2) does it, and is told to leave alone what trains. So the base, which is large, needs no
gradients and is never written, is shared out; the graft, which is small, is whole in every process, as under
`DistributedDataParallel`, which averages its gradients. That keeps every method's algebra as it is (norms of DoRA,
factor pairs of LoFT), and a save reads what is there already: nothing of the base is gathered for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graftwork.attach import CHILD
from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.ledger import ledger_of, root_of
from graftwork.sites import Pattern, check_patterns, matches, no_match, own_modules

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def shard_base(
    model: nn.Module,
    mesh: DeviceMesh | None = None,
    *,
    units: Iterable[Pattern] | Pattern | None = None,
) -> list[str]:
    """Share the frozen base of a grafted model out among the processes of `mesh`, in place.

    Every process comes with the whole base, on any device, and calls this after grafting, before it wraps the model in
    `DistributedDataParallel` and builds its optimizer. The forward then gathers, so each process has to make the same
    calls. Saving works in any one process alone; what needs the whole weight (merging, grafting anew, removing) is
    refused.

    Args:
        model: a module that carries a graft, or holds the module that does.
        mesh: of one dimension; `None` takes all processes, on the GPUs if the process group is of nccl.
        units: globs, "type:Name" or classes of the modules that are gathered together; `None` takes what a
            `ModuleList` holds, a network's blocks. What lies in none is gathered with the whole.

    Returns:
        The units' names.

    Raises:
        GraftError: no process group, no graft, a merge in force, a base that is sharded or quantised, processes with
            other bases, a pattern that matches nothing. Nothing has changed then.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from graftwork.store.fingerprint import fingerprint

    ledger, root = ledger_of(model), root_of(model)
    assert root is not None  # it has a ledger
    if not dist.is_initialized():
        raise GraftError("shard_base: no process group; call torch.distributed.init_process_group")
    if ledger.merged is not None:
        raise GraftError("shard_base: a graft is merged; call unmerge() first")
    if ledger.sharded is not None:
        raise GraftError("shard_base: the base is sharded already")
    _refuse_quantised(root)
    names = list(_units(root, units))
    kept = {name: fingerprint(root, entry) for name, entry in ledger.entries.items()}
    if mesh is None:
        kind = "cuda" if "nccl" in dist.get_backend() else "cpu"
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
    _refuse_different(kept, mesh)
    own = {
        p
        for name, p in root.named_parameters(remove_duplicate=False)
        if CHILD in name.split(".") or p.requires_grad
    }
    for p in root.parameters():
        if p not in own and not p.is_contiguous():
            p.data = p.data.contiguous()  # FSDP2 takes no other order, such as channels last
    # inner modules first: a module takes what its parts have not taken
    for name in reversed(names):
        fully_shard(root.get_submodule(name), mesh=mesh, ignored_params=own)
    fully_shard(root, mesh=mesh, ignored_params=own)
    ledger.sharded = kept
    return names


def sharded_names(module: nn.Module) -> list[str]:
    """Names of a module's parameters that are shards, for whoever must leave them alone."""
    return [name for name, p in module.named_parameters() if is_shard(p)]


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is this process's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def gathered(model: nn.Module, whole: bool) -> None:
    """Keep the base of a sharded model whole from now on, or in shards again.

    While it is whole, forward passes need no other process, so that processes may make different numbers of them.
    Every process must call this.
    """
    from torch.distributed.fsdp import FSDPModule

    root: Any = root_of(model)
    root._get_fsdp_state()._lazy_init()
    for unit in root.modules():
        if isinstance(unit, FSDPModule):
            # the root's own part is needed again at once, in the backward pass
            unit.set_reshard_after_forward(not whole and unit is not root, recurse=False)
            if whole:
                unit.unshard()
            else:
                unit.reshard()


def base_of(graft: Graft) -> dict[str, Any]:
    """The fingerprint of the base under a graft; of a sharded base, the one that was taken when it was whole."""
    from graftwork.store.fingerprint import fingerprint

    ledger = ledger_of(graft.model)
    if ledger.sharded is None:
        return fingerprint(graft.model, graft.entry)
    kept: dict[str, Any] = ledger.sharded[graft.name]
    return kept


def _units(root: nn.Module, patterns: Iterable[Pattern] | Pattern | None) -> Iterator[str]:
    modules = {n: m for n, m in own_modules(root) if n and not isinstance(m, _WITHOUT_FORWARD)}
    if patterns is None:
        lists = {n for n, m in own_modules(root) if isinstance(m, nn.ModuleList)}
        chosen = {n for n in modules if n.rpartition(".")[0] in lists}
    else:
        chosen = set()
        for pattern in check_patterns(patterns, "units"):
            hits = {n for n, m in modules.items() if matches(pattern, n, m)}
            if not hits:
                raise no_match(pattern, modules, "units")
            chosen |= hits
    for name, module in modules.items():
        if name in chosen and any(True for _ in module.parameters()):
            yield name


def _refuse_quantised(root: nn.Module) -> None:
    for name, p in root.named_parameters():
        wrapped = is_traceable_wrapper_subclass(p)
        if not p.is_floating_point() or p.dtype.itemsize < 2 or wrapped:
            raise GraftError(
                f"shard_base: {name} is {p.dtype}: a quantised base is not sharded; it is small enough to be whole in "
                "every process (DistributedDataParallel)"
            )


def _refuse_different(kept: dict[str, Any], mesh: DeviceMesh) -> None:
    # each process gives its part of each weight: of different bases they would make one that nobody has
    everyones: list[Any] = [None] * mesh.size()
    dist.all_gather_object(everyones, kept, group=mesh.get_group())
    other = next((i for i, theirs in enumerate(everyones) if theirs != everyones[0]), None)
    if other is not None:
        raise GraftError(
            f"shard_base: processes 0 and {other} hold different bases; load the same weights in each"
        )

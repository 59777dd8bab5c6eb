"""Tasks over several processes, each on a device of its own: rows of each, and what all must know before they step.

Every process holds the whole frozen model and every task's graft, and takes its own rows of each task's batch. Where
process p's loss L_p is a mean over a weight w_p (rows, or tokens), that of the whole batch is

    L = sum_p w_p L_p / sum_p w_p,

and so are its gradients: one all-reduce of one flat buffer holds those of all tasks, each already times w_p / sum w.
Before it a small message between the hosts says who has failed, whose data have ended, and which gradients there are;
what fails in one process fails in all, in the same step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.tenants.backbone import Results
from graftwork.tenants.task import Tenant

#: numbers that a task sends beside its gradients: weight, rows, ended, failed
_NUMBERS = 4
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def ranks() -> Ranks | None:
    """The processes of the default group; `None` where there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Ranks()
    return None


def seed_of(seed: int, *place: int) -> int:
    """A seed of a process's own; the first one's is the task's."""
    if not any(place):
        return seed
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Ranks:
    """This process among the others; every method but `part` must be called by all of them alike.

    Attributes:
        rank: this one's number; count: how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._hosts: Any = dist.new_group(backend="gloo")

    # -- what each has ----------------------------------------------------------------------------

    def part(self, name: str, batch: Any, offset: int) -> Any:
        """This process's rows of a task's batch; `None` where it has none.

        Args:
            name: of the task.
            batch: every tensor's first axis is its rows.
            offset: rows of other tasks that were dealt out before, so that tasks of one row each are spread, too.

        Raises:
            GraftError: something in it has no rows.
        """
        first = (self.rank - offset) % self.count
        if first >= rows_of(name, batch):
            return None
        return _sliced(name, batch, slice(first, None, self.count), rows_of(name, batch))

    def everyones(self, value: Any) -> list[Any]:
        """What each process has, as plain picklable values."""
        out: list[Any] = [None] * self.count
        dist.all_gather_object(out, value, group=self._hosts)
        return out

    def firsts(self, value: Any) -> Any:
        """What the first process has."""
        box = [value]
        dist.broadcast_object_list(box, 0, group=self._hosts)
        return box[0]

    def check_alike(self, what: str, mine: Any) -> None:
        """Refuse processes that differ.

        Raises:
            GraftError: in all of them.
        """
        theirs = self.everyones(mine)
        for rank, other in enumerate(theirs):
            if other != theirs[0]:
                raise GraftError(
                    f"tenants: processes 0 and {rank} hold different {what}; give each the same, in the same order"
                )

    @torch.no_grad()
    def align(self, graft: Graft) -> None:
        """Start a graft everywhere as in the first process."""
        for t in graft.tensors().values():
            sent = t.detach().contiguous()
            if sent.numel():
                dist.broadcast(sent.reshape(-1).view(torch.uint8), 0)
                t.copy_(sent)

    # -- a step -----------------------------------------------------------------------------------

    def combine(self, tenants: Sequence[Tenant], results: Results) -> None:
        """Make one pass's results those of the whole batches, in place: losses, rows, faults and gradients."""
        said = self._told(tenants, results)
        faulty = [t.name for i, t in enumerate(tenants) if said[i * _NUMBERS + 3]]
        texts = self.everyones(results.faults) if faulty else []
        shares: dict[Tenant, float] = {}
        there: dict[Tenant, list[bool]] = {}
        at = len(tenants) * _NUMBERS
        for i, t in enumerate(tenants):
            weight, rows, ended, failed = said[i * _NUMBERS : (i + 1) * _NUMBERS]
            has, at = said[at : at + len(t.parameters)], at + len(t.parameters)
            if failed:
                results.faults[t.name] = next(
                    f"{found[t.name]} (process {rank})" if rank else found[t.name]
                    for rank, found in enumerate(texts)
                    if t.name in found
                )
            elif ended:
                results.ended.add(t.name)
            elif rows:
                there[t] = [bool(n) for n in has]
                mine = results.weights.get(t.name, 0.0) if t.name in results.losses else 0.0
                shares[t] = mine / weight if weight else torch.nan
                results.rows[t.name] = int(rows)
            else:
                results.faults[t.name] = "its batch has no row"
        own, results.losses = results.losses, {}
        if shares:
            self._reduce(shares, there, own, results)

    def _told(self, tenants: Sequence[Tenant], results: Results) -> list[float]:
        """The sums over the processes of what each says of each task, and of each gradient that it has."""
        mine: list[float] = []
        for t in tenants:
            mine += [
                results.weights.get(t.name, 0.0) if t.name in results.losses else 0.0,
                float(results.rows.get(t.name, 0)),
                float(t.name in results.ended),
                float(t.name in results.faults),
            ]
        mine += [float(p.grad is not None) for t in tenants for p in t.parameters]
        message = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(message, group=self._hosts)
        return message.tolist()

    @torch.no_grad()
    def _reduce(
        self,
        shares: Mapping[Tenant, float],
        there: Mapping[Tenant, Sequence[bool]],
        own: Mapping[str, Tensor],
        results: Results,
    ) -> None:
        """Sum shares of gradients and losses over the processes, in one buffer."""
        wanted = {
            t: [p for p, has in zip(t.parameters, there[t], strict=True) if has] for t in shares
        }
        dtype = torch.float32
        for t in shares:
            for p in wanted[t]:
                dtype = torch.promote_types(dtype, p.dtype)
        device = next(iter(shares)).parameters[0].device
        sizes = [sum(p.numel() for p in some) for some in wanted.values()]
        flat = torch.zeros(sum(sizes) + len(sizes), dtype=dtype, device=device)
        *parts, losses = flat.split([*sizes, len(sizes)])
        places = {t: _views(part, wanted[t]) for t, part in zip(shares, parts, strict=True)}
        for i, (t, share) in enumerate(shares.items()):
            # a process without weight adds nothing, not even a NaN times zero
            if share == 0 or t.name not in own:
                continue
            pairs = [
                (place, p.grad)
                for p, place in zip(wanted[t], places[t], strict=True)
                if p.grad is not None
            ]
            if pairs:
                torch._foreach_copy_([to for to, _ in pairs], [g for _, g in pairs])
            parts[i].mul_(share)
            losses[i] = own[t.name].to(dtype) * share
        dist.all_reduce(flat)
        for i, (t, share) in enumerate(shares.items()):
            for p, place in zip(wanted[t], places[t], strict=True):
                p.grad = place.to(p.dtype)
            results.losses[t.name] = losses[i] * torch.nan if share != share else losses[i]

    def settle(self, tenants: Sequence[Tenant], stop: bool) -> tuple[dict[str, str], bool]:
        """Whose step failed in another process alone, and whether anybody wants to stop.

        Args:
            tenants: those that had a step.
            stop: whether this process wants to.
        """
        mine = [float(stop), *(float(t.status == "failed") for t in tenants)]
        message = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(message, group=self._hosts)
        stopping, *failed = message.tolist()
        if all(n in (0, self.count) for n in failed):
            return {}, bool(stopping)
        texts = self.everyones({t.name: t.failures[-1] for t in tenants if t.status == "failed"})
        found: dict[str, str] = {}
        for rank, theirs in enumerate(texts):
            for name, text in theirs.items():
                found.setdefault(name, f"{text.partition(': ')[2]} (process {rank})")
        return {t.name: found[t.name] for t in tenants if t.name in found}, bool(stopping)


def rows_of(name: str, batch: Any) -> int:
    """Rows of a batch: the first axis of its first tensor.

    Raises:
        GraftError: there is no tensor with rows.
    """
    for leaf in _tensors(batch):
        if leaf.dim():
            return leaf.shape[0]
    raise GraftError(
        f"task {name!r}: its batches hold no tensor with rows to share out among processes; give Task(own_rows=True) "
        "and data that hold each process's own"
    )


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)


def _sliced(name: str, value: Any, rows: slice, count: int) -> Any:
    """Some rows of everything in a batch: tensors, and lists with an entry for each row."""
    if value is None:
        return None
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == count:
        return value[rows]
    if isinstance(value, Mapping):
        return {k: _sliced(name, v, rows, count) for k, v in value.items()}
    if isinstance(value, tuple | list):
        if len(value) == count and not any(True for _ in _tensors(value)):
            return type(value)(value[rows])
        return type(value)([_sliced(name, v, rows, count) for v in value])
    what = tuple(value.shape) if isinstance(value, Tensor) else value
    raise GraftError(
        f"task {name!r}: {what!r} in its batch of {count} rows has none to share out among processes; give "
        "Task(own_rows=True) and data that hold each process's own"
    )


def _views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    parts = flat.split([p.numel() for p in parameters])
    return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]


def model_print(model: nn.Module) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Name, dtype, shape and sum of the bits of each tensor: what tells two bases apart at little cost."""
    found = []
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        whole = _BITS.get(t.element_size()) if type(t) in (Tensor, nn.Parameter) else None
        total = 0
        if whole is not None and t.numel():
            flat = t.detach().contiguous().reshape(-1).view(whole)
            total = int(flat.sum(dtype=torch.int64))
        found.append((name, str(t.dtype), tuple(t.shape), total))
    return found

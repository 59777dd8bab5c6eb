"""LoFT: low-rank adaptation that behaves like full fine-tuning (Tastan et al. 2025, arXiv 2505.21289).

    B <- (1 - lr w) B - lr D A^T (A A^T)^-1,    D = m_hat / (sqrt(v_hat) + eps)   (paper, section 3)

An optimizer, no adapter: each step is AdamW's step D on the full weight W = W0 + B A, projected on what one
factor can do while the other stands. D is built from states of the factors' size:

    g~_B = dL/dB (A A^T)^-1                            (so that g~_B A is the gradient's projection)
    R_B  = (A_- A^T)(A A^T)^-1                         (A_- stood there at the last step)
    m_B <- b1 m_B R_B + (1 - b1) g~_B                  m_hat  = m_B A / (1 - b1^t)
    P_i <- b2 R_B^T P_i R_B + (1 - b2) g~_i^T g~_i     v_hat_ij = a_j^T P_i a_j / (1 - b2^t)

and the same for A with everything transposed. The factors take turns, B first; both states advance every
step. The decay acts on the moving factor, and so on B A, not on W0. `loft_simple.py` does without P.

Shapes: B `(out, r)`, A `(r, in)`, kernels counted with the inputs; grouped layers hold one pair a group. State:
m and the previous factors r(out + in), P r^2(out + in) (simple: r(out + in)). Scratch: a few
buffers of `chunk` elements, not of the weight's size. Pairs of one shape are stepped side by side, as blocks of one,
as many as `chunk` holds. Initialisation: the graft's; states zero.

Departures: the published code transposes R in the transport of P (B gets R P R^T), which drifts away from AdamW as
soon as the betas are not zero; it scales B's gradient by the A that has already moved; its decay lacks the rate; it
keeps the previous factors where no checkpoint finds them. All four are as in the paper here. The ridge pulls R to the
identity, not to zero, so that a partner near zero (B at the start) does not wipe out the moments. Gram
matrices are inverted in float64. Tensors that are no factor get torch's AdamW, with an eps of its own.
Refuses: methods whose change is not B A alone (DoRA), a scale other than 1, a rank above the
layer's, one factor frozen, lists of tensors that do not say which belong together.

Invariants:
1. m = n = r, ridge 0: the weights are AdamW's over hundreds of steps, decay included; the transposed transport drifts.
2. r = min(m, n), m != n: AdamW's step exactly while only the factor moves whose partner is square.
3. (c B, A / c) gives the same loss curve for every c (LoFT (simple) does not: its step has a size of its own).
4. g~_B A = G P_A, B g~_A = P_B G; projecting twice changes nothing, and no norm grows.
5. One factor of a pair moves a step, both in two; other parameters follow torch's AdamW bit for bit.
6. While the partner stands, the states are plain Adam's on g~.
7. v_hat >= 0; every P_i is symmetric and positive semi-definite.
8. Decay alone shrinks B A by 1 - lr w a step.
9. Saved, loaded and continued equals uninterrupted, bit for bit.
10. Merging the result leaves the output; r(out + in) parameters train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from graftwork.errors import GraftError
from graftwork.handle import Graft
from graftwork.methods.base import work_dtype
from graftwork.optim.joint import Joint, State, alike, side_by_side
from graftwork.optim.pairs import Pair, find_pairs, known, tensors_of


class LoFT(Optimizer):
    """AdamW on the full weight, projected on LoRA's factors; see the module's text.

    Args:
        params: a graft, a module that carries grafts, or parameter groups whose "params" are such. A group
            may also hold bare tensors that are no factors; they get plain AdamW.
        lr: the rate, as for full fine-tuning.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment of a weight. The authors' 1e-4 is not small: it
            tempers the first step of A, whose partner B has just left zero.
        weight_decay: decoupled, on B A.
        plain_eps: eps of the parameters that are no factors.
        ridge: added to A A^T and to B^T B.
        max_norm: clip the effective gradient (`effective_norm`) to this; `None` does not.
        chunk: elements of a scratch buffer.

    Raises:
        GraftError: a setting out of range, or a graft that cannot be served, with the remedy.
    """

    def __init__(
        self,
        params: Graft | nn.Module | Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 1e-2,
        plain_eps: float = 1e-8,
        ridge: tuple[float, float] = (1e-8, 1e-6),
        max_norm: float | None = None,
        chunk: int = 2**24,
    ) -> None:
        if max_norm is not None and not max_norm > 0:
            raise GraftError(f"{self._name}.max_norm must be above 0, not {max_norm}")
        if chunk < 1:
            raise GraftError(f"{self._name}.chunk must be at least 1, not {chunk}")
        self.max_norm, self.chunk = max_norm, chunk
        self._pairs: list[list[Pair]] = []
        self._joint = Joint()
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "plain_eps": plain_eps,
            "ridge": tuple(ridge),
        }
        given: list[Any] = [params] if known(params) is not None else tensors_of(params)
        if known(params) is not None or not (given and isinstance(given[0], dict)):
            given = [{"params": params if known(params) is not None else given}]
        super().__init__(given, defaults)
        if not any(self._pairs):
            raise GraftError(
                f"{self._name}: a list of tensors does not say which A belongs to which B; give it the graft, "
                "the module that carries it, or groups whose params are one of these"
            )

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its "params" may be a graft, a module or bare tensors.

        Raises:
            GraftError: a setting out of range, or a graft that cannot be served.
        """
        given = param_group["params"]
        target = known(given)
        pairs = [] if target is None else find_pairs(target, self._name)
        group = {**self.defaults, **param_group, "params": tensors_of(given)}
        self._check(group)
        super().add_param_group(group)
        self._pairs.append(pairs)

    def _check(self, group: dict[str, Any]) -> None:
        for field in ("lr", "eps", "weight_decay", "plain_eps"):
            if not group[field] >= 0:
                raise GraftError(f"{self._name}.{field} must be at least 0, not {group[field]}")
        if not all(0 <= b < 1 for b in group["betas"]):
            raise GraftError(f"{self._name}.betas must lie in [0, 1), not {group['betas']}")
        if not all(r >= 0 for r in group["ridge"]):
            raise GraftError(f"{self._name}.ridge must be at least 0, not {group['ridge']}")

    # -- what a variant may replace ---------------------------------------------------------------

    #: name of the second moment in the state
    second = "cross"

    def moving(self, step: int) -> tuple[bool, bool]:
        """Whether B and A move in this step, counted from 1."""
        return step % 2 == 1, step % 2 == 0

    def empty_second(self, tall: Tensor) -> Tensor:
        """The second moment's start, for a factor `(blocks, rows, r)`."""
        return tall.new_zeros(*tall.shape, tall.shape[-1])

    def carry(self, state: State, r: Tensor) -> None:
        """Move the moments into the basis in which the partner stands now; `r` `(blocks, r, r)`."""
        state["exp_avg"].copy_(state["exp_avg"] @ r)
        r = r.unsqueeze(1)
        for some in self._pieces(state["cross"]):
            state["cross"][:, some] = r.mT @ state["cross"][:, some] @ r

    def accumulate(self, state: State, scaled: Tensor, betas: tuple[float, float]) -> None:
        """Take the scaled gradient `(blocks, rows, r)` into the moments."""
        state["exp_avg"].mul_(betas[0]).add_(scaled, alpha=1 - betas[0])
        cross = state["cross"].mul_(betas[1])
        for some in self._pieces(cross):
            outer = scaled[:, some].unsqueeze(-1) * scaled[:, some].unsqueeze(-2)
            cross[:, some].add_(outer, alpha=1 - betas[1])

    def direction(
        self, state: State, partner: Tensor, inverse: Tensor, group: dict[str, Any]
    ) -> Tensor:
        """What the moving factor loses, at rate 1: D projected on the partner, `(blocks, rows, r)`.

        The weight-sized D is made in pieces of at most `chunk` elements.
        """
        m, cross = state["exp_avg"], state["cross"]
        (blocks, rows, r), n = m.shape, partner.shape[1]
        first, second = (1 - beta ** state["step"] for beta in group["betas"])
        out = torch.zeros_like(m)
        width = max(1, self.chunk // (blocks * r * r))
        for part in partner.split(width, dim=1):
            products = (part.unsqueeze(-1) * part.unsqueeze(-2)).flatten(2)  # a_j a_j^T, r^2 wide
            height = max(1, self.chunk // (blocks * min(width, n)))
            for at in range(0, rows, height):
                some = slice(at, at + height)
                v = cross[:, some].flatten(2) @ products.mT
                v.clamp_(min=0).div_(second).sqrt_().add_(group["eps"])
                out[:, some] += ((m[:, some] @ part.mT).div_(first).div_(v)) @ part
        return _times(out, inverse)

    # -- the step ---------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the closure returns.

        Raises:
            GraftError: a Gram matrix that cannot be inverted, which a ridge above 0 prevents.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        share = None
        if self.max_norm is not None:
            share = (self.max_norm / (self.effective_norm() + 1e-6)).clamp(max=1.0)
        for group, pairs in zip(self.param_groups, self._pairs, strict=True):
            self._plain_step(group, pairs, share)
            for some in self._alike(pairs):
                self._pair_steps(some, group, share)
        return loss

    @torch.no_grad()
    def effective_norm(self) -> Tensor:
        """Norm of the gradient that the coming step uses, a scalar.

        Of each pair the projected gradient of the weight, by the factor that will move; of all other
        parameters their own. It does not depend on how B A is split between its factors.
        """
        total = torch.zeros(())
        for group, pairs in zip(self.param_groups, self._pairs, strict=True):
            for p in _others(group, pairs):
                if p.grad is not None:
                    total = total.to(p.device) + p.grad.to(work_dtype(p.grad)).square().sum()
            for some in self._alike(pairs):
                turns = self.moving(self.state.get(some[0].b, {}).get("step", 0) + 1)
                sides = [pair.b for pair in some], [pair.a for pair in some]
                for i in (0, 1):
                    if turns[i]:
                        partner = self._values(some, sides[1 - i])
                        inverse = self._inverse(some, partner, group["ridge"][i])
                        scaled = _times(_gradients(some, sides[i], partner.dtype), inverse)
                        size = (scaled @ (partner.mT @ partner) * scaled).sum((1, 2))
                        total = total.to(size.device) + size.clamp(min=0).sum()
        return total.sqrt()

    def _pair_steps(self, pairs: list[Pair], group: dict[str, Any], share: Tensor | None) -> None:
        """A step of pairs that are alike."""
        sides = [pair.b for pair in pairs], [pair.a for pair in pairs]
        # as they stood when the gradient was taken, for both factors
        values = [self._values(pairs, own) for own in sides]
        states = [self._joined(own, v) for own, v in zip(sides, values, strict=True)]
        inverses = [
            self._inverse(pairs, values[1 - i], group["ridge"][i]) for i in (0, 1)
        ]  # of A A^T for B, of B^T B for A
        for i, (own, state) in enumerate(zip(sides, states, strict=True)):
            partner, before = values[1 - i], states[1 - i]["previous"]
            gram = before.double().mT @ partner.double()
            gram.diagonal(dim1=-2, dim2=-1).add_(group["ridge"][i])
            state["step"] += 1
            self.carry(state, (gram @ inverses[i]).to(partner.dtype))
            grad = _gradients(pairs, own, partner.dtype)
            grad = grad if share is None else grad * share.to(grad.device)
            self.accumulate(state, _times(grad, inverses[i]), group["betas"])
        turns = self.moving(states[0]["step"])
        for i, (own, state) in enumerate(zip(sides, states, strict=True)):
            state["previous"].copy_(values[i])
            for p in own:
                self.state[p]["step"] = state["step"]
            if turns[i]:
                step = self.direction(state, values[1 - i], inverses[i], group)
                kept = values[i] * (1 - group["lr"] * group["weight_decay"])
                parts = (kept - group["lr"] * step).split(pairs[0].blocks)
                for pair, p, part in zip(pairs, own, parts, strict=True):
                    self._place(p, pair.flat(p, part))

    def _plain_step(self, group: dict[str, Any], pairs: list[Pair], share: Tensor | None) -> None:
        params = [p for p in _others(group, pairs) if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:
                zero = {k: torch.zeros_like(p) for k in ("exp_avg", "exp_avg_sq")}
                self.state[p].update(step=torch.tensor(0.0), **zero)
        states = [self.state[p] for p in params]
        grads = [p.grad if share is None else p.grad * share.to(p.grad.device) for p in params]
        first, second, steps = ([s[k] for s in states] for k in ("exp_avg", "exp_avg_sq", "step"))
        adamw(
            params,
            grads,
            first,
            second,
            max_exp_avg_sqs=[],
            state_steps=steps,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["plain_eps"],
            maximize=False,
        )

    # -- inside -----------------------------------------------------------------------------------

    def _alike(self, pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
        """Pairs with a gradient, those together that can be stepped as one."""
        found = [p for p in pairs if p.b.grad is not None or p.a.grad is not None]
        return alike(found, lambda p: self.state.get(p.b, {}).get("step", 0), self.chunk)

    def _values(self, pairs: list[Pair], own: list[nn.Parameter]) -> Tensor:
        return side_by_side(pairs, own, [self._wide(p) for p in own])

    def _inverse(self, pairs: list[Pair], partner: Tensor, ridge: float) -> Tensor:
        """The inverse of the partner's Gram matrices plus the ridge, `(pairs blocks, r, r)`, float64."""
        wide = partner.double()
        gram = wide.mT @ wide
        gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
        root, failed = torch.linalg.cholesky_ex(gram)
        if failed.any():
            site = pairs[int(failed.nonzero()[0]) // pairs[0].blocks].site
            raise GraftError(
                f"{self._name}: {site or 'the model'}: a factor has no full rank or is not finite, so its Gram "
                f"matrix has no inverse; give ridge above 0 (now {ridge:g}), or look for NaN"
            )
        return torch.cholesky_inverse(root)

    def _pieces(self, cross: Tensor) -> Iterator[slice]:
        """Rows of a `(blocks, rows, r, r)` state, at most `chunk` elements at a time."""
        height = max(1, self.chunk // (cross.shape[0] * cross.shape[-1] ** 2))
        for at in range(0, cross.shape[1], height):
            yield slice(at, at + height)

    def _joined(self, own: list[nn.Parameter], tall: Tensor) -> State:
        def start() -> State:
            first = {"exp_avg": torch.zeros_like(tall), "previous": tall.clone()}
            return {**first, self.second: self.empty_second(tall)}

        names = ("exp_avg", "previous", self.second)
        return self._joint.of([self.state[p] for p in own], names, start)

    def _wide(self, p: nn.Parameter) -> Tensor:
        """The factor in float32 or wider: itself, or the copy that half-precision factors have."""
        dtype = work_dtype(p)
        if dtype == p.dtype:
            return p.detach()
        master: Tensor = self.state[p].setdefault("master", p.detach().to(dtype))
        moved = master.to(p.dtype) != p.detach()  # somebody else wrote to the factor
        master.copy_(torch.where(moved, p.detach().to(dtype), master))
        return master

    def _place(self, p: nn.Parameter, value: Tensor) -> None:
        if "master" in self.state[p]:
            self.state[p]["master"].copy_(value)
        p.copy_(value)

    # -- saved and loaded -------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state exactly, in the precision it was saved in.

        Raises:
            GraftError: it is another optimizer's state.
        """
        super().load_state_dict(state_dict)
        self._joint = Joint()
        numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        saved = {p: state_dict["state"].get(n, {}) for n, p in zip(numbers, params, strict=True)}
        for pair in (pair for pairs in self._pairs for pair in pairs):
            for p in (pair.a, pair.b):
                missing = {"step", "exp_avg", "previous", self.second} - set(saved[p])
                if saved[p] and set(saved[p]) != {"master"} and missing:
                    raise GraftError(
                        f"{self._name}: {pair.site or 'the model'}: the saved state has no {sorted(missing)[0]!r}; "
                        "it is another optimizer's"
                    )
                for key, value in saved[p].items():
                    # torch gave it the parameter's precision, and ours are wider than bfloat16
                    if isinstance(value, Tensor):
                        self.state[p][key] = value.detach().to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        own = {"_pairs": self._pairs, "max_norm": self.max_norm, "chunk": self.chunk}
        return {**super().__getstate__(), **own, "_joint": Joint()}


def _others(group: dict[str, Any], pairs: list[Pair]) -> list[Any]:
    factors = {id(p) for pair in pairs for p in (pair.a, pair.b)}
    return [p for p in group["params"] if id(p) not in factors]


def _gradients(pairs: list[Pair], own: list[nn.Parameter], dtype: torch.dtype) -> Tensor:
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
    return side_by_side(pairs, own, grads).to(dtype)


def _times(tall: Tensor, inverse: Tensor) -> Tensor:
    product: Tensor = tall.double() @ inverse
    return product.to(dtype=tall.dtype)

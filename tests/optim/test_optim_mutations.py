"""Hand-made mutants of the optimizers' and of the geometry's files: their tests catch every one."""

from __future__ import annotations

import pytest

from tests.mutant_hunt import Hunter, check_edits

#: module -> (its tests, [(kind, text that stands there once, its replacement)])
MUTANTS: dict[str, tuple[list[str], list[tuple[str, str, str]]]] = {
    "graftwork.optim.loft": (
        ["optim/test_optim_loft.py", "optim/test_optim_use.py"],
        [
            ("sign", 'kept - group["lr"] * step', 'kept + group["lr"] * step'),
            ("scale", "alpha=1 - betas[1]", "alpha=1 - betas[0]"),
            (
                "transpose",
                'r.mT @ state["cross"][:, some] @ r',
                'r @ state["cross"][:, some] @ r.mT',
            ),
            ("transpose", "before.double().mT @ partner", "partner.double().mT @ before"),
            ("dropped term", 'state["exp_avg"].copy_(state["exp_avg"] @ r)', "pass"),
            ("dropped term", "return _times(out, inverse)", "return out"),
            ("dropped term", '* (1 - group["lr"] * group["weight_decay"])', "* 1"),
            ("dropped term", "div_(first)", "div_(1)"),
            ("dropped term", "grad * share.to(grad.device)", "grad"),
            (
                "dropped term",
                "moved = master.to(p.dtype) != p.detach()",
                "moved = master != master",
            ),
            (
                "wrong start",
                '"exp_avg": torch.zeros_like(tall)',
                '"exp_avg": torch.ones_like(tall)',
            ),
            ("wrong start", "step % 2 == 1, step % 2 == 0", "step % 2 == 0, step % 2 == 1"),
            ("precision", "detach().to(p.device, copy=True)", "detach().to(p.dtype)"),
        ],
    ),
    "graftwork.optim.loft_simple": (
        ["optim/test_optim_loft.py"],
        [
            ("sign", "(scaled, scaled, value=1", "(scaled, scaled, value=-1"),
            ("scale", "value=1 - betas[1]", "value=1 - betas[0]"),
            ("transpose", 'state["exp_avg"] @ r', 'state["exp_avg"] @ r.mT'),
            ("dropped term", '(state["exp_avg_sq"] / second)', '(state["exp_avg_sq"] / 1)'),
            ("dropped term", '.add_(group["eps"])', ""),
            ("wrong start", "torch.zeros_like(tall)", "torch.ones_like(tall)"),
        ],
    ),
    "graftwork.optim.joint": (
        ["optim/test_optim_joint.py"],
        [
            ("scale", "// len(states)", "// 1"),
            ("transpose", "s.get(name) is t", "s.get(name) is not t"),
            ("dropped term", "(pair.blocks, looks, also(pair))", "(pair.blocks, looks)"),
            ("dropped term", "            state.update(view)", "            pass"),
            ("sign", "if all(name in s", "if not all(name in s"),
            ("wrong start", '{"step": 0, **tensors}', '{"step": 1, **tensors}'),
        ],
    ),
    "graftwork.optim.pairs": (
        ["optim/test_optim_use.py"],
        [
            ("sign", "rank > largest", "rank < largest"),
            ("scale", "self.a.shape[0] // self.blocks", "self.a.shape[0]"),
            ("transpose", "reshape(self.blocks, width, -1).mT", "reshape(self.blocks, -1, width)"),
            ("dropped term", "if factors.scale != 1.0:", "if False:"),
            ("dropped term", 'if factors is None or set(params) != {"A", "B"}:', "if False:"),
            ("wrong start", "if p.requires_grad)\n        self", "if True)\n        self"),
        ],
    ),
    "graftwork.optim.lora_plus": (
        ["optim/test_optim_lora_plus.py"],
        [
            ("scale", '"B": ratio * lr', '"B": ratio'),
            ("sign", "if not value > 0", "if not value < 0"),
            ("transpose", 'place = "B" if name == "B"', 'place = "B" if name == "A"'),
            ("dropped term", " or p.dim() == 1", ""),
            ("dropped term", "embedding_lr is not None and ", ""),
            ("wrong start", "members[places.get(id(p)", "members[{}.get(id(p)"),
        ],
    ),
    "graftwork.optim.rates": (
        ["optim/test_optim_rates.py"],
        [
            ("sign", "if not lr > 0", "if not lr < 0"),
            ("scale", 'group["lr"] * rate.times', 'group["lr"]'),
            (
                "transpose",
                "n / float(b) for n, b in zip(now, before",
                "n * float(b) for n, b in zip(now, before",
            ),
            ("dropped term", '{"weight_decay": 0.0}', "{}"),
            ("dropped term", "    if TIMES in group:\n        return [dict(group)]\n", ""),
            ("dropped term", "    if optimizer.state:\n", "    if False:\n"),
            ("dropped term", " if b > 0]", "]"),
            ("wrong start", "rates.get(id(p), Rate())", "Rate()"),
            ("wrong start", "    if not rates:\n        return\n", ""),
        ],
    ),
    "graftwork.geometry.angles": (
        ["geometry/test_geometry_invariants.py"],
        [
            ("sign", "small.basis - large.basis @ inside", "small.basis + large.basis @ inside"),
            ("scale", "cosines > 0.5**0.5", "cosines > 2"),
            ("transpose", "large.basis.mT @ small.basis", "small.basis.mT @ large.basis"),
            (
                "dropped term",
                "svdvals(small.basis - large.basis @ inside).flip(0)",
                "svdvals(small.basis - large.basis @ inside)",
            ),
            ("dropped term", "cosines2.sum() / small", "cosines2.sum()"),
            ("wrong start", "vectors[:, :k]", "vectors[:, -k:]"),
        ],
    ),
    "graftwork.geometry.law": (
        ["geometry/test_geometry_invariants.py"],
        [
            ("sign", "beta = float(f.mean() - alpha", "beta = float(f.mean() + alpha"),
            ("scale", "residuals) / freedom / spread", "residuals) / spread"),
            ("scale", "np.sin(theta) ** 2", "np.sin(theta)"),
            ("transpose", "alpha - half, alpha + half", "alpha + half, alpha - half"),
            ("dropped term", "-1 if self.high < 0 else 0", "-1"),
            ("wrong start", "centred = x - x.mean()", "centred = x"),
        ],
    ),
    "graftwork.geometry.gradients": (
        ["geometry/test_geometry_invariants.py"],
        [
            ("sign", "second - mean.mT @ mean / count", "second + mean.mT @ mean / count"),
            ("scale", "mean.mT @ mean / count", "mean.mT @ mean"),
            ("transpose", 'g if side == "input" else g.mT', 'g.mT if side == "input" else g'),
            ("dropped term", "        model.eval()\n", ""),
            ("dropped term", "            w.requires_grad_(flag)", "            pass"),
            ("wrong start", "g.detach()).double()", "g.detach())"),
        ],
    ),
    "graftwork.geometry.report": (
        ["geometry/test_geometry_invariants.py"],
        [
            ("sign", "x.cosine2 - x.null.cosine2", "x.cosine2 + x.null.cosine2"),
            ("scale", "b.energy / totals[1]) / 2", "b.energy / totals[1])"),
            ("transpose", "return min(self.layers", "return max(self.layers"),
            ("dropped term", "x.overlap - x.null.overlap)", "x.overlap)"),
            ("dropped term", "a.energy / totals[0]", "1 / totals[0]"),
            ("wrong start", "score <= 2.0", "score <= 0.0"),
        ],
    ),
    "graftwork.geometry.spectrum": (
        ["geometry/test_geometry_invariants.py"],
        [
            ("sign", "self.cosines < self.threshold", "self.cosines > self.threshold"),
            ("scale", "entr(p).sum().exp()", "entr(p).sum()"),
            ("transpose", "bases[0].mT @ bases[1]", "bases[1].mT @ bases[0]"),
            ("dropped term", "values / values.sum()", "values"),
            ("wrong start", "[:, :top]", "[:, -top:]"),
        ],
    ),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", MUTANTS)
def test_every_mutant_is_caught(module: str, hunter: Hunter) -> None:
    check_edits(hunter, module, *MUTANTS[module])

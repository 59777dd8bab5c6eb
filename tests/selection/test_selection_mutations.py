"""Hand-made mutants of data-layer selection: its tests catch every one."""

from __future__ import annotations

import pytest

from tests.mutant_hunt import Hunter, check_edits

TESTS = ["selection/test_selection_gast.py", "selection/test_selection_use.py"]
LIGHTNING = ["selection/test_selection_lightning.py"]
MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "graftwork.selection.gast": [
        ("sign", "scores = size * total", "scores = -size * total"),
        ("scale", "scores = size * total", "scores = total"),
        ("scale", "g * (size / self.keep)", "g * (1 / self.keep)"),
        ("transpose", "self._support[id(p)] for n, p", "self._support[id(p)].flip(0) for n, p"),
        ("dropped term", "part if total.dim() == 0 else total + part", "part if True else part"),
        ("dropped term", "g if old is None else old + g", "g"),
        ("dropped term", ".detach() if masked is None else masked", ".detach()"),
        ("dropped term", "new if old is None else old + new", "new"),
        ("dropped term", "if late and site.early:", "if False:"),
        ("dropped term", "and not layer.late:", "and True:"),
        ("dropped term", "(*self._draws, self._step, name)", "(*self._draws, self._step)"),
        ("dropped term", "(*self._draws, self._step, name)", "(*self._draws, name)"),
        ("dropped term", "        self.release()\n        return self.chosen", "        return {}"),
        ("wrong start", "            p.grad = None\n\n    def finish", "            pass\n\n    def finish"),
        ("wrong start", "self._hooks, self._found = [], {}", "self._hooks = []"),
    ],
    "graftwork.selection.ghost": [
        ("sign", "slope * d * _before", "-slope * d * _before"),
        ("sign", "f[0], d) + (d @ f[1])", "f[0], d) - (d @ f[1])"),
        ("dropped term", "(d @ along[1]) * geo.down(x, f[0], d) +", ""),
        ("dropped term", ", gain * d\n", ", d\n"),
        ("dropped term", "total if extra is None else total + extra.reshape", "total if True else extra.reshape"),
        ("scale", "parts = [f.scale * f.a, f.b]", "parts = [f.a, f.b]"),
        ("scale", "return [f.scale * a, b]", "return [a, b]"),
        ("transpose", "f, along).reshape(size, -1).sum(1)", "f, along).reshape(-1, size).sum(0)"),
        ("dropped term", " + geo.lowrank(x, f[0], along[1], d)", ""),
        ("dropped term", "d = d * (x != state.geo.padding_idx).unsqueeze(-1)", "pass"),
        ("dropped term", " + state.geo.lowrank(x, f[0], f[1], like)", ""),
        ("dropped term", " * each + torch.arange(each, device=x.device)", " + torch.arange(each)"),
        ("wrong start", "x[rows], d[rows]", "x[: len(rows)], d[: len(rows)]"),
    ],
    "graftwork.lightning.selection": [
        ("sign", "size * count > len(data)", "size * count < len(data)"),
        ("scale", "drawn[size * mine : size * (mine + 1)]", "drawn[:1]"),
        ("transpose", '"support", self.seed, *place)', '"support", self.seed, *place[::-1])'),
        ("dropped term", "with keyed(seed):", "if True:"),
        ("dropped term", "_unlogged(pl_module)", "contextlib.nullcontext()"),
        ("dropped term", "            self._gast().mark()", "            pass"),
        ("wrong start", 'seed = mixed_seed("draw", self.seed)', "seed = 0"),
    ],
    "graftwork.selection.draws": [
        ("sign", "z = z - (-u", "z = -z - (-u"),
        ("scale", "return off / spread", "return off"),
        ("scale", "torch.float64) / temperature", "torch.float64)"),
        ("transpose", "z.topk(keep)", "(-z).topk(keep)"),
        ("dropped term", "scores - scores.mean()", "scores"),
        ("dropped term", 'if rule == "uniform":', "if False:"),
        ("dropped term", 'if rule != "top":', "if True:"),
        ("wrong start", "repr(key).encode()", "b''"),
    ],
}  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", MUTANTS)
def test_every_mutant_is_caught(module: str, hunter: Hunter) -> None:
    tests, warm = (LIGHTNING, ["lightning"]) if "lightning" in module else (TESTS, [])
    check_edits(hunter, module, tests, MUTANTS[module], warm)

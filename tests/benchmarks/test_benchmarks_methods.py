"""Each experiment of a method runs at a tiny size, its arithmetic is right, and its verdict follows its rows."""

from __future__ import annotations

import copy
import importlib
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from benchmarks.methods import (
    diablo,
    digits,
    goat,
    harness,
    lora_plus,
    lora_sp,
    milora,
    pissa,
    sfed_lora,
)
from benchmarks.methods.harness import Experiment, ratio
from graftwork_runs import Row, validate_record

TINY = {
    "diablo": ["--steps", "2"],
    "goat": ["--steps", "2"],
    "lora_plus": ["--steps", "2"],
    "lora_sp": ["--steps", "2"],
    "milora": ["--steps", "2"],
    "pissa": ["--steps", "2"],
    "sfed_lora": ["--rounds", "1"],
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed in the sweep, two rates, and little pre-training."""
    monkeypatch.setattr(digits, "STEPS", 10)
    digits.task.cache_clear()
    for module in (diablo, goat, lora_plus, lora_sp, milora, pissa, sfed_lora):
        monkeypatch.setattr(module, "RATES", module.RATES[:2])
    monkeypatch.setattr(harness, "SWEEP", (1000,))
    monkeypatch.setattr(sfed_lora, "SWEEP", (1000,))
    yield
    digits.task.cache_clear()


@pytest.mark.parametrize("name", TINY)
def test_a_command_measures_what_the_kept_record_holds(
    name: str, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment: Experiment = importlib.import_module(f"benchmarks.methods.{name}").EXPERIMENT
    out = tmp_path / "record.json"
    assert experiment.main(["--seeds", "1", *TINY[name], "--out", str(out)]) == 0
    record, kept = validate_record(out), validate_record(experiment.target)
    assert record.verdict and record.verdict in capsys.readouterr().out
    names = {(r.case, r.variant, r.metric) for r in record.rows}
    assert names == {(r.case, r.variant, r.metric) for r in kept.rows}
    assert len(names) == len(record.rows)


# -- the digits ---------------------------------------------------------------------------------------


def test_a_seed_splits_the_digits_and_repeats(small: None) -> None:
    images, labels = digits.digits()
    one = digits.task(3, 16)
    digits.task.cache_clear()
    two = digits.task(3, 16)
    for a, b in zip((*one.train, *one.test), (*two.train, *two.test), strict=True):
        assert torch.equal(a, b)
    for p, q in zip(one.base.parameters(), two.base.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [len(one.train[0]), len(one.test[0]), len(one.upright[0])] == [500, 497, 497]
    known = {tuple(i.flatten().tolist()): n for n, i in enumerate(images)}
    test = {known[tuple(x.tolist())] for x in one.upright[0]}
    undone = [f.flatten(1).tolist() for f in forms(one.train[0].view(-1, 8, 8))]
    train = [
        {known[t] for f in several if (t := tuple(f)) in known}
        for several in zip(*undone, strict=True)
    ]
    assert all(found for found in train)  # each is one of the images, turned or inverted
    sure = {next(iter(found)) for found in train if len(found) == 1}
    assert len(sure) > 400 and not sure & test
    first = torch.randperm(len(images), generator=rng(3))[:800]
    learnt = {known[tuple(i.flatten().tolist())] for i in images[first]}
    assert not learnt & (sure | test)  # what it was pre-trained on is in neither
    assert torch.equal(one.upright[1], one.test[1]) and set(labels.tolist()) == set(range(10))


def forms(x: Tensor) -> list[Tensor]:
    """What undoes the three shifts."""
    return [x.rot90(-1, (1, 2)), x.rot90(-2, (1, 2)), -x]


def test_every_arm_leaves_the_classifier_and_learns(small: None) -> None:
    where = digits.task(0, 16)
    for make in (digits.everything, digits.with_method(gw.LoRA(4)), goat.sliced("largest")):
        graft = make(copy.deepcopy(where.base) if make is digits.everything else big(0), 0)
        task = where if make is digits.everything else digits.task(0, goat.WIDTH)
        found = digits.adapt(graft, task, digits.adamw(graft, 1e-2), 40, 0)
        assert found[digits.LATE] < found[digits.EARLY]
        assert 0 <= found[digits.ERROR] <= 100
        head, kept = graft.model.get_submodule("4"), task.base.get_submodule("4")
        assert torch.equal(head.weight, kept.weight) and torch.equal(head.bias, kept.bias)


def big(seed: int) -> nn.Module:
    return copy.deepcopy(digits.task(seed, goat.WIDTH).base)


def test_the_error_is_the_share_of_wrong_answers() -> None:
    out = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    assert digits.error(nn.Identity(), out, torch.tensor([0, 1, 2, 0])) == 25.0


# -- GOAT, LoRA+ --------------------------------------------------------------------------------------


def test_the_descent_at_the_start_is_that_of_the_equivalent_gradient(small: None) -> None:
    where = digits.task(0, goat.WIDTH)
    base = big(0)
    F.cross_entropy(base(where.train[0]), where.train[1]).backward()
    grads = [base.get_submodule(s).weight.grad for s in digits.SITES]
    graft = goat.ARMS[goat.LORA](big(0), 0)
    factors = [graft.tensors()[f"{s}.A"] for s in digits.SITES]
    by_hand = sum(float((2 * g @ a.T).square().sum()) for g, a in zip(grads, factors, strict=True))
    whole = sum(float(g.square().sum()) for g in grads)
    found = goat.at_start(goat.ARMS[goat.LORA], 0)
    assert found[goat.DESCENT] == pytest.approx(by_hand / whole, rel=1e-4)
    assert found[goat.START] == 0
    assert 0 < goat.at_start(goat.ARMS["GOAT"], 0)[goat.START] < 0.2


@pytest.mark.parametrize(("kind", "picks"), [("largest", slice(0, 8)), ("smallest", slice(56, 64))])
def test_slices_are_the_singular_triplets_they_are_called(
    kind: str, picks: slice, small: None
) -> None:
    base = big(0)
    tensors = goat.sliced(kind)(copy.deepcopy(base), 0).tensors()
    weight = base.get_submodule("0").weight.detach()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    want = (u[:, picks] * s[picks]) @ v[picks] / 10  # rho
    scale = math.sqrt(3 * 64)  # in = 64, one row an expert
    torch.testing.assert_close(scale * tensors["0.B"] @ tensors["0.A"], want, atol=1e-5, rtol=1e-3)
    assert torch.equal(tensors["0.A"], tensors["0.A0"])


def test_lora_plus_gives_b_its_ratio(small: None) -> None:
    graft = digits.with_method(gw.LoRA(2))(big(0), 0)
    rates = {g["name"]: g["lr"] for g in lora_plus.plus(16.0)(graft, 0.01).param_groups}
    assert rates == {"A": 0.01, "B": pytest.approx(0.16)}


# -- SFed-LoRA ----------------------------------------------------------------------------------------


def test_the_federation_is_what_grafts_do_one_by_one(small: None) -> None:
    """Two clients, two local steps, one average, one more step: the batched factors are SGD's on LoRA grafts."""
    method = gw.LoRA(4, alpha=2.0, clients=2)
    fed = sfed_lora.Federation([0], [0.5], 2, 4, method.scale, common=False)
    grafts = []
    for i in range(2):
        g = gw.graft(copy.deepcopy(digits.task(0, 64).base), method, sites=digits.SITES)
        leaves = ("0.A", "0.B", "2.A", "2.B")
        g.load_tensors({k: f[0, i].clone() for k, f in zip(leaves, fed.factors, strict=True)})
        grafts.append(g)
    for step in range(3):
        x, y = fed.batch()
        fed.step(x, y)
        for i, g in enumerate(grafts):
            optimizer = torch.optim.SGD(g.parameters(), lr=0.5)
            F.cross_entropy(g.model(x[0, i]), y[0, i]).backward()
            norm = sum(
                float(p.grad.square().sum()) for n, p in g.named_parameters() if n[-1] == "B"
            )
            optimizer.step()
            optimizer.zero_grad()
            if i == 0:
                first = norm**0.5
        assert float(fed.gradients[step][0]) == pytest.approx((first + norm**0.5) / 2, rel=1e-4)
        if step == 1:
            fed.average()
            a = {k: (grafts[0].tensors()[k] + grafts[1].tensors()[k]) / 2 for k in ("0.A", "2.A")}
            for g in grafts:
                g.load_tensors({**g.tensors(), **a})
    for i, g in enumerate(grafts):
        for key, factor in zip(leaves, fed.factors, strict=True):
            torch.testing.assert_close(
                g.tensors()[key].detach(), factor[0, i], atol=1e-5, rtol=1e-4
            )
    assert not torch.equal(fed.factors[1][0, 0], fed.factors[1][0, 1])


def test_a_common_start_has_the_variance_of_one_client(small: None) -> None:
    many = [
        sfed_lora.Federation([0], [0.1], 32, 16, 1.0, common=c).factors[0] for c in (False, True)
    ]
    apart, common = (float(a[0, 0].var()) for a in many)
    assert common / apart == pytest.approx(32, rel=0.2)
    assert all(torch.equal(a[0, 0], a[0, 31]) for a in many)


def test_the_rules_agree_where_the_rate_is_tuned() -> None:
    near = {rule: f(2, 4) for rule, f in sfed_lora.RULES.items()}
    assert all(v == pytest.approx(2.0) for v in near.values())
    far = {rule: f(32, 64) for rule, f in sfed_lora.RULES.items()}
    assert far == pytest.approx({"alpha / r": 1 / 8, "alpha / sqrt r": 1 / 2, sfed_lora.SFED: 2.0})


def test_every_image_is_dealt_once_and_nobody_goes_without() -> None:
    labels = torch.arange(10).repeat(30)
    for clients in (2, 32):
        dealt = sfed_lora.deal(labels, clients, rng(1))
        assert sorted(torch.cat(dealt).tolist()) == list(range(300))
        assert len(dealt) == clients and min(map(len, dealt)) >= 1


# -- DiaBlo -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [3, 10])
def test_the_closed_forms_are_optima_of_the_methods(rank: int) -> None:
    x, y = diablo.problem(0, rank)
    blocks, found = diablo.optima(x, y)
    layer = nn.Linear(diablo.IN, diablo.OUT, bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    graft = gw.graft(layer, gw.DiaBlo(diablo.BLOCKS))
    graft.load_tensors({"D": blocks.unsqueeze(0)})
    loss = (layer(x) - y).square().sum()
    loss.backward()
    [(_, p)] = list(graft.named_parameters())
    assert loss.item() == pytest.approx(found["DiaBlo"], rel=1e-9)
    assert float(p.grad.abs().max()) < 1e-7 * found["start"]
    gap = found["DiaBlo"] - found["full"]
    assert abs(gap) < 1e-8 * found["start"] if rank <= 6 else gap > 1e-3 * found["start"]
    # LoRA's optimum: the fitted values on their leading right singular vectors
    whole = diablo.solve(x, y)
    v = torch.linalg.svd(x @ whole).Vh[:2].T
    loss = float((y - x @ (whole @ v) @ v.T).square().sum())
    assert loss == pytest.approx(found["LoRA, rank 2"], rel=1e-9)
    assert found["full"] <= found["LoRA, rank 3"] < found["LoRA, rank 2"] < found["start"]
    assert (found["LoRA, rank 3"] == found["full"]) == (rank == 3)


def test_random_entries_train_one_weight_in_sixteen() -> None:
    base, moved, _ = diablo.drifted(0)
    model = copy.deepcopy(base)
    graft = diablo.random_entries(diablo.all_of)(model, 0)
    optimizer = digits.adamw(graft, 0.01)
    x = torch.randn(8, diablo.WIDTHS[0], generator=rng())
    F.mse_loss(model(x), moved(x).detach()).backward()
    optimizer.step()
    changed = 0
    for p, q in zip(base.parameters(), graft.parameters(), strict=True):
        changed += int((p != q).sum())
        assert p.dim() == 2 or torch.equal(p, q)
    count = sum(p.numel() for p in graft.parameters() if p.dim() == 2) // 16
    assert 0.95 * count < changed <= count
    assert (
        sum(p.numel() for p in diablo.NET_ARMS["DiaBlo"](copy.deepcopy(base), 0).parameters())
        == 5568
    )


# -- LoRA-SP ------------------------------------------------------------------------------------------


def test_the_tasks_have_the_ranks_they_are_told_by() -> None:
    base, changes = lora_sp.problem(0)
    assert [int(torch.linalg.matrix_rank(c)) for c in changes] == list(lora_sp.TRUE_RANKS)
    norms = torch.stack([c.norm() for c in changes])
    torch.testing.assert_close(norms, norms[0].expand(4))
    x, y = lora_sp.examples(0, 5, rng())
    for i, change in enumerate(changes):
        assert (x[i, :, lora_sp.IN :].argmax(-1) == i).all()
        model = copy.deepcopy(base)
        with torch.no_grad():
            model[0].weight += change
            torch.testing.assert_close(model(x[i]), y[i])
    assert lora_sp.ordered([1, 2, 3, 4]) == 6 and lora_sp.ordered([4, 3, 2, 2]) == 0


def test_active_ranks_are_counted_by_task() -> None:
    base, _ = lora_sp.problem(0)
    x, _ = lora_sp.examples(0, 5, rng())
    every = lora_sp.grafted(gw.LoRASP(8, eta=1.0))(copy.deepcopy(base), 0)
    assert lora_sp.active(every, x) == [8.0] * 4
    few = lora_sp.grafted(gw.LoRASP(8, eta=0.3))(copy.deepcopy(base), 0)
    assert all(1 <= k < 8 for k in lora_sp.active(few, x))


# -- verdicts -----------------------------------------------------------------------------------------


def put(rows: list[Row], value: float, *names: tuple[str, str, str]) -> list[Row]:
    """The rows with those of `names` at `value`, bounds too."""
    found = [
        r.model_copy(update={"value": value, "lo": value, "hi": value})
        if (r.case, r.variant, r.metric) in names
        else r
        for r in rows
    ]
    assert found != rows
    return found


E, L = digits.ERROR, "LoRA"
GOAT = [(case, "GOAT", ratio(E, goat.LORA)) for case in (goat.OWN, goat.FIXED)]
PISSA = [(case, "PiSSA", ratio(m, L)) for case, m in pissa.CASES.items()]
MILORA = [(milora.CASE, "MiLoRA", ratio(*m)) for m in ((E, L), (digits.KEPT, L), (E, "PiSSA"))]
PLUS = [(c, "LoRA+, ratio 16", ratio(m, L)) for c, (_, m) in lora_plus.CASES.items()]
FAR = [
    (sfed_lora.case(sfed_lora.KEPT, 32, 64), sfed_lora.SFED, ratio(sfed_lora.LOSS, rule))
    for rule in ("alpha / r", "alpha / sqrt r")
]
ROSE = [
    (sfed_lora.case(sfed_lora.KEPT, n, r), sfed_lora.SFED, sfed_lora.ROSE)
    for n in sfed_lora.CLIENTS
    for r in sfed_lora.RANKS
]
BLOCKS = [
    (case, "DiaBlo", ratio(m, other))
    for case, m in {**dict.fromkeys(diablo.NETS, diablo.LEFT), diablo.DIGITS: E}.items()
    for other in diablo.OTHERS[:2]
]
THEORY = [(diablo.SQUARES.format(8), "DiaBlo", diablo.MISSED)]
SP = [
    (lora_sp.CASE, lora_sp.SP, ratio(lora_sp.LEFT, lora_sp.WIDE)),
    (lora_sp.CASE, lora_sp.SP, lora_sp.ORDER),
    (lora_sp.CURVE.format(0.9), lora_sp.BARE, ratio(lora_sp.ACTIVE, lora_sp.SP)),
]
COST = [(lora_sp.CASE, lora_sp.SP, ratio(lora_sp.LEFT, lora_sp.BARE))]
CASES = [
    (goat, [(0.9, GOAT)], "seen"),
    (goat, [(1.1, GOAT[:1]), (0.9, GOAT[1:])], "partly"),
    (goat, [(1.1, GOAT)], "not seen at this scale"),
    (pissa, [(0.9, PISSA[:2])], "seen"),
    (pissa, [(0.9, PISSA[:1]), (1.1, PISSA[1:])], "partly"),
    (pissa, [(1.1, PISSA[:2]), (0.9, PISSA[2:])], "not seen at this scale"),
    (milora, [(0.9, MILORA)], "seen"),
    (milora, [(0.9, MILORA[:2]), (1.1, MILORA[2:])], "partly"),
    (milora, [(1.1, MILORA)], "not seen at this scale"),
    (lora_plus, [(1.1, PLUS[:2]), (0.9, PLUS[2:])], "seen"),
    (lora_plus, [(0.9, PLUS[:1]), (1.1, PLUS[1:])], "partly"),
    (lora_plus, [(1.1, PLUS)], "not seen at this scale"),
    (sfed_lora, [(0.9, FAR), (0.0, ROSE)], "seen"),
    (sfed_lora, [(0.9, FAR), (0.2, ROSE[-1:])], "partly"),
    (sfed_lora, [(1.1, FAR), (0.2, ROSE[-1:])], "not seen at this scale"),
    (diablo, [(0.9, BLOCKS)], "seen"),
    (diablo, [(0.9, BLOCKS), (0.0, THEORY)], "partly"),
    (diablo, [(1.1, BLOCKS), (0.0, THEORY)], "not seen at this scale"),
    (lora_sp, [(0.9, SP[:1]), (5.0, SP[1:]), (1.0, COST)], "seen"),
    (lora_sp, [(0.9, SP[:1]), (5.0, SP[1:]), (1.1, COST)], "partly"),
    (lora_sp, [(1.1, SP[:1]), (5.0, SP[1:2]), (0.9, SP[2:])], "partly"),
    (lora_sp, [(1.1, SP[:1]), (0.9, SP[1:])], "not seen at this scale"),
]


@pytest.mark.parametrize(("module", "changes", "word"), CASES)
def test_the_verdict_follows_the_rows(module: object, changes: list, word: str) -> None:
    rows = validate_record(module.EXPERIMENT.target).rows  # type: ignore[attr-defined]
    for value, names in changes:
        rows = put(rows, value, *names)
    assert module.judge(rows).startswith(f"{word}: ")  # type: ignore[attr-defined]

"""The experiments on digits as tokens: LoReFT and DiReFT, prefix tuning, CoRe."""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from benchmarks.methods import core, core_soft, digits, loreft, prefix, tokens
from benchmarks.methods.harness import ratio
from benchmarks.methods.transformer import Encoder
from graftwork_runs import validate_record
from tests.benchmarks.method_experiments import command_matches, put

WIDTH = 24
TINY = ["--width", "24", "--depth", "1", "--steps", "2", "--sweep", "1"]
OPTIONS = argparse.Namespace(width=WIDTH, depth=1, steps=4, device="cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (digits.task, tokens.task, core.problem)
    monkeypatch.setattr(digits, "STEPS", 2)
    monkeypatch.setattr(tokens, "PRETRAIN", 20)
    monkeypatch.setattr(core, "PRETRAIN", 20)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("module", [loreft, prefix, core, core_soft])
def test_the_command_measures_what_the_record_holds(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "RATES", module.RATES[:1])
    for plan in ([], ["--larger"]):
        command_matches(module.EXPERIMENT, [*plan, *TINY], tmp_path, capsys)


# -- the task -----------------------------------------------------------------------------------------


def test_the_encoder_has_seen_the_upright_digits_alone() -> None:
    where, plain = tokens.task(0, WIDTH, 1), digits.task(0, 16)
    for mine, theirs in zip(
        (where.train, where.test, where.upright),
        (plain.train, plain.test, plain.upright),
        strict=True,
    ):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    torch.manual_seed(0)
    blank = Encoder(WIDTH, 1)
    images, labels = digits.digits()
    first = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:800]
    x, y = images[first].flatten(1), labels[first]
    assert digits.error(where.base, x, y) < digits.error(blank, x, y) - 20


def test_the_encoder_reads_rows_and_their_places() -> None:
    torch.manual_seed(0)
    model = Encoder(16, 2)
    x = torch.randn(3, 64)
    turned = x.view(3, 8, 8).flip(1).flatten(1)
    assert model(x).shape == (3, 10)
    assert not torch.allclose(model(x), model(turned))
    with torch.no_grad():
        model.place.zero_()
    torch.testing.assert_close(model(x), model(turned))


def test_arms_said_to_have_as_many_numbers_have_them() -> None:
    base = tokens.task(0, WIDTH, 1).base

    def count(make: tokens.Make) -> int:
        graft = make(copy.deepcopy(base), 0)
        with torch.no_grad():
            same = torch.equal(graft.model(torch.ones(2, 64)), base(torch.ones(2, 64)))
        assert same == graft.method.starts_at_base or not graft.entry.sites
        return sum(p.numel() for p in graft.parameters())

    few, many = (count(loreft.ARMS[a]) for a in (loreft.FEW, loreft.MANY))
    edits = {count(m) for name, m in loreft.ARMS.items() if "ReFT" in name}
    assert edits == {few + loreft.RANK} and many > 20 * few
    for _, one, two in prefix.EQUAL:
        assert count(prefix.ARMS[one]) == count(prefix.ARMS[two])
    blocks = sum(p.numel() for p in base.blocks.parameters())
    assert count(tokens.everything) == blocks


def test_only_the_first_images_train() -> None:
    seen = []

    where = tokens.task(0, WIDTH, 1)

    def make(model: torch.nn.Module, seed: int) -> gw.Graft:
        model.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
        return tokens.lora(1)(model, seed)

    tokens.trial(make, 60, OPTIONS)(0, 1e-3)
    trained = {tuple(x.tolist()) for batch in seen[: OPTIONS.steps] for x in batch}
    assert trained <= {tuple(x.tolist()) for x in where.train[0][:60]}


# -- CoRe ---------------------------------------------------------------------------------------------


def test_each_digit_belongs_to_one_task() -> None:
    where = core.problem(0, WIDTH, 1, "cpu")
    assert (
        sorted(itertools.chain(*where.classes)) == list(range(10))
        and len(where.classes) == core.TASKS
    )
    parts = [where.of(where.train, t) for t in range(core.TASKS)]
    assert sum(len(y) for _, y in parts) == 500
    assert all(set(y.tolist()) == set(c) for (_, y), c in zip(parts, where.classes, strict=True))
    assert not any(p.requires_grad for p in where.base.parameters())


@pytest.mark.parametrize("name", core.ARMS)
def test_a_learner_keeps_what_its_arm_says(name: str) -> None:
    where = core.problem(0, WIDTH, 1, "cpu")
    learner = core.Learner(core.ARMS[name], where, 0)
    for task in range(2):
        learner.learn(task, 1e-2, 20)
        if task == 0:
            before, x = learner.answer(where.test[0], 0), where.test[0]
            assert set(before.tolist()) <= set(where.classes[0])
    assert set(learner.answer(x).tolist()) <= {*where.classes[0], *where.classes[1]}
    kept = torch.equal(learner.answer(x, 0), before)
    shared = name in (core.ONE, core.TOGETHER)
    assert kept or shared  # a part for each task: with the task told, nothing is forgotten
    grafts = gw.grafts(learner.model)
    arm = core.ARMS[name]
    assert len(grafts) == (0 if arm.method is None else 1 if name == core.ONE else 2)
    if shared:
        learner.features(x, 1)
        assert set(gw.active(learner.model)) == set(grafts)
    for p, q in zip(where.base.parameters(), learner.where.base.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_router_takes_the_nearest_mean() -> None:
    where = core.problem(0, WIDTH, 1, "cpu")
    learner = core.Learner(core.ARMS[core.NEAREST], where, 0)
    for task in range(core.TASKS):
        learner.learn(task, 1e-2, 1)
    order = list(itertools.chain(*where.classes))
    with torch.no_grad():
        f = where.base.features(where.train[0])
        means = [f[where.train[1] == c].mean(0) for c in order]
        want = [
            order[int(torch.stack([(v - m).norm() for m in means]).argmin())]
            for v in where.base.features(where.test[0][:50])
        ]
    assert learner.answer(where.test[0][:50]).tolist() == want
    errors = learner.errors()
    share = sum(e * len(where.of(where.test, t)[1]) for t, e in enumerate(errors)) / len(
        where.test[1]
    )
    wrong = float((learner.answer(where.test[0]) != where.test[1]).float().mean())
    assert share == pytest.approx(100 * wrong, rel=1e-4)


def test_the_penalty_keeps_tasks_apart_while_they_learn() -> None:
    where = core.problem(0, WIDTH, 1, "cpu")
    found = {}
    for name in core_soft.ARMS:
        kind = core_soft.Apart if name == core_soft.SOFT else core.Learner
        learner = kind(core_soft.ARMS[name], where, 0)
        for task in range(core.TASKS):
            learner.learn(task, 1e-2, 4)
        found[name] = core_soft.overlap(learner)
        starts = [gw.get(learner.model, f"task{t}").tensors() for t in range(core.TASKS)]
        assert all(bool(t["blocks.0.b"].any()) for t in starts)  # each has learnt
    assert found[core_soft.CORE] < 1e-6
    assert 1e-6 < found[core_soft.SOFT] < 0.2 * found[core_soft.FREE]
    # random rows share r / d of a rank
    assert found[core_soft.FREE] == pytest.approx(100 * core.RANK / WIDTH, rel=0.5)


# -- verdicts -----------------------------------------------------------------------------------------

E = digits.ERROR
LOREFT = [
    (loreft.CASE, loreft.LOREFT, ratio(E, o)) for o in (loreft.MANY, loreft.FEW, loreft.DIREFT)
]
PREFIX = [(case, prefix.PREFIX, ratio(E, prefix.FULL)) for case in prefix.CASES]
CORE = [
    (core.CASE, core.CORE, ratio(core.END, o))
    for o in (core.NEAREST, core.ONE, core.FREE, core.EACH)
]
SOFT = [(core.CASE, core_soft.SOFT, ratio(core.END, o)) for o in (core_soft.FREE, core_soft.CORE)]
CASES = [
    (core_soft, [(0.9, SOFT[:1]), (1.0, SOFT[1:])], "seen"),
    (core_soft, [(1.0, SOFT)], "partly"),
    (core_soft, [(1.1, SOFT)], "not seen at this scale"),
    (loreft, [(0.9, LOREFT)], "seen"),
    (loreft, [(1.0, LOREFT[:1]), (0.9, LOREFT[1:2]), (1.1, LOREFT[2:])], "partly"),
    (loreft, [(1.1, LOREFT[:2]), (0.9, LOREFT[2:])], "not seen at this scale"),
    (prefix, [(1.0, PREFIX[:1]), (0.9, PREFIX[1:])], "seen"),
    (prefix, [(1.0, PREFIX)], "partly"),
    (prefix, [(1.1, PREFIX)], "not seen at this scale"),
    (core, [(0.9, CORE[:3]), (1.0, CORE[3:])], "seen"),
    (core, [(0.9, CORE[:2]), (1.0, CORE[2:])], "partly"),
    (core, [(1.1, CORE)], "not seen at this scale"),
]


@pytest.mark.parametrize(("module", "changes", "word"), CASES)
def test_the_verdict_follows_the_rows(module: Any, changes: list[Any], word: str) -> None:
    rows = validate_record(module.EXPERIMENT.target).rows
    for value, names in changes:
        rows = put(rows, value, *names)
    assert module.judge(rows).startswith(f"{word}: ")

"""GAST in two processes: scores against everybody's support, draws of one's own, the mean of both gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.selection.draws import choose
from tests.selection.selection_helpers import data, explicit, grafted, loss_of, scores_of
from tests.selection.selection_processes import HALF, Module


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.selection.selection_processes"]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    started = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, env=where)
        for rank in (0, 1)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("wrapped", [False, True])  # by DistributedDataParallel
def test_gradients_are_means_over_both_processes_choices(
    found: list[dict[str, Any]], wrapped: bool
) -> None:
    model, g = grafted("tokens")
    x, y = data("tokens")
    own, sup = explicit(model, g, x, y), explicit(model, g, *data("tokens", 2, 4))
    gast = gw.GAST(g, 2)
    want = scores_of(gast, own, sup)
    mine = [f[f"by hand, {wrapped}"] for f in found]
    for layer, sites in gast.layers.items():
        picked = []
        for rank, part in enumerate(mine):
            scores = want[layer][rank * HALF : (rank + 1) * HALF]
            torch.testing.assert_close(part["scores"][layer], scores)
            key = (4, 1, layer) if rank == 0 else (4, 1, 1, layer)
            assert torch.equal(part["picked"][layer], choose(scores, 2, "softmax", 1.0, *key))
            picked += [rank * HALF + i for i in part["picked"][layer].tolist()]
        for n, grads in own.items():
            if n.rpartition(".")[0] in sites:
                mean = torch.stack([grads[i] for i in picked]).mean(0)
                for part in mine:
                    torch.testing.assert_close(part["gradients"][n], mean)


def test_a_gradient_of_one_process_alone_counts_and_one_of_none_stays_none(
    found: list[dict[str, Any]],
) -> None:
    for part in found:
        one, two, three = part["uneven"]
        assert one.tolist() == [1.5, 1.5] and two.tolist() == [0.5] * 3 and three is None
        assert two.dtype == torch.float64


def test_a_fit_under_ddp_is_the_same_in_both_processes(found: list[dict[str, Any]]) -> None:
    start = gw.get(Module().network).tensors()
    for keep in (2, 3):
        one, two = (dict(f[f"fit, {keep}"]) for f in found)
        seen = [one.pop("seen"), two.pop("seen")]
        assert not torch.equal(*seen)  # support batches and samples of one's own
        assert all(torch.equal(one[n], two[n]) for n in one)
        assert any(not torch.equal(one[n], start[n]) for n in one)


def test_with_all_samples_two_processes_are_one(found: list[dict[str, Any]]) -> None:
    module, (x, y) = Module(), data("tokens", 5, 12)
    optimizer = module.configure_optimizers()
    # each step has a support batch of two, then three samples to train on
    steps = [[s[2:] for s in f["fit, 3"]["seen"].split(5)] for f in found]
    for parts in zip(*steps, strict=True):
        some = [i for v in torch.cat(parts) for i in range(12) if torch.equal(x[i], v)]
        assert len(set(some)) == 6
        optimizer.zero_grad()
        loss_of(module.network, x[some], y[some]).backward()
        optimizer.step()
    for n, t in gw.get(module.network).tensors().items():
        torch.testing.assert_close(found[0]["fit, 3"][n], t)


def test_without_a_process_group_it_is_refused() -> None:
    _, g = grafted("tokens")
    with pytest.raises(gw.GraftError, match="init_process_group"):
        gw.GAST(g, 2, processes=True)

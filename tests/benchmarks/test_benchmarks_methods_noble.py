"""NOBLE's experiment: equal sizes where they are said to be, exact arithmetic on curves, a verdict from rows."""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import pytest
import torch

from benchmarks.methods import noble
from benchmarks.methods.transformer import Decoder
from graftwork_runs import validate_record
from tests.benchmarks.method_experiments import command_matches, put

TINY = [
    "--width",
    "16",
    "--depth",
    "1",
    "--context",
    "8",
    "--batch",
    "2",
    "--rank",
    "4",
    "--steps",
    "10",
]


def options(**more: int) -> argparse.Namespace:
    return argparse.Namespace(device="cpu", **{**noble.EXPERIMENT.sizes, **more})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noble, "RATES", noble.RATES[:1])
    ticks = itertools.count()
    monkeypatch.setattr(noble, "now", lambda device: next(ticks))
    train, held = (t[:5000] for t in noble.text())
    monkeypatch.setattr(noble, "text", lambda: (train, held))


def test_the_command_measures_what_the_record_holds(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for plan in ([], ["--larger"]):
        command_matches(noble.EXPERIMENT, [*plan, *TINY, "--sweep", "1"], tmp_path, capsys)


def test_the_text_is_whole_and_no_held_out_file_is_trained_on() -> None:
    train, held = noble.text()
    assert len(train) > 2e6 and 0.03 < len(held) / len(train) < 0.3
    assert int(train.max()) < noble.TOKENS
    piece = bytes(held[1000:1200].tolist())
    assert piece not in bytes(train.tolist())
    some = noble.windows(held, 3, 10, torch.Generator().manual_seed(0))
    assert some.shape == (3, 11) and all(bytes(s.tolist()) in bytes(held.tolist()) for s in some)


def test_numbers_and_operations_are_those_of_the_paper() -> None:
    o = options()
    plain, cosnet, wider, linear = (
        noble.decoder(arm, o) for arm in (noble.PLAIN, noble.COSNET, noble.WIDER, "linear branch")
    )
    w, r = o.width, o.rank
    square, wide = r * 2 * w + r * r + 6 * r, r * 5 * w + r * r + 6 * r
    assert noble.size(cosnet) - noble.size(plain) == o.depth * (4 * square + 2 * wide)
    assert abs(noble.size(wider) - noble.size(cosnet)) <= o.depth * (2 * w + 1) / 2
    extra = noble.operations(cosnet) - noble.operations(plain)
    assert extra == 2 * o.depth * (4 * (2 * w * r + r * r) + 2 * (5 * w * r + r * r))
    assert noble.operations(linear) - noble.operations(plain) == 2 * o.depth * r * w * (8 + 10)
    assert noble.operations(plain) == 2 * (o.depth * 12 * w * w + w * noble.TOKENS)
    assert all(p.requires_grad for p in cosnet.parameters())
    spread = float(cosnet.get_submodule("blocks.0.up").weight.detach().std())
    assert spread == pytest.approx(0.5 / math.sqrt(w), rel=0.05)


def test_the_decoder_sees_no_later_token() -> None:
    torch.manual_seed(0)
    model = Decoder(noble.TOKENS, 16, 2, 4, 12)
    x = torch.randint(noble.TOKENS, (1, 12))
    other = x.clone()
    other[0, 7] = (x[0, 7] + 1) % noble.TOKENS
    a, b = model(x), model(other)
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])


def figures(*losses: float) -> dict[str, float]:
    return {noble.AT.format(10 * (i + 1)): v for i, v in enumerate(losses)}


def test_steps_to_a_loss_lie_between_the_points() -> None:
    one = figures(4.0, 3.0, 3.5, 2.0)
    assert noble.curve(one) == ([10, 20, 30, 40], [4.0, 3.0, 3.0, 2.0])
    assert noble.reached(one, 3.5) == 15 and noble.reached(one, 2.5) == 35
    assert noble.reached(one, 5.0) == 10 and math.isnan(noble.reached(one, 1.0))
    assert noble.loss_at(one, 15) == 3.5 and noble.loss_at(one, 99) == 2.0
    fast = figures(3.0, 2.0, 1.0, 0.5)
    assert noble.gain(fast, one) == 2.0 and noble.gain(one, fast) == 0.5
    assert noble.gain(one, one) == 1.0


def test_time_counts_against_a_slower_arm() -> None:
    fast, plain = figures(3.0, 2.0, 1.0, 0.5), figures(4.0, 3.0, 3.0, 2.0)
    steps, timed, same = noble.against("CosNet", "plain", [fast, fast], [plain, plain], 2.0)
    assert (steps.value, timed.value, same.value) == (
        2.0,
        1.0,
        0.0,
    )  # 20 steps: 2.0, as plain after 40
    assert len({steps.metric, timed.metric, same.metric}) == 3


def test_arms_take_turns(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(noble, "learner", lambda arm, *_: lambda some: order.append(arm))
    found = noble.times(["a", "b"], options(context=8))
    turn = ["a"] * noble.TURN + ["b"] * noble.TURN
    assert order == turn * (noble.ROUNDS + 1)
    assert {len(v) for v in found.values()} == {noble.ROUNDS}


def test_the_verdict_follows_the_rows() -> None:
    rows = validate_record(noble.EXPERIMENT.target).rows
    steps = [(noble.CASE, noble.COSNET, noble.FEWER.format(o)) for o in (noble.PLAIN, noble.WIDER)]
    timed = (noble.CASE, noble.COSNET, f"{noble.FEWER.format(noble.PLAIN)}, {noble.FASTER}")
    linear = (noble.CASE, "linear branch", noble.FEWER.format(noble.PLAIN))
    best = put(put(rows, 1.3, *steps, timed), 1.1, linear)
    assert noble.judge(best).startswith("seen: ")
    assert noble.judge(put(best, 0.9, timed)).startswith("partly: ")
    assert noble.judge(put(best, 1.4, linear)).startswith("partly: ")
    assert noble.judge(put(best, 0.9, *steps)).startswith("not seen at this scale: ")

"""The experiments of single adapters run at a tiny size, their arithmetic is right, and verdicts follow their rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_benchmarks_methods import put
from torch import nn
from torch.nn import functional as F

from benchmarks.methods import (
    adaptformer,
    bitfit,
    boft,
    digits,
    dora,
    encoder,
    hydra_lora,
    ia3,
    loretta,
    loretta_adp,
    mixture,
    moe_lora,
    norm_affine,
    oft,
    sequence,
    serial_adapter,
    vera,
    wegeft,
)
from benchmarks.methods.harness import Experiment, ratio
from benchmarks.methods.sequence import FIRST, FORGOT, LEARNT, LOST, over
from graftwork_runs import validate_record

MLP = (dora, hydra_lora, moe_lora, vera)
SEQUENCES = (boft, loretta, oft, wegeft)
ENCODERS = (adaptformer, bitfit, ia3, norm_affine)
SERIAL = (loretta_adp, serial_adapter)


def clear() -> None:
    for made in (digits.task, sequence.pretrained, sequence.run, encoder.task, encoder.arm):
        made.cache_clear()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little pre-training, and two rates where the rows do not name them."""
    monkeypatch.setattr(digits, "STEPS", 10)
    monkeypatch.setattr(encoder, "PRETRAINING", 5)
    monkeypatch.setattr(sequence, "SWEEP", (1000,))
    for module in (mixture, dora, vera, *ENCODERS, *SERIAL):
        monkeypatch.setattr(module, "RATES", module.RATES[:2])
    clear()
    yield
    clear()


@pytest.mark.parametrize("module", [*MLP, *SEQUENCES, *ENCODERS, *SERIAL])
def test_a_command_measures_what_the_kept_record_holds(
    module: object, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment: Experiment = module.EXPERIMENT  # type: ignore[attr-defined]
    out = tmp_path / "record.json"
    assert experiment.main(["--seeds", "1", "--steps", "1", "--out", str(out)]) == 0
    record, kept = validate_record(out), validate_record(experiment.target)
    assert record.verdict and record.verdict in capsys.readouterr().out
    names = {(r.case, r.variant, r.metric) for r in record.rows}
    assert names == {(r.case, r.variant, r.metric) for r in kept.rows}
    assert len(names) == len(record.rows)


# -- counts -------------------------------------------------------------------------------------------


def counted(arms: dict[str, digits.Make], base: nn.Module) -> dict[str, int]:
    return {r.variant: int(r.value or 0) for r in digits.counted("c", arms, base)}


def test_arms_are_set_against_arms_of_their_size(small: None) -> None:
    base = digits.task(0, 128).base
    vectors = counted(vera.ARMS, base)
    assert vectors[vera.VERA] == vectors[vera.EQUAL] == vectors[vera.WIDE] // 8
    low = counted(dora.ARMS, base)
    assert low[dora.LESS] < low[dora.LORA] < low[dora.DORA]
    mixed = counted(mixture.ARMS, base)
    for arm in (mixture.MOE, mixture.HYDRA):
        assert 0.9 * mixed[arm] < mixed[mixture.FEWER] < mixed[arm] < mixed[mixture.MORE]
    layers = sequence.pretrained(0)[0]
    seq = [counted(m.ARMS, layers) for m in (loretta, wegeft, oft, boft)]
    assert seq[0][loretta.SMALL] == seq[0]["LoRA, rank 1"]
    assert seq[0]["LoRA, rank 4"] < seq[0][loretta.LARGE] < 1.1 * seq[0]["LoRA, rank 4"]
    for arm, other in wegeft.PAIRS:
        assert seq[1][arm] == seq[1][other]
    assert seq[2][oft.FEWER] < seq[2][oft.OFT] < seq[2][oft.MORE]
    assert seq[3][boft.BOFT] == seq[3][oft.OFT]
    whole = encoder.task(0).base
    beside = counted(encoder.ARMS, whole)
    head = beside[encoder.HEAD]
    for arm, n in ((encoder.LORA_256, 256), (encoder.LORA_384, 384), (encoder.LORA_640, 640)):
        assert beside[arm] == head + n
    sizes = {m: counted({"m": m.MAKE}, whole)["m"] - head for m in ENCODERS}  # type: ignore[attr-defined]
    assert sizes[ia3] == 256 and 256 < sizes[norm_affine] < 384
    assert all(512 < sizes[m] < 640 for m in (bitfit, adaptformer))
    for module in SERIAL:
        sizes = {arm: n - head for arm, n in counted(module.ARMS, whole).items()}
        small = [
            n
            for arm, n in sizes.items()
            if arm not in (encoder.FULL, encoder.HEAD, loretta_adp.WIDE)
        ]
        assert min(small) > 580 and max(small) < 680
    assert sizes[serial_adapter.HOULSBY] < 1.02 * 640


# -- what an experiment computes ----------------------------------------------------------------------


def test_norms_and_directions_correlate_over_rows() -> None:
    w = torch.eye(4, 6)
    grow = torch.tensor([1.0, 1.5, 2.0, 3.0]).unsqueeze(1)
    turn = torch.zeros(4, 6)
    turn[:, 5] = torch.tensor([0.0, 0.3, 0.6, 0.9])
    unit = F.normalize(w + turn, dim=1)
    assert dora.correlation(w, grow * unit) > 0.9  # longer rows turned more
    assert dora.correlation(w, grow.flip(0) * unit) < -0.9
    assert dora.correlation(w, grow * w) == 0.0  # nothing turned


def test_gates_are_parted_where_they_tell_the_shifts_apart() -> None:
    images = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).abs()
    assert mixture.parted(torch.zeros(4, 64), images) == 0.0
    bright = torch.zeros(4, 64)
    bright[0] = 100.0  # the sum of an image: turning keeps it, inverting changes its sign
    assert mixture.parted(bright, images) == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("a", "learnt", "forgot"),
    [
        ([[90, 0, 0], [80, 70, 0], [85, 60, 50]], 70.0, 7.5),  # (90 - 85 + 70 - 60) / 2
        ([[90, 0], [95, 70]], 80.0, -5.0 + 0.0),  # backward transfer
        ([[60]], 60.0, None),
    ],
)
def test_what_was_learnt_and_forgotten(a: list, learnt: float, forgot: float | None) -> None:
    assert sequence.continual(torch.tensor(a, dtype=torch.float64)) == (learnt, forgot)


def test_excess_is_measured_above_the_other_curve() -> None:
    def at(error: float, lost: float) -> dict[str, float]:
        return {LEARNT: error, FORGOT: lost}

    other = [at(80, 0), at(40, 10), at(20, 30)]
    assert sequence.excess([at(60, 5), at(30, 20)], other, FORGOT) == 0.0
    assert sequence.excess([at(60, 8)], other, FORGOT) == pytest.approx(3.0)
    assert sequence.excess([at(10, 25)], other, FORGOT) == pytest.approx(-5.0)  # beyond its best
    assert sequence.excess([at(90, 2)], other, FORGOT) == pytest.approx(2.0)
    assert sequence.excess(other, other, FORGOT) == 0.0


def test_a_sequence_trains_the_adapter_and_keeps_the_heads(small: None) -> None:
    still = sequence.run(sequence.LORA["LoRA, rank 4"], 0, 0.0, 3)
    assert (
        still[FORGOT] == 0.0 and still[LOST] == 0.0
    )  # heads of their own, and nothing shared moved
    other = sequence.run(sequence.everything, 0, 0.0, 3)
    assert other[LEARNT] == still[LEARNT]  # every curve begins at one point
    one = sequence.run(sequence.everything, 0, 0.0, 3, tasks=1)
    assert set(one) == {FIRST} and one[FIRST] == still[FIRST]
    moved = sequence.run(sequence.everything, 0, 0.05, 30)
    assert moved[LOST] > 5 and moved[LEARNT] < still[LEARNT]


def test_the_tasks_are_four_different_ones() -> None:
    x = torch.arange(64.0).view(1, 8, 8)
    forms = [x, *(turn(x) for turn in sequence.TASKS)]
    assert all(not torch.equal(a, b) for i, a in enumerate(forms) for b in forms[:i])
    for turn in sequence.TASKS[1:]:
        assert torch.equal(turn(turn(x)), x)


def test_the_classifier_trains_in_every_arm_and_the_embedding_in_none(small: None) -> None:
    base = encoder.task(0).base
    x, y = encoder.task(0).train
    for make in (*encoder.ARMS.values(), *(m.MAKE for m in ENCODERS)):  # type: ignore[attr-defined]
        graft = make(copy.deepcopy(base), 0)
        optimizer = digits.adamw(graft, 0.1)
        for _ in range(2):  # a zero factor holds back the other for one step
            optimizer.zero_grad()
            F.cross_entropy(graft.model(x), y).backward()
            optimizer.step()
        names = {name for name, _ in graft.named_parameters()}
        assert {n for n in names if n.startswith("head.")} == {
            "head.module.weight",
            "head.module.bias",
        }
        assert not any(n.startswith(("embed", "place")) for n in names)
        head = graft.tensors()["head.module.weight"]
        assert not torch.equal(head, base.head.weight)  # type: ignore[union-attr]
        with torch.no_grad():
            assert not torch.equal(graft.model(x), base(x))


# -- verdicts -----------------------------------------------------------------------------------------

E = digits.ERROR
NO = "not seen at this scale"


def at(case: str, arm: str, *others: str, metric: str = E) -> list[tuple[str, str, str]]:
    return [(case, arm, ratio(metric, other)) for other in others]


def matched(arm: str, other: str, *metrics: str) -> list[tuple[str, str, str]]:
    return [(sequence.MATCHED, arm, over(metric, other)) for metric in metrics]


DORA = [
    *at(dora.CASE, dora.DORA, dora.LORA),
    *at(dora.CASE, dora.LESS, dora.LORA),
    (dora.CASE, dora.DORA, dora.NEARER),
]
VERA = at(vera.CASE, vera.VERA, vera.WIDE, vera.EQUAL)
MOE = at(mixture.CASE, mixture.MOE, mixture.MORE, mixture.FULL)
HYDRA = at(mixture.CASE, mixture.HYDRA, mixture.MORE, mixture.MOE)
TRAINS = [name for pair in loretta.PAIRS for name in matched(*pair, FORGOT)]
FROM_W = [name for pair in wegeft.PAIRS for name in matched(*pair, FORGOT, LOST)]
TURNS = at(sequence.CASE, oft.OFT, oft.MORE, metric=LEARNT) + matched(oft.OFT, oft.MORE, LOST)
BUTTERFLY = at(sequence.CASE, boft.BOFT, oft.OFT, oft.MORE, metric=LEARNT)
IA3 = at(encoder.FEW, ia3.IA3, encoder.FULL, encoder.LORA_256)
BIASES = at(encoder.FEW, bitfit.BITFIT, encoder.FULL) + at(
    encoder.MANY, bitfit.BITFIT, encoder.LORA_640
)
NORMS = at(encoder.MANY, norm_affine.NORMS, encoder.FULL, encoder.LORA_384)
ADAPTER = at(encoder.MANY, adaptformer.ADAPTER, encoder.FULL, encoder.LORA_640)
SERIES = at(encoder.MANY, serial_adapter.HOULSBY, encoder.FULL, encoder.LORA_640)
CORES = at(encoder.MANY, loretta_adp.TRAINS, loretta_adp.WIDE, loretta_adp.EQUAL)
CASES = [
    (serial_adapter, [(1.05, SERIES[:1]), (1.2, SERIES[1:])], "seen"),
    (serial_adapter, [(1.06, SERIES[:1]), (0.9, SERIES[1:])], "partly"),
    (serial_adapter, [(1.06, SERIES)], NO),
    (loretta_adp, [(1.05, CORES[:1]), (0.9, CORES[1:])], "seen"),
    (loretta_adp, [(1.06, CORES[:1]), (0.9, CORES[1:])], "partly"),
    (loretta_adp, [(1.04, CORES[:1]), (1.0, CORES[1:])], "partly"),
    (loretta_adp, [(1.06, CORES)], NO),
    (dora, [(0.9, DORA[:2]), (-0.1, DORA[2:])], "seen"),
    (dora, [(1.1, DORA[:2]), (-0.1, DORA[2:])], "partly"),
    (dora, [(1.1, DORA)], NO),
    (vera, [(1.04, VERA[:1]), (0.9, VERA[1:])], "seen"),
    (vera, [(1.06, VERA[:1]), (0.9, VERA[1:])], "partly"),
    (vera, [(1.06, VERA)], NO),
    (moe_lora, [(0.9, MOE)], "seen"),
    (moe_lora, [(0.9, MOE[:1]), (1.1, MOE[1:])], "partly"),
    (moe_lora, [(1.1, MOE)], NO),
    (hydra_lora, [(0.9, HYDRA)], "seen"),
    (hydra_lora, [(1.1, HYDRA[:1]), (0.9, HYDRA[1:])], "partly"),
    (hydra_lora, [(1.1, HYDRA)], NO),
    (loretta, [(-1.0, TRAINS)], "seen"),
    (loretta, [(-1.0, TRAINS[:1]), (1.0, TRAINS[1:])], "partly"),
    (loretta, [(0.0, TRAINS)], NO),
    (wegeft, [(-1.0, FROM_W)], "seen"),
    (wegeft, [(-1.0, FROM_W[:1]), (1.0, FROM_W[1:])], "partly"),
    (wegeft, [(0.0, FROM_W)], NO),
    (oft, [(0.9, TURNS[:1]), (-1.0, TURNS[1:])], "seen"),
    (oft, [(0.9, TURNS[:1]), (1.0, TURNS[1:])], "partly"),
    (oft, [(1.1, TURNS)], NO),
    (boft, [(0.9, BUTTERFLY)], "seen"),
    (boft, [(0.9, BUTTERFLY[:1]), (1.1, BUTTERFLY[1:])], "partly"),
    (boft, [(1.1, BUTTERFLY)], NO),
    (ia3, [(0.9, IA3)], "seen"),
    (ia3, [(0.9, IA3[1:]), (1.0, IA3[:1])], "partly"),
    (ia3, [(1.0, IA3)], NO),
    (bitfit, [(1.05, BIASES)], "seen"),
    (bitfit, [(1.05, BIASES[:1]), (1.2, BIASES[1:])], "partly"),
    (bitfit, [(1.2, BIASES)], NO),
    (norm_affine, [(1.05, NORMS)], "seen"),
    (norm_affine, [(1.05, NORMS[1:]), (1.2, NORMS[:1])], "partly"),
    (norm_affine, [(1.2, NORMS)], NO),
    (adaptformer, [(0.9, ADAPTER)], "seen"),
    (adaptformer, [(1.0, ADAPTER[:1]), (0.9, ADAPTER[1:])], "partly"),
    (adaptformer, [(1.0, ADAPTER)], NO),
]


@pytest.mark.parametrize(("module", "changes", "word"), CASES)
def test_the_verdict_follows_the_rows(module: object, changes: list, word: str) -> None:
    rows = validate_record(module.EXPERIMENT.target).rows  # type: ignore[attr-defined]
    for value, names in changes:
        rows = put(rows, value, *names)
    assert module.judge(rows).startswith(f"{word}: ")  # type: ignore[attr-defined]

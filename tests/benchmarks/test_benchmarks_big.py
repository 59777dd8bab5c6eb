"""The benchmark of large models, in small: every part runs on both sides, agrees with the base, and is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from benchmarks.big import __main__ as command
from benchmarks.big import decoding
from benchmarks.big.model import SIZES, Meter, ours, peft, same_bits
from benchmarks.speed.llama import twin
from graftwork_runs import Row, validate_record

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = SIZES["tiny"]


def test_lifecycle_and_decoding_fill_one_record(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "big.json"
    words = ["--size", "tiny", "--tokens", "3", "--rounds", "2", "--out", str(out)]
    try:
        assert command.main([*words, "--parts", "lifecycle"]) == 0
        assert command.main([*words, "--parts", "decoding", "swap", "--backend", "eager"]) == 0
        assert command.main([*words, "--rounds", "1"]) == 2
    finally:
        torch.set_num_threads(threads)
    record = validate_record(out)
    assert all(r.value is not None for r in record.rows), [r for r in record.rows if r.note]
    [bits] = record.find(variant="graftwork", metric="weights changed by merge and unmerge")
    assert bits.value == 0
    [swaps] = record.find(case="hot swap", variant="graftwork", metric="recompilations")
    assert swaps.value == 0
    for case in ("decoding, loop", "decoding, generate", "decoding, recorded loop"):
        names = {r.variant for r in record.find(case=case, metric="token")}
        assert names == {decoding.BASE, decoding.OURS, decoding.PLAIN, decoding.PEFT}
    assert str(tmp_path) not in record.to_json() and record.command.count("python -m") == 3


def test_the_sides_decode_what_their_merged_models_say() -> None:
    made = decoding.sides(TINY, "cpu")
    ids = decoding.prompt(TINY, "cpu")
    base, grafted = made[decoding.BASE][0], made[decoding.OURS][0]
    assert base.lm_head.weight is grafted.lm_head.weight
    with torch.no_grad():
        for name in (decoding.OURS, decoding.PEFT):
            model, block = made[name]
            with block():
                wide = model(input_ids=ids).logits
                cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
                one = model(input_ids=ids[:, -1:], past_key_values=cache).logits
            torch.testing.assert_close(one[0, -1], wide[0, -1], rtol=5e-2, atol=2e-2)
        assert not torch.equal(base(input_ids=ids).logits, grafted(input_ids=ids).logits)


def test_a_step_on_a_fixed_cache_says_the_same_words() -> None:
    made = decoding.sides(TINY, "cpu")
    ids = decoding.prompt(TINY, "cpu")
    for name in (decoding.BASE, decoding.OURS):
        model, block = made[name]
        said = []

        def noted(model: Any = model, said: list[int] = said, **inputs: Any) -> Any:
            out = model(**inputs)
            said.append(int(out.logits[0, -1].argmax()))
            return out

        noted.config = model.config  # type: ignore[attr-defined]
        with torch.no_grad(), block():
            decoding.loop(noted, ids, 5)()
            decoding.recorded(noted, ids, 5)()
        assert said[:6] == said[6:] and len(said) == 12


def test_both_sides_carry_the_same_number_of_parameters() -> None:
    base = decoding.decoder(TINY, "cpu")
    one, two = twin(base), twin(base)
    graft, wrapped = ours(one), peft(two)
    count = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert count == sum(p.numel() for p in graft.parameters())
    assert isinstance(graft, gw.Graft)


def test_a_meter_notes_what_fails_and_bits_are_counted() -> None:
    meter = Meter("m", cuda=False)

    def fails() -> None:
        raise RuntimeError("out of memory\nlong story")

    assert meter.take("x", fails) is None
    assert meter.take("y", lambda: 3) == 3
    assert [(r.variant, r.value is None, r.note) for r in meter.rows] == [
        ("x", True, "RuntimeError: out of memory"), ("y", False, None),
    ]  # fmt: skip
    t = torch.zeros(4, dtype=torch.bfloat16)
    kept = {"t": t.clone()}
    assert same_bits({"t": t}, kept) == 0
    t[1], t[2] = 1.0, -0.0
    assert same_bits({"t": t}, kept) == 2


def test_a_compiled_step_is_timed_within_its_box() -> None:
    timed = {"tokens": 2, "rounds": 2, "compiled": True, "backend": "eager"}
    rows = decoding.measure(TINY, "cpu", **timed)  # type: ignore[arg-type]
    found = {(r.variant, r.metric) for r in rows}
    assert (decoding.PLAIN, "ratio to base") in found and (decoding.OURS, "token") not in found
    late = decoding.measure(TINY, "cpu", minutes=-1.0, **timed)  # type: ignore[arg-type]
    assert {r.note for r in late} == {"TimeoutError: not begun after -1 minutes"}


def test_limits_are_judged_from_the_rows() -> None:
    def ratio(case: str, variant: str, value: float, metric: str = "ratio to base") -> Row:
        return Row(case=case, variant=variant, metric=metric, value=value)

    rows = [
        ratio("decoding, loop", decoding.OURS, 1.05),
        ratio("decoding, loop", decoding.PEFT, 2.0),
        ratio("hot swap", "graftwork", 1.0, "recompilations"),
    ]
    assert command.verdict(rows).startswith("partly: 1 of 5 limits hold: decoding, loop: 1.05")
    assert command.verdict([]).startswith("not testable here")


def test_a_part_that_stops_leaves_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stops(*args: object) -> list[Row]:
        raise AttributeError("no such cache")

    monkeypatch.setattr(command.lifecycle, "measure", stops)
    out = tmp_path / "big.json"
    assert command.main(["--size", "tiny", "--parts", "lifecycle", "--out", str(out)]) == 0
    [row] = validate_record(out).rows
    assert row.value is None and row.note == "AttributeError: no such cache"

"""What the model reads and writes, its data, its loss, and generation that goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.errors import GraftError
from graftwork_llm.batches import collate
from graftwork_llm.decoding import Sampling
from graftwork_llm.tiny import tiny
from graftwork_maritime import NOTICE
from graftwork_maritime.dialogues import Dialogue, Turn, from_json
from graftwork_maritime.grammar import compose, parse
from graftwork_maritime.model import data as data_room
from graftwork_maritime.model.data import ComposedData, FolderData, split_seed
from graftwork_maritime.model.generate import Origin, generate
from graftwork_maritime.model.module import Writer
from graftwork_maritime.model.prompts import NOTHING, answer, prompt, written
from graftwork_maritime.scenario import Engine, Scenario, paper_context

SAMPLING = Sampling(0.9, 0.9, 50, 6)
ORIGIN = Origin("tiny", None, "full", 3, SAMPLING, "0.1.0")


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return list(Engine(preset="coastal", exercise=True).scenarios(5, 7))


def test_a_prompt_holds_every_fact_that_the_paper_asks_for() -> None:
    for scenario in Engine(preset="paper", exercise=True).scenarios(1, 20):
        said = prompt(scenario, "paper")
        for key, value in paper_context(scenario).items():
            assert value in (None, True) or str(value) in said, key
        assert "None" not in said and scenario.category in said


def test_a_composed_dialogue_survives_the_form_of_an_answer(scenarios: list[Scenario]) -> None:
    for scenario in scenarios:
        turns = compose(scenario, 0)
        back = written(answer(turns))
        assert [t.text for t in back.turns] == [t.text for t in turns]
        assert parse(back.turns, scenario).violations == []
    assert written("  ").turns == (Turn("ship", NOTHING),)
    other = answer([Turn("other", "Over.", "Tern"), Turn("coast", "Out.", "X")])
    assert other == "OTHER (Tern): Over.\nCOAST: Out."


def test_splits_share_no_scenario() -> None:
    seeds = {split_seed(s, part) for s in range(5) for part in data_room.SPLITS}
    assert len(seeds) == 15
    found = ComposedData(train=5, val=5, test=5, preset="distress", form="paper")
    names = [found.source(s)[i][1] for s in data_room.SPLITS for i in range(5)]
    assert len({*names}) == 15
    again = ComposedData(train=9, val=5, test=5, preset="distress", form="paper")
    assert again.source("train")[3] == found.source("train")[3]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"train": 0}, "data.train must be at least 1"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"preset": "sunday"}, "data.preset 'sunday'; choose one of"),
        ({"form": "long"}, "data.form 'long'"),
        ({"form": "paper"}, "for distress alone"),
    ],
)
def test_bad_data_settings(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(GraftError, match=reason):
        ComposedData(**settings)  # type: ignore[arg-type]


def folder(tmp_path: Path, scenarios: list[Scenario]) -> Path:
    for split in data_room.SPLITS:
        lines = [
            json.dumps(Dialogue(compose(s, 0), s.id, s.as_dict(), s.category).to_json())
            for s in scenarios[:3]
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def taken(data: data_room.DialogueData, whole_text: bool = False) -> data_room.DialogueData:
    data.take(tiny()[1], whole_text=whole_text)
    return data


def test_a_folder_gives_its_dialogues(tmp_path: Path, scenarios: list[Scenario]) -> None:
    found = taken(FolderData(str(folder(tmp_path, scenarios)), longest=9000))
    (batch,) = found.val_dataloader()
    assert len(batch.ends) == 3
    text = found.tokenizer.decode(batch.targets[batch.rows == 1][:-1])
    assert text == answer(compose(scenarios[1], 0))
    whole = taken(FolderData(str(tmp_path), longest=9000), whole_text=True).examples("val")[0, 1]
    assert len(whole.prompt) == 1 and len(whole) == len(found.examples("val")[0, 1])


def test_bad_folders(tmp_path: Path, scenarios: list[Scenario]) -> None:
    with pytest.raises(GraftError, match=r"holds no train.jsonl"):
        FolderData(str(tmp_path))
    made = taken(FolderData(str(folder(tmp_path, scenarios)), longest=50))
    with pytest.raises(GraftError, match=r"tokens, and data.longest is 50"):
        made.examples("train")[0, 0]
    (tmp_path / "train.jsonl").write_text('{"turns": [{"speaker": "ship", "text": "x"}]}\n')
    with pytest.raises(GraftError, match=r"train.jsonl: line 1: dialogue train:1 has no scenario"):
        made.examples("train")


def module(**settings: bool) -> tuple[Writer, object]:
    writer = Writer(dtype="float32", **settings)
    found = Engine(preset="distress", exercise=True)
    turns = [(s, compose(s, 0, "paper")) for s in found.scenarios(0, 2)]
    examples = [
        data_room.encode(writer.tokenizer, prompt(s), answer(t), system="s") for s, t in turns
    ]
    return writer, collate(examples, writer.tokenizer.pad_token_id, "cpu")


def test_the_loss_is_that_of_transformers() -> None:
    writer, batch = module()
    labels = torch.full_like(batch.ids, -100)
    labels.view(-1)[batch.places + 1] = batch.targets
    wanted = writer.network(input_ids=batch.ids, attention_mask=batch.mask, labels=labels).loss
    assert float(writer.loss_of(batch)) == pytest.approx(float(wanted), rel=1e-5)
    assert writer._plain_head() is not None
    each = writer.predict_step(batch, 0)
    counts = torch.bincount(batch.rows).tolist()
    whole = sum(e * c for e, c in zip(each, counts, strict=True)) / sum(counts)
    assert whole == pytest.approx(float(wanted), rel=1e-5)


def test_a_head_that_scales_or_trains_takes_the_long_way() -> None:
    writer, batch = module()
    short = float(writer.loss_of(batch))
    gw.graft(writer.network, gw.LoRA(rank=2), sites=["*.q_proj"], also_train=["lm_head"])
    assert writer._plain_head() is None
    assert float(writer.loss_of(batch).detach()) == pytest.approx(short, rel=1e-5)

    scaled, batch = module()

    class Halved(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 2

    scaled.network.lm_head.__class__ = Halved
    assert scaled._plain_head() is None


def test_checkpointing_changes_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        writer, batch = module(checkpointing=checkpointing)
        graft = gw.graft(writer.network, gw.LoRA(rank=2), seed=0)
        writer.network.train()
        writer.loss_of(batch).backward()
        found.append([p.grad for p in graft.parameters()])
    assert any(g.abs().max() > 0 for g in found[0])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_generation_goes_on_where_it_stopped(tmp_path: Path, scenarios: list[Scenario]) -> None:
    model, words = tiny()
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert generate(model, words, scenarios, whole, ORIGIN, batch=3) == 7
    text = whole.read_bytes()
    lines = text.splitlines(keepends=True)
    cut.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert generate(model, words, scenarios, cut, ORIGIN, batch=2) == 5
    assert cut.read_bytes() == text
    assert generate(model, words, scenarios, cut, ORIGIN) == 0
    for line, scenario in zip(text.splitlines(), scenarios, strict=True):
        raw = json.loads(line)
        assert raw["notice"] == NOTICE and raw["id"] == scenario.id
        assert raw["provenance"]["sampling"]["top_k"] == 50 and raw["provenance"]["tokens"] <= 6
        assert from_json(raw).scenario == scenario.as_dict() | {"help": list(scenario.help)}


def test_a_file_of_other_settings_is_left_alone(tmp_path: Path, scenarios: list[Scenario]) -> None:
    model, words = tiny()
    file = tmp_path / "d.jsonl"
    generate(model, words, scenarios[:1], file, ORIGIN)
    before = file.read_bytes()
    with pytest.raises(GraftError, match="line 1: written with another adapter, seed"):
        generate(model, words, scenarios, file, dataclasses.replace(ORIGIN, seed=4, adapter="x"))
    file.write_text("{}\n")
    with pytest.raises(GraftError, match="not a dialogue that generate wrote"):
        generate(model, words, scenarios, file, ORIGIN)
    with pytest.raises(GraftError, match="twice"):
        generate(model, words, [scenarios[0]] * 2, tmp_path / "e.jsonl", ORIGIN)
    with pytest.raises(GraftError, match="cannot be written"):
        generate(model, words, scenarios[:1], tmp_path / "none" / "e.jsonl", ORIGIN)
    assert before.count(b"\n") == 1

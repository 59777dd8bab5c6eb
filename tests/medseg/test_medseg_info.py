"""`medseg info`: facts for programs, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork.errors import GraftError
from graftwork_medseg import info
from graftwork_medseg.app import APP, main
from graftwork_medseg.networks.network import load_pretrained
from graftwork_medseg.prediction.outputs import FORMATS, MAPS

ROOT = Path(__file__).resolve().parents[2]


def test_json_is_true_to_the_code_and_to_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == APP.version() and facts["verbs"] == APP.all_verbs()
    assert facts["writes"]["masks"] == list(FORMATS)
    assert [line.split()[0] for line in facts["writes"]["maps"]] == list(MAPS)
    assert facts["checkpoints"]
    for one in facts["checkpoints"]:
        pretrained = load_pretrained(info.CHECKPOINTS / one["file"])
        assert one["classes"] == list(pretrained.classes)
        assert one["network"]["name"] == pretrained.config.name
        assert one["parameters"] == sum(t.numel() for t in pretrained.model.state_dict().values())
        assert (ROOT / one["card"]).is_file() and one["spacing"] and one["channels"]


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom graftwork_medseg.app import main\ncode = main(['info', '--json'])\n"
        "heavy = {'torch', 'numpy', 'monai', 'nibabel', 'pydicom', 'lightning', 'safetensors'}\n"
        "sys.exit(code or ','.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_text_names_each_checkpoint_and_the_help_names_info(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "mni152-sim-base.safetensors" in text and "Not a medical device" in text
    assert main(["--help"]) == 0
    assert "info" in capsys.readouterr().out
    assert main(["info", "--yaml"]) == 2
    assert "info takes --json and nothing else" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"short", b"\xff" * 20, b"\x02" + bytes(7) + b"[]"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(GraftError, match=r"x\.safetensors: not a readable"):
        info.checkpoint(file)


def test_a_checkpoint_from_elsewhere_has_no_class_names(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    found = info.checkpoint(tmp_path / "x.safetensors")
    assert (found["parameters"], found["classes"], found["spacing"]) == (6, None, None)

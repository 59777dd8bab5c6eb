"""`graftwork merge` on files equals merging in memory, for every kind of thing a graft can change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graftwork as gw
from graftwork.cli import main
from graftwork.cli.state_merge import merged
from tests.cli.cli_helpers import refused


class Zoo(nn.Module):
    """One layer of each kind that torch has, side by side; nothing here needs a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 10)
        self.bare = nn.Linear(6, 4, bias=False)
        self.embed = nn.Embedding(11, 6)
        self.conv1 = nn.Conv1d(4, 6, 3)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)
        self.grouped = nn.Conv3d(4, 6, (1, 3, 2), groups=2, dilation=2, padding_mode="circular")
        self.up1 = nn.ConvTranspose1d(6, 4, 3)
        self.up2 = nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2)
        self.up3 = nn.ConvTranspose3d(4, 4, 2)
        self.norm = nn.BatchNorm1d(6)
        self.layer_norm = nn.LayerNorm(6)
        self.head = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))


METHODS: dict[str, Callable[[], Any]] = {
    "lora": lambda: gw.LoRA(4, alpha=3.0),
    "lora-shared": lambda: gw.LoRA(3, rslora=True),  # a rank that 2 and 4 groups do not divide
    "dora": lambda: gw.DoRA(4),
    "diablo": lambda: gw.DiaBlo(blocks=2),
    "ia3": lambda: gw.IA3(),
    "ia3-input": lambda: gw.IA3("input"),
    "bitfit": lambda: gw.BitFit(new_biases=True),
}
LAYERS = ("fc", "bare", "conv1", "depthwise", "grouped", "up1", "up2", "up3")


def shaken(graft: gw.Graft) -> gw.Graft:
    """A graft with every tensor moved off its start."""
    with torch.no_grad():
        for t in graft.tensors().values():
            if t.is_floating_point():
                t.add_(0.3 * torch.rand_like(t))
    return graft


def agree(model: nn.Module, graft: gw.Graft, tmp_path: Path) -> dict[str, Tensor]:
    """Merge through files and in memory; the two must be equal to the last bit."""
    base = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(base, tmp_path / "base.safetensors")
    gw.save(graft, tmp_path / "adapter")
    out = tmp_path / "merged.safetensors"
    at = {"base": "base.safetensors", "adapter": "adapter", "out": "merged.safetensors"}
    assert main(command({k: str(tmp_path / v) for k, v in at.items()})) == 0
    graft.merge()
    expected, found = dict(model.state_dict()), load_file(out)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key
    changed = {k: v for k, v in found.items() if k not in base or not torch.equal(v, base[k])}
    assert changed
    return changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_every_layer_kind(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = Zoo().to(dtype).eval()
    served = [*LAYERS, "norm", "layer_norm"] if name == "bitfit" else [*LAYERS, "embed"]
    graft = shaken(gw.graft(model, METHODS[name](), sites=served, seed=0))
    changed = agree(model, graft, tmp_path)
    assert {k.rpartition(".")[0] for k in changed} == set(served)


def test_norms_copied_modules_and_their_statistics(tmp_path: Path) -> None:
    model = Zoo().train()
    graft = gw.graft(model, gw.NormAffine(), sites=["norm", "layer_norm"], also_train=["head"])
    model.norm(torch.randn(8, 6) + 3)
    model.head(torch.randn(8, 6) + 3)
    changed = agree(model, shaken(graft), tmp_path)
    assert {
        "norm.running_mean",
        "norm.weight",
        "head.1.num_batches_tracked",
        "head.0.weight",
    } <= set(changed)


def test_new_rows_on_every_side(tmp_path: Path) -> None:
    model = Zoo()
    rows = [
        gw.NewRows("bare", 2),
        gw.NewRows("embed", 3),
        gw.NewRows("conv1", 1),
        gw.NewRows("up1", 2),
    ]
    graft = shaken(gw.graft(model, gw.LoRA(2), sites=["fc", "conv1"], also_train=rows))
    changed = agree(model, graft, tmp_path)
    assert changed["up1.weight"].shape == (6, 6, 3) and changed["embed.weight"].shape == (14, 6)


def test_overrides_mix_methods(tmp_path: Path) -> None:
    model = Zoo()
    mixed = {"depthwise": gw.DiaBlo(2), "fc": {"rank": 1}}
    agree(model, shaken(gw.graft(model, gw.LoRA(4), sites=LAYERS, overrides=mixed)), tmp_path)


def test_packed_attention_weights_and_a_root_layer(tmp_path: Path) -> None:
    attention = nn.Sequential(nn.MultiheadAttention(8, 2))
    sites = ["0.in_proj_weight", "0.out_proj"]
    changed = agree(attention, shaken(gw.graft(attention, gw.DoRA(2), sites=sites)), tmp_path)
    assert set(changed) == {"0.in_proj_weight", "0.out_proj.weight"}
    root = nn.Linear(4, 3)
    (tmp_path / "root").mkdir()
    assert set(agree(root, shaken(gw.graft(root, gw.IA3())), tmp_path / "root")) == {
        "weight",
        "bias",
    }


def test_transposed_linear(tmp_path: Path) -> None:
    Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = nn.Sequential(Conv1D(6, 4), nn.Identity())
    changed = agree(
        model, shaken(gw.graft(model, gw.DoRA(2), also_train=gw.NewRows("0", 2))), tmp_path
    )
    assert changed["0.weight"].shape == (4, 8)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "base.safetensors")
    gw.save(shaken(gw.graft(model, gw.LoRA(2), sites=["0", "2"])), tmp_path / "adapter")
    names = {"base": "base.safetensors", "adapter": "adapter", "out": "out.safetensors"}
    return {k: str(tmp_path / v) for k, v in names.items()}


def command(files: dict[str, str], *more: str) -> list[str]:
    return ["merge", *(w for k, v in files.items() for w in (f"--{k}", v)), *more]


def test_an_existing_file_needs_force(files: dict[str, str], capsys: Any) -> None:
    Path(files["out"]).write_bytes(b"mine")
    assert "exists already" in refused(capsys, *command(files))
    assert Path(files["out"]).read_bytes() == b"mine"
    assert main(command(files, "--force")) == 0
    assert len(load_file(files["out"])) == 4


def test_the_base_is_never_the_target(files: dict[str, str], capsys: Any) -> None:
    before = Path(files["base"]).read_bytes()
    assert "is an input" in refused(capsys, *command({**files, "out": files["base"]}, "--force"))
    assert Path(files["base"]).read_bytes() == before


def test_another_base_is_refused_and_can_be_allowed(files: dict[str, str], capsys: Any) -> None:
    other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    save_file(dict(other.state_dict()), files["base"])
    assert "0.weight: other values" in refused(capsys, *command(files))
    assert not Path(files["out"]).exists()
    assert main(command(files, "--allow-other-base")) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {f"net.{k}": v for k, v in s.items()}, "net.0.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "2.weight"}, "no tensor 2.weight"),
        (lambda s: {**s, "0.weight": torch.zeros(5, 3)}, "shape"),
        (lambda s: {**s, "0.weight": torch.zeros(5, 4, 3)}, "shape"),
    ],
    ids=["prefix", "missing", "narrow", "convolution"],
)
@pytest.mark.parametrize("allow", [(), ("--allow-other-base",)])
def test_a_base_of_another_build(
    files: dict[str, str], change: Any, told: str, allow: tuple[str, ...], capsys: Any
) -> None:
    save_file(change(load_file(files["base"])), files["base"])
    assert told in refused(capsys, *command(files, *allow))
    assert not Path(files["out"]).exists()


def test_bad_files(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    assert "no such file" in refused(
        capsys, *command({**files, "base": str(tmp_path / "no.safetensors")})
    )
    assert "pickled" in refused(capsys, *command({**files, "base": str(tmp_path / "model.pt")}))
    assert ".safetensors" in refused(capsys, *command({**files, "out": str(tmp_path / "out.bin")}))
    assert "no folder" in refused(
        capsys, *command({**files, "out": str(tmp_path / "a/out.safetensors")})
    )
    assert "no such folder" in refused(
        capsys, *command({**files, "adapter": str(tmp_path / "none")})
    )
    Path(files["base"]).write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    assert "no sound safetensors file" in refused(capsys, *command(files))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base.safetensors"]


def test_a_full_disk_leaves_nothing(files: dict[str, str], monkeypatch: Any, capsys: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graftwork.cli.files.os.fsync", full)
    assert "No space left" in refused(capsys, *command(files))
    assert {p.name for p in Path(files["out"]).parent.iterdir()} == {"adapter", "base.safetensors"}


def test_activation_methods_are_refused(files: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    save_file({k: v.clone() for k, v in model.state_dict().items()}, files["base"])
    gw.save(gw.graft(model, gw.AdaptFormer(2), sites=["0"]), tmp_path / "branch")
    assert "changes activations" in refused(
        capsys, *command({**files, "adapter": str(tmp_path / "branch")})
    )


def test_left_over_missing_and_infinite_tensors_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5))
    graft = gw.graft(model, gw.LoRA(2))
    base, spec, tensors = copy.deepcopy(model.state_dict()), graft.spec(), graft.tensors()
    with pytest.raises(gw.GraftError, match="belong to none"):
        merged(base, spec, {**tensors, "1.A": torch.zeros(1)})
    with pytest.raises(gw.GraftError, match=r"0\.A: missing"):
        merged(base, spec, {"0.B": tensors["0.B"]})
    with pytest.raises(gw.GraftError, match="NaN or infinite"):
        merged(base, spec, {**tensors, "0.A": tensors["0.A"] / 0})
    huge = {k: torch.full_like(t, 3e30) for k, t in tensors.items()}
    with pytest.raises(gw.GraftError, match="NaN or infinite"):
        merged(base, spec, huge)


def test_rows_that_could_lie_either_way_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    graft = gw.graft(model, gw.BitFit(), also_train=gw.NewRows("0", 4))
    with pytest.raises(gw.GraftError, match="rows or its columns"):
        merged(copy.deepcopy(model.state_dict()), graft.spec(), graft.tensors())

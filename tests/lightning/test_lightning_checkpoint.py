"""Checkpoint files: what is in them, what is not, and what happens to bad ones."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections import Counter, OrderedDict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import safe_open
from same import differences
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import graftwork as gw
from graftwork.errors import GraftError
from graftwork.lightning import checkpoint_io
from graftwork.lightning.checkpoint_io import GraftCheckpointIO, load_checkpoint
from graftwork.lightning.graft_state import optimizer_by_name, optimizer_by_number, parameter_names
from graftwork.lightning.resume import ExactResume, restore

DATA = TensorDataset(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)))


class Big(LightningModule):
    """A base of half a megabyte and a graft of two kilobytes."""

    def __init__(self, graft: bool = True, rank: int = 1, sites: str = "0") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 64))
        if graft:
            gw.graft(self.network, gw.LoRA(rank=rank), sites=[sites])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network(batch[0]).square().mean()

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.1)


def trained(
    folder: Path, module: LightningModule | None = None, **options: Any
) -> tuple[Trainer, Path]:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(options.get("checkpoints")),
        callbacks=[ExactResume(0), *options.pop("checkpoints", [])],
        default_root_dir=folder,
    )
    trainer.fit(module or Big(), DataLoader(DATA, batch_size=4), **options)
    path = folder / "x.ckpt"
    trainer.save_checkpoint(path)
    return trainer, path


def test_a_checkpoint_holds_the_graft_and_never_the_base(tmp_path: Path) -> None:
    trainer, path = trained(tmp_path)
    module = trainer.lightning_module
    base = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    assert base > 500_000 and path.stat().st_size < 40_000
    with safe_open(path, "pt") as file:
        assert max(file.get_tensor(k).numel() for k in list(file.keys())) < 6000
    state = load_checkpoint(path)
    assert state["state_dict"] == {} and state["beside"] == {}
    (graft,) = state["grafts"]
    assert differences(dict(gw.get(module.network).tensors()), graft["tensors"]) == []
    names = state["optimizer_states"][0]["state"]
    assert sorted(names) == ["network/default/0.A", "network/default/0.B"]


def test_a_fresh_base_grafted_or_not_takes_it_up(tmp_path: Path) -> None:
    trainer, path = trained(tmp_path)
    x = DATA.tensors[0]
    expected = trainer.lightning_module.network(x)
    for graft in (True, False):
        module = restore(Big(graft=graft), path)
        assert torch.equal(module.network(x), expected)
        with gw.get(module.network).off():
            assert torch.equal(module.network(x), Big(graft=False).network(x))
    assert not torch.equal(Big(graft=False).network(x), expected)


def test_lightnings_own_checkpoints_are_stripped_too(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "own", save_weights_only=True, every_n_epochs=1)
    trained(tmp_path, checkpoints=[keep])
    (path,) = (tmp_path / "own").glob("*.ckpt")
    assert path.stat().st_size < 20_000
    assert restore(Big(graft=False), path) is not None
    with pytest.raises(GraftError, match="weights only"):
        trained(tmp_path, ckpt_path=path)
    # measuring with one is fine, and takes its weights
    module = Big()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[ExactResume(0)]
    )
    trainer.predict(module, DataLoader(DATA, batch_size=8), ckpt_path=path)
    assert differences(restore(Big(), path).network.state_dict(), module.network.state_dict()) == []
    assert gw.get(module.network).tensors()["0.B"].abs().max() > 0


def test_full_training_without_a_graft_still_round_trips(tmp_path: Path) -> None:
    trainer, path = trained(tmp_path, Big(graft=False))
    module = restore(Big(graft=False), path)
    assert differences(dict(trainer.lightning_module.state_dict()), dict(module.state_dict())) == []


def test_parameters_beside_the_graft_are_saved(tmp_path: Path) -> None:
    module = Big()
    module.scale = nn.Parameter(torch.tensor(2.5))
    io = GraftCheckpointIO(module)
    io.save_checkpoint({"state_dict": module.state_dict()}, tmp_path / "a.ckpt")
    other = Big()
    other.scale = nn.Parameter(torch.zeros(()))
    assert restore(other, tmp_path / "a.ckpt").scale.item() == 2.5
    with pytest.raises(GraftError, match=r"beside does not fit.*\n.*scale: not in the model"):
        restore(Big(), tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Big(rank=2), "differs in method"),
        (lambda: Big(sites="2"), "differs in sites"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "grafts 'network', which the model does not have"),
    ],
)
def test_a_checkpoint_of_another_graft_is_refused(
    tmp_path: Path, module: Any, message: str
) -> None:
    _, path = trained(tmp_path)
    with pytest.raises(GraftError, match=message):
        restore(module(), path)


def test_optimizer_state_follows_names_not_numbers() -> None:
    module = Big()
    a, b = (p for p in module.parameters() if p.requires_grad)
    first, second = torch.optim.AdamW([a, b]), torch.optim.AdamW([b, a])
    module.training_step(DATA.tensors, 0).backward()
    first.step()
    names = parameter_names(module)
    saved = optimizer_by_name(first.state_dict(), first, names)
    second.load_state_dict(optimizer_by_number(saved, second, names))
    for p in (a, b):
        assert torch.equal(first.state[p]["exp_avg"], second.state[p]["exp_avg"])
    with pytest.raises(GraftError, match="other parameters"):
        optimizer_by_number(saved, torch.optim.AdamW([a]), names)
    with pytest.raises(GraftError, match="no parameter of the module"):
        optimizer_by_name({}, torch.optim.AdamW([nn.Parameter(torch.ones(1))]), names)


def test_every_plain_value_comes_back_bit_for_bit(tmp_path: Path) -> None:
    value = {
        "floats": [0.1, float("inf"), float("-inf"), float("nan"), -0.0, 5e-324],
        "nested": {
            "tuple": (1, (True, None)),
            "set": {3, 1},
            7: "number key",
            ("a", 2): "tuple key",
        },
        "counter": Counter({4: 2}),
        "words": OrderedDict(a="ä", b="!tensor"),
        "odd": {"!tensor": "a key like ours"},
        "big": 2**80,
        "tensors": [
            torch.randn(2, 3).bfloat16(),
            torch.tensor(3),
            torch.tensor([True]),
            torch.ones(3, 4).T,
        ],
        "shared": [(t := torch.randn(4)), t, t[:2]],
        "empty": torch.zeros(0, 3),
        "numpy": [np.arange(6, dtype=np.uint32).reshape(2, 3), np.float64(0.1), np.bool_(True)],
    }
    io = GraftCheckpointIO()
    io.save_checkpoint(value, tmp_path / "v.ckpt")
    back = load_checkpoint(tmp_path / "v.ckpt")
    numpy, again = value.pop("numpy"), back.pop("numpy")
    assert all(
        type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(numpy, again, strict=True)
    )
    value["words"] = dict(value["words"])
    assert differences(value, back) == []
    assert str(back["floats"][4]) == "-0.0"
    io.save_checkpoint({"t": timedelta(seconds=90)}, tmp_path / "t.ckpt")
    assert load_checkpoint(tmp_path / "t.ckpt") == {"t": timedelta(seconds=90)}


def test_what_only_pickle_could_store_is_refused_by_place(tmp_path: Path) -> None:
    with pytest.raises(
        GraftError, match=r"callbacks\.mine\.model is a torch\.nn\.modules\.linear\.Linear"
    ):
        GraftCheckpointIO().save_checkpoint(
            {"callbacks": {"mine": {"model": nn.Linear(1, 1)}}}, tmp_path / "p.ckpt"
        )
    with pytest.raises(GraftError, match="array of object"):
        GraftCheckpointIO().save_checkpoint({"a": np.array([{}])}, tmp_path / "p.ckpt")
    assert not list(tmp_path.iterdir())


def _pickled(path: Path) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "pwned"),)

    torch.save({"state_dict": {}, "x": 1}, path)
    path.write_bytes(path.read_bytes() + pickle.dumps(Boom()))


def _huge_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def _deep(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {}, path, metadata={"format": checkpoint_io.FORMAT, "plain": "[" * 100_000 + "]" * 100_000}
    )


def _foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, path)


def _cut(path: Path) -> None:
    GraftCheckpointIO().save_checkpoint({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def _no_tensor(path: Path) -> None:
    from safetensors.torch import save_file

    plain = json.dumps({"a": {"!tensor": "a"}})
    save_file({}, path, metadata={"format": checkpoint_io.FORMAT, "plain": plain})


@pytest.mark.parametrize(
    "make",
    [
        _pickled,
        _huge_header,
        _deep,
        _foreign,
        _cut,
        _no_tensor,
        lambda p: None,
        lambda p: p.write_bytes(b""),
    ],
)
def test_bad_files_give_one_clear_message(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "bad.ckpt"
    make(path)
    with pytest.raises(GraftError, match=r"checkpoint .*bad\.ckpt: "):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    io = GraftCheckpointIO()
    io.save_checkpoint({"a": 1}, path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(GraftError, match=r"cannot write .*a\.ckpt: No space left"):
        io.save_checkpoint({"a": 2}, path)
    monkeypatch.undo()
    assert load_checkpoint(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_merged_graft_is_not_checkpointed(tmp_path: Path) -> None:
    module = Big()
    gw.merge(module.network)
    with pytest.raises(GraftError, match="merged into the base"):
        GraftCheckpointIO(module).save_checkpoint({"state_dict": {}}, tmp_path / "m.ckpt")


def test_another_seed_is_refused(tmp_path: Path) -> None:
    trainer, path = trained(tmp_path)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[ExactResume(1)], default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(GraftError, match="seed was 0, now it is 1"):
        trainer.fit(Big(), DataLoader(DATA, batch_size=4), ckpt_path=path)

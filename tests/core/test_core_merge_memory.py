"""Merging is all or nothing: where the old tensors wait, what it costs, and what peft does."""

from __future__ import annotations

import copy
import gc
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from tests.core.core_helpers import base_bits, net, picture, stir, tokens
from tests.core.test_core_merge import DTYPES, KEEPS, Tied


@pytest.mark.parametrize("keep", [*KEEPS, False])
def test_one_layer_that_overflows_refuses_all(keep: Any) -> None:
    model = net(dtype=torch.float16)
    graft = stir(gw.graft(model, gw.LoRA(2)))
    with torch.no_grad():
        gw.get(model).tensors()["head.B"].fill_(60000.0)
    before, files = picture(model), parked()
    with pytest.raises(gw.GraftError, match=r"head\.weight would hold NaN or infinite"):
        graft.merge(keep)
    assert picture(model) == before and parked() == files
    assert not graft.merged
    model(tokens())


def parked() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("graftwork-*.safetensors"))


def test_a_full_disk_leaves_nothing_half_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    import graftwork.parking

    real, calls = graftwork.parking.save_file, []

    def fails(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(*args)

    monkeypatch.setattr(graftwork.parking, "save_file", fails)
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    before, out, files = picture(model), model(tokens()), parked()
    with pytest.raises(gw.GraftError, match="No space left on device"):
        graft.merge("disk")
    gc.collect()
    assert picture(model) == before and parked() == files
    assert torch.equal(model(tokens()), out)
    graft.merge("disk")
    graft.unmerge()
    assert picture(model) == before


def test_a_temporary_folder_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    before = picture(model)
    with pytest.raises(gw.GraftError, match="keep='cpu'"):
        graft.merge("disk")
    assert picture(model) == before


def test_files_on_disk_go_when_nobody_needs_them() -> None:
    files = parked()
    model = net()
    graft = stir(gw.graft(model, gw.LoRA(2)))
    before = base_bits(model)
    graft.merge("disk")
    assert len(parked() - files) == 4
    twin, thawed = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    graft.unmerge()
    assert base_bits(model) == before
    gc.collect()
    for other in (twin, thawed):  # each copy can unmerge for itself
        gw.get(other).unmerge()
        assert base_bits(other) == before
        assert torch.equal(other(tokens()), model(tokens()))
    gc.collect()
    assert parked() == files
    graft.merge("disk")
    del model, graft
    gc.collect()
    assert parked() == files


@pytest.mark.parametrize("keep", ["device", "cpu"])
def test_a_merged_model_copies(keep: str) -> None:
    model = Tied()
    graft = stir(gw.graft(model, gw.LoRA(2), sites="lm_head"))
    out = model(torch.arange(9))
    graft.merge(keep)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        gw.get(twin).unmerge()
        assert twin.lm_head.weight is twin.embed.weight
        assert torch.equal(twin(torch.arange(9)), out)


def storages(model: nn.Module) -> dict[int, int]:
    """Bytes by storage of every tensor that is reachable from a model, the ledger's included."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def walk(item: Any) -> None:
        if id(item) in seen:
            return
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            for v in item.values():
                walk(v)
        elif isinstance(item, list | tuple):
            for v in item:
                walk(v)
        elif hasattr(item, "__dict__") and not isinstance(item, type):
            walk(vars(item))

    walk(model)
    return found


@pytest.mark.parametrize(("keep", "times"), [("device", 1), ("cpu", 1), ("disk", 0), (False, 0)])
def test_extra_memory_is_the_adapted_weights_once_at_most(keep: Any, times: int) -> None:
    model = nn.Sequential(*[nn.Linear(32, 32) for _ in range(8)])
    graft = stir(gw.graft(model, gw.LoRA(2), sites=["0", "1", "2"]))
    before = sum(storages(model).values())
    graft.merge(keep)
    adapted = 3 * 32 * 32 * 4
    assert sum(storages(model).values()) - before == times * adapted
    if keep is not False:
        graft.unmerge()
        assert sum(storages(model).values()) == before


def test_merging_works_on_one_layer_at_a_time_unless_it_keeps_on_the_device() -> None:
    """The most memory that is alive at any moment of a merge, in layers, from torch's allocator."""
    from torch.profiler import ProfilerActivity, profile

    size, layers = 256, 12

    def peak(keep: Any) -> float:
        # the model is made inside too, so that its tensors' end is seen
        with profile(
            activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
        ) as watched:
            model = nn.Sequential(*[nn.Linear(size, size, bias=False) for _ in range(layers)])
            gw.graft(model, gw.LoRA(1)).merge(keep)
        highest = alive = 0
        for event in watched.profiler.kineto_results.events():  # type: ignore[union-attr]
            if event.name() == "[memory]":
                alive += event.nbytes()
                highest = max(highest, alive)
        return highest / (4 * size * size) - layers

    assert layers <= peak("device") <= layers + 5  # a layer's own work takes a few of its size
    assert 1 <= peak(False) <= 6
    assert 1 <= peak("disk") <= 6


# -- the same, done by peft --------------------------------------------------------------------


def lines(dtype: torch.dtype) -> nn.Module:
    """33,280 entries: two linear layers and a norm between them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128), nn.Linear(128, 128))
    return model.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_peft_changes_the_base_by_merging_and_unmerging(dtype: torch.dtype) -> None:
    import peft

    start = list(lines(dtype).parameters())
    assert sum(p.numel() for p in start) == 33_280
    ours = lines(dtype)
    graft = stir(gw.graft(ours, gw.LoRA(8)), 0.05)
    graft.merge()
    graft.unmerge()
    mine = [p for n, p in ours.named_parameters() if "_graft" not in n]
    assert all(torch.equal(a, b) for a, b in zip(mine, start, strict=True))

    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["0", "2"])
    wrapped = peft.get_peft_model(lines(dtype), config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "lora_" in name:
                p.add_(0.05 * torch.randn(p.shape, generator=generator).to(p.dtype))
    wrapped.merge_adapter()
    wrapped.unmerge_adapter()
    theirs = [p for n, p in wrapped.named_parameters() if "lora_" not in n]
    changed = sum(int((a != b).sum()) for a, b in zip(theirs, start, strict=True))
    print(f"{dtype}: peft {peft.__version__} changed {changed:,} of 33,280 entries; graftwork 0")
    assert changed > 0, "peft restores every bit now: say so in the documents"

"""OFT and BOFT to Hugging Face PEFT and back, against what the installed peft computes."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import graftwork as gw
from graftwork.store import from_peft, to_peft
from graftwork.store.hf_config import HARMLESS, REFUSED, USED
from tests.store.peft_cases import NETS, error


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft on its CUDA kernel, its model cards
        yield


@pytest.fixture
def butterflies(monkeypatch: pytest.MonkeyPatch, peft: Any) -> None:
    """PEFT's factors without its CUDA kernel, which does nothing but lay out the blocks."""
    from peft.tuners.boft import layer

    class Blocks:
        @staticmethod
        def apply(r: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.block_diag(*blocks) for blocks in r])

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(layer, "FastBlockDiag", Blocks)


def wide_net(net: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if net == "wide":
        layers = {"a": nn.Linear(8, 4), "act": nn.Tanh(), "b": nn.Linear(4, 3, bias=False)}
        model = nn.Sequential()
        for name, layer in layers.items():
            model.add_module(name, layer)
        return model.double().eval(), torch.randn(2, 8, dtype=torch.float64)
    model, x = NETS[net]()
    return model.double().eval(), x.double()


def moved(g: gw.Graft, size: float = 0.4) -> None:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in g.parameters():
            p.add_((size * torch.randn(p.shape, generator=rng, dtype=torch.float64)).to(p.dtype))


CASES = {
    "oft": ("linear", ["a"], gw.OFT(3)),
    "oft two": ("wide", ["a", "b"], gw.OFT(4)),
    "oft shared": ("linear", ["a"], gw.OFT(2, shared=True)),
    "boft": ("wide", ["a", "b"], gw.BOFT(4, butterflies=1, gain=True)),
    "boft plain": ("linear", ["a"], gw.BOFT(2, butterflies=1)),
    "boft factors": ("wide", ["a"], gw.BOFT(2, butterflies=3, gain=True)),
    "boft factors two": ("wide", ["a", "b"], gw.BOFT(2, butterflies=2)),
    "boft shared": ("wide", ["a"], gw.BOFT(4, butterflies=2, shared=True)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_trip_through_the_installed_peft(
    case: str, dtype: torch.dtype, peft: Any, butterflies: None, tmp_path: Path
) -> None:
    net, sites, method = CASES[case]
    model, x = wide_net(net)
    model, x = model.to(dtype), x.to(dtype)
    base, before = copy.deepcopy(model), model(x)
    g = gw.graft(model, method, sites=sites)
    moved(g)
    ours = model(x).detach()
    assert error(ours, before) > 1e-2
    to_peft(g, tmp_path / "out")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "out").to(dtype).eval()
    limit = 1e-10 if dtype == torch.float64 else 1e-5
    with torch.no_grad():
        assert error(loaded(x), ours) < limit
    again = copy.deepcopy(base)
    back = from_peft(again, tmp_path / "out")
    assert error(again(x), ours) < 1e-12 if dtype == torch.float64 else 1e-6
    assert back.tensors()["a.Q"].shape[-1] == g.tensors()["a.Q"].shape[-1]
    # what peft writes is read as well
    loaded.save_pretrained(tmp_path / "theirs")
    theirs = copy.deepcopy(base)
    from_peft(theirs, tmp_path / "theirs")
    assert error(theirs(x), ours) < limit
    if method.id == "oft":
        assert back.method == method
        assert all(torch.equal(t, back.tensors()[n]) for n, t in g.tensors().items())


def test_numbers_that_peft_trained_freely_are_antisymmetrised(peft: Any, tmp_path: Path) -> None:
    model, x = wide_net("linear")
    config = peft.BOFTConfig(target_modules=["a"], boft_block_size=2, init_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).double().eval()
    with torch.no_grad():
        y = theirs(x)
    theirs.save_pretrained(tmp_path / "a")
    raw = load_file(tmp_path / "a" / "adapter_model.safetensors")["base_model.model.a.boft_R"]
    assert bool((raw + raw.mT).any())  # free numbers, indeed
    before = model(x)
    from_peft(model, tmp_path / "a")
    assert error(model(x), y) < 1e-10 < error(before, y)


@pytest.mark.parametrize("kind", ["OFT", "BOFT"])
def test_every_field_of_the_installed_configs_is_classed(kind: str, peft: Any) -> None:
    cls = {"OFT": peft.OFTConfig, "BOFT": peft.BOFTConfig}[kind]
    names = {f.name for f in dataclasses.fields(cls)}
    classed = [USED[kind], HARMLESS[kind], set(REFUSED[kind])]
    assert sum(map(len, classed)) == len(set().union(*classed))  # in one class each
    assert names - set().union(*classed) == set()
    for field, value in REFUSED[kind].items():
        assert getattr(cls(), field) == value


def written(tmp_path: Path, method: gw.OFT, sites: list[str]) -> tuple[nn.Module, Path]:
    model, _ = wide_net("wide")
    base = copy.deepcopy(model)
    g = gw.graft(model, method, sites=sites)
    moved(g)
    return base, to_peft(g, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_cayley_neumann": True}, "use_cayley_neumann: this adapter's rotations are a series"),
        ({"use_cayley_neumann": None}, "use_cayley_neumann"),
        ({"coft": True}, "coft = 'True': changes the function"),
        ({"bias": "all"}, "trains base biases"),
        ({"block_share": 1}, "block_share: must be true or false"),
        ({"something": 1}, "unknown field"),
    ],
)
def test_configs_that_are_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    base, folder = written(tmp_path, gw.OFT(4), ["a"])
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(gw.GraftError, match=words):
        from_peft(base, folder)


@pytest.mark.parametrize(
    ("method", "tensors", "words"),
    [
        (gw.OFT(4), {"a.oft_R.weight": torch.zeros(2, 5)}, "is no set of blocks"),
        (gw.OFT(4), {"a.oft_R.weight": torch.zeros(3, 6)}, "shape"),
        (gw.OFT(4), {"a.oft_R.weight": torch.full((2, 6), torch.nan)}, "NaN"),
        (gw.BOFT(4), {"a.boft_R": torch.zeros(1, 2, 3, 3)}, "is no set of even blocks"),
        (gw.BOFT(4), {"a.boft_R": torch.zeros(2, 4, 4)}, "is no set of even blocks"),
        (gw.BOFT(4), {"a.boft_s": torch.zeros(4)}, "is no column"),
        (gw.BOFT(4), {"a.boft_s": torch.zeros(5, 1)}, "shape"),
        (gw.BOFT(4), {"a.boft_s": None}, "missing or unknown: boft_s"),
    ],
)
def test_tensors_that_are_refused(
    method: gw.OFT, tensors: dict[str, Any], words: str, tmp_path: Path
) -> None:
    base, folder = written(tmp_path, method, ["a"])
    file = folder / "adapter_model.safetensors"
    kept = load_file(file)
    for name, t in tensors.items():
        if t is None:
            del kept[f"base_model.model.{name}"]
        else:
            kept[f"base_model.model.{name}"] = t
    save_file(kept, file)
    before = {n: t.clone() for n, t in base.state_dict().items()}
    with pytest.raises(gw.GraftError, match=words):
        from_peft(base, folder)
    assert not gw.grafts(base) and all(
        torch.equal(t, before[n]) for n, t in base.state_dict().items()
    )


def test_grafts_that_peft_cannot_express(tmp_path: Path) -> None:
    wide = lambda: wide_net("wide")[0]  # noqa: E731
    gpt = lambda: wide_net("gpt")[0]  # noqa: E731
    conv = lambda: nn.Sequential(nn.Conv2d(4, 4, 3))  # noqa: E731
    for make, method, options, words in (
        (conv, gw.OFT(2), {"sites": ["0"]}, "PEFT's OFT on a conv2d is another function"),
        (gpt, gw.BOFT(2, butterflies=1), {"sites": ["a"]}, "PEFT's BOFT on a transposed_linear"),
        (wide, gw.OFT(4, side="output"), {"sites": ["a"]}, "turns the input, not the output"),
        (wide, gw.OFT(4), {"overrides": {"b": {"block": 2}}}, "one size of blocks per adapter"),
    ):
        g = gw.graft(make(), method, **options)
        with pytest.raises(gw.GraftError, match=words):
            to_peft(g, tmp_path / "out")

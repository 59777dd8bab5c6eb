"""A grafted model stays the module it was, and removal gives every bit of it back."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

import graftwork as gw
from tests.core.core_helpers import Net, base_bits, close, net, picture, stir, tokens, train

GRAFTS: dict[str, dict[str, Any]] = {
    "lora": {"method": gw.LoRA(2)},
    "lora everywhere": {"method": gw.LoRA(2, dropout=0.5), "sites": "*"},
    "dora": {"method": gw.DoRA(2)},
    "diablo": {"method": gw.DiaBlo(4)},
    "ia3": {"method": gw.IA3()},
    "bitfit": {"method": gw.BitFit()},
    "norms": {"method": gw.NormAffine()},
    "adaptformer": {"method": gw.AdaptFormer(4)},
    "with copies": {"method": gw.LoRA(2), "also_train": ["stem", "norm"]},
    "with rows": {"method": gw.LoRA(2), "also_train": [gw.NewRows("head", 2)]},
    "mixed": {"method": gw.LoRA(2), "overrides": {"head": gw.BitFit()}},
}


def grafted(which: str, dtype: torch.dtype = torch.float32) -> tuple[Net, gw.Graft]:
    model = net(dtype=dtype)
    graft = gw.graft(model, **GRAFTS[which])
    return model, graft


@pytest.mark.parametrize("which", GRAFTS)
class TestEveryGraft:
    def test_start_equals_the_base(self, which: str) -> None:
        base = net()(tokens())
        model, _ = grafted(which)
        close(model(tokens())[:, :3], base, 1e-6 if which == "dora" else 0.0)

    def test_keys_classes_and_weights_stay(self, which: str) -> None:
        plain = net()
        model, graft = grafted(which)
        stir(graft)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert base_bits(model) == base_bits(plain)
        for (name, module), (_, before) in zip(
            [(n, m) for n, m in model.named_modules() if "_graft" not in n],
            plain.named_modules(),
            strict=True,
        ):
            assert isinstance(module, type(before)), name
            assert isinstance(module, nn.Module)
        for name, module in model.named_modules():
            if "_graft" not in name and "weight" in module._parameters:
                assert module.weight is module._parameters["weight"]
                assert module.weight is None or type(module.weight) is nn.Parameter

    def test_a_base_checkpoint_loads_strictly(self, which: str) -> None:
        other = net(seed=3)
        model, graft = grafted(which)
        stir(graft)
        mine = {k: v.clone() for k, v in graft.tensors().items()}
        result = model.load_state_dict(other.state_dict(), strict=True)
        assert not result.missing_keys and not result.unexpected_keys
        assert base_bits(model) == base_bits(other)
        assert all(torch.equal(v, mine[k]) for k, v in graft.tensors().items())
        with graft.off():
            assert torch.equal(model(tokens()), other(tokens()))
        short = dict(other.state_dict())
        del short["head.weight"]
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "head.weight"\. '):
            model.load_state_dict(short)
        with pytest.raises(RuntimeError, match="Unexpected"):
            model.load_state_dict({**other.state_dict(), "head.extra": torch.ones(1)})

    def test_off_is_the_base_bit_for_bit_after_training(self, which: str) -> None:
        base = net()(tokens())
        model, graft = grafted(which)
        before = base_bits(model)
        train(model, graft, lambda: model(tokens()))
        assert base_bits(model) == before
        model.eval()
        with graft.off() as same:
            assert same is model
            assert torch.equal(model(tokens()), base)
        assert not torch.equal(model(tokens())[:, :3], base)

    def test_removal_gives_back_everything(self, which: str) -> None:
        model = net()
        model.norm.register_forward_hook(lambda m, i, o: None)
        model.head.bias.requires_grad_(False)
        model.train()
        model.layer1.eval()
        before = picture(model)
        graft = gw.graft(model, **GRAFTS[which])
        train(model, graft, lambda: model(tokens()))
        model.train()
        model.layer1.eval()
        graft.remove()
        assert picture(model) == before
        assert gw.grafts(model) == {}

    def test_copies_are_independent_and_findable(self, which: str) -> None:
        model, graft = grafted(which)
        stir(graft)
        out = model(tokens())
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twins = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(buffer, weights_only=False),
        ]
        for twin in twins:
            assert type(twin) is Net or isinstance(twin, Net)
            assert torch.equal(twin(tokens()), out)
            mine = gw.get(twin)
            assert mine.model is twin
            stir(mine, seed=9)
            assert not torch.equal(twin(tokens()), out)
            assert torch.equal(model(tokens()), out)
            mine.remove()
            assert torch.equal(twin(tokens()), net()(tokens()))
        assert torch.equal(model(tokens()), out)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_moving_to_another_dtype_moves_both(self, which: str, dtype: torch.dtype) -> None:
        model, graft = grafted(which)
        stir(graft)
        out = model(tokens())
        model.to(dtype)
        assert {t.dtype for t in graft.tensors().values() if t.is_floating_point()} == {dtype}
        close(model(tokens()).float(), out, 1e-5 if dtype == torch.float64 else 0.1)
        model.half()
        assert model.head.weight.dtype == torch.float16
        graft.remove()
        assert {p.dtype for p in model.parameters()} == {torch.float16}

    def test_train_and_eval_reach_everything_but_frozen_norms(self, which: str) -> None:
        model, graft = grafted(which)
        for mode in (True, False):
            model.train(mode)
            assert model.training == model.head.training == mode
            for _, state in graft.states():
                assert {m.training for m in state.modules()} == {mode}
        assert not model.stem[1].training

    def test_an_optimizer_of_all_parameters_moves_the_graft_alone(self, which: str) -> None:
        model, graft = grafted(which)
        before = base_bits(model)
        start = {k: v.clone() for k, v in graft.tensors().items()}
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {id(p) for p in trained} == {id(p) for p in graft.parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        model(tokens()).square().mean().backward()
        optimizer.step()
        assert base_bits(model) == before
        assert any(not torch.equal(v, start[k]) for k, v in graft.tensors().items())

    def test_functional_call(self, which: str) -> None:
        model, graft = grafted(which)
        stir(graft)
        named = dict(model.named_parameters())
        assert torch.equal(functional_call(model, named, (tokens(),)), model(tokens()))
        zero = {n: p * 2 for n, p in named.items()}
        assert not torch.equal(functional_call(model, zero, (tokens(),)), model(tokens()))


def test_a_part_of_a_grafted_model_copies_and_runs() -> None:
    model, graft = grafted("lora")
    stir(graft)
    x = torch.randn(3, 8)
    shallow = copy.copy(model.head)
    assert isinstance(shallow, nn.Linear)
    assert torch.equal(shallow(x), model.head(x))
    part = copy.deepcopy(model.layer1)
    assert torch.equal(part(x), model.layer1(x))
    del model, graft
    assert part(x).shape == (3, 8)


def test_hooks_on_a_site_run_once_and_see_the_grafted_output() -> None:
    for which in GRAFTS:
        model, graft = grafted(which)
        stir(graft)
        plain = model(tokens())
        seen: list[torch.Tensor] = []
        model.head.register_forward_hook(lambda m, i, o, s=seen: s.append(o))  # type: ignore[misc]
        assert torch.equal(model(tokens()), plain)
        assert len(seen) == 1 and torch.equal(seen[0], plain)


@pytest.mark.parametrize("also", [["head"], ["layer1"]])
def test_a_hook_that_changes_the_output_acts_once_on_a_copied_module(also: list[str]) -> None:
    model = net()
    model.head.register_forward_hook(lambda m, i, o: 2 * o)
    model.layer1.register_forward_pre_hook(lambda m, i: (i[0] + 1,))
    base = model(tokens())
    graft = gw.graft(model, gw.LoRA(2), sites="stem.0", also_train=also)
    assert torch.equal(model(tokens()), base)
    graft.remove()
    assert torch.equal(model(tokens()), base)


def test_writes_to_the_base_reach_the_base() -> None:
    model, graft = grafted("lora")
    stir(graft)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight.data.add_(1)
    assert torch.equal(model.state_dict()["head.weight"], torch.ones(3, 8))
    new = nn.Parameter(torch.full((3, 8), 2.0))
    model.head.weight = new
    assert model.head.weight is new
    assert model.head._parameters["weight"] is new


def test_fused_sites_take_writes_too() -> None:
    attention = nn.MultiheadAttention(8, 2)
    graft = gw.graft(attention, gw.LoRA(2))
    weight = attention.in_proj_weight
    assert weight is attention._parameters["in_proj_weight"]
    with torch.no_grad():
        attention.in_proj_weight.zero_()
        attention.out_proj.weight.data.fill_(3.0)
    assert not weight.detach().any()
    new = nn.Parameter(torch.ones(24, 8))
    attention.in_proj_weight = new
    assert attention.in_proj_weight is new
    graft.remove()
    assert attention.in_proj_weight is new
    assert torch.equal(attention.out_proj.weight, torch.full((8, 8), 3.0))


def test_exact_type_checks_see_a_subclass_as_documented() -> None:
    model, _ = grafted("lora")
    assert type(model.head) is not nn.Linear
    assert type(model.head).__mro__[2] is nn.Linear
    assert type(model.head).__name__ == "GraftedLinear"


def test_the_base_gets_no_gradient() -> None:
    model, _ = grafted("with copies")
    model(tokens()).sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if "_graft" not in n)


def test_inference_mode_and_no_grad() -> None:
    model, graft = grafted("lora")
    stir(graft)
    out = model(tokens())
    with torch.inference_mode():
        assert torch.equal(model(tokens()), out)
    with torch.no_grad():
        assert torch.equal(model(tokens()), out)


@pytest.mark.parametrize("assign", [False, True])
def test_loading_by_assignment(assign: bool) -> None:
    for build in (net, lambda seed=0: nn.MultiheadAttention(8, 2)):
        model, other = build(), build(seed=3)
        graft = stir(gw.graft(model, gw.LoRA(2)))
        mine = {k: v.clone() for k, v in graft.tensors().items()}
        frozen = {n: p.clone() for n, p in other.state_dict().items()}
        result = model.load_state_dict(frozen, assign=assign)
        assert not result.missing_keys and not result.unexpected_keys
        assert base_bits(model) == base_bits(other)
        assert all(torch.equal(v, mine[k]) for k, v in graft.tensors().items())
        assert {p.requires_grad for n, p in model.named_parameters() if "_graft" not in n} == {
            False
        }
        loose = model.load_state_dict({}, strict=False)
        assert loose.missing_keys == other.load_state_dict({}, strict=False).missing_keys
        graft.remove()
        assert base_bits(model) == base_bits(other)


def test_the_meta_device() -> None:
    with torch.device("meta"):
        model = Net()
    graft = gw.graft(model, gw.LoRA(2))
    assert {t.device.type for t in graft.tensors().values()} == {"meta"}
    assert graft.summary().trainable > 0
    assert gw.graft_from_spec(net(), graft.spec()).spec() == graft.spec()


@pytest.mark.parametrize("which", GRAFTS)
def test_autocast(which: str) -> None:
    model, graft = grafted(which)
    plain = net()
    with torch.autocast("cpu", torch.bfloat16):
        base = plain(tokens())
        close(model(tokens())[:, :3].float(), base.float(), 0.05)
    stir(graft, 0.1)  # outside: inside, autocast would go on using the weights it has cast
    with torch.autocast("cpu", torch.bfloat16):
        out = model(tokens())
        out.float().square().sum().backward()
    assert all(p.grad is not None for p in graft.parameters() if p.requires_grad)
    close(out.float(), model(tokens()), 0.05)
    if graft.method.mergeable:  # a merge under autocast is no less exact
        twin = copy.deepcopy(model)
        graft.merge()
        with torch.autocast("cpu", torch.bfloat16):
            gw.get(twin).merge()
        assert base_bits(twin) == base_bits(model)


def test_a_block_that_returns_no_tensor_is_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.fc(x)}

    model = nn.Sequential()
    model.add_module("mlp", Two())
    gw.graft(model, gw.AdaptFormer(2), sites="mlp")
    with pytest.raises(gw.GraftError, match="Two returns a dict"):
        model(torch.randn(2, 4))


def test_averaged_models() -> None:
    model, graft = grafted("lora")
    average = torch.optim.swa_utils.AveragedModel(model)
    start = model(tokens())
    stir(graft)
    average.update_parameters(model)
    average.update_parameters(model)
    assert not torch.equal(average(tokens()), start)
    assert list(gw.grafts(average)) == ["default"]


@pytest.mark.parametrize("method", [gw.LoRA(4), gw.DoRA(4), gw.DiaBlo(4), gw.IA3(), gw.BitFit()])
def test_the_start_under_autocast_is_the_base(method: Any) -> None:
    torch.manual_seed(0)
    for layer, x in (
        (nn.Linear(64, 64), torch.randn(8, 64)),
        (nn.Conv2d(8, 16, 3), torch.randn(2, 8, 6, 6)),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            base = layer(x)
        gw.graft(layer, method)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), base)

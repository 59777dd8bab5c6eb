"""Low-rank convolutions in their three forms: what they keep, how they round, which calls they serve."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import graftwork as gw
from graftwork.fast import conv_sites
from graftwork.fast.conv import BRANCH, MIXED, WEIGHT

FORMS = (WEIGHT, MIXED, BRANCH)
HALVES = (torch.bfloat16, torch.float16)
#: strided, dilated, grouped both ways, "same" with a remainder, another padding mode, transposed
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv3d(4, 8, 3, padding=1),
    "strided": lambda: nn.Conv3d(4, 8, 3, stride=2, padding=1, bias=False),
    "grouped": lambda: nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding=2),
    "shared A": lambda: nn.Conv2d(6, 9, 3, groups=3, stride=(1, 2)),
    "same": lambda: nn.Conv2d(4, 8, (3, 2), padding="same", dilation=(2, 1)),
    "reflect": lambda: nn.Conv1d(6, 8, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 8, 3, groups=2, dilation=2),
}
# torch's own remark on the base layer
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


def grafted(
    layer: nn.Module, form: str | None, dtype: torch.dtype = torch.float64, size: float = 0.3
) -> gw.Graft:
    """A LoRA moved off its start; `form` is what is taken for it, until the test ends."""
    graft = gw.graft(layer.to(dtype), gw.LoRA(2, alpha=3.0), sites=["*"], seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_((size * torch.randn(p.shape, generator=draw)).to(p.dtype))
    return graft


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(conv_sites, "form_of", lambda *args: request.param)
    return str(request.param)


@contextmanager
def plain_form() -> Iterator[None]:
    """Everything through plain autograd."""
    kept = conv_sites.FastConv.call
    conv_sites.FastConv.call = lambda *args: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        conv_sites.FastConv.call = kept  # type: ignore[method-assign]


@contextmanager
def counted() -> Iterator[list[str]]:
    """The form of every call that the fast path serves."""
    forms: list[str] = []
    kept = conv_sites.lowrank_conv

    def count(*args: object) -> Tensor:
        forms.append(args[-1].form)  # type: ignore[attr-defined]
        return kept(*args)  # type: ignore[arg-type]

    conv_sites.lowrank_conv = count  # type: ignore[assignment]
    try:
        yield forms
    finally:
        conv_sites.lowrank_conv = kept


def image(layer: nn.Module, dtype: torch.dtype = torch.float64, n: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    size = [5] * len(layer.kernel_size)  # type: ignore[arg-type]
    return torch.randn(n, layer.in_channels, *size, generator=draw).to(dtype)  # type: ignore[call-overload]


def results(model: nn.Module, graft: gw.Graft, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input and of every factor."""
    x = x.detach().requires_grad_()
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *graft.parameters()])]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_form_agrees_with_plain_autograd(name: str, dtype: torch.dtype, form: str) -> None:
    layer = LAYERS[name]()
    graft = grafted(layer, form, dtype)
    x = image(layer, dtype)
    limit = {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    inputs = {"contiguous": x, "one image": x[0]}
    if x.dim() in formats:
        inputs["channels last"] = x.to(memory_format=formats[x.dim()])
    for what, value in inputs.items():
        with plain_form():
            expected = results(layer, graft, value)
        with counted() as forms:
            found = results(layer, graft, value)
        assert forms == [form]
        for one, two in zip(found, expected, strict=True):
            assert one.shape == two.shape and one.dtype == two.dtype
            assert (one - two).abs().max() <= limit * two.abs().max(), what


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_start_is_the_base_bit_for_bit(
    name: str, dtype: torch.dtype, autocast: bool, form: str
) -> None:
    base = LAYERS[name]().to(dtype)
    layer = copy.deepcopy(base)
    graft = gw.graft(layer, gw.LoRA(2), sites=["*"])
    assert not any(p.any() for n, p in graft.named_parameters() if n.endswith("B"))
    x = image(layer, dtype)
    with counted() as forms, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(layer(x), base(x))
    assert forms == [form]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_gradients_are_as_exact_as_the_layers_own(
    dtype: torch.dtype, form: str
) -> None:
    layer = nn.Conv3d(8, 8, 3, padding=1)
    graft = grafted(layer, form, dtype, size=0.1)
    x = image(layer, dtype)
    wide = copy.deepcopy(layer).double()
    with plain_form():
        exact = results(wide, gw.get(wide), x.double())
        limits = [
            (a.double() - b).norm() / b.norm()
            for a, b in zip(results(layer, graft, x), exact, strict=True)
        ]
    for one, two, limit in zip(results(layer, graft, x), exact, limits, strict=True):
        assert (one.double() - two).norm() <= 3 * limit * two.norm()


@pytest.mark.parametrize("name", ["plain", "transposed", "grouped"])
def test_the_memory_format_is_the_layers_own(name: str, form: str) -> None:
    base = LAYERS[name]()
    spatial = len(base.kernel_size)  # type: ignore[arg-type]
    last = {2: torch.channels_last, 3: torch.channels_last_3d}[spatial]
    base = base.double().to(memory_format=last)
    layer = copy.deepcopy(base)
    gw.graft(layer, gw.LoRA(2), sites=["*"])
    x = image(layer)
    assert layer(x).stride() == base(x).stride()


# -- which calls are served -------------------------------------------------------------------------


# torch's own forward-mode rules are compiled with the old compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_what_is_not_served_takes_the_plain_form() -> None:
    layer = LAYERS["transposed"]()
    grafted(layer, None)
    x = image(layer)
    with counted() as forms:
        y = layer(x)
        assert len(forms) == 1
        sized = layer(x, output_size=[10, 9, 10])
        assert sized.shape[2:] == (10, 9, 10)
        torch.testing.assert_close(sized[..., :8, :], y[..., :8, :])
        torch.testing.assert_close(torch.func.vmap(layer)(x), y)
        tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]
        torch.testing.assert_close(tangent, layer.forward(x + 1) - y)
        assert len(forms) == 2
        assert layer(x[:0]).shape == (0, *y.shape[1:])
        layer.bias.requires_grad_()
        torch.testing.assert_close(layer(x), y)
        layer.bias.requires_grad_(False)
        assert len(forms) == 2
        with pytest.raises(RuntimeError, match="to have 4 channels"):
            layer(x[:, :3])
        with pytest.raises(RuntimeError, match="same"):
            layer(x.float())
        assert len(forms) == 2
        with torch.inference_mode():
            torch.testing.assert_close(layer(x.clone()), y)
        assert len(forms) == 3


def test_dropout_acts_in_training_and_the_fast_form_serves_the_rest() -> None:
    layer = nn.Conv2d(3, 4, 3)
    gw.graft(layer, gw.LoRA(2, dropout=0.5), sites=["*"])
    with counted() as forms:
        layer.train()(torch.randn(2, 3, 5, 5))
        assert not forms
        layer.eval()(torch.randn(2, 3, 5, 5))
        assert len(forms) == 1


def test_several_grafts_off_and_copies(form: str) -> None:
    layer = LAYERS["grouped"]()
    base = copy.deepcopy(layer).double()
    graft = grafted(layer, form)
    x = image(layer)
    y, plain = layer(x), base(x)
    with graft.off(), counted() as forms:
        assert torch.equal(layer(x), plain)
        assert not forms
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), y)
    gw.graft(layer, gw.LoRA(2), sites=["*"], name="other", seed=3)
    gw.activate(layer, {"default": 0.5, "other": 1.0})  # the other one is at its start
    torch.testing.assert_close(layer(x), plain + 0.5 * (y - plain))
    gw.activate(layer, {"default": 1.0})
    graft.merge()
    torch.testing.assert_close(layer(x), y)


# -- training ---------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(inplace=True),
        nn.Conv3d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),  # on what the layer itself returned
        nn.ConvTranspose3d(8, 8, 3, stride=2),
    )


def volume(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)


def convolutions(model: nn.Module, dtype: torch.dtype = torch.float64) -> gw.Graft:
    graft = gw.graft(model.to(dtype), gw.LoRA(2), sites=["0", "3", "5"], seed=0)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.1)
    return graft


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_agrees(reentrant: bool, form: str) -> None:
    model = network()
    graft = convolutions(model)
    x = volume()
    expected = results(model, graft, x)
    leaf = x.clone().requires_grad_()
    y = checkpoint(model, leaf, use_reentrant=reentrant)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * weights).sum().backward()
    found = [y.detach(), leaf.grad, *(p.grad for p in graft.parameters())]
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_compiled_network_has_no_graph_break(autocast: bool, form: str) -> None:
    model = network()
    graft = convolutions(model, torch.float32)
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = volume(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = results(model, graft, x)
        with counted() as forms:
            found = results(traced, graft, x)
    assert forms == [form] * 3  # while it was traced
    for one, two in zip(found, expected, strict=True):
        limit = 2e-2 if autocast else 1e-5
        assert (one - two).norm() <= limit * two.norm()


def test_second_derivatives_agree(form: str) -> None:
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    graft = gw.graft(layer.double(), gw.LoRA(2), sites=["0"], seed=0)
    with torch.no_grad():
        for p in graft.parameters():
            p.add_(0.1)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)

    def penalty() -> list[Tensor]:
        (g,) = torch.autograd.grad(layer(x).pow(2).sum(), x, create_graph=True)
        return list(torch.autograd.grad(g.pow(2).sum(), [x, *graft.parameters()]))

    with plain_form():
        expected = penalty()
    for one, two in zip(penalty(), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", ["A", "B"])
def test_frozen_factors_and_inputs_get_no_gradient(frozen: str, form: str) -> None:
    layer = LAYERS["plain"]()
    graft = grafted(layer, form)
    x = image(layer)
    _, _, *expected = results(layer, graft, x)
    for n, p in graft.named_parameters():
        p.requires_grad_(not n.endswith(frozen))
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * weights).sum().backward()
    for (n, p), grad in zip(graft.named_parameters(), expected, strict=True):
        if n.endswith(frozen):
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, grad)


def test_what_is_kept_for_the_backward_pass(form: str) -> None:
    """x alone, and in the branch form its r channels; never an image that only the graft has."""
    layer = nn.Conv3d(4, 8, 3, padding=1)
    grafted(layer, form)
    x = image(layer)
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    images = [tuple(t.shape) for t in kept if t.dim() == 5 and t.shape[0] == 2 and t.shape[2] == 5]
    assert images == [(2, 4, 5, 5, 5)] + [(2, 2, 5, 5, 5)] * (form == BRANCH)


def test_the_form_is_found_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def by_batch(geo: object, rank: int, x: Tensor, frame: object) -> str:
        asked.append(tuple(x.shape))
        return WEIGHT if x.shape[0] == 1 else BRANCH

    monkeypatch.setattr(conv_sites, "form_of", by_batch)
    monkeypatch.setattr(conv_sites, "MOST_SHAPES", 2)
    layer = LAYERS["plain"]()
    grafted(layer, None)
    with counted() as forms:
        for n in (1, 2, 1, 2, 3):
            layer(image(layer, n=n))
    assert forms == [WEIGHT, BRANCH, WEIGHT, BRANCH, BRANCH]
    assert [shape[0] for shape in asked] == [1, 2, 3]
    assert len(layer._modules["_graft"].state("default").fast._jobs) <= 2  # type: ignore[union-attr,operator]


def test_a_short_row_stays_unrounded_in_half_precision(form: str) -> None:
    for channels, dtype, taken in (
        (3, torch.bfloat16, BRANCH),
        (3, torch.float32, form),
        (6, torch.bfloat16, form),
    ):
        layer = nn.Conv1d(channels, 4, 3)
        gw.graft(layer.to(dtype), gw.LoRA(2), sites=["*"])
        with counted() as forms:
            layer(image(layer, dtype))
        assert forms == [taken], (channels, dtype)

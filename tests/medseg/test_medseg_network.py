"""Networks by name, strict weights, the loss, patches, atomic files and the progress line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from monai.losses import DiceCELoss
from monai.networks import nets
from safetensors.torch import load_file, save_file
from torch import nn

from graftwork.errors import GraftError
from graftwork_medseg.files import CHECKPOINT, publish
from graftwork_medseg.images.patches import sample
from graftwork_medseg.losses import dice_ce
from graftwork_medseg.module import Segmenter, find_head
from graftwork_medseg.networks import network
from graftwork_medseg.networks.network import NetworkConfig
from graftwork_medseg.progress import Progress

SMALL = {
    "SegResNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "init_filters": 8},
    "UNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]},
    "BasicUNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features": [4] * 6},
}  # fmt: skip


def small(name: str = "UNet") -> nn.Module:
    torch.manual_seed(0)
    return network.build(NetworkConfig(name, dict(SMALL[name])))


@pytest.mark.parametrize("name", SMALL)
def test_any_monai_network_is_built_by_name(name: str) -> None:
    model = small(name)
    assert type(model) is getattr(nets, name)
    head = model.get_submodule(find_head(model))
    assert getattr(head, "out_channels", None) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NetworkConfig("SegResnet"), "did you mean SegResNet"),
        (NetworkConfig("os.system"), "is not a network of monai.networks.nets"),
        (NetworkConfig("torch"), "is not a network"),
        (NetworkConfig("SegResNet", {"banana": 1}), "network.args do not fit SegResNet"),
        (NetworkConfig("SegResNet", {"spatial_dims": 7}), "network.args do not fit SegResNet"),
    ],
)
def test_other_names_and_arguments_are_refused(config: NetworkConfig, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        network.build(config)


def test_weights_round_trip_with_their_configuration(tmp_path: Path) -> None:
    model = small("SegResNet")
    config = NetworkConfig("SegResNet", SMALL["SegResNet"])
    path = network.save_weights(
        model, tmp_path / "w.safetensors", config=config, classes=["a", "b", "c"]
    )
    found = network.load_pretrained(path)
    assert found.classes == ("a", "b", "c") and found.config == config
    for name, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value)


def test_all_differences_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = {k: torch.zeros_like(v) for k, v in before.items()}
    names = list(tensors)
    del tensors[names[0]]
    tensors["extra.weight"] = torch.zeros(2)
    tensors[names[1]] = torch.zeros(7, 7)
    tensors[names[2]] = torch.full_like(tensors[names[2]], float("nan"))
    with pytest.raises(GraftError) as caught:
        network.load_weights(model, tensors, "file.safetensors")
    for part in (
        f"missing: {names[0]}",
        "unexpected: extra.weight",
        f"shape: {names[1]}",
        f"not finite: {names[2]}",
        "file.safetensors",
    ):
        assert part in str(caught.value)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


def test_unreadable_weights_files(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no such weights file"):
        network.load_pretrained(tmp_path / "none.safetensors")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x80\x04pickle")
    with pytest.raises(GraftError, match="not a readable safetensors file"):
        network.load_pretrained(bad)
    save_file({"a": torch.zeros(1)}, bad)
    with pytest.raises(GraftError, match="carries no network configuration"):
        network.load_pretrained(bad)
    save_file({"a": torch.zeros(1)}, bad, metadata={"medseg": "[1]"})
    with pytest.raises(GraftError, match="must be a JSON object"):
        network.load_pretrained(bad)


def test_the_shipped_base_is_what_its_card_says() -> None:
    base = network.load_pretrained()
    assert base.classes == ("background", "GM", "WM") and base.config == network.BASE_NETWORK
    assert 1_000_000 < sum(p.numel() for p in base.model.parameters()) < 2_000_000
    assert {t.dtype for t in load_file(CHECKPOINT).values()} == {torch.float16}
    assert find_head(base.model) == network.BASE_HEAD


def test_the_loss_agrees_with_monai_up_to_its_smoothing() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 6, 7, 8), torch.randint(4, (2, 6, 7, 8))
    theirs = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        smooth_nr=1.0,
        smooth_dr=1.0,
    )
    assert dice_ce(logits, label).item() == pytest.approx(
        theirs(logits, label[:, None]).item(), rel=1e-5
    )


def test_a_perfect_answer_costs_nothing_and_gradients_flow() -> None:
    label = torch.randint(3, (1, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    scores = (50.0 * torch.nn.functional.one_hot(label, 3)).permute(0, 4, 1, 2, 3).requires_grad_()
    loss = dice_ce(scores, label)
    assert loss.item() < 1e-3
    loss.backward()
    assert torch.isfinite(scores.grad).all()


def test_patches_come_from_their_volume_and_are_reproducible() -> None:
    image = torch.arange(4 * 5 * 6, dtype=torch.float32).reshape(1, 4, 5, 6)
    label = (image[0] % 3).to(torch.uint8)

    def draw(seed: int, **options: bool) -> tuple[torch.Tensor, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        return sample([image], [label], (2, 3, 4), 5, g, **options)

    for options in ({}, {"inside": True}):
        x, y = draw(1, **options)
        assert x.shape == (5, 1, 2, 3, 4) and torch.equal(x[:, 0] % 3, y.float())
        again = draw(1, **options)
        assert torch.equal(x, again[0]) and torch.equal(y, again[1])


def test_a_small_volume_is_padded_with_its_minimum() -> None:
    image = torch.full((1, 2, 2, 2), 3.0)
    image[0, 0, 0, 0] = -1
    x, y = sample([image], [torch.ones(2, 2, 2)], (4, 4, 4), 1, torch.Generator().manual_seed(0))
    assert (x == 3).sum() == 7 and (x == -1).sum() == 57 and y.sum() == 8


def test_patches_inside_hit_every_class() -> None:
    label = torch.zeros(20, 20, 20, dtype=torch.uint8)
    label[0, 0, 0], label[19, 19, 19] = 1, 2
    image = torch.zeros(1, 20, 20, 20)
    _, y = sample([image], [label], (4, 4, 4), 60, torch.Generator().manual_seed(0), inside=True)
    hits = [(y == k).flatten(1).any(1).sum().item() for k in (1, 2)]
    assert sum(hits) == 60 and min(hits) > 15


def test_publish_leaves_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    with publish(target) as file:
        file.write_text("old")
    with pytest.raises(RuntimeError), publish(target) as file:
        file.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.json"]
    (tmp_path / "plain").write_text("")
    with pytest.raises(GraftError, match="cannot write here"), publish(tmp_path / "plain" / "x"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 1.0}, "model.overlap"),
        ({"rate": -1.0}, "model.rate"),
        ({"head_rate": float("inf")}, "model.head_rate"),
        ({"base": "nowhere.safetensors"}, "no such weights file"),
    ],
)
def test_bad_module_settings(options: dict[str, float], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        Segmenter(**options)


def test_new_rows_are_what_the_network_lacks() -> None:
    model = Segmenter()
    assert model.new_rows(("background", "GM", "WM", "CSF")) == 1
    assert model.new_rows(("background", "GM", "WM")) == 0
    with pytest.raises(GraftError, match="tells 3 classes apart, the data names 2"):
        model.new_rows(("background", "tumour"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_plain_lines_unless_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("graftwork_medseg.progress.time.monotonic", lambda: next(clock))
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        progress = Progress(10, stream=stream, every=1)
        for _ in range(3):
            progress.advance(2, "training")
        progress.say("done")
    assert "\r" not in plain.getvalue()
    assert plain.getvalue().splitlines()[0] == " 20 %  training, about 4 s left"
    assert terminal.getvalue().count("\r") >= 3 and terminal.getvalue().endswith("done\n")
    silent = io.StringIO()
    Progress(10, quiet=True, stream=silent).say("nothing")
    assert silent.getvalue() == ""

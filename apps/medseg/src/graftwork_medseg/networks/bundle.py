"""MONAI bundles, read as data: the network's literal definition, its weights, and what they were trained on.

A bundle's configuration is a program: strings that begin with "$" are Python. Nothing of it is evaluated
here. From `configs/inference.json` come the class name and literal arguments of `network_def`, and the
preprocessing as far as its steps are among those listed below; from `configs/metadata.json` channels, classes
and patch size; from `models/model.pt` the weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from graftwork.errors import GraftError

from ..files import read_json
from ..images.contract import Contract, Intensity
from .network import NetworkConfig, Pretrained, build, load_weights, networks
from .state_dicts import tensors_of

_TARGET = re.compile(r"(?:monai\.networks\.nets\.(?:\w+\.)?)?(\w+)\Z")
NEEDED = "a bundle needs configs/inference.json and metadata.json"
# Steps that change no value and no grid.
_NEUTRAL = {"LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "CastToType"}


class _Unread(Exception):
    """A preprocessing that has no form as a contract, and why."""


def is_bundle(folder: Path) -> bool:
    """Whether a folder has the configuration files of a MONAI bundle."""
    return (folder / "configs" / "metadata.json").is_file()


def read(folder: Path) -> Pretrained:
    """The network of a bundle with its weights.

    Its contract is None when the preprocessing uses steps that have no form here; `meta["unread"]` says
    which, and the user must then say what the images become.

    Raises:
        GraftError: a missing or damaged file, a network outside `monai.networks.nets`, an argument that is
            an expression, weights that do not fit, or outputs that overlap (sigmoid).
    """
    inference, metadata = (
        read_json(folder / "configs" / f"{n}.json", NEEDED) for n in ("inference", "metadata")
    )
    where = f"{folder / 'configs' / 'inference.json'}"
    config = _network(inference.get("network_def"), where)
    _refuse_overlap(inference, where)
    weights = folder / "models" / "model.pt"
    if not weights.is_file():
        scripts = sorted(p.name for p in (folder / "models").glob("*.ts"))
        more = f"; {scripts[0]} is a TorchScript program and is not read" if scripts else ""
        raise GraftError(f"{weights}: no such weights file{more}")
    model = build(config)
    load_weights(model, tensors_of(weights), weights)
    meta: dict[str, Any] = {"bundle": str(metadata.get("version", ""))}
    try:
        contract: Contract | None = _contract(inference, metadata, config)
    except _Unread as reason:
        contract, meta["unread"] = None, f"its preprocessing {reason}"
    classes = _classes(metadata)
    return Pretrained(model.eval(), config, classes, meta, contract)


def _network(value: Any, where: str) -> NetworkConfig:
    target = value.get("_target_") if isinstance(value, dict) else None
    match = _TARGET.match(target) if isinstance(target, str) else None
    if match is None or match[1] not in networks():
        raise GraftError(
            f"{where}: network_def._target_ {target!r} is not a class of monai.networks.nets; a bundle's own "
            "network is code, which is not run"
        )
    args = {k: v for k, v in value.items() if k not in ("_target_", "_desc_")}
    for name, item in args.items():
        if name.startswith("_"):
            raise GraftError(f"{where}: network_def.{name} steers how code is run; it is not read")
        _literal(item, f"{where}: network_def.{name}")
    return NetworkConfig(match[1], args)


def _literal(value: Any, where: str) -> None:
    if isinstance(value, str) and value[:1] in "$@%" and value:
        kind = "an expression" if value[0] == "$" else "a reference"
        raise GraftError(
            f"{where} is {kind}, {value!r}: nothing in a bundle is evaluated; write its value there"
        )
    if isinstance(value, dict):
        if "_target_" in value:
            raise GraftError(f"{where} builds {value['_target_']!r}; only literal values are read")
        value = list(value.values())
    if isinstance(value, list):
        for i, item in enumerate(value):
            _literal(item, f"{where}[{i}]")


def _steps(inference: dict[str, Any], section: str) -> list[dict[str, Any]] | None:
    value = inference.get(section)
    steps = value.get("transforms") if isinstance(value, dict) else None
    if not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
        return None
    return [s for s in steps if s.get("_disabled_") is not True]


def _refuse_overlap(inference: dict[str, Any], where: str) -> None:
    for step in _steps(inference, "postprocessing") or []:
        if step.get("sigmoid") not in (None, False):
            raise GraftError(
                f"{where}: postprocessing takes a sigmoid, so its outputs overlap; only networks whose "
                "classes exclude each other (softmax) can be grafted here"
            )


def _contract(
    inference: dict[str, Any], metadata: dict[str, Any], config: NetworkConfig
) -> Contract:
    steps = _steps(inference, "preprocessing")
    if steps is None:
        raise _Unread("is not a list of transforms in inference.json")
    orientation, spacing, intensity = "ijk", None, Intensity("none")
    done: set[str] = set()
    for step in steps:
        name = re.sub(r"(?:d|D|Dict)\Z", "", str(step.get("_target_", "")).rpartition(".")[2])
        if name in _NEUTRAL:
            continue
        if name in done or (name == "Orientation" and "Spacing" in done):
            raise _Unread(f"has {name} a second time or too late")
        if name in ("Orientation", "Spacing") and intensity.rule != "none":
            raise _Unread(f"has {name} after the intensities")
        try:
            for key, item in step.items():
                _literal(item, key) if key != "_target_" else None
        except GraftError as error:
            raise _Unread(f"has {name} with {error}") from None
        if name == "Orientation" and step.get("axcodes"):
            orientation = str(step["axcodes"])
        elif name == "Spacing":
            spacing = _spacing(step.get("pixdim"))
        elif name == "ScaleIntensityRange":
            intensity = _window(step)
        elif name == "NormalizeIntensity":
            intensity = _normalised(step, int(config.args.get("in_channels", 1)))
        else:
            raise _Unread(f"has the step {name or step.get('_target_')!s}, which has no form here")
        done.add(name)
    image = _field(metadata, "network_data_format", "inputs", "image")
    inputs = int(config.args.get("in_channels", 1))
    names = _names(image.get("channel_def"))
    channels = names if len(names) == inputs and inputs > 1 else ()
    modality = str(image.get("modality") or "image")
    shape = image.get("spatial_shape")
    patch = tuple(shape) if isinstance(shape, list) and all(type(n) is int for n in shape) else None
    return Contract(
        classes=_classes(metadata),
        channels=channels or (modality,) * inputs,
        spacing=spacing,
        intensity=intensity,
        orientation=orientation,
        patch=patch if patch and len(patch) == 3 else None,  # type: ignore[arg-type]
    )


def _spacing(pixdim: Any) -> tuple[float, float, float]:
    values = [pixdim] * 3 if isinstance(pixdim, int | float) else pixdim
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(v, int | float) and v > 0 for v in values)
    ):
        raise _Unread(f"has Spacing with pixdim {pixdim!r}")
    return (float(values[0]), float(values[1]), float(values[2]))


def _window(step: dict[str, Any]) -> Intensity:
    if (step.get("b_min"), step.get("b_max"), step.get("clip")) != (0, 1, True):
        raise _Unread("scales intensities to other bounds than [0, 1], clipped")
    return Intensity("window", step.get("a_min"), step.get("a_max"))


def _normalised(step: dict[str, Any], channels: int) -> Intensity:
    if step.get("subtrahend") is not None or step.get("divisor") is not None:
        raise _Unread("normalises by fixed numbers")
    if channels > 1 and step.get("channel_wise") is not True:
        raise _Unread("normalises all channels together")
    return Intensity("nonzero" if step.get("nonzero") is True else "volume")


def _field(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, dict) or sorted(value) != sorted(map(str, range(len(value)))):
        return ()
    return tuple(str(value[str(i)]) for i in range(len(value)))


def _classes(metadata: dict[str, Any]) -> tuple[str, ...]:
    pred = _field(metadata, "network_data_format", "outputs", "pred")
    return _names(pred.get("channel_def"))

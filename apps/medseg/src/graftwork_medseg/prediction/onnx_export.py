"""The network with its graft merged in, as ONNX, checked against the live network by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graftwork as gw
from graftwork.errors import GraftError

from ..files import publish, refuse_existing
from ..images.contract import Contract

OPSET = 18
TOLERANCE = 1e-3  # relative; a larger difference is no rounding


def export_onnx(
    network: torch.nn.Module,
    graft: gw.Graft,
    target: str | Path,
    *,
    roi: Sequence[int],
    channels: int,
    classes: Sequence[str],
    contract: Contract,
) -> float:
    """Write `network` with `graft` merged in, for windows (n, channels, *roi) to scores (n, C, *roi).

    The number of windows n is free, their size is fixed. Class names and preprocessing contract are in the
    file's metadata. The live network is left as it was, bit for bit. Returns the largest difference between
    the scores of onnxruntime and of the live graft, relative to the largest score.

    Raises GraftError when the extra is not installed, `target` exists, the graft cannot be merged, the network
    cannot be expressed in ONNX, or the file computes something else; no file is left then.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise GraftError(
            f"format onnx needs {error.name}: pip install 'graftwork-medseg[onnx]', or export safetensors"
        ) from None
    refuse_existing(target)
    network.eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *roi, generator=draw)
    with torch.inference_mode():
        wanted = network(x)
    if isinstance(wanted, list | tuple):
        raise GraftError(
            "format onnx: the network returns several outputs; it must return one in eval"
        )
    target = Path(target)
    gw.merge(network, gw.active(network), keep="cpu")  # of a pair, both
    try:
        model = _traced(network, x)
    finally:
        graft.unmerge()
    meta = {"classes": json.dumps(list(classes)), "contract": json.dumps(contract.to_json())}
    onnx.helper.set_model_props(model, {"medseg": "1", **meta})
    with publish(target) as temporary:
        onnx.save_model(model, str(temporary))
        # Read back from the file: what is checked is what the user gets.
        session = onnxruntime.InferenceSession(
            str(temporary), _quiet(onnxruntime), providers=["CPUExecutionProvider"]
        )
        scale = float(wanted.abs().max())
        error = 0.0
        for part in (x, x[:1]):  # another number of windows, too
            [found] = session.run(None, {"image": part.numpy()})
            difference = np.abs(found - wanted[: len(part)].numpy()).max()
            error = max(error, float(difference) / scale)
        if not error <= TOLERANCE:
            raise GraftError(
                f"{target}: onnxruntime's scores differ from the network's by {error:.1e} of the largest; "
                "nothing was written. Export safetensors instead, and report this network"
            )
    return error


def _quiet(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _traced(network: torch.nn.Module, x: torch.Tensor) -> Any:
    """The ONNX model of `network`. What the exporter prints and warns about is its own business."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (x,),
                dynamo=True,
                input_names=["image"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter has no family of exceptions of its own
        reason = str(error).strip().splitlines()
        raise GraftError(
            f"format onnx: {type(network).__name__} cannot be expressed in ONNX: "
            f"{reason[0] if reason else type(error).__name__}; export safetensors instead"
        ) from error
    assert program is not None
    return program.model_proto

"""`medseg info`: what this installation reads, writes, and ships. Imports nothing heavy."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftError

from .files import CHECKPOINTS

if TYPE_CHECKING:
    from graftwork.lightning.app import App

MAX_HEADER = 10_000_000  # bytes of a safetensors header
READS = {
    "images": ["NIfTI (.nii, .nii.gz)", "DICOM series (folder or .zip)"],
    "labels": ["NIfTI (.nii, .nii.gz)", "DICOM-SEG", "RTSTRUCT"],
    "data sets": ["MSD dataset.json", "nnU-Net 2 dataset.json"],
    "networks": [
        "safetensors (any class of monai.networks.nets)",
        "MONAI bundle",
        "state dict (SuPreM, BTCV, FSEFT layouts of Swin UNETR)",
        "nnU-Net 2 results folder",
    ],
}
WRITES = {
    "masks": ["nifti", "seg", "rtstruct"],
    "maps": ["uncertainty (NIfTI uint8, slope 1/255)", "probabilities (NIfTI uint8, slope 1/255)"],
    "tables": ["statistics.json", "manifest.json", "record.json", "report.html"],
    "networks": ["adapter folder", "safetensors (merged)", "onnx (merged)"],
}


def information(app: App) -> dict[str, Any]:
    """Version, verbs, formats and shipped checkpoints, as plain values."""
    return {
        "app": app.name,
        "version": app.version(),
        "summary": app.summary,
        "verbs": app.all_verbs(),
        "reads": READS,
        "writes": WRITES,
        "checkpoints": [checkpoint(f) for f in sorted(CHECKPOINTS.glob("*.safetensors"))],
        "medical_device": False,
    }


def checkpoint(file: Path) -> dict[str, Any]:
    """What a weights file says of itself: network, classes, channels, spacing in mm, card.

    A fact that the file does not carry is None. Raises GraftError for a file that is no safetensors file.
    """
    try:
        with open(file, "rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            if size > MAX_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(opened.read(size))
        meta = json.loads(header.pop("__metadata__", {}).get("medseg", "{}"))
    except (OSError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise GraftError(f"{file}: not a readable safetensors file: {error}") from error
    contract = meta.get("contract") or _beside(file)
    parameters = 0
    for tensor in header.values():
        count = 1
        for n in tensor["shape"]:
            count *= n
        parameters += count
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "parameters": parameters,
        "network": meta.get("network"),
        "classes": meta.get("classes"),
        "channels": contract.get("channels"),
        "spacing": contract.get("spacing"),
        "card": meta.get("card", f"data_cards/medseg-{file.stem}.md"),
    }


def _spacing(spacing: Any) -> str:
    numbers = spacing if isinstance(spacing, list) else [spacing]
    return (
        " x ".join(dict.fromkeys(map(str, numbers))) + " mm"
        if spacing
        else "each image's own spacing"
    )


def _beside(file: Path) -> dict[str, Any]:
    """The contract that stands beside a weights file written before weights carried one."""
    try:
        found = json.loads(file.with_suffix(".contract.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(app: App, args: Sequence[str]) -> int:
    """Print it for a reader, or with `--json` for a program. Raises GraftError for other arguments."""
    if list(args) not in ([], ["--json"]):
        raise GraftError(f"info takes --json and nothing else, not {' '.join(args)}")
    facts = information(app)
    if args:
        print(json.dumps(facts, indent=1))
        return 0
    print(f"{facts['app']} {facts['version']}: {facts['summary']}\nNot a medical device.")
    for title in ("reads", "writes"):
        print(f"\n{title}")
        for kind, formats in facts[title].items():
            print(f"  {kind:<10} {', '.join(formats)}")
    print("\ncheckpoints")
    for one in facts["checkpoints"]:
        name = (one["network"] or {}).get("name", "network unknown")
        print(
            f"  {one['file']}: {name}, {one['parameters']:,} parameters, {', '.join(one['channels'] or ['?'])}, "
            f"{_spacing(one['spacing'])}\n    classes: {', '.join(one['classes'] or ['unknown'])}\n"
            f"    card: {one['card']}"
        )
    return 0

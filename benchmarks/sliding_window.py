"""Sliding-window prediction: medseg's streamed windows against MONAI's inferer.

    python -m benchmarks.sliding_window

One network, one volume, one set of windows. Both variants end in a mask (argmax over the classes), and the
masks must be equal or the benchmark fails. Time is processor time of one thread, in turns. Peak memory is
what a fresh process needs above what it held before the prediction, by the kernel's high-water mark.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNet
from torch import Tensor, nn

from benchmarks.timing import median_row, take_turns
from graftwork_medseg.prediction.maps import Canvas, Wanted
from graftwork_medseg.prediction.window import Windows
from graftwork_runs import Record, Row, environment

TARGET = Path(__file__).parent / "records" / "medseg" / "sliding-window.json"
CLASSES = (2, 14, 105)
SHAPE = (160, 64, 64)
WINDOWS = Windows((32, 32, 32), 0.25, 4)
STATUS = Path("/proc/self/status")


def network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return SegResNet(init_filters=8, in_channels=1, out_channels=classes).eval()


def volume(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def ours(net: nn.Module, image: Tensor) -> Tensor:
    shape = tuple(image.shape[1:])
    canvas = Canvas(shape, shape, Wanted())
    for start, scores in WINDOWS.stream(net, image):
        canvas.add(start, scores)
    return canvas.out["mask"]


@torch.inference_mode()
def monais(net: nn.Module, image: Tensor) -> Tensor:
    inferer = SlidingWindowInferer(
        WINDOWS.roi, sw_batch_size=WINDOWS.batch, overlap=WINDOWS.overlap, mode="gaussian"
    )
    return inferer(image[None], net)[0].argmax(0).to(torch.uint8)


@torch.inference_mode()
def monais_buffered(net: nn.Module, image: Tensor) -> Tensor:
    inferer = SlidingWindowInferer(
        WINDOWS.roi, sw_batch_size=WINDOWS.batch, overlap=WINDOWS.overlap, mode="gaussian",
        buffer_steps=1, buffer_dim=0,
    )  # fmt: skip
    return inferer(image[None], net)[0].argmax(0).to(torch.uint8)


VARIANTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "medseg, streamed": ours,
    "MONAI, SlidingWindowInferer": monais,
    "MONAI, buffer_steps=1": monais_buffered,
}


def peak(variant: str, classes: int) -> int:
    """Bytes above the process's own that one prediction takes at its peak, in this process."""
    net, image = network(classes), volume()
    VARIANTS[variant](net, volume((48, 32, 32)))  # loads what is loaded once
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    VARIANTS[variant](net, image)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    [line] = [x for x in STATUS.read_text().splitlines() if x.startswith(field + ":")]
    return int(line.split()[1]) * 1024


def peak_apart(variant: str, classes: int) -> float:
    """`peak` in a process of its own, MiB."""
    command = [sys.executable, "-m", "benchmarks.sliding_window", "--peak", variant, str(classes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**20


def measure(classes: int, rounds: int) -> list[Row]:
    net, image = network(classes), volume()
    masks = {name: run(net, image) for name, run in VARIANTS.items()}
    first = masks["medseg, streamed"]
    for name in ("medseg, streamed", "MONAI, SlidingWindowInferer"):
        if not torch.equal(masks[name], first):
            raise RuntimeError(f"{name} gives another mask with {classes} classes")
    seconds = take_turns(
        {name: lambda run=run: run(net, image) for name, run in VARIANTS.items()},
        rounds=rounds,
        warmup=1,
    )
    case = f"{classes} classes"
    rows = []
    for name, values in seconds.items():
        sizes = [peak_apart(name, classes) for _ in range(3)]
        rows.append(median_row(case, name, "time", values, "s"))
        rows.append(median_row(case, name, "peak memory", sizes, "MiB"))
        if name != "medseg, streamed":
            pairs = zip(seconds["medseg, streamed"], values, strict=True)
            rows.append(
                median_row(case, name, "medseg's share of the time", [a / b for a, b in pairs])
            )
    return rows


def verdict(rows: list[Row]) -> str:
    """No slower than MONAI's inferer, with quartiles that reach 1, and less memory with many classes."""

    def value(metric: str, variant: str, classes: int) -> float:
        [row] = [
            r for r in rows
            if (r.metric, r.variant, r.case) == (metric, variant, f"{classes} classes")
        ]  # fmt: skip
        assert row.value is not None
        return row.value

    plain = "MONAI, SlidingWindowInferer"
    shares = [r for r in rows if r.metric == "medseg's share of the time" and r.variant == plain]
    fast = all(r.lo is not None and r.lo <= 1 for r in shares)
    many = max(CLASSES)
    memory = value("peak memory", "medseg, streamed", many) / value("peak memory", plain, many)
    word = (
        "seen"
        if fast and memory < 1
        else "partly"
        if fast or memory < 1
        else "not seen at this scale"
    )
    mean = statistics.mean(r.value or 0 for r in shares)
    return f"{word}: {mean:.2f} times MONAI's time and, with {many} classes, {memory:.2f} times its memory."


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sliding_window", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--peak", nargs=2, metavar=("VARIANT", "CLASSES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1])))
        return 0
    rows: list[Row] = []
    for classes in CLASSES:
        found = measure(classes, options.rounds)
        rows += found
        print(
            *(f"{r.case}: {r.variant}: {r.metric} {r.value} {r.unit or ''}" for r in found),
            sep="\n",
        )
    record = Record(
        record="medseg/sliding-window",
        claim=(
            "Streamed sliding windows give MONAI's masks in no more time, and in less memory when there are "
            "many classes."
        ),
        command=f"python -m benchmarks.sliding_window --rounds {options.rounds} --threads {options.threads}",
        seeds=[0],
        rows=rows,
        notes=[
            "Processor time of one thread: what other processes do does not count.",
            "Bounds are quartiles over the rounds of one run; a ratio is taken within a round.",
            "Peak memory is that of three fresh processes.",
            "Peak memory includes the network's activations, which are alike in all variants.",
            "The masks of medseg and of MONAI's inferer are equal voxel for voxel, or the run fails.",
        ],
        details={
            "threads": options.threads,
            "volume": list(SHAPE),
            "window": list(WINDOWS.roi),
            "overlap": WINDOWS.overlap,
            "windows per batch": WINDOWS.batch,
            "network": "SegResNet, 8 filters, random weights",
        },
        verdict=verdict(rows),
        **environment(),
    )
    print(record.write(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

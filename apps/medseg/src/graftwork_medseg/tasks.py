"""What the verbs do beyond training: merged export with a parity check, record and report of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graftwork as gw
from graftwork.ledger import ledger_of
from graftwork_runs import Case, Figure, Measure, Record, Report, Row, environment
from graftwork_runs import Volume as Shown

from .data import VolumeData
from .fewshot import report as searched
from .files import refuse_existing
from .images.nifti import apply_orientation, io_orientation, spacing_of
from .module import Segmenter, input_channels
from .networks.network import NetworkConfig, load_pretrained, save_weights
from .prediction import metrics
from .prediction.calibration import BINS, REGIONS, Reliability, pooled
from .prediction.results import class_names

PICTURES = 8  # cases shown with images; the others with their scores alone


def export_whole(
    model: Segmenter, data: VolumeData, graft: gw.Graft, target: Path, format: str
) -> str:
    """Write the network with its graft merged in, as "onnx" or "safetensors"; one line that says so."""
    if format == "onnx":
        error = export_onnx(model, data, graft, target)
        return f"exported: {target}; onnxruntime's scores differ from the graft's by {error:.1e}"
    error = export_merged(model, graft, target)
    return f"exported: {target}; read back, its scores differ from the graft's by {error:.1e}"


def export_merged(model: Segmenter, graft: gw.Graft, target: Path) -> float:
    """Write the network with the graft merged in; the live network is left as it was, bit for bit.

    The file carries its configuration and loads again as `--base`. Returns the largest difference
    between the scores of the file, read back, and of the live graft, relative to the largest score.
    Raises GraftError when the graft cannot be merged, or the file exists or cannot be written.
    """
    refuse_existing(target)
    network = model.network.eval()
    x = torch.randn(
        1, input_channels(network), 32, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        wanted = network(x)
        gw.merge(network, gw.active(network), keep="cpu")  # of a pair, both
        try:
            tensors = {k: t.detach().clone() for k, t in network.state_dict().items()}
        finally:
            graft.unmerge()
    outputs = tensors[f"{model.head}.weight"].shape[0]
    config = _with_outputs(model.config, outputs)
    save_weights(tensors, target, config=config, classes=model.classes, contract=model.contract)
    with torch.inference_mode():
        found = load_pretrained(target).model(x)
    return float((found - wanted).abs().max() / wanted.abs().max())


def export_onnx(model: Segmenter, data: VolumeData, graft: gw.Graft, target: Path) -> float:
    """Write the network with the graft merged in as ONNX; see `onnx_export.export_onnx`."""
    from .prediction import onnx_export

    return onnx_export.export_onnx(
        model.network,
        graft,
        target,
        roi=model.windows.roi,
        channels=input_channels(model.network),
        classes=class_names(model, graft),
        contract=data.contract,
    )


def _with_outputs(config: NetworkConfig, outputs: int) -> NetworkConfig:
    args = dict(config.args)
    args["out_channels"] = outputs
    return NetworkConfig(config.name, args)


def write_report(
    model: Segmenter,
    data: VolumeData,
    graft: gw.Graft | None,
    folder: Path,
    verb: str,
    *,
    command: str,
) -> Path:
    """Write report.html and, last, record.json of a run; returns the report's path."""
    rows = []
    cases = list(model.scores.values())
    for name in (None, *model.scored) if cases else ():
        means = metrics.average(cases, name)
        for metric in ("dice", "hd95", "nsd"):
            values = [getattr(s, metric) for c in cases for k, s in c.items() if name in (None, k)]
            rows.append(
                Row(case=name or "mean", variant=verb, metric=metric, value=round(means[metric], 4),
                    lo=round(min(values), 4), hi=round(max(values), 4), n=int(means["n"]),
                    unit="mm" if metric == "hd95" else None)
            )  # fmt: skip
        for kind in ("empty_both", "empty_one"):
            rows.append(Row(case=name or "mean", variant=verb, metric=kind, value=means[kind]))
    rows += [
        Row(case=region, variant=verb, metric="calibration error", value=round(pooled.ece, 5),
            lo=round(min(errors), 5), hi=round(max(errors), 5), n=len(errors))
        for region, pooled, errors in _reliability(model)
    ]  # fmt: skip
    trained = sum(p.numel() for p in graft.parameters()) if graft else 0
    total = sum(p.numel() for p in model.network.parameters())
    rows.append(Row(case="network", variant=verb, metric="graft parameters", value=trained))
    if model.chosen:
        rows += searched.rows(model.chosen, verb)
    record = Record(
        record=f"medseg/{verb}",
        claim=f"scores of medseg {verb} on {len(cases)} case(s)" if cases else f"medseg {verb}",
        command=command,
        **environment(model.device),
        rows=rows,
        notes=[
            "lo and hi are the worst and best case",
            (
                "empty masks: both empty counts Dice 1, NSD 1 and HD95 0; one empty Dice 0, NSD 0 and HD95 "
                "the image's diagonal"
            ),
        ],
        details={
            "scores": model.scores_json(),
            "calibration": {
                case: {region: asdict(r) for region, r in regions.items()}
                for case, regions in model.reliability.items()
            },
            "masks": [str(p) for p in model.written],
            "verdict": model.verdict.to_json() if model.verdict else None,
            "organs": list(model.organs.asked) if model.organs else None,
            "search": "search.json" if model.chosen else None,
            "base": model.source,
            "contract": model.contract.to_json() if model.contract else None,
            "outside the training range": model.warnings,
        },
    )
    report = Report(f"medseg {verb}", kicker="medseg")
    report.figures(_figures(cases, trained, total))
    if cases:
        if graft is not None and ledger_of(graft.model).sharded is not None:
            how = "The base lies in shards: medseg test with --adapter and trainer.devices 1 draws its cases."
            report.text("Pictures", how)
        else:
            report.cases(_cases(model, data, verb), score="Dice")
        report.table(
            "Scores by class",
            ["class", "Dice", "HD95", "NSD", "both empty", "one empty"],
            [_class_row(cases, name) for name in model.scored],
            caption=f"Means over {len(cases)} cases; NSD at {model.tolerance_mm} mm.",
        )
    if model.verdict:
        report.text("Should I use it?", model.verdict.line())
    if model.chosen:
        searched.show(report, model.chosen)
    if model.reliability:
        _calibration(report, model)
    if model.warnings:
        lines = [f"{name}: {line}" for name, found in model.warnings.items() for line in found]
        report.text("Outside the training range", *lines)
    if model.written:
        report.text("Written", *(str(p) for p in model.written))
    if model.results and model.results.failures:
        failed = [[f.case, f.reason] for f in model.results.failures]
        report.table("Cases that failed", ["case", "reason"], failed)
    curve = _curve(folder / "metrics.csv")
    if curve:
        report.curves("Training", {"loss": curve}, x="step", y="loss (Dice + cross-entropy)")
    path = report.notes(record.notes).record(record).write(folder / "report.html")
    record.write(folder / "record.json")
    return path


def _reliability(model: Segmenter) -> list[tuple[str, Reliability, list[float]]]:
    """(region, all cases together, each case's error)."""
    cases = list(model.reliability.values())
    return [
        (region, pooled(case[region] for case in cases), [case[region].ece for case in cases])
        for region in REGIONS
        if cases
    ]


def _calibration(report: Report, model: Segmenter) -> None:
    curves: dict[str, Any] = {"perfect": [(0.0, 0.0), (1.0, 1.0)]}
    errors = []
    for region, together, _ in _reliability(model):
        curves[region] = together.points()
        errors.append(f"{region} {together.ece:.4f} ({together.voxels:,} voxels)")
    report.curves(
        "Calibration", curves, x="mean confidence of a bin", y="share that is correct",
        caption=f"Expected calibration error over {BINS} bins: {', '.join(errors)}. Foreground: voxels with "
        "a class in the mask or in the reference. Below the diagonal the network is too sure.",
    )  # fmt: skip


def _figures(cases: list[dict[str, metrics.Score]], trained: int, total: int) -> list[Figure]:
    figures = []
    if cases:
        means = metrics.average(cases)
        figures += [
            Figure("Dice", Measure(means["dice"])),
            Figure("HD95", Measure(means["hd95"], digits=1, unit="mm")),
            Figure("NSD", Measure(means["nsd"])),
        ]
    share = Measure(100 * trained / max(1, total), digits=2, unit="%")
    return [*figures, Figure("Graft", trained, f"{share.number()} of the network")]


def _class_row(cases: list[dict[str, metrics.Score]], name: str) -> list[Any]:
    means = metrics.average(cases, name)
    return [
        name,
        Measure(means["dice"]),
        Measure(means["hd95"], digits=2, unit="mm"),
        Measure(means["nsd"]),
        int(means["empty_both"]),
        int(means["empty_one"]),
    ]


def _cases(model: Segmenter, data: VolumeData, verb: str) -> list[Case]:
    worst = sorted(model.scores, key=lambda name: metrics.case_dice(model.scores[name]))
    pictured = set(worst[:PICTURES])
    shown: dict[str, Shown] = {}
    for read in data.readers("test" if verb == "test" else "validate"):
        volume = read()
        if volume.name in pictured and volume.truth is not None:
            turn = io_orientation(volume.placement.affine)
            mask = model.segment(volume)
            ras = [apply_orientation(a, turn) for a in (_native(volume), volume.truth, mask)]
            spacing = spacing_of(volume.placement.affine)[np.argsort(turn[:, 0])]
            shown[volume.name] = Shown(
                ras[0],
                {"reference": ras[1], "prediction": ras[2]},
                [float(s) for s in spacing],
                dict(enumerate(model.classes)),
            )
    return [
        Case(
            name,
            metrics.case_dice(scores),
            [shown[name]] if name in shown else [],
            {f"{k} Dice": Measure(s.dice) for k, s in scores.items()},
        )
        for name, scores in model.scores.items()
    ]


def _native(volume: Any) -> Any:
    """The first channel on the file's grid."""
    if volume.like is not None:
        return np.asarray(volume.like.dataobj, dtype=np.float32)
    return volume.placement.to_file_order(volume.image[0].numpy())


def _curve(file: Path) -> list[tuple[float, float]]:
    if not file.is_file():
        return []
    rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    return [(float(r[0]), float(r[3])) for r in rows if len(r) == 4 and r[2] == "loss"]

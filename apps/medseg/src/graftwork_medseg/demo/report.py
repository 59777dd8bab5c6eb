"""What the demo prints and writes: one table, one proof line, record.json, report.html, picture.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graftwork_runs import (
    Case,
    Figure,
    Measure,
    Record,
    Report,
    Row,
    Volume,
    environment,
    side_by_side,
)

from ..files import publish
from ..prediction import metrics
from . import run, sim
from .run import Outcome, Scores

ARMS = ("base", "head only", "graft", "full fine-tuning")
LABELS = dict(enumerate(sim.CLASSES))
MERGED_TOLERANCE = 1e-5  # relative to the largest score, float32


def measure(scores: Scores, metric: str, name: str | None = None) -> tuple[float, float, float]:
    """Mean over seeds of the mean over cases and classes, with the smallest and largest seed."""
    values = [metrics.average(cases, name)[metric] for cases in scores.values()]
    return float(np.mean(values)), min(values), max(values)


def all_scores(out: Outcome) -> dict[str, Scores]:
    """Scores of the four rows; full fine-tuning comes from its record, on the same test cases."""
    _, full = run.full_fine_tuning()
    cases = len(out.names)
    return {**out.scores, "full fine-tuning": {s: c[:cases] for s, c in full.items()}}


def lines(out: Outcome, folder: Path) -> list[str]:
    """The lines the demo ends with."""
    record, _ = run.full_fine_tuning()
    scores = all_scores(out)
    text = [
        "",
        (
            f"test: {len(out.names)} simulated subjects of site B, {len(out.plan.seeds)} seeds, "
            "mean of GM, WM and CSF"
        ),
        f"{'':<18}{'Dice':>7}{'seeds':>16}{'CSF Dice':>10}{'HD95 mm':>9}{'trained':>11}{'share':>9}",
    ]
    for arm in ARMS:
        dice, low, high = measure(scores[arm], "dice")
        csf, _, _ = measure(scores[arm], "dice", "CSF")
        hd95, _, _ = measure(scores[arm], "hd95")
        count = trained(out, arm)
        spread = "" if arm == "base" else f"{low:.3f} to {high:.3f}"
        text.append(
            f"{arm:<18}{dice:>7.3f}{spread:>16}{csf:>10.3f}{hd95:>9.2f}{count:>11,}"
            f"{100 * count / out.parameters:>8.2f}%"
        )
    share, low, high = run.share_of_gap(out, scores["full fine-tuning"])
    proof = out.proof
    text += [
        (
            f"full fine-tuning is from a record ({record.device}, {record.date[:10]}, "
            f"{record.details['steps']} steps); this run trained {out.plan.steps} steps"
        ),
        (
            f"of the gap between head only and full fine-tuning the graft wins back {100 * share:.0f} % "
            f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %); its folder is "
            f"{out.file_bytes / 1000:.0f} kB"
        ),
        "proof: " + "; ".join(f"{what}: {'yes' if ok else 'NO'}" for what, ok in proofs(proof)),
        f"run time: {out.seconds:.0f} s",
        f"report: {folder / 'report.html'}",
        f"in the browser, base beside graft: medseg demo --serve --run_dir {folder}",
        "your own data: medseg adapt --data FolderData --data.path FOLDER   (dataset.json, MSD or nnU-Net)",
    ]
    return text


def proofs(proof: dict[str, Any]) -> list[tuple[str, bool]]:
    """The promises, in words, and whether each held."""
    return [
        (
            "off() = base bit for bit (masks of all test volumes, and every base tensor)",
            proof["off_masks_equal"] and proof["base_untouched"],
        ),
        (
            f"merged = forward (to {proof['merged_error']:.0e})",
            proof["merged_error"] <= MERGED_TOLERANCE,
        ),
        ("unmerge restores every bit", proof["unmerge_restores"]),
    ]


def trained(out: Outcome, arm: str) -> int:
    """How many numbers an arm trains."""
    if arm == "base":
        return 0
    # Full fine-tuning trains the base and the new row of the last convolution.
    return out.trained.get(arm, out.parameters + out.trained["head only"] // 4)


def record_of(out: Outcome, folder: Path) -> Record:
    """The run's record: every figure of the table, and each case's scores."""
    rows = []
    scores = all_scores(out)
    for arm in ARMS:
        for name in (None, *sim.CLASSES[1:]):
            for metric in ("dice", "hd95", "nsd"):
                value, low, high = measure(scores[arm], metric, name)
                rows.append(
                    Row(
                        case=name or "mean",
                        variant=arm,
                        metric=metric,
                        value=round(value, 4),
                        lo=round(low, 4),
                        hi=round(high, 4),
                        n=len(scores[arm]),
                        unit="mm" if metric == "hd95" else None,
                    )
                )
        rows.append(
            Row(case="mean", variant=arm, metric="trained parameters", value=trained(out, arm))
        )
    share, low, high = run.share_of_gap(out, scores["full fine-tuning"])
    low, high = min(low, share), max(high, share)
    rows.append(
        Row(case="mean", variant="graft", metric="share of gap", value=round(share, 4),
            lo=round(low, 4), hi=round(high, 4), n=len(out.names))
    )  # fmt: skip
    rows.append(
        Row(case="mean", variant="graft", metric="file", value=out.file_bytes, unit="bytes")
    )
    empties = {
        arm: {k: v for k, v in metrics.average([c for s in scores[arm].values() for c in s]).items()
              if k.startswith("empty")}
        for arm in ARMS
    }  # fmt: skip
    return Record(
        record="medseg/demo",
        claim="a graft of under 2 % teaches the base a new tissue and a new scanner from 5 volumes",
        command="medseg demo",
        **environment("cpu"),
        seeds=list(out.plan.seeds),
        seconds=round(out.seconds, 1),
        data={"mni152-sim-base.safetensors": run.base_sha256()},
        rows=rows,
        notes=[
            (
                "lo and hi are the smallest and largest seed; of the share of the gap, the 95 % bootstrap "
                "interval over test subjects"
            ),
            "the subjects and both sites are simulated on the MNI152 average brain",
            (
                "full fine-tuning was trained on a GPU with the same steps and patches; the rates of all "
                "arms were chosen on validation subjects"
            ),
            (
                "empty masks: both empty counts Dice 1 and HD95 0, one empty Dice 0 and HD95 the image's "
                "diagonal"
            ),
        ],
        details={
            "steps": out.plan.steps,
            "subjects": out.names,
            "proof": out.proof,
            "empties": empties,
            "scores": {
                arm: {str(s): [metrics.to_json(c) for c in cases] for s, cases in by_seed.items()}
                for arm, by_seed in out.scores.items()
            },
        },
        verdict="seen" if share >= 0.8 else "partly: the graft wins back less than 80 % of the gap",
    )


def write(out: Outcome, folder: Path) -> None:
    """Write picture.png, report.html and, last, record.json."""
    record = record_of(out, folder)
    with publish(folder / "picture.png") as file:
        file.write_bytes(picture(out))
    _report(out, record).write(folder / "report.html")
    record.write(folder / "record.json")


def picture(out: Outcome) -> bytes:
    """One axial slice of the middle test case: image, base, head only, graft; the truth as outline."""
    order = np.argsort([metrics.case_dice(c) for c in out.scores["graft"][out.plan.seeds[0]]])
    case = int(order[len(order) // 2])
    level = int((out.truth[case] == 3).sum((0, 1)).argmax())
    layers = {"scan": None}
    layers |= {arm: out.masks[arm][case, :, :, level].numpy() for arm in ARMS[:3]}
    return side_by_side(
        out.images[case, 0, :, :, level].numpy(),
        layers | {"truth": out.truth[case, :, :, level].numpy()},
        labels={k: v for k, v in LABELS.items() if k},
    )


def _report(out: Outcome, record: Record) -> Report:
    scores = all_scores(out)
    share, low, high = run.share_of_gap(out, scores["full fine-tuning"])
    report = Report(
        "A new tissue on a new scanner, from five volumes",
        verdict=f"The graft wins back {100 * share:.0f} % of the gap between training the last "
        f"convolution alone and training everything (95 % interval {100 * low:.0f} to "
        f"{100 * high:.0f} %).",
        kicker="medseg demo",
    )
    graft = measure(scores["graft"], "dice")
    report.figures([
        Figure("Dice, graft", Measure(*graft), "mean of GM, WM, CSF; range over seeds"),
        Figure("Dice, base", Measure(measure(scores["base"], "dice")[0])),
        Figure("Share trained", Measure(100 * out.trained["graft"] / out.parameters, digits=2, unit="%")),
        Figure("Graft folder", Measure(out.file_bytes / 1000, digits=0, unit="kB")),
        *[Figure(what, "yes" if ok else "no", good=ok) for what, ok in proofs(out.proof)],
    ])  # fmt: skip
    first = out.plan.seeds[0]
    cases = []
    for i, name in enumerate(out.names):
        layers = {"reference": out.truth[i].numpy()}
        layers |= {arm: out.masks[arm][i].numpy() for arm in ARMS[:3]}
        by_class = out.scores["graft"][first][i]
        cases.append(Case(
            name,
            metrics.case_dice(by_class),
            [Volume(out.images[i, 0].numpy(), layers, [sim.SPACING] * 3, LABELS)],
            {f"{k} {m}": Measure(getattr(s, m), digits=3 if m != "hd95" else 1,
                                 unit="mm" if m == "hd95" else "")
             for k, s in by_class.items() for m in ("dice", "hd95", "nsd")},
        ))  # fmt: skip
    report.cases(cases, score="Dice, graft")
    rows = []
    for arm in ARMS:
        row: list[Any] = [arm, Measure(*measure(scores[arm], "dice"))]
        row += [Measure(measure(scores[arm], "dice", name)[0]) for name in sim.CLASSES[1:]]
        row += [Measure(*measure(scores[arm], "hd95"), digits=2, unit="mm")]
        rows.append([*row, Measure(measure(scores[arm], "nsd")[0]), trained(out, arm)])
    report.table(
        "Test set",
        ["arm", "Dice", *(f"Dice {c}" for c in sim.CLASSES[1:]), "HD95", "NSD at 2 mm", "trained"],
        rows,
        caption="Mean over seeds, with the smallest and largest seed.",
        strong=[2],
    )
    report.dots(
        "Dice by tissue",
        {name: {arm: Measure(*measure(scores[arm], "dice", name)) for arm in ARMS}
         for name in sim.CLASSES[1:]},
        x="Dice",
        zero=True,
    )  # fmt: skip
    report.curves(
        "Training",
        {name: list(enumerate(values, 1)) for name, values in out.losses.items()},
        x="step",
        y="loss (Dice + cross-entropy)",
    )
    return report.notes(record.notes).record(record)

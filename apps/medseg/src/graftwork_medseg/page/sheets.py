"""What the page shows, as HTML: the choice of a scan, a case, what is in use, and a case's report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from graftwork_runs import Case, Figure, Measure, Report, Volume
from graftwork_runs.report.cells import Markup, facts_html, table_html
from graftwork_runs.report.look import section
from graftwork_runs.report.pictures import COLOURS

from . import niivue
from .desk import ADAPTED, BASE, TRUTH, Desk, Seen

NOTICE = "No medical device: for research only, never for diagnosis or treatment."
_SIMULATED = "The scan is simulated on an average brain; its figures say nothing about patients."
_SITES = {"a": "Site A, the scanner that the base knows", "b": "Site B, the new scanner"}
_VIEWS = {"multi": "slices and 3D", "axial": "axial", "coronal": "coronal",
          "sagittal": "sagittal", "mask": "3D mask"}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A block of a report: names and values."""

    facts: Mapping[str, Any]

    def html(self) -> str:
        return facts_html(self.facts)


def notice() -> str:
    """The line that every sheet shows."""
    return f'<p class="notice">{escape(NOTICE)}</p>'


def choice(desk: Desk, token: str) -> str:
    """The front page above the runs."""
    options = "".join(
        f'<optgroup label="{escape(_SITES[site])}">'
        + "".join(f"<option value='{n}'>{escape(desk.title(n))}</option>" for n in names)
        + "</optgroup>"
        for site, names in desk.examples().items()
    )
    hidden = f'<input type="hidden" name="token" value="{token}">'
    head = '<form class="ask" method="post" enctype="multipart/form-data" action='
    forms = (
        f'<div class="two">{head}"/example">{hidden}<h3>A simulated scan</h3>'
        f'<label>Subject<select name="example">{options}</select></label>'
        '<p class="soft">None of these subjects was trained on. The truth is known, so Dice is shown.</p>'
        '<button type="submit" data-wait="Simulating and segmenting …">Segment the example</button>'
        f'</form>{head}"/upload">{hidden}<h3>A scan of your own</h3>'
        '<label>Image, 3D NIfTI<input type="file" name="image" accept=".nii,.gz" required></label>'
        '<label>Labels on the same grid, if you have them<input type="file" name="label" '
        'accept=".nii,.gz"></label>'
        '<p class="soft">It stays on this computer and is deleted when the page ends.</p>'
        '<button type="submit" data-wait="Segmenting …">Segment the file</button></form></div>'
    )
    seen = "".join(
        f'<li><a href="/case/{case.id}">{escape(case.name)}</a></li>'
        for case in reversed(desk.cases.values())
    )
    parts = [notice(), section("Choose a scan", forms)]
    if seen:
        parts.append(section("Seen in this session", f'<ul class="seen">{seen}</ul>'))
    parts.append(section("What is in use", facts_html(in_use(desk)) + _sites(desk)))
    return "".join(parts)


def case_sheet(desk: Desk, case: Seen, slices: Callable[[], str]) -> str:
    """One case: viewer, figures and downloads. `slices` draws the planes that need no WebGL."""
    widget = niivue.find()
    verdict = f"{_grid(case)}; segmented twice in {case.seconds:.1f} s."
    view = (
        _viewer(case) + f'<details class="more" id="slices"><summary>Single slices, without '
        f"WebGL</summary>{slices()}</details>"
        if widget
        else f'<p class="soft">{escape(niivue.REMEDY)}</p>{slices()}'
    )
    return (
        '<header class="top"><p class="kicker"><a href="/">Choose another scan</a></p>'
        f'<h1>{escape(case.name)}</h1><p class="verdict">{escape(verdict)}</p></header>{notice()}'
        + section("Base and graft", view)
        + section("Volumes" + (" and Dice" if case.dice else ""), _figures_table(desk, case))
        + section("Take along", _downloads(case))
        + section("What is in use", facts_html(in_use(desk)) + _sites(desk))
    )


def slices(case: Seen) -> str:
    """The report's picture of a case: three planes with one mask at a time, truth as outline."""
    return _volume(case).html()


def report(desk: Desk, case: Seen) -> Report:
    """The case as one HTML file to keep."""
    built = Report(case.name, kicker="medseg, local page", verdict=NOTICE)
    built.figures([
        Figure(name, Measure(case.millilitres[ADAPTED][name], digits=1, unit="ml"),
               f"Dice {case.dice[ADAPTED][name]:.3f}" if case.dice else "adapted")
        for name in case.classes[1:]
    ])  # fmt: skip
    found = case.dice.get(ADAPTED)
    mean = sum(found.values()) / len(found) if found else None
    built.cases([Case(case.name, mean, [_volume(case)])], score="Dice, adapted", title="Masks")
    columns, rows = _rows(desk, case)
    built.table("Volumes" + (" and Dice" if case.dice else ""), columns, rows)
    built.block("What is in use", Facts(in_use(desk)))
    return built.notes([NOTICE, *([_SIMULATED] if case.simulated else []), f"Grid: {_grid(case)}."])


def in_use(desk: Desk) -> dict[str, Any]:
    """Base and graft as the graft's passport tells them, and the viewer."""
    passport, spec = desk.passport, desk.passport["graft"]
    trainable, method = passport["trainable"], spec["method"]
    settings = ", ".join(f"{k} {v}" for k, v in method["config"].items() if v)
    also = [item["name"] for item in spec["also_train"]]
    facts = {
        "Base": f"{desk.base}, {trainable['base_parameters']:,} parameters",
        "The base knows": ", ".join(desk.base_classes[1:]),
        "Graft": _shown(Path(passport["folder"])),
        "The graft knows": ", ".join(desk.classes[1:]),
        "Method": f"{method['id']} ({settings})" if settings else method["id"],
        "Sites": f"{len(spec['sites'])}; also trained: {len(also)} modules" if also
                 else len(spec["sites"]),
        "Trained": f"{trainable['parameters']:,} parameters, {100 * trainable['share']:.3g} %",
        "Written": f"{passport['created'][:16].replace('T', ' ')} UTC, graftwork {passport['graftwork']}",
        "Data card": _said(passport["data_card"]),
        "Metrics": _said(passport["metrics"]),
        "Viewer": niivue.name() if niivue.find() else niivue.REMEDY,
    }  # fmt: skip
    return {k: v for k, v in facts.items() if v}


def _shown(path: Path) -> str:
    """A path as the person who started the page would write it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(
            f"{k}: {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in value.items()
        )
    return str(value) if value else "the passport holds none"


def _sites(desk: Desk) -> str:
    spec = desk.passport["graft"]
    names = [item["name"] or "(the whole network)" for item in spec["sites"]]
    names += [f"{item['name']} ({item['kind']})" for item in spec["also_train"]]
    items = "".join(f"<li><code>{escape(name)}</code></li>" for name in names)
    return f'<details class="more"><summary>Every site</summary><ul class="sites">{items}</ul></details>'


def _grid(case: Seen) -> str:
    size = " × ".join(map(str, case.shape))
    spacing = " × ".join(f"{s:.3g}" for s in case.spacing)
    what = "Simulated scan" if case.simulated else "Scan"
    return f"{what} of {size} voxels, {spacing} mm"


def _rows(desk: Desk, case: Seen) -> tuple[list[str], list[list[Any]]]:
    masks = [mask for mask in (BASE, ADAPTED, TRUTH) if mask in case.masks]
    scored = [mask for mask in (BASE, ADAPTED) if mask in case.dice]
    columns = ["class", *(f"{m}, ml" for m in masks), *(f"Dice, {m}" for m in scored)]
    rows: list[list[Any]] = []
    for k, name in enumerate(case.classes):
        if k:
            rows.append(
                [Markup(_key(k) + escape(name))]
                + [Measure(case.millilitres[m].get(name), digits=1) for m in masks]
                + [Measure(case.dice[m].get(name)) for m in scored]
            )
    return columns, rows


def _figures_table(desk: Desk, case: Seen) -> str:
    columns, rows = _rows(desk, case)
    lacking = [c for k, c in enumerate(case.classes) if k and not desk.holds(BASE, k)]
    notes = [f"The base has no output for {', '.join(lacking)}."] if lacking else []
    notes += [_SIMULATED] if case.simulated else ["Volumes are counts of voxels times their size."]
    return table_html(columns, rows, caption=" ".join(notes))


def _downloads(case: Seen) -> str:
    links = [(f"{mask}.nii.gz", f"{mask} mask") for mask in case.masks]
    links += [(case.image, "the scan"), ("report.html", "report")]
    order = [f"{ADAPTED}.nii.gz", "report.html", f"{BASE}.nii.gz", f"{TRUTH}.nii.gz", case.image]
    links.sort(key=lambda link: order.index(link[0]))
    items = "".join(
        f'<a class="button{"" if i < 2 else " plain"}" href="/case/{case.id}/{file}" download>'
        f"{escape(text[0].upper() + text[1:])}</a>"
        for i, (file, text) in enumerate(links)
    )
    return (
        f'<p class="take">{items}</p><p class="soft">Masks are NIfTI on the scan\'s own grid, with its '
        "affine byte for byte. The report is one HTML file with pictures.</p>"
    )


def _key(k: int) -> str:
    return f'<span class="key" style="--s:rgb{COLOURS[(k - 1) % len(COLOURS)]}"></span>'


def _volume(case: Seen) -> Volume:
    names = {TRUTH: "reference"}
    layers = {
        names.get(mask, mask): case.upright(case.masks[mask])
        for mask in (TRUTH, BASE, ADAPTED)
        if mask in case.masks
    }
    labels = {k: name for k, name in enumerate(case.classes) if k}
    return Volume(case.upright(case.voxels), layers, case.spacing, labels)


def _viewer(case: Seen) -> str:
    masks = [mask for mask in (BASE, ADAPTED, TRUTH) if mask in case.masks]
    told = json.dumps({
        "widget": "/niivue/widget.js",
        "image": f"/case/{case.id}/{case.image}",
        "masks": {mask: f"/case/{case.id}/{mask}.nii.gz" for mask in masks},
        "start": _start(case),
        "classes": case.classes,
        "colours": [COLOURS[k % len(COLOURS)] for k in range(len(case.classes) - 1)],
    })  # fmt: skip
    shown = _radios("show", "Masks", {"both": "base beside adapted", **{m: m for m in masks}})
    views = _radios("view", "View", _VIEWS)
    boxes = "".join(
        f'<label><input type="checkbox" name="class" value="{k}" checked>{_key(k)}{escape(name)}</label>'
        for k, name in enumerate(case.classes)
        if k
    )
    panels = "".join(
        f'<figure class="panel"><div class="screen"></div><figcaption>{mask}</figcaption></figure>'
        for mask in (BASE, ADAPTED)
    )
    return (
        f'<div class="nv" id="viewer" data-case="{escape(told)}">'
        f'<form class="controls">{shown}{views}<fieldset><legend>Classes</legend>{boxes}</fieldset>'
        '<label class="slide"><span>Opacity</span><input type="range" name="opacity" min="0" '
        'max="1" step="0.05" value="0.6">'
        f'</label></form><div class="panels">{panels}</div>'
        '<p class="where soft" aria-live="polite">Loading the viewer …</p></div>'
    )


def _start(case: Seen) -> list[float]:
    """Where the slices open, as fractions of the RAS axes: where the two masks differ most."""
    differ = case.upright(case.masks[BASE] != case.masks[ADAPTED])
    if not differ.any():
        return [0.5] * 3
    profiles = (differ.sum(others) for others in ((1, 2), (0, 2), (0, 1)))
    return [(int(p.argmax()) + 0.5) / len(p) for p in profiles]


def _radios(name: str, legend: str, values: Mapping[str, str]) -> str:
    items = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" if not i else ""}>'
        f"{escape(text)}</label>"
        for i, (value, text) in enumerate(values.items())
    )
    return f"<fieldset><legend>{legend}</legend>{items}</fieldset>"

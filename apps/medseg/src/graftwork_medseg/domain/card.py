"""The card of a domain base, in Markdown, written from its record."""

from __future__ import annotations

import json
from typing import Any

LICENCES = {
    "openkbp": "Apache-2.0 (weights); trained on OpenKBP (MIT), see openkbp.md",
    "synth": "Apache-2.0 (weights); drawn from SynthSeg label maps (Apache-2.0), see synthseg.md",
}
WORDS = {
    "openkbp": {
        "what": "Segments five head-and-neck organs on CT: brainstem, spinal cord, both parotids, mandible.",
        "data": "OpenKBP, source site (in-plane spacing up to 4.1 mm), 70 % of its patients; the shifted "
        "site and the labels of larynx and oesophagus were never used. Organs that a case does not annotate "
        "are left out of its loss (see `losses.py`)",
        "limits": "any clinical use; CT of another body region; images not brought to the contract above; "
        "larynx and oesophagus, which it takes for background",
    },
    "synth": {
        "what": "Segments the hippocampus on brain MR cut around it; trained on SYNTHETIC images alone.",
        "data": "images drawn on the fly from SynthSeg label maps of 13 subjects, random contrast; no "
        "measured image",
        "limits": "any clinical use; whole heads, since it has seen boxes around one hippocampus; diseased "
        "hippocampi",
    },
}


def card(record: dict[str, Any]) -> str:
    """The card: front matter as data_cards/README.md asks, then data, command, figures and limits."""
    details = record["details"]
    kind = details["plan"].split("-")[0]
    name = next(key for key in record["data"] if key.endswith(".safetensors"))
    words = WORDS[kind]
    patch = " x ".join(map(str, details["patch"]))
    return f"""---
name: {name}
kind: checkpoint
network: {json.dumps(details["network"])}
parameters: {details["parameters"]}
classes: {json.dumps(details["classes"])}
contract: {json.dumps(details["contract"])}
licence: {LICENCES[kind]}
sha256: {record["data"][name]}
---

# {name}

{words["what"]}

- Data: {words["data"]}.
- Command: `{record["command"]}`
- Device and time: {record["device"]}, {record["seconds"]} s, {details["steps"]} steps, patches of {patch} voxels.
{_scored(details)}\
- Precision: float16 on disk ({details["bytes"] / 1e6:.1f} MB), loaded as float32; the weights are the moving average.
- Not for: {words["limits"]}.

Figures on cases that were kept out (mean over cases; HD95 in mm; NSD at {details["tolerance_mm"]:g} mm; n cases in
which the organ is annotated):

{_table(record["rows"])}
"""


def _scored(details: dict[str, Any]) -> str:
    """The line on a scoring of its own, by `domain.rescore`."""
    again = details.get("scored")
    if not again:
        return ""
    return f"- Scored anew: `{again['command']}`, on {again['device']}, {again['seconds']} s.\n"


def _table(rows: list[dict[str, Any]]) -> str:
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(row["case"], {"n": row["n"]})[row["metric"]] = row["value"]
    lines = ["| case | Dice | HD95 | NSD | n |", "| --- | ---: | ---: | ---: | ---: |"]
    for case, cell in cells.items():
        shown = [
            "-" if cell[m] is None else f"{cell[m]:.{digits}f}"
            for m, digits in (("dice", 3), ("hd95", 1), ("nsd", 3))
        ]
        lines.append(f"| {case} | {' | '.join(shown)} | {cell['n']} |")
    return "\n".join(lines)

"""What a step may cost over the frozen floor, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable

from graftwork_runs import Row

RATIO = "ratio to floor"
#: of a variant that is compiled or recorded
EAGER = "ratio to eager floor"
#: table -> {(first word of the case, variant): times the floor}; fp32 factors, eager unless the variant says so
LIMITS: dict[str, dict[tuple[str, str], float]] = {
    "llama": {
        ("hidden", "graftwork LoRA 16"): 1.13,
        ("hidden", "graftwork LoRA 16, compiled"): 1.12,
        ("hidden", "graftwork DoRA 16"): 1.35,
        ("hidden", "graftwork DiaBlo 64"): 1.15,
    },
    "vision": {
        ("vit", "graftwork"): 1.25,
        ("vit", "graftwork, compiled"): 1.12,
        ("segresnet32", "graftwork"): 1.35,
        ("unet", "graftwork"): 1.35,
        ("swin-unetr", "graftwork"): 1.05,
    },
}


def verdict(table: str, rows: Iterable[Row], device: str = "cuda") -> str:
    """How many of a table's limits hold, and the ratio of each; a row that was not measured counts as none.

    The limits are for a GPU: on a CPU the ratios are told and not judged.
    """
    measured = {
        (row.case.partition(":")[0], row.variant): row.value
        for row in rows
        if row.metric == RATIO and row.value is not None
    }
    said, held = [], 0
    for (case, variant), limit in LIMITS[table].items():
        ratio = measured.get((case, variant))
        held += ratio is not None and ratio <= limit
        found = "not measured" if ratio is None else f"{ratio:.2f}"
        said.append(f"{case}, {variant}: {found} (limit {limit:g})")
    if not any(key in measured for key in LIMITS[table]):
        return f"not testable here: {'; '.join(said)}."
    if device == "cpu":
        return f"not testable here: the limits are for a GPU: {'; '.join(said)}."
    word = "seen" if held == len(said) else "partly" if held else "not seen at this scale"
    return f"{word}: {held} of {len(said)} limits hold: {'; '.join(said)}."

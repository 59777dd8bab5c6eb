"""The preprocessing contract: what a network was trained on, and so what every image must become for it.

A contract travels in the metadata of a weights file and in a graft's passport (`graft.json`, field `app`).
Everything here is data and works without torch; `prepare` applies it.

Working axes are the axes of the network's input. `orientation` names them in one of two ways: by anatomy
("RAS": the first axis runs to the right, the second to anterior, the third to superior), or by the file's
own axes ("ijk" is the file's order; "kji" reverses it and flips nothing, which is what nnU-Net does).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from graftwork.errors import GraftError

APP = "medseg"  # whose section of a passport the contract is
VERSION = 1
QUANTILES = (0.5, 50.0, 99.5)  # per cent

# Rules of Intensity.rule, and the fields that each needs.
RULES: dict[str, tuple[str, ...]] = {
    "volume": (),
    "nonzero": (),
    "window": ("low", "high"),
    "ct": ("low", "high", "mean", "std"),
    "zscore": (),
    "none": (),
}
# Rules that keep the image's own units: what such a network was trained on can be told in those units.
ABSOLUTE = frozenset({"window", "ct", "none"})

_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2, "i": 0, "j": 1, "k": 2}
Triple = tuple[float, float, float]
Span = tuple[float, float]  # lowest and highest value seen


@dataclass(frozen=True)
class Intensity:
    """How one channel's values become the network's input; x is a voxel, float32.

    Args:
        rule: on the working grid, after resampling:
            "volume": (x - mean) / sd of the whole volume (`sim.normalise`);
            "nonzero": the same over the voxels that are not 0, which alone are changed (MONAI's
            NormalizeIntensity with nonzero=True);
            "window": from [low, high] (HU for CT) linearly to [0, 1], clipped;
            "none": x itself.
            On the file's grid, before resampling, as nnU-Net v2 does it:
            "ct": (clip(x, low, high) - mean) / max(sd, 1e-8), CTNormalization;
            "zscore": (x - mean) / max(sd, 1e-8) over the box around what is not 0, ZScoreNormalization.
        low, high: bounds of "window" and "ct".
        mean, std: of "ct"; the training set's foreground.
        mask: of "zscore": statistics over the filled nonzero mask, and nothing outside it changes.
    """

    rule: str = "volume"
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    mask: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise GraftError(f"intensity.rule {self.rule!r}: choose one of {', '.join(RULES)}")
        needed = RULES[self.rule]
        for name in ("low", "high", "mean", "std"):
            value = getattr(self, name)
            if (value is not None) != (name in needed):
                verb = "needs" if name in needed else "takes no"
                raise GraftError(f"intensity.rule {self.rule!r} {verb} {name}, which is {value!r}")
            if value is not None and not _finite(value):
                raise GraftError(f"intensity.{name} {value!r} must be a finite number")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise GraftError(f"intensity.low {self.low:g} must be below high {self.high:g}")
        if self.std is not None and self.std < 0:
            raise GraftError(f"intensity.std {self.std:g} must not be negative")
        if self.mask and self.rule != "zscore":
            raise GraftError(f"intensity.rule {self.rule!r} takes no mask")

    @property
    def absolute(self) -> bool:
        """Whether the rule keeps the image's own units."""
        return self.rule in ABSOLUTE

    def __str__(self) -> str:
        if self.rule == "window":
            return f"window [{self.low:g}, {self.high:g}] to [0, 1]"
        if self.rule == "ct":
            return f"ct [{self.low:g}, {self.high:g}], mean {self.mean:g}, sd {self.std:g}"
        return f"{self.rule}{' inside the mask' if self.mask else ''}"


@dataclass(frozen=True)
class Observed:
    """What one image is, in the terms of `Ranges`, on the working axes.

    Args:
        spacing: voxel size of the image in mm, before resampling.
        extent: size of the image in mm.
        percentiles: `QUANTILES` of each channel: in the image's own units for a rule that keeps them,
            otherwise after normalisation.
    """

    spacing: Triple
    extent: Triple
    percentiles: tuple[Triple, ...] = ()


@dataclass(frozen=True)
class Ranges:
    """The lowest and highest value of `Observed` over a training set; None or empty: not known.

    Args:
        spacing, extent: one (lowest, highest) per working axis, mm.
        percentiles: for each channel one (lowest, highest) per quantile of `QUANTILES`.
    """

    spacing: tuple[Span, Span, Span] | None = None
    extent: tuple[Span, Span, Span] | None = None
    percentiles: tuple[tuple[Span, Span, Span], ...] = ()

    @classmethod
    def of(cls, cases: Sequence[Observed]) -> Ranges:
        """The ranges of `cases`, at least one."""
        return cls(
            _spans([c.spacing for c in cases]),
            _spans([c.extent for c in cases]),
            tuple(_spans(one) for one in zip(*(c.percentiles for c in cases), strict=True)),
        )

    def union(self, other: Ranges | None) -> Ranges:
        """The ranges of both training sets together; what one does not know stays unknown."""
        if other is None or len(self.percentiles) != len(other.percentiles):
            return replace(self, percentiles=()) if other is not None else self
        return Ranges(
            _joined(self.spacing, other.spacing),
            _joined(self.extent, other.extent),
            tuple(
                _joined(a, b)  # type: ignore[misc]  # neither is None
                for a, b in zip(self.percentiles, other.percentiles, strict=True)
            ),
        )


@dataclass(frozen=True)
class Contract:
    """What an image must become before a network sees it, and what that network tells apart.

        Contract(classes=("background", "liver"), channels=("CT",), spacing=1.5,
                 intensity=Intensity("window", -175, 250), patch=(96, 96, 96), ranges=Ranges.of(cases))

    Args:
        classes: class names by value; the first is the background. Empty: the weights file knew none.
        channels: what each input channel is, such as "CT" or "T1".
        spacing: voxel size of the working grid in mm, one number or one per working axis; None keeps each
            image's own.
        intensity: one rule for all channels, or one per channel.
        orientation: the working axes, see the module's docstring.
        patch: patch size in voxels of the working grid that the network was trained at.
        ranges: what the training set's images were.

    Raises:
        GraftError: a field that makes no sense, by name.
    """

    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("image",)
    spacing: float | Triple | None = None
    intensity: Intensity | tuple[Intensity, ...] = Intensity()
    orientation: str = "RAS"
    patch: tuple[int, int, int] | None = None
    ranges: Ranges | None = None

    def __post_init__(self) -> None:
        axes = [_AXES.get(letter) for letter in self.orientation]
        mixed = not (self.orientation.isupper() or self.orientation.islower())
        if sorted(map(str, axes)) != ["0", "1", "2"] or mixed:
            raise GraftError(
                f"contract.orientation {self.orientation!r}: give three axis codes such as 'RAS', or an "
                "order of the file's axes such as 'kji'"
            )
        for field in ("classes", "channels"):
            names = tuple(getattr(self, field))
            if not all(isinstance(n, str) and n.isprintable() for n in names):  # they are printed
                raise GraftError(f"contract.{field} must be printable names")
            object.__setattr__(self, field, names)
        object.__setattr__(self, "spacing", checked_spacing(self.spacing, "contract.spacing"))
        rules = self.intensity
        rules = (rules,) if isinstance(rules, Intensity) else tuple(rules)
        rules = rules * len(self.channels) if len(rules) == 1 else rules
        if not self.channels or len(rules) != len(self.channels):
            raise GraftError(
                f"contract.intensity has {len(rules)} rules for {len(self.channels)} channels"
            )
        object.__setattr__(self, "intensity", rules)
        if self.patch is not None:
            patch = tuple(int(n) for n in self.patch)
            if len(patch) != 3 or min(patch) < 1:
                raise GraftError(f"contract.patch {list(self.patch)} must be three positive sizes")
            object.__setattr__(self, "patch", patch)

    @property
    def rules(self) -> tuple[Intensity, ...]:
        """The intensity rule of each channel."""
        assert isinstance(self.intensity, tuple)
        return self.intensity

    def axis(self, i: int) -> str:
        """How messages name working axis `i`: x, y and z, as in left-right, front-back, feet-head."""
        return "xyz"[_AXES[self.orientation[i]]]

    def warnings(self, case: Observed) -> list[str]:
        """One line for each way in which an image lies outside the training range.

        Spacing and extent: per axis, more than 1 % below the lowest or above the highest value of the
        training set. Intensity: per channel and quantile, below the lowest or above the highest value
        by more than a tenth of the channel's whole range, which is the distance from the lowest 0.5 % to
        the highest 99.5 % quantile. A range that the contract does not know warns of nothing.
        """
        out: list[str] = []
        known = self.ranges or Ranges()
        for what, values, spans in (
            ("spacing", case.spacing, known.spacing),
            ("extent", case.extent, known.extent),
        ):
            for i, (value, (low, high)) in enumerate(zip(values, spans or (), strict=False)):
                if not low / 1.01 <= value <= high * 1.01:
                    out.append(
                        f"outside the training range: {what} {self.axis(i)} {value:.3g} mm, "
                        f"trained on {low:.3g} to {high:.3g}"
                    )
        for name, rule, values, spans in zip(
            self.channels, self.rules, case.percentiles, known.percentiles, strict=False
        ):
            slack = 0.1 * (spans[-1][1] - spans[0][0])
            unit = "" if rule.absolute else " after normalisation"
            for quantile, value, (low, high) in zip(QUANTILES, values, spans, strict=True):
                if not low - slack <= value <= high + slack:
                    out.append(
                        f"outside the training range: intensity of {name}, {quantile:g} % quantile "
                        f"{value:.3g}{unit}, trained on {low:.3g} to {high:.3g}"
                    )
        return out

    def to_json(self) -> dict[str, Any]:
        """The contract as plain values; `from_json` reads them back."""
        return {"version": VERSION, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, value: Any, source: str) -> Contract:
        """The contract that `to_json` wrote.

        Raises:
            GraftError: a newer version, an unknown or missing field, or a value that makes no sense;
                `source` says where.
        """
        if not isinstance(value, Mapping):
            raise GraftError(f"{source}: contract must be a JSON object")
        fields = dict(value)
        version = fields.pop("version", None)
        if version != VERSION:
            raise GraftError(
                f"{source}: contract of version {version!r}, this medseg reads {VERSION}; update it"
            )
        unknown = sorted(fields.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise GraftError(f"{source}: contract has unknown field {unknown[0]!r}")
        try:
            rules = tuple(Intensity(**rule) for rule in fields.pop("intensity"))
            ranges = fields.pop("ranges")
            if ranges is not None:
                ranges = Ranges(**{name: _tuples(item) for name, item in ranges.items()})
                _check_ranges(ranges)
            return cls(
                intensity=rules,
                ranges=ranges,
                **{name: _tuples(item) for name, item in fields.items()},
            )
        except GraftError as error:
            raise GraftError(f"{source}: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise GraftError(f"{source}: contract is damaged: {error}") from None


def checked_spacing(value: Any, field: str) -> Triple | None:
    """A working spacing as three numbers, or None.

    Raises:
        GraftError: not one or three positive numbers; the message names `field`.
    """
    if value is None:
        return None
    numbers = [value] * 3 if isinstance(value, int | float) else list(value)
    if len(numbers) != 3 or not all(_finite(n) and n > 0 for n in numbers):
        raise GraftError(f"{field} {value} must be one or three positive numbers of mm, or null")
    return tuple(float(n) for n in numbers)  # type: ignore[return-value]


def words(spacing: Triple | None) -> str:
    """A working spacing as messages say it."""
    if spacing is None:
        return "each image's own"
    return " x ".join(f"{s:g}" for s in (spacing if len(set(spacing)) > 1 else spacing[:1])) + " mm"


def _finite(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def _spans(rows: Sequence[Triple]) -> tuple[Span, Span, Span]:
    return tuple((float(min(c)), float(max(c))) for c in zip(*rows, strict=True))  # type: ignore[return-value]


def _joined(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return None
    return tuple((min(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b, strict=True))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _check_ranges(ranges: Ranges) -> None:
    groups = [g for g in (ranges.spacing, ranges.extent, *ranges.percentiles) if g is not None]
    for group in groups:
        if len(group) != 3 or not all(
            len(span) == 2 and all(map(_finite, span)) and span[0] <= span[1] for span in group
        ):
            raise GraftError(
                "contract.ranges must hold three pairs of lowest and highest value each"
            )

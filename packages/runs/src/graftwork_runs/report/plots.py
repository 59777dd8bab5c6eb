"""Line and dot plots as inline SVG, drawn with the page's own colours in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from graftwork_runs.report.cells import Measure, table_html

_WIDTH, _HEIGHT = 720, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 14, 46
_MOST_POINTS = 400
_COLOURS = 8

Curve = Sequence[tuple[float, float]]


def curves_html(
    curves: Mapping[str, Curve], *, x: str, y: str, log: bool = False, caption: str = ""
) -> str:
    """Lines through (x, y) points, one per name. With `log` the y axis is logarithmic.

    Points that are not finite (or not positive, with `log`) leave a gap. A table of first, lowest
    and last values stands below for readers who do not see the plot.
    """
    pieces = {name: _segments(points, log) for name, points in curves.items()}
    shown = [p for segments in pieces.values() for segment in segments for p in segment]
    if not shown:
        return '<p class="soft">Nothing to plot: no finite values.</p>'
    whole = all(p[0].is_integer() for p in shown)  # steps have no halves
    xs = _ticks(min(p[0] for p in shown), max(p[0] for p in shown), 7, whole=whole)
    ys = _ticks(min(p[1] for p in shown), max(p[1] for p in shown), 5)
    place_x = _scale(xs, _LEFT, _WIDTH - _RIGHT)
    place_y = _scale(ys, _HEIGHT - _BOTTOM, _TOP)
    marks = _frame(xs, ys, place_x, place_y, x, y, log)
    for index, segments in enumerate(pieces.values()):
        for segment in segments:
            dots = " ".join(f"{place_x(a):.1f},{place_y(b):.1f}" for a, b in _thin(segment))
            if len(segment) == 1:
                a, b = segment[0]
                marks.append(
                    f'<circle class="mark s{index % _COLOURS}" cx="{place_x(a):.1f}" '
                    f'cy="{place_y(b):.1f}" r="3"/>'
                )
            else:
                marks.append(f'<polyline class="trace s{index % _COLOURS}" points="{dots}"/>')
    rows = [
        [name, len(points), *_digest(points)] for name, points in curves.items() if len(points) > 0
    ]
    table = table_html(["curve", "points", "first", "lowest", "highest", "last"], rows)
    return _figure(marks, _HEIGHT, f"{y} against {x}", _legend(list(curves)), caption, table)


def dots_html(
    rows: Mapping[str, Mapping[str, Measure]], *, x: str, caption: str = "", zero: bool = False
) -> str:
    """Horizontal dots with interval bars: `rows` maps a category to {variant: Measure}.

    With `zero` the axis begins at 0.
    """
    variants = list(dict.fromkeys(v for group in rows.values() for v in group))
    values = [
        v
        for group in rows.values()
        for m in group.values()
        if m.defined
        for v in (m.value, m.lo, m.hi)
        if v is not None and math.isfinite(v)
    ]
    if not values:
        return '<p class="soft">Nothing to plot: no defined values.</p>'
    xs = _ticks(min([0.0, *values] if zero else values), max(values), 7)
    left = 24 + 7 * max(len(name) for name in rows)
    place = _scale(xs, min(left, _WIDTH // 3), _WIDTH - _RIGHT - 8)
    step, gap = 17, 14
    height = _TOP + len(rows) * (step * len(variants) + gap) + _BOTTOM
    marks = []
    for tick in xs:
        marks.append(
            f'<line class="grid" x1="{place(tick):.1f}" x2="{place(tick):.1f}" '
            f'y1="{_TOP}" y2="{height - _BOTTOM}"/>'
            f'<text x="{place(tick):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">'
            f"{_tick_text(tick, xs)}</text>"
        )
    marks.append(
        f'<text x="{(place(xs[0]) + place(xs[-1])) / 2:.0f}" y="{height - 8}" '
        f'text-anchor="middle">{escape(x)}</text>'
    )
    top = _TOP + gap / 2
    for name, group in rows.items():
        middle = top + step * len(variants) / 2
        marks.append(
            f'<text class="strong" x="{place(xs[0]) - 12:.1f}" y="{middle + 4:.1f}" '
            f'text-anchor="end">{escape(name)}</text>'
        )
        for index, variant in enumerate(variants):
            measure = group.get(variant)
            if measure is not None and measure.defined:
                row_y = top + step * (index + 0.5)
                marks.append(_dot(measure, variant, index, place, row_y))
        top += step * len(variants) + gap
    cells = [
        [name, *(group.get(v, Measure(None)) for v in variants)] for name, group in rows.items()
    ]
    table = table_html(["", *variants], cells)
    return _figure(marks, height, x, _legend(variants), caption, table)


def _dot(measure: Measure, variant: str, index: int, place: _Place, y: float) -> str:
    style = f"s{index % _COLOURS}"
    bar = ""
    if measure.lo is not None and measure.hi is not None:
        bar = (
            f'<line class="trace {style}" stroke-width="2" x1="{place(measure.lo):.1f}" '
            f'x2="{place(measure.hi):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    label = f"{variant}: {measure.number()} {measure.within()}".strip()
    at = place(measure.value or 0.0)
    return (
        f"<g><title>{escape(label)}</title>{bar}"
        f'<circle class="mark {style}" cx="{at:.1f}" cy="{y:.1f}" r="4.2"/></g>'
    )


def _figure(
    marks: list[str], height: float, label: str, legend: str, caption: str, table: str
) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure>{legend}<div class="wide"><svg class="plot" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'role="img" aria-label="{escape(label)}">{"".join(marks)}</svg></div>{below}</figure>'
        f'<details class="more"><summary>The figures behind this plot</summary>{table}</details>'
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li><span class="key s{i % _COLOURS}"></span>{escape(name)}</li>'
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _frame(
    xs: list[float],
    ys: list[float],
    place_x: _Place,
    place_y: _Place,
    x: str,
    y: str,
    log: bool,
) -> list[str]:
    marks = []
    for tick in ys:
        at = place_y(tick)
        shown = 10**tick if log else tick
        text = f"{shown:.2g}" if log else _tick_text(tick, ys)
        marks.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for tick in xs:
        marks.append(
            f'<text x="{place_x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{_tick_text(tick, xs)}</text>"
        )
    base = place_y(ys[0])
    marks.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>'
    )
    marks.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}" '
        f'text-anchor="middle">{escape(x)}</text>'
    )
    turned = f"rotate(-90 14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f})"
    marks.append(
        f'<text x="14" y="{(_TOP + _HEIGHT - _BOTTOM) / 2 + 4:.0f}" text-anchor="middle" '
        f'transform="{turned}">{escape(y)}</text>'
    )
    return marks


class _Place:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._slope = (end - start) / (high - low)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._slope


def _scale(ticks: list[float], start: float, end: float) -> _Place:
    return _Place(ticks[0], ticks[-1], start, end)


def _ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round values that enclose [low, high], about `count` of them, at least two; whole numbers alone if asked."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        if whole:
            pad = max(1.0, round(pad))
        low, high = low - pad, high + pad
    raw = (high - low) / max(count - 1, 1)
    if whole:
        raw = max(raw, 1.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        power * m
        for m in (1, 2, 2.5, 5, 10)
        if power * m >= raw * 0.999 and not (whole and power * m % 1)
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _tick_text(tick: float, ticks: list[float]) -> str:
    step = ticks[1] - ticks[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, decimals) != round(step, decimals + 2):  # a step of 2.5, 0.25 and so on
        decimals += 1
    return f"{tick:,.{decimals}f}".replace("-", "−")


def _segments(points: Curve, log: bool) -> list[list[tuple[float, float]]]:
    segments: list[list[tuple[float, float]]] = [[]]
    for a, b in points:
        a, b = float(a), float(b)
        if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log):
            segments[-1].append((a, math.log10(b) if log else b))
        elif segments[-1]:
            segments.append([])
    return [segment for segment in segments if segment]


def _thin(segment: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points that keep each stretch's lowest and highest value."""
    if len(segment) <= _MOST_POINTS:
        return segment
    width = math.ceil(2 * len(segment) / _MOST_POINTS)
    kept = []
    for start in range(0, len(segment), width):
        stretch = segment[start : start + width]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept.extend(sorted(ends))
    return kept


def _digest(points: Curve) -> list[float | None]:
    ys = [float(b) for _, b in points]
    finite = [b for b in ys if math.isfinite(b)]
    if not finite:
        return [None] * 4
    return [ys[0], min(finite), max(finite), ys[-1]]

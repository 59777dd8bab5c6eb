"""Images and volumes with label masks laid over them, by plane and by slice."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from graftwork.errors import GraftError

# Bright enough over grey anatomy, and told apart by readers with any colour vision.
COLOURS = (
    (255, 176, 0),
    (86, 180, 233),
    (0, 200, 150),
    (240, 120, 192),
    (240, 228, 66),
    (154, 140, 255),
    (255, 112, 67),
    (176, 190, 197),
)
_FILL_ALPHA = 120
_PLANES = ("sagittal", "coronal", "axial")
_PIXELS_PER_VOLUME = 460_000  # keeps eight volumes of three planes near 3 MB
_MOST_SIDE = 192
_LARGE_PNG = 150_000

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image with label masks.

    image: (X, Y, Z) floats in RAS+ order (x to the patient's right, y to the front, z up), as
      nibabel's `as_closest_canonical` gives it.
    layers: name -> (X, Y, Z) integer labels, 0 for background. The one named by `outline` is drawn
      as a contour over the others, which are filled and shown one at a time, the last one first.
    spacing: voxel size in mm. labels: label -> name, for the legend.
    The view opens on the slice where the outlined and the last layer differ most.
    """

    image: Array
    layers: Mapping[str, Array] = field(default_factory=dict)
    spacing: Sequence[float] = (1.0, 1.0, 1.0)
    labels: Mapping[int, str] = field(default_factory=dict)
    outline: str | None = "reference"

    def html(self) -> str:
        image, layers = _checked(self.image, self.layers, (3,), "Volume")
        marked, worst = _where(layers, self.outline, image.shape)
        small = [min(side, _MOST_SIDE) for side in image.shape]
        area = small[0] * small[1] + small[0] * small[2] + small[1] * small[2]
        count = max(6, min(24, _PIXELS_PER_VOLUME // area))
        grey = _window(image)
        planes = []
        for axis in (2, 1, 0):
            chosen, start = _slices(marked, worst, axis, count)
            ordered = np.moveaxis(grey, axis, 0)[chosen]
            turned = {n: np.moveaxis(m, axis, 0)[chosen] for n, m in layers.items()}
            across, up = (i for i in range(3) if i != axis)
            planes.append(
                _Plane(
                    name=_PLANES[axis],
                    image=_upright(ordered),
                    layers={n: _upright(m) for n, m in turned.items()},
                    pixel=(float(self.spacing[across]), float(self.spacing[up])),
                    slices=[f"{i + 1} of {image.shape[axis]}" for i in chosen],
                    start=start,
                )
            )
        return _viewer(planes, self.labels, self.outline)


@dataclass(frozen=True, eq=False)
class Picture:
    """A 2D image, (H, W) floats or (H, W, 3) bytes, with (H, W) label masks as in Volume."""

    image: Array
    layers: Mapping[str, Array] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    outline: str | None = "reference"
    name: str = "image"

    def html(self) -> str:
        image, layers = _checked(self.image, self.layers, (2, 3), "Picture")
        if image.ndim == 3 and (image.shape[2] != 3 or image.dtype != np.uint8):
            raise GraftError(
                f"Picture: an image of shape {image.shape} and type {image.dtype} cannot be shown; "
                "give (H, W) numbers or (H, W, 3) bytes."
            )
        shown = _window(image) if image.ndim == 2 else image
        plane = _Plane(
            name=self.name,
            image=shown[None],
            layers={n: m[None] for n, m in layers.items()},
            pixel=(1.0, 1.0),
            slices=[""],
            start=0,
        )
        return _viewer([plane], self.labels, self.outline)


@dataclass(frozen=True, eq=False)
class _Plane:
    name: str
    image: Array  # (slices, H, W) or (slices, H, W, 3), bytes
    layers: dict[str, Array]  # (slices, H, W) labels
    pixel: tuple[float, float]  # mm across and down
    slices: list[str]
    start: int


def _viewer(planes: list[_Plane], labels: Mapping[int, str], outline: str | None) -> str:
    names = list(planes[0].layers)
    palette = _palette(planes, labels)
    shown = next((n for n in reversed(names) if n != outline), None)
    figures = "".join(_plane_html(plane, palette, shown, outline) for plane in planes)
    one = " one" if len(planes) == 1 else ""
    return (
        f'<div class="viewer">{_controls(names, shown, outline)}{_legend(palette, labels)}'
        f'<div class="planes{one}">{figures}</div></div>'
    )


def _controls(names: list[str], shown: str | None, outline: str | None) -> str:
    if not names:
        return ""
    # A form of its own scopes the radio buttons, so that their name need not be unique.
    filled = [n for n in names if n != outline]
    radios = "".join(
        f'<label><input type="radio" name="shown" value="{escape(n)}"'
        f"{' checked' if n == shown else ''}>{escape(n)}</label>"
        for n in filled
    )
    none = '<label><input type="radio" name="shown" value="">none</label>' if filled else ""
    group = f"<fieldset><legend>Filled</legend>{radios}{none}</fieldset>" if filled else ""
    box = ""
    if outline in names:
        box = (
            f'<label><input type="checkbox" value="{escape(outline or "")}" checked>'
            f"{escape(outline or '')} as outline</label>"
        )
    return f'<form class="controls">{group}{box}</form>'


def _legend(palette: dict[int, int], labels: Mapping[int, str]) -> str:
    items = "".join(
        f'<li><span class="key" style="--s:rgb{COLOURS[slot]}"></span>'
        f"{escape(str(labels.get(label, f'label {label}')))}</li>"
        for label, slot in palette.items()
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def _plane_html(
    plane: _Plane, palette: dict[int, int], shown: str | None, outline: str | None
) -> str:
    count, height, width = plane.image.shape[:3]
    ratio = f"{width * plane.pixel[0]:.4g} / {height * plane.pixel[1]:.4g}"
    images = [f'<img src="{_photo_uri(_strip(plane.image))}" alt="">']
    for name, mask in plane.layers.items():
        strip = _slots(_strip(mask), palette)
        uri = _outline_uri(mask, palette) if name == outline else _fill_uri(strip)
        hidden = "" if name in (shown, outline) else " hidden"
        images.append(f'<img class="mask" data-layer="{escape(name)}" src="{uri}" alt=""{hidden}>')
    label = escape(f"{plane.name}, {', '.join(plane.layers) or 'image'}")
    stack = (
        f'<div class="stack" role="img" aria-label="{label}" '
        f'style="aspect-ratio:{ratio};--n:{count};--k:{plane.start}">{"".join(images)}</div>'
    )
    if count == 1:
        text = escape(" ".join(t for t in (plane.name, plane.slices[0]) if t))
        caption = f"<figcaption>{text}</figcaption>" if text else ""
        return f'<figure class="plane">{stack}{caption}</figure>'
    here = escape(plane.slices[plane.start])
    return (
        f'<figure class="plane">{stack}'
        f'<input type="range" min="0" max="{count - 1}" value="{plane.start}" autocomplete="off" '
        f'aria-label="{escape(plane.name)} slice" aria-valuetext="slice {here}" '
        f'data-slices="{escape(" ".join(s.replace(" ", chr(160)) for s in plane.slices))}">'
        f"<figcaption><span>{escape(plane.name)}</span><output>{here}</output></figcaption></figure>"
    )


def _checked(
    image: Array, layers: Mapping[str, Array], dimensions: tuple[int, ...], what: str
) -> tuple[Array, dict[str, Array]]:
    image = np.asarray(image)
    if image.ndim not in dimensions or 0 in image.shape:
        raise GraftError(f"{what}: an image of shape {image.shape} cannot be shown.")
    grid = image.shape[:2] if what == "Picture" else image.shape
    checked = {}
    for name, mask in layers.items():
        mask = np.asarray(mask)
        if mask.shape != grid:
            raise GraftError(f"{what}: layer {name!r} has shape {mask.shape}, the image {grid}.")
        checked[name] = mask.astype(np.int64)
    return image, checked


def _window(image: Array) -> Array:
    """Floats to bytes between the 0.5th and 99.5th percentile of what is not background."""
    values = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    inside = values[values != 0]
    low, high = np.percentile(inside, [0.5, 99.5]) if inside.size else (0.0, 1.0)
    low = min(float(low), 0.0) if float(values.min()) >= 0 else float(low)
    scaled = (values - low) / max(float(high) - low, 1e-12)
    # 128 grey levels look the same as 256 and pack a fifth smaller.
    grey: Array = (np.clip(scaled, 0, 1) * 127 + 0.5).astype(np.uint8) * 2
    return grey


def _where(
    layers: dict[str, Array], outline: str | None, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Which voxels are labelled (else all), and which of these are wrong (else all of them)."""
    marked = np.zeros(shape, dtype=bool)
    for mask in layers.values():
        marked |= mask != 0
    if not marked.any():
        marked = ~marked
    filled = [name for name in layers if name != outline]
    if filled and outline in layers:
        wrong = layers[filled[-1]] != layers[outline]
        if wrong.any():
            return marked, wrong
    return marked, marked


def _slices(marked: Array, worst: Array, axis: int, count: int) -> tuple[list[int], int]:
    """Which slices to show, evenly over the marked range, and which of them to open."""
    others = tuple(i for i in range(3) if i != axis)
    inside = np.flatnonzero(marked.any(axis=others))
    profile = worst.sum(axis=others)
    most = np.flatnonzero(profile == profile.max())
    peak = int(most[len(most) // 2])
    chosen = _even(int(inside[0]), int(inside[-1]), count)
    nearest = min(range(len(chosen)), key=lambda i: abs(chosen[i] - peak))
    chosen[nearest] = peak
    return chosen, nearest


def _even(first: int, last: int, count: int) -> list[int]:
    return sorted({round(v) for v in np.linspace(first, last, min(count, last - first + 1))})


def _upright(stack: Array) -> Array:
    """(slices, across, up) to (slices, down, across), shrunk by whole steps to a sensible size."""
    step = max(1, -(-max(stack.shape[1:]) // _MOST_SIDE))
    return np.ascontiguousarray(np.swapaxes(stack, 1, 2)[:, ::-step, ::step])


def _strip(stack: Array) -> Array:
    return stack.reshape(-1, *stack.shape[2:])


def _palette(planes: list[_Plane], labels: Mapping[int, str]) -> dict[int, int]:
    found = {int(v) for p in planes for m in p.layers.values() for v in np.unique(m)}
    present = sorted((found | {int(k) for k in labels}) - {0})
    return {label: i % len(COLOURS) for i, label in enumerate(present)}


def _slots(labels: Array, palette: dict[int, int]) -> Array:
    """Labels to palette entries: 0 is clear, slot i is i + 1."""
    slots = np.zeros(labels.shape, dtype=np.uint8)
    for label, slot in palette.items():
        slots[labels == label] = slot + 1
    return slots


def _edges(slots: Array) -> Array:
    """The inner rim of each region of (slices, H, W), drawn at twice the size."""
    big = slots.repeat(2, axis=1).repeat(2, axis=2)
    padded = np.pad(big, ((0, 0), (1, 1), (1, 1)))
    centre = padded[:, 1:-1, 1:-1]
    rim = np.zeros(centre.shape, dtype=bool)
    for other in (
        padded[:, :-2, 1:-1],
        padded[:, 2:, 1:-1],
        padded[:, 1:-1, :-2],
        padded[:, 1:-1, 2:],
    ):
        rim |= other != centre
    return np.where(rim, centre, 0).astype(np.uint8)


def _outline_uri(mask: Array, palette: dict[int, int]) -> str:
    return _palette_uri(_strip(_edges(_slots(mask, palette))), 255)


def _fill_uri(slots: Array) -> str:
    return _palette_uri(slots, _FILL_ALPHA)


def _palette_uri(slots: Array, alpha: int) -> str:
    image = Image.frombytes("P", (slots.shape[1], slots.shape[0]), slots.tobytes())
    image.putpalette([0, 0, 0, *(channel for colour in COLOURS for channel in colour)])
    buffer = io.BytesIO()
    clear = bytes([0, *[alpha] * len(COLOURS)])
    image.save(buffer, "PNG", optimize=True, bits=4, transparency=clear)
    return _uri(buffer.getvalue(), "png")


def _photo_uri(pixels: Array) -> str:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    if pixels.ndim == 3 and buffer.tell() > _LARGE_PNG:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        return _uri(buffer.getvalue(), "jpeg")
    return _uri(buffer.getvalue(), "png")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def side_by_side(
    image: Array,
    layers: Mapping[str, Array | None],
    *,
    outline: Array | None = None,
    labels: Mapping[int, str] | None = None,
    pixel: tuple[float, float] = (1.0, 1.0),
    width: int = 280,
) -> bytes:
    """A PNG of one (across, up) slice, once per layer with its mask filled, for a README.

    `image` and each mask are (X, Y) as a plane of a Volume is; a layer of None shows the image
    alone. `outline` is drawn over every panel. `pixel` is the pixel's size in mm; `width` is
    that of one panel in screen pixels.
    """
    grey = _upright(_window(np.asarray(image))[None])[0]
    masks = {n: None if m is None else _upright(np.asarray(m)[None]) for n, m in layers.items()}
    rim = None if outline is None else _upright(np.asarray(outline)[None])
    found = [m for m in [*masks.values(), rim] if m is not None]
    present = sorted({int(v) for m in found for v in np.unique(m)} - {0})
    palette = {label: i % len(COLOURS) for i, label in enumerate(present)}
    height = round(width * grey.shape[0] * pixel[1] / (grey.shape[1] * pixel[0]))
    gap, foot = 8, 30 if not labels else 54
    total = len(masks) * width + (len(masks) - 1) * gap
    sheet = Image.new("RGB", (total, height + foot), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for index, (name, mask) in enumerate(masks.items()):
        panel = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
        panel = panel.convert("RGBA")
        if mask is not None:
            panel = _laid_over(panel, _slots(mask[0], palette), _FILL_ALPHA)
        if rim is not None:
            panel = _laid_over(panel, _edges(_slots(rim, palette))[0], 255)
        left = index * (width + gap)
        sheet.paste(panel.convert("RGB"), (left, 0))
        draw.text((left + 2, height + 6), name, fill=(30, 38, 48), font=font)
    at = 2
    for label, slot in palette.items() if labels else ():
        text = str((labels or {}).get(label, f"label {label}"))
        draw.rectangle((at, height + 34, at + 12, height + 46), fill=COLOURS[slot])
        draw.text((at + 18, height + 30), text, fill=(80, 92, 104), font=font)
        at += 34 + round(draw.textlength(text, font=font))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _laid_over(panel: Image.Image, slots: Array, alpha: int) -> Image.Image:
    colours = np.array([(0, 0, 0, 0), *((*c, alpha) for c in COLOURS)], dtype=np.uint8)
    over = Image.fromarray(colours[slots]).resize(panel.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(panel, over)

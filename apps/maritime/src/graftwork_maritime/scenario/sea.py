"""Where is sea, and how far is land? The 30-arc-second mask of the package global-land-mask.

The package's own module unpacks 933 MB of booleans when it is imported; here the rows of the same file are read one
after the other and kept as bits, 117 MB. Lakes, the Caspian Sea among them, count as land.
"""

from __future__ import annotations

import math
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftError

ROWS, COLUMNS = 21600, 43200
CELLS = 120  # in a degree, so that two cells are a nautical mile of latitude
EARTH_NM = 3440.065
_BLOCK = 240


def data_file(package: str, name: str) -> Path:
    """A file that an installed package ships, found without importing the package.

    Raises GraftError when the package is absent.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise GraftError(
            f"{package.replace('_', '-')} is not installed; pip install graftwork-maritime brings it"
        )
    return Path(next(iter(spec.submodule_search_locations))) / name


@cache
def _sea() -> NDArray[np.uint8]:
    """One bit a cell, 1 at sea, from the north pole down and from 180 W eastward."""
    packed = np.empty((ROWS, COLUMNS // 8), np.uint8)
    file = data_file("global_land_mask", "globe_combined_mask_compressed.npz")
    with zipfile.ZipFile(file) as archive, archive.open("mask.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, _, kind = np.lib.format.read_array_header_1_0(stream)
        if shape != (ROWS, COLUMNS) or kind != np.dtype(bool):
            raise GraftError(
                f"{file} holds no mask of {ROWS} x {COLUMNS}; install global-land-mask 1.0.0"
            )
        for top in range(0, ROWS, _BLOCK):
            rows = np.frombuffer(stream.read(_BLOCK * COLUMNS), np.uint8).reshape(_BLOCK, COLUMNS)
            packed[top : top + _BLOCK] = np.packbits(rows, axis=1)
    return packed


@cache
def _has_land() -> NDArray[np.bool_]:
    """Whether a square of half a degree holds land: 360 x 720."""
    half = CELLS // 2
    land = np.empty((ROWS // half, COLUMNS // half), bool)
    for row in range(ROWS // half):
        cells = np.unpackbits(_sea()[row * half : (row + 1) * half], axis=1)
        land[row] = (cells.reshape(half, -1, half) == 0).any(axis=(0, 2))
    return land


def _cell(lat: float, lon: float) -> tuple[int, int]:
    return (
        min(max(int((90 - lat) * CELLS), 0), ROWS - 1),
        min(max(int((lon + 180) * CELLS), 0), COLUMNS - 1),
    )


def is_sea(lat: float, lon: float) -> bool:
    """Whether a point (decimal degrees) is at sea. Lakes are land."""
    row, column = _cell(lat, lon)
    return bool(_sea()[row, column >> 3] >> (7 - (column & 7)) & 1)


def distance_nm(
    lat: float, lon: float, lats: NDArray[np.float64], lons: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Great-circle distances in nautical miles on a sphere (the ellipsoid's differ by up to 0.6 %)."""
    a, b = np.radians(lat), np.radians(lats)
    half = (
        np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lons - lon) / 2) ** 2
    )
    distances: NDArray[np.float64] = 2 * EARTH_NM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return distances


def near_land(lat: float, lon: float, limit_nm: float) -> bool:
    """A quick test that may say yes too often: does a half-degree square within the limit hold land?"""
    reach = limit_nm / 60
    row, column = _cell(lat, lon)
    half = CELLS // 2
    tall = math.ceil(reach * 2)
    wide = min(
        math.ceil(reach * 2 / max(math.cos(math.radians(min(abs(lat) + reach, 89.5))), 0.01)), 360
    )
    rows = slice(max(row // half - tall, 0), row // half + tall + 1)
    columns = np.arange(column // half - wide, column // half + wide + 1) % (COLUMNS // half)
    return bool(_has_land()[rows][:, columns].any())


def land_distance(lat: float, lon: float, limit_nm: float = 60) -> float | None:
    """Nautical miles to the centre of the nearest land cell; None beyond the limit."""
    if not near_land(lat, lon, limit_nm):
        return None
    row, column = _cell(lat, lon)
    tall = int(limit_nm * CELLS / 60) + 1
    wide = min(
        int(tall / max(math.cos(math.radians(min(abs(lat) + limit_nm / 60, 89.5))), 0.01)) + 1,
        COLUMNS // 2,
    )
    top, bottom = max(row - tall, 0), min(row + tall + 1, ROWS)
    octets = np.arange((column - wide) >> 3, ((column + wide) >> 3) + 1)
    cells = np.unpackbits(_sea()[top:bottom][:, octets % (COLUMNS // 8)], axis=1)
    y, x = np.nonzero(cells == 0)
    if not len(y):
        return None
    lats = 90 - (top + y + 0.5) / CELLS
    lons = (octets[0] * 8 + x + 0.5) / CELLS - 180
    nearest = float(distance_nm(lat, lon, lats, lons).min())
    return nearest if nearest <= limit_nm else None


def land_crossings(lat: float, lon: float, lat2: float, lon2: float) -> int:
    """How many stretches of land the straight line on the chart between two points meets."""
    land = _along(lat, lon, lat2, lon2)
    return int(land[0]) + int((land[1:] & ~land[:-1]).sum())


def share_at_sea(lat: float, lon: float, lat2: float, lon2: float) -> float:
    """The share of that line before it first meets land, 1 when it meets none."""
    land = _along(lat, lon, lat2, lon2)
    return float(land.argmax()) / (len(land) - 1) if land.any() else 1.0


def _along(lat: float, lon: float, lat2: float, lon2: float) -> NDArray[np.bool_]:
    """Where that line is on land, in steps of half a cell."""
    across = (lon2 - lon + 180) % 360 - 180
    steps = max(int(max(abs(lat2 - lat), abs(across)) * CELLS * 2), 1)
    share = np.linspace(0, 1, steps + 1)
    rows = np.clip(((90 - (lat + (lat2 - lat) * share)) * CELLS).astype(int), 0, ROWS - 1)
    columns = (((lon + across * share + 180) * CELLS).astype(int)) % COLUMNS
    land: NDArray[np.bool_] = (_sea()[rows, columns >> 3] >> (7 - (columns & 7)) & 1) == 0
    return land

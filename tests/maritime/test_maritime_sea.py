"""The land mask and the tables of places."""

from __future__ import annotations

import zipfile
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import GraftError
from graftwork_maritime.scenario import gazetteer, sea

LAND = {"Paris": (48.86, 2.35), "Kansas": (38.5, -98.0), "Caspian": (42.0, 50.5)}
SEA = {"North Sea": (56.0, 3.0), "Pacific": (0.0, -150.0), "Antimeridian": (-30.0, 180.0)}


def test_known_points() -> None:
    assert not any(sea.is_sea(*point) for point in LAND.values())
    assert all(sea.is_sea(*point) for point in SEA.values())


def test_the_bits_are_the_packages_cells() -> None:
    file = sea.data_file("global_land_mask", "globe_combined_mask_compressed.npz")
    with zipfile.ZipFile(file) as archive, archive.open("mask.npy") as stream:
        header = 128
        stream.read(header)
        for row in range(4000):
            cells = stream.read(sea.COLUMNS)
            if row % 997 == 5:
                expected = np.frombuffer(cells, bool)
                lat = 90 - (row + 0.5) / sea.CELLS
                for column in range(0, sea.COLUMNS, 389):
                    lon = (column + 0.5) / sea.CELLS - 180
                    assert sea.is_sea(lat, lon) == expected[column]


def test_a_package_that_is_absent_is_named() -> None:
    with pytest.raises(GraftError, match="no-such-mask is not installed"):
        sea.data_file("no_such_mask", "x")


def test_distances() -> None:
    one = sea.distance_nm(0, 0, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 180.0]))
    assert one == pytest.approx([60.04, 60.04, 180 * 60.04], rel=1e-3)


@settings(max_examples=12, deadline=None)
@given(st.floats(-60, 85), st.floats(-180, 180))
def test_the_distance_to_land_is_that_of_a_plain_search(lat: float, lon: float) -> None:
    found = sea.land_distance(lat, lon, 12)
    steps = np.arange(-40, 41) / sea.CELLS
    wide = np.arange(-400, 401) / sea.CELLS
    row, column = sea._cell(lat, lon)
    lats = 90 - (row + 0.5) / sea.CELLS + steps
    lons = (column + 0.5) / sea.CELLS - 180 + wide
    best = None
    for a in lats:
        cells = [b for b in lons if not sea.is_sea(float(a), (float(b) + 180) % 360 - 180)]
        if cells and -90 < a < 90:
            near = float(sea.distance_nm(lat, lon, np.full(len(cells), a), np.array(cells)).min())
            best = near if best is None else min(best, near)
    if best is not None and best <= 12:
        assert found == pytest.approx(best, abs=0.05)
    else:
        assert found is None


def test_lines_across_land() -> None:
    assert sea.land_crossings(56, 3, 56.5, 3.5) == 0
    assert sea.land_crossings(54.0, -4.5, 54.0, 1.0) >= 1  # across England
    assert sea.land_crossings(-30, 179.5, -30, -179.5) == 0
    assert sea.share_at_sea(56, 3, 56.5, 3.5) == 1
    share = sea.share_at_sea(52.5, 3.0, 52.5, 6.0)  # the coast of Holland is at 4.6 E
    assert share == pytest.approx((4.6 - 3) / 3, abs=0.03)


def test_places_of_our_table_are_on_a_coast() -> None:
    for spot in gazetteer._own():
        assert sea.land_distance(spot.lat, spot.lon, 12) is not None, spot
        assert gazetteer._sea_within(spot.lat, spot.lon, 25), spot


def test_ports_and_what_is_left_out() -> None:
    spots = gazetteer.places().spots
    assert len(gazetteer.ports().spots) > 500 and len(gazetteer.harbours().spots) > 1500
    names = {spot.name for spot in spots}
    assert {"Rotterdam", "Lizard Point"} <= names
    assert not any("north" in name.lower().split() or "_" in name for name in names)
    inland = next(s for s in gazetteer._searoute() if s.name == "Catawba")
    assert not inland.on_coast


def test_the_nearest_come_first_and_within_the_limit() -> None:
    found = list(islice(gazetteer.ports().nearest(51.9, 3.5, 60), 5))
    distances = [distance for distance, _ in found]
    assert distances == sorted(distances) and max(distances) <= 60
    assert "Rotterdam" in {spot.name for _, spot in found} | {
        spot.name for _, spot in gazetteer.ports().nearest(51.9, 3.5, 60)
    }


def test_directions_and_waters() -> None:
    spot = gazetteer.Spot("x", "y", "cape", 50.0, 0.0)
    cases = {(51, 0): "north", (51, 1.5): "north east", (50, 1): "east", (49, -1.5): "south west"}
    assert {p: gazetteer.compass(*p, spot) for p in cases} == cases
    assert gazetteer.compass(51, 0.01, spot, points=4) == "north east"
    dateline = gazetteer.Spot("x", "y", "cape", 0.0, 179.5)
    assert gazetteer.compass(0.0, -179.5, dateline) == "east"
    waters = {(56, 3): "North Sea", (54, 7.5): "German Bight", (43, 34): "Black Sea"}
    assert {p: gazetteer.water_at(*p) for p in waters} == waters

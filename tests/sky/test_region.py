import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st
from mocpy import MOC

from sciplat.errors import AngleError, RegionError
from sciplat.sky.cell import Cell, healpix_29
from sciplat.sky.region import Box, Cone, Moc, Polygon

RNG = np.random.default_rng(7)
SKY_RA = RNG.uniform(0, 360, 20_000)
SKY_DEC = np.degrees(np.arcsin(RNG.uniform(-1, 1, 20_000)))


def around(ra, dec, width, n=2000, seed=0):
    """Return positions within about `width` degrees, and some of the whole sky."""
    rng = np.random.default_rng(seed)
    turn, distance = rng.uniform(0, 360, n) * u.deg, width * np.sqrt(rng.uniform(0, 1, n)) * u.deg
    near = SkyCoord(ra, dec, unit="deg").directional_offset_by(turn, distance)
    return np.concatenate([near.ra.deg, SKY_RA]), np.concatenate([near.dec.deg, SKY_DEC])


@given(st.floats(0, 360), st.floats(-90, 90), st.floats(0.001, 179))
def test_cone_is_astropy_s_separation_and_its_cover_holds_it(ra, dec, radius):
    cone = Cone(f"{ra} deg", f"{dec} deg", f"{radius} deg")
    points = around(ra, dec, min(1.2 * radius, 90))
    separation = SkyCoord(*points, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).deg
    clear = np.abs(separation - radius) > 1e-9
    assert (cone.contains(*points)[clear] == (separation <= radius)[clear]).all()
    assert cone.cover().contains(healpix_29(*points))[cone.contains(*points)].all()


def test_the_border_of_a_cone_is_inside():
    cone = Cone("10 deg", "0 deg", "1 deg")
    assert cone.contains(np.array([11.0, 9.0, 10.0]), np.array([0.0, 0.0, 1.0])).all()


@pytest.mark.parametrize(
    ("box", "inside", "outside"),
    [
        (
            Box(("350 deg", "10 deg"), ("-5 deg", "5 deg")),
            [(0, 0), (350, 5), (10, -5), (355, 0)],
            [(349.9, 0), (11, 0), (180, 0), (0, 5.1)],
        ),
        (Box(("0 deg", "360 deg"), ("80 deg", "90 deg")), [(0, 90), (123, 80), (359.9, 85)], [(0, 79.9)]),
        (Box(("10 deg", "10 deg"), ("0 deg", "1 deg")), [(10, 0.5)], [(10.001, 0.5)]),
        (Box(("-0.1 deg", "0.2 deg"), ("-0.1 deg", "0.2 deg")), [(0.2, 0.2), (359.9, -0.1), (0, 0)], [(0.3, 0)]),
        (Box(("10h40m", "11h"), ("0 deg", "1 deg")), [(160, 0), (165, 1)], [(159.9, 0), (165.1, 0)]),
        (Box(("359 deg", "-1 deg"), ("0 deg", "1 deg")), [(359, 0.5)], [(0, 0.5), (100, 0.5)]),
    ],
)
def test_box(box, inside, outside):
    for points, expected in ((inside, True), (outside, False)):
        ra, dec = np.array(points, dtype=float).T
        assert (box.contains(ra, dec) == expected).all()
    ra, dec = np.array(inside, dtype=float).T
    assert box.cover().contains(healpix_29(ra, dec)).all()


@given(st.floats(0, 360), st.floats(0.01, 359), st.floats(-90, 89), st.floats(0.01, 60))
def test_the_cover_of_a_box_holds_it(west, width, south, height):
    north = min(south + height, 90)
    box = Box((f"{west} deg", f"{west + width} deg"), (f"{south} deg", f"{north} deg"))
    rng = np.random.default_rng(1)
    ra, dec = (west + width * rng.uniform(0, 1, 500)) % 360, rng.uniform(south, north, 500)
    assert box.cover().contains(healpix_29(ra, dec)).all()
    assert box.contains(ra, dec).mean() > 0.99


def test_polygon_is_mocpy_s_and_its_cover_holds_it():
    for vertices in (
        [(359, -2), (3, -1), (1, 4)],
        [(0, 85), (90, 84), (180, 86), (270, 85)],
        [(10, -60), (80, -60), (45, 20)],
    ):
        polygon = Polygon(tuple((f"{ra} deg", f"{dec} deg") for ra, dec in vertices))
        inside = polygon.contains(SKY_RA, SKY_DEC)
        corners = SkyCoord(vertices, unit="deg")
        fine = MOC.from_polygon_skycoord(corners, max_depth=9).contains_skycoords(SkyCoord(SKY_RA, SKY_DEC, unit="deg"))
        assert inside.any()
        assert (inside & ~fine).sum() == 0
        assert (fine & ~inside).sum() <= 0.02 * inside.sum() + 10  # MOC cells on the border reach outside
        assert polygon.cover().contains(healpix_29(SKY_RA, SKY_DEC))[inside].all()


def test_the_border_of_a_polygon_is_inside_and_its_antipodes_are_not():
    polygon = Polygon((("0 deg", "0 deg"), ("10 deg", "0 deg"), ("10 deg", "10 deg"), ("0 deg", "10 deg")))
    assert polygon.contains(np.array([0.0, 5.0, 10.0]), np.array([0.0, 0.0, 5.0])).all()
    assert not polygon.contains(np.array([185.0, 180.0]), np.array([-5.0, 0.0])).any()


def test_moc_from_text_cells_file_and_mocpy(tmp_path):
    text = Moc("3/10-12 5/1000")
    moc = MOC.from_string("3/10-12 5/1000")
    moc.save(tmp_path / "m.fits", format="fits")
    cells = Moc([Cell(3, 10), Cell(3, 11), Cell(3, 12), Cell(5, 1000)])
    for other in (Moc(moc), Moc(tmp_path / "m.fits"), cells):
        assert np.array_equal(other.cover().ranges, text.cover().ranges)
    inside = text.contains(SKY_RA, SKY_DEC)
    assert (inside == moc.contains_skycoords(SkyCoord(SKY_RA, SKY_DEC, unit="deg"))).all()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Cone(10, "0 deg", "1 deg"), AngleError),
        (lambda: Cone("0 deg", "91 deg", "1 deg"), RegionError),
        (lambda: Cone("0 deg", "0 deg", "0 deg"), RegionError),
        (lambda: Cone("0 deg", "0 deg", "181 deg"), RegionError),
        (lambda: Box(("0 deg", "1 deg"), ("2 deg", "1 deg")), RegionError),
        (lambda: Polygon((("0 deg", "0 deg"), ("1 deg", "0 deg"))), RegionError),
        (lambda: Polygon((("0 deg", "0 deg"), ("0 deg", "20 deg"), ("150 deg", "0 deg"))), RegionError),
        (lambda: Moc("north"), RegionError),
        (lambda: Moc("nowhere.fits"), RegionError),
        (lambda: Moc(5), RegionError),
    ],
)
def test_impossible_regions_are_refused(make, error):
    with pytest.raises(error):
        make()

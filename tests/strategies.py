"""Hypothesis strategies: partitions of one sky, and two catalogs where the sphere is awkward."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from sciplat.sky.cell import Cell, healpix_29
from tests import reference

_CORNER = float(np.degrees(np.arcsin(2 / 3)))  # three faces of HEALPix meet there, at 0, 90, 180 and 270 degrees
PLACES = [
    (0.0, 90.0),
    (123.4, -90.0),
    (0.0, 0.3),
    (0.0, 63.7),
    *((ra, dec) for ra in (0.0, 90.0, 180.0, 270.0) for dec in (_CORNER, -_CORNER)),
    (45.0, 0.0),
    (315.0, 0.0),
    (200.1, -33.0),
]
_MAS, _LARGEST = 1 / 3.6e6, 10.0  # degrees


@dataclass(frozen=True)
class Side:
    """Positions in degrees and their order-29 cells, in the order of the sky."""

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    index: NDArray[np.int64]

    @property
    def position(self):
        return self.ra, self.dec


def side_of(positions) -> Side:
    """Return positions in degrees, shape (n, 2), in the order of the sky."""
    ra, dec = np.array(positions, np.float64).reshape(-1, 2).T
    index = healpix_29(ra, dec) if len(ra) else np.empty(0, np.int64)
    order = np.argsort(index, kind="stable")
    return Side(ra[order], dec[order], index[order])


@dataclass(frozen=True)
class Scene:
    """Two catalogs, and a radius in degrees that no two rows are just as far from each other."""

    left: Side
    right: Side
    radius: float

    @property
    def separation(self):
        """Degrees between all rows of both; shape (left, right)."""
        return reference.separations(self.left.position, self.right.position)

    def expected(self, find="nearest", how="inner", neighbours=1):
        """Return the rows of the cross-match as `reference.crossmatch` has them."""
        separation = self.separation
        near, indices = separation <= self.radius, (self.left.index, self.right.index)
        return reference.crossmatch(separation, near, *indices, find, how, neighbours)


@st.composite
def partitions(draw, max_splits=12, max_order=6):
    """Draw disjoint cells that tile the whole sky, in its order."""
    cells = [Cell(0, base) for base in range(12)]
    for _ in range(draw(st.integers(0, max_splits))):
        place = draw(st.integers(0, len(cells) - 1))
        if cells[place].order < max_order:
            cells[place : place + 1] = cells[place].children
    return cells


@st.composite
def partitions_of(draw, index):
    """Draw disjoint cells that tile the whole sky and part rows at some order-29 cells, be they ever so near."""
    cells = draw(partitions(max_splits=6))
    for _ in range(draw(st.integers(0, 2)) if len(index) else 0):
        row, order = int(draw(st.sampled_from(index.tolist()))), draw(st.integers(1, 26))
        cell = next(cell for cell in cells if cell.start <= row < cell.stop)
        while cell.order < order:
            place = cells.index(cell)
            cells[place : place + 1] = cell.children
            cell = next(child for child in cell.children if child.start <= row < child.stop)
    return cells


@st.composite
def scenes(draw, largest=40):
    """Draw two catalogs in one or two clumps at awkward places, 1 mas to 10 deg wide, with some rows in common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = 10 ** draw(st.floats(np.log10(_MAS), 1))
    places = draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=2, unique=True))
    counts = [draw(st.integers(0, largest)) for _ in range(2)]
    left, right = (_clumps(rng, places, width, count) for count in counts)
    kind = draw(st.sampled_from(["common", "near", "piles", "apart"]))
    if kind == "apart":  # at the antipode
        right = np.stack([(right[:, 0] + 180) % 360, -right[:, 1]], axis=1)
    elif len(left) and len(right):
        some = rng.integers(0, len(left), len(right) if kind == "piles" else len(right) // 2)
        if kind == "piles":  # a few places, many rows
            left = left[rng.integers(0, max(len(left) // 8, 1), len(left))]
        right[: len(some)] = left[some]
        if kind == "near":
            right = moved(rng, right, width * 10 ** rng.uniform(-3, 0))
    return _scene(left, right, width * 10 ** draw(st.floats(-1.5, 0.5)))


@st.composite
def grids(draw):
    """Draw two catalogs on one grid, many rows at many of its points: equal distances in all four directions.

    The step is a power of two and the declination none where rows and columns are alike, so that distances are either
    equal to the last bit, or differ by far more than it.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centre = draw(st.sampled_from([(0.0, 20.5), (90.0, -51.25), (211.5, 67.75), (330.0, -20.5)]))
    step = 2.0 ** draw(st.integers(-20, 0))
    counts = [draw(st.integers(0, 40)) for _ in range(2)]
    sides = [np.array(centre) + step * rng.integers(-2, 3, (count, 2)) for count in counts]
    left, right = (np.stack([side[:, 0] % 360, side[:, 1]], axis=1) for side in sides)
    return _scene(left, right, step * draw(st.floats(0.1, 3)))


def _clumps(rng, places, width, count):
    """Return positions around some places, shape (count, 2); some just there, some on the meridian."""
    around = np.array(places)[rng.integers(0, len(places), count)].reshape(-1, 2)
    away = moved(rng, around, width)
    kind = rng.uniform(size=(count, 1))
    meridian = np.stack([around[:, 0], away[:, 1]], axis=1)
    return np.where(kind < 0.1, around, np.where(kind < 0.2, meridian, away))


def moved(rng, around, width):
    """Return positions, shape (n, 2), about `width` degrees from others, in any direction on the sphere."""
    distance, angle = np.radians(width) * np.abs(rng.normal(size=len(around))), rng.uniform(0, 2 * np.pi, len(around))
    ra, dec = np.radians(around.T)
    north, east = distance * np.cos(angle), distance * np.sin(angle)
    x, z = np.cos(dec) - north * np.sin(dec), np.sin(dec) + north * np.cos(dec)  # a step in the tangent plane
    lon, lat = ra + np.arctan2(east, x), np.arctan2(z, np.hypot(x, east))
    return np.stack([np.degrees(lon) % 360 % 360, np.degrees(lat)], axis=1)


def _scene(left, right, radius):
    """Return positions in the order of the sky, and a radius near the one given that divides pairs clearly."""
    sides = side_of(left), side_of(right)
    separation = reference.separations(sides[0].position, sides[1].position)
    radius = float(np.clip(radius, _MAS, _LARGEST))
    while np.any(np.abs(separation - radius) < 1e-13 + 1e-9 * radius):
        radius *= 0.999
    return Scene(*sides, radius)

"""Regions of the sky: cone, box, polygon and MOC. Borders are inside; a cover is always a superset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import RegionError
from sciplat.sky.angle import AngleLike, parse_angle
from sciplat.sky.cell import Cell, healpix_29
from sciplat.sky.coverage import Coverage, cells_near, outline_coverage
from sciplat.sky.frame import unit_vectors

if TYPE_CHECKING:
    from mocpy import MOC

Positions = NDArray[np.float64]
_EDGE = 1e-13  # of a unit vector: a border belongs to the region in spite of rounding
_EDGE_DEG = 1e-11


class Region(Protocol):
    """Anything with a cover by cells and an exact test."""

    def cover(self) -> Coverage:
        """Return a coverage that holds the region, and perhaps a little more."""
        ...

    def contains(self, ra: Positions, dec: Positions) -> NDArray[np.bool_]:
        """Return for each position (degrees, shape (n,)) whether it lies inside or on the border."""
        ...


@dataclass(frozen=True)
class Cone:
    """All positions within an angle of a centre.

    Parameters
    ----------
    ra, dec, radius : str or Quantity
        For example ``Cone("10.7 deg", "41.3 deg", "1 deg")``.

    Raises
    ------
    AngleError, RegionError
        If an angle has no unit, the declination is beyond +-90 or the radius not in (0, 180] degrees.
    """

    ra: AngleLike
    dec: AngleLike
    radius: AngleLike
    _degrees: tuple[float, float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ra = parse_angle(self.ra, what="ra") % 360
        dec, radius = parse_angle(self.dec, what="dec"), parse_angle(self.radius)
        if abs(dec) > 90 or not 0 < radius <= 180:
            raise RegionError(
                "this cone is not on the sphere",
                found=f"dec {dec:g} deg, radius {radius:g} deg",
                hint="-90 <= dec <= 90 and 0 < radius <= 180 deg",
            )
        object.__setattr__(self, "_degrees", (ra, dec, radius))

    def cover(self) -> Coverage:
        """Return a coverage that holds the cone."""
        ra, dec, radius = self._degrees
        centre = unit_vectors(ra, dec)

        def near(lon: Positions, lat: Positions, reach: float) -> NDArray[np.bool_]:
            if radius + reach >= 180:
                return np.ones(len(lon), dtype=bool)
            chord = np.linalg.norm(unit_vectors(lon, lat) - centre, axis=-1)
            within: NDArray[np.bool_] = chord <= 2 * np.sin(np.radians(radius + reach) / 2)
            return within

        return cells_near(near, 2 * radius)

    def contains(self, ra: Positions, dec: Positions) -> NDArray[np.bool_]:
        """Return for each position whether it lies within the radius."""
        ra0, dec0, radius = self._degrees
        chord = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(ra0, dec0), axis=-1)
        inside: NDArray[np.bool_] = chord <= 2 * np.sin(np.radians(radius) / 2) + _EDGE
        return inside


@dataclass(frozen=True)
class Box:
    """All positions between two right ascensions and two declinations; it may wrap RA = 0.

    Parameters
    ----------
    ra, dec : tuple of two angles
        For example ``Box(ra=("350 deg", "10 deg"), dec=("-1 deg", "1 deg"))``. From a first right
        ascension of 350 to a second of 10 degrees the box is 20 degrees wide; 0 to 360 is the whole circle.

    Raises
    ------
    AngleError, RegionError
        If an angle has no unit, or the declinations are not in order.
    """

    ra: tuple[AngleLike, AngleLike]
    dec: tuple[AngleLike, AngleLike]
    _degrees: tuple[float, float, float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        west, east = (parse_angle(value, what="ra") for value in self.ra)
        south, north = (parse_angle(value, what="dec") for value in self.dec)
        if not -90 <= south <= north <= 90:
            raise RegionError(
                "this box is not on the sphere", found=f"dec {south:g} to {north:g} deg", hint="dec=(lower, upper)"
            )
        width = 360.0 if east - west >= 360 else (east - west) % 360
        object.__setattr__(self, "_degrees", (west % 360, width, south, north))

    def cover(self) -> Coverage:
        """Return a coverage that holds the box."""
        west, width, south, north = self._degrees

        def near(lon: Positions, lat: Positions, reach: float) -> NDArray[np.bool_]:
            # a circle spans asin(sin(reach) / cos(lat)) in longitude, and every longitude if it holds a pole
            polar = np.abs(lat) + reach >= 90
            ratio = np.sin(np.radians(reach)) / np.cos(np.radians(np.where(polar, 0, lat)))
            span = np.where(polar, 180, np.degrees(np.arcsin(np.minimum(ratio, 1))))
            off = np.abs((lon - west - width / 2 + 180) % 360 - 180)
            within: NDArray[np.bool_] = (off <= width / 2 + span) & (lat >= south - reach) & (lat <= north + reach)
            return within

        return cells_near(near, max(width, north - south))

    def contains(self, ra: Positions, dec: Positions) -> NDArray[np.bool_]:
        """Return for each position whether it lies between the sides."""
        west, width, south, north = self._degrees
        along = (np.asarray(ra) - west + _EDGE_DEG) % 360
        inside: NDArray[np.bool_] = (along <= width + 2 * _EDGE_DEG) & (
            np.abs(dec - (south + north) / 2) <= (north - south) / 2 + _EDGE_DEG
        )
        return inside


@dataclass(frozen=True)
class Polygon:
    """All positions inside a polygon whose sides are great circles: the smaller side of it.

    Parameters
    ----------
    vertices : sequence of (ra, dec) pairs
        At least three, in order, for example ``[("10 deg", "0 deg"), ("11 deg", "0 deg"), ("11 deg", "1 deg")]``.

    Raises
    ------
    AngleError, RegionError
        If an angle has no unit, the vertices are fewer than three, or do not lie within 90 degrees of their mean:
        which side of such a polygon is the smaller one is hard to say.

    Notes
    -----
    A position is inside when the sides turn once around it: the sum of the signed angles under which it sees
    them is a full turn.
    """

    vertices: tuple[tuple[AngleLike, AngleLike], ...]
    _degrees: Positions = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs = tuple((ra, dec) for ra, dec in self.vertices)
        degrees = np.array(
            [(parse_angle(ra, what="ra") % 360, parse_angle(dec, what="dec")) for ra, dec in pairs]
        ).reshape(-1, 2)
        if len(pairs) < 3 or (np.abs(degrees[:, 1]) > 90).any():
            raise RegionError(
                "this polygon is not on the sphere",
                found=f"{len(pairs)} vertices",
                hint="three or more (ra, dec) pairs",
            )
        corners = unit_vectors(degrees[:, 0], degrees[:, 1])
        if (corners @ corners.sum(axis=0) <= _EDGE).any():
            raise RegionError("this polygon is wider than a hemisphere", hint="several smaller ones, or a Moc")
        object.__setattr__(self, "vertices", pairs)
        object.__setattr__(self, "_degrees", degrees)

    def cover(self) -> Coverage:
        """Return a coverage that holds the polygon."""
        return outline_coverage(self._degrees[:, 0], self._degrees[:, 1])

    def contains(self, ra: Positions, dec: Positions) -> NDArray[np.bool_]:
        """Return for each position whether the polygon turns around it or touches it."""
        points = unit_vectors(ra, dec)
        corners = unit_vectors(self._degrees[:, 0], self._degrees[:, 1])
        turn = np.zeros(len(points))
        border = np.zeros(len(points), dtype=bool)
        for first, second in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            volume = points @ np.cross(first, second)
            flat = first @ second - (points @ first) * (points @ second)
            turn += np.arctan2(volume, flat)
            border |= (np.abs(volume) <= _EDGE) & (flat <= _EDGE)
        inside: NDArray[np.bool_] = ((np.abs(turn) > np.pi) | border) & self._near(points, corners)
        return inside

    @staticmethod
    def _near(points: Positions, corners: Positions) -> NDArray[np.bool_]:
        """Exclude the antipodes, around which the sides turn as well."""
        near: NDArray[np.bool_] = points @ corners.sum(axis=0) > 0
        return near


class Moc:
    """A region made of whole cells.

    Parameters
    ----------
    source : str, Path, mocpy.MOC or list of Cell
        MOC text such as "5/1284-1290 6/20", the path of a MOC in FITS, a mocpy object, or cells.

    Raises
    ------
    RegionError
        If it is none of these.
    """

    def __init__(self, source: "str | Path | MOC | list[Cell]") -> None:
        self.source = source
        self._coverage = _read_moc(source)

    def __repr__(self) -> str:
        return f"Moc({self._coverage.area:.4g} deg2)"

    def cover(self) -> Coverage:
        """Return the cells."""
        return self._coverage

    def contains(self, ra: Positions, dec: Positions) -> NDArray[np.bool_]:
        """Return for each position whether it lies in one of the cells."""
        return self._coverage.contains(healpix_29(ra, dec))


def _read_moc(source: Any) -> Coverage:
    from mocpy import MOC

    if isinstance(source, MOC):
        return Coverage.from_moc(source)
    if isinstance(source, list) and source and all(isinstance(cell, Cell) for cell in source):
        return Coverage.from_cells(source)
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith((".fits", ".fits.gz"))):
        if not Path(source).is_file():
            raise RegionError(f"no MOC file {source}", hint="a FITS file, MOC text, or a list of Cell")
        return Coverage.from_moc(MOC.from_fits(str(source)))
    try:
        return Coverage.from_moc(MOC.from_string(source))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise RegionError(
            f"{source!r} is no MOC",
            found=str(error).split("\n")[0],
            hint='MOC text "5/1284 6/20-22", a FITS file, or cells',
        ) from None

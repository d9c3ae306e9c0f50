"""Slow and obvious answers that the kernels must reproduce; nothing here may import them."""

import math
from itertools import pairwise

import mpmath
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(30)
_PI = np.longdouble("3.14159265358979323846264338327950288")


def circle_pixel_overlap(dx: float, dy: float, r: float) -> float:
    """Integrate the length of the circle's chords inside the pixel, over x = r sin(t), piece by piece."""
    left, right, below, above = dx - 0.5, dx + 0.5, dy - 0.5, dy + 0.5
    left, right = max(left, -r), min(right, r)
    if left >= right:
        return 0.0
    bends = [math.sqrt(r * r - line * line) for line in (below, above) if abs(line) < r]
    inner = [x for bend in bends for x in (-bend, bend) if left < x < right]
    ends = [math.asin(x / r) for x in sorted([left, *inner, right])]
    area = 0.0
    for start, stop in pairwise(ends):
        t = 0.5 * (stop - start) * _NODES + 0.5 * (start + stop)
        arc = r * np.cos(t)
        chord = np.minimum(arc, above) - np.maximum(-arc, below)
        area += 0.5 * (stop - start) * float(np.sum(_WEIGHTS * np.maximum(chord, 0.0) * arc))
    return area


def overlap_image(shape: tuple[int, int], x: float, y: float, r: float) -> Floats:
    """Return the overlap of a circle with every pixel of an image."""
    image = np.zeros(shape)
    for j in range(shape[0]):
        for i in range(shape[1]):
            if math.hypot(i - x, j - y) < r + 1:
                image[j, i] = circle_pixel_overlap(i - x, j - y, r)
    return image


def good_pixels(
    science: NDArray[np.float32],
    variance: NDArray[np.float32] | None,
    mask: NDArray[np.uint32] | None,
    bits: int,
    saturation: float,
) -> NDArray[np.bool_]:
    """Return where pixels are finite, below saturation, without a bad bit, and have a finite variance >= 0."""
    good = np.isfinite(science) & (science < saturation)
    if mask is not None:
        good &= (mask & np.uint32(bits)) == 0
    if variance is not None:
        good &= np.isfinite(variance)
        good &= ~(variance < 0)
    return good


def aperture_sums(
    science: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    circle: tuple[float, float, float],
    background: float,
) -> tuple[float, float, float]:
    """Return flux, variance and area of the good pixels in the circle (x, y, r)."""
    overlap = overlap_image(science.shape, *circle)[good]
    pixels, noise = science[good].astype(float), variance[good].astype(float)
    sums = overlap * (pixels - background), overlap * noise, overlap
    return float(sums[0].sum()), float(sums[1].sum()), float(sums[2].sum())


def annulus_pixels(
    science: NDArray[np.float32], good: NDArray[np.bool_], x: float, y: float, inner: float, outer: float
) -> Floats:
    """Return the good pixels whose centre lies in the annulus, borders inside."""
    rows, columns = np.indices(science.shape)
    squared = (columns - x) ** 2 + (rows - y) ** 2
    return science[good & (squared >= inner**2) & (squared <= outer**2)].astype(float)


def robust_scatter(values: Floats) -> float:
    """Return 1.4826 times the median absolute deviation."""
    return 1.482602218505602 * float(np.median(np.abs(values - np.median(values))))


def clip(values: Floats) -> Floats:
    """Return the values within 3 robust sigma of their median, repeated at most 5 times."""
    for _ in range(5):
        kept = values[np.abs(values - np.median(values)) <= 3 * robust_scatter(values)]
        if kept.size == values.size:
            break
        values = kept
    return values


def separations(left: tuple[Floats, Floats], right: tuple[Floats, Floats]) -> NDArray[np.longdouble]:
    """Return the angles, in degrees, between positions (ra, dec) in degrees of two sides, all with all; (n, m).

    Half the angle is that whose squared sine and cosine are the two sums of haversines, with 64 bits of mantissa:
    differences of positions are taken in degrees, so that what is symmetric there stays equal.
    """
    half = _PI / 360  # of a degree, in radians
    ra, dec = (np.asarray(each, np.longdouble)[:, np.newaxis] for each in left)
    its_ra, its_dec = (np.asarray(each, np.longdouble) for each in right)
    turned = np.abs(its_ra - ra)
    turned = half * np.minimum(turned, np.abs(360 - turned))
    scale = np.cos(2 * half * dec) * np.cos(2 * half * its_dec)
    sine = np.sin(half * np.abs(its_dec - dec)) ** 2 + scale * np.sin(turned) ** 2
    cosine = np.sin(half * (its_dec + dec)) ** 2 + scale * np.cos(turned) ** 2
    near, far = (np.arcsin(np.sqrt(np.minimum(each, 1))) / half for each in (sine, cosine))
    return np.where(sine <= cosine, near, 180 - far)


def precise_separation(ra: float, dec: float, its_ra: float, its_dec: float) -> mpmath.mpf:
    """Return the angle between two positions, all in degrees, to 50 digits: from the unit vectors' products."""
    with mpmath.workdps(70):
        a, b = _vector(ra, dec), _vector(its_ra, its_dec)
        cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
        dot = mpmath.fsum(x * y for x, y in zip(a, b, strict=True))
        return mpmath.degrees(mpmath.atan2(mpmath.sqrt(mpmath.fsum(x * x for x in cross)), dot))


def _vector(ra: float, dec: float) -> list[mpmath.mpf]:
    lon, lat = mpmath.radians(mpmath.mpf(ra)), mpmath.radians(mpmath.mpf(dec))
    return [mpmath.cos(lat) * mpmath.cos(lon), mpmath.cos(lat) * mpmath.sin(lon), mpmath.sin(lat)]


def normalised_separations(
    left: tuple[Floats, Floats], right: tuple[Floats, Floats], errors: Floats, its_errors: Floats
) -> NDArray[np.longdouble]:
    """Return the separations, all with all, in combined standard deviations along their directions; (n, m).

    Errors have shape (3, n): standard deviations in degrees towards east and north, and their correlation. Both
    ellipses are turned to the great circle through the two positions, and added there.
    """
    ra, dec = (np.asarray(each, np.longdouble)[:, np.newaxis] * _PI / 180 for each in left)
    its_ra, its_dec = (np.asarray(each, np.longdouble) * _PI / 180 for each in right)
    there = _position_angle(ra, dec, its_ra, its_dec)
    back = _position_angle(its_ra, its_dec, ra, dec) + _PI
    ellipses = _along(errors[:, :, np.newaxis], there), _along(its_errors, back)
    along, both, across = (first + second for first, second in zip(*ellipses, strict=True))
    return separations(left, right) * np.sqrt(across / (along * across - both**2))


def _position_angle(*positions: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    """Return the direction from one position to another, from north towards east; all in radians."""
    ra, dec, its_ra, its_dec = positions
    east = np.sin(its_ra - ra) * np.cos(its_dec)
    return np.arctan2(east, np.cos(dec) * np.sin(its_dec) - np.sin(dec) * np.cos(its_dec) * np.cos(its_ra - ra))


def _along(errors: Floats, angle: NDArray[np.longdouble]) -> tuple[NDArray[np.longdouble], ...]:
    """Return variance along a direction, covariance, and variance across it."""
    east, north, corr = errors
    sin, cos, both = np.sin(angle), np.cos(angle), corr * east * north
    along = (sin * east) ** 2 + 2 * sin * cos * both + (cos * north) ** 2
    across = (cos * east) ** 2 - 2 * sin * cos * both + (sin * north) ** 2
    return along, sin * cos * (east**2 - north**2) + (cos**2 - sin**2) * both, across


def moved(ra: Floats, dec: Floats, pmra: Floats, pmdec: Floats, years: float) -> tuple[Floats, Floats]:
    """Return positions in degrees after some years on straight lines, without radial motion; motions in mas/yr."""
    lon, lat = (np.asarray(each, np.longdouble) * _PI / 180 for each in (ra, dec))
    east, north = (np.asarray(each, np.longdouble) * years * _PI / 180 / 3_600_000 for each in (pmra, pmdec))
    x, z = np.cos(lat) - north * np.sin(lat), np.sin(lat) + north * np.cos(lat)
    turned, raised = lon + np.arctan2(east, x), np.arctan2(z, np.hypot(x, east))
    return np.asarray(turned * 180 / _PI % 360, np.float64) % 360, np.asarray(raised * 180 / _PI, np.float64)


def crossmatch(
    separation: NDArray[np.longdouble],
    near: NDArray[np.bool_],
    index: NDArray[np.int64],
    its_index: NDArray[np.int64],
    find: str = "nearest",
    how: str = "inner",
    neighbours: int = 1,
) -> list[tuple[int | None, int | None]]:
    """Return the rows (of the left, of the right side) of a cross-match, in their order.

    `separation` and `near` (who may be a match at all) have shape (n, m); `index` and `its_index` are the order-29
    cells of both sides, in the order of their stores.
    """
    pairs = _pairs(separation, near, index, its_index, find, neighbours)
    matched, its_matched = {row for row, _ in pairs}, {its for _, its in pairs}
    alone = [(row, None) for row in range(len(index)) if row not in matched]
    its_alone = [(None, its) for its in range(len(its_index)) if its not in its_matched]
    rows = {
        "inner": pairs,
        "left": pairs + alone,
        "right": pairs + its_alone,
        "outer": pairs + alone + its_alone,
        "anti": alone,
        "xor": alone + its_alone,
    }[how]

    def place(row: tuple[int | None, int | None]) -> tuple[int, bool, int]:
        mine, its = row
        return (its_index[its], True, its) if mine is None else (index[mine], False, mine)

    return sorted(rows, key=place)  # stable: pairs of one left row stay as they are


def _pairs(
    separation: NDArray[np.longdouble],
    near: NDArray[np.bool_],
    index: NDArray[np.int64],
    its_index: NDArray[np.int64],
    find: str,
    neighbours: int,
) -> list[tuple[int, int]]:
    """Return the pairs, by left row; those of one row by distance, or in the order of the right store for "all"."""
    pairs = []
    for row in range(len(index)):
        found = [its for its in range(len(its_index)) if near[row, its]]
        if find != "all":
            found.sort(key=lambda its: (separation[row, its], its_index[its], its))
            found = found[:neighbours]
        pairs += [(row, its) for its in found]
    if find == "mutual":
        back = _pairs(separation.T, near.T, its_index, index, "nearest", 1)
        pairs = [(row, its) for row, its in pairs if (its, row) in back]
    return pairs

"""Which rows of two catalogs belong together by their places on the sky."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.sky.cell import healpix_29
from sciplat.sky.surroundings import MAX_REACH
from sciplat.steps.errors import ErrorColumns, covariances, turned_covariances
from sciplat.steps.motion import Moving, moved
from sciplat.steps.pairs import Floats, Indices, Pairs, Points, joined, nearest_pairs, pairs_within, squares
from sciplat.steps.probability import probabilities
from sciplat.steps.sort import stable_order

Find = Literal["nearest", "mutual", "all"]
How = Literal["inner", "left", "right", "outer", "anti", "xor"]
_PRIOR_SIGMA = 5.0
SURE = 1 + 1e-5  # standard deviations are rounded, most where ellipses are needles
_INDEX = "_healpix_29"


@dataclass(frozen=True)
class Side:
    """What places the rows of one catalog.

    Parameters
    ----------
    name : str
        For errors: "the left catalog".
    position : tuple of str
        Names of the right ascension and declination.
    frame : str
    moving : Moving, optional
        To when the rows are brought.
    errors : ErrorColumns, optional
        Of their positions.
    """

    name: str
    position: tuple[str, str]
    frame: str
    moving: Moving | None = None
    errors: ErrorColumns | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are needed."""
        moving = self.moving.columns if self.moving else ()
        return (_INDEX, *self.position, *moving, *(self.errors.names if self.errors else ()))


@dataclass(frozen=True)
class Matching:
    """Which pairs are wanted.

    Parameters
    ----------
    find : {"nearest", "mutual", "all"}
    neighbours : int
        Right rows that are found for each left row, with "nearest".
    radius : float, optional
        Degrees; the limit is included.
    n_sigma : float, optional
        Combined standard deviations; the limit is included.
    density_order : int, optional
        Of the cells in which the prior of probabilities is estimated; without it there are none.
    left, right : Side
    """

    find: Find
    neighbours: int
    radius: float | None
    n_sigma: float | None
    density_order: int | None
    left: Side
    right: Side

    @property
    def listed_sigma(self) -> float:
        """Combined standard deviations within which candidates are listed: a prior needs nearly all counterparts."""
        least = 0.0 if self.density_order is None else _PRIOR_SIGMA
        return max(least, self.n_sigma or 0.0)


@dataclass(frozen=True, eq=False)
class Placed:
    """The rows of a table as points, in the frame of the left catalog and at the common epoch.

    Parameters
    ----------
    points : Points
        Their `rank` is the row of the table.
    index : ndarray of int64, shape (n,)
        Of the rows where they stand, in the frame of the left catalog, in the order of the table.
    ra, dec : ndarray of float64, shape (n,)
        There, degrees.
    missing : ndarray of bool, shape (n,), optional
        Rows that should have been moved and have no motion.
    cov : ndarray of float64, shape (n, 3), optional
        Covariances of the positions, in the order of the points.
    """

    points: Points
    index: Indices
    ra: Floats
    dec: Floats
    missing: NDArray[np.bool_] | None
    cov: Floats | None


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of rows of two tables, with what is known of each.

    Parameters
    ----------
    left, right : ndarray of int64, shape (p,)
        Rows of the tables, sorted by the left one.
    square : ndarray of float64, shape (p,)
        sin^2(d/2) of their distances d.
    sigma, match : ndarray of float64, shape (p,), optional
        Separation in standard deviations, and probability of the pair.
    none : ndarray of float64, shape (n,), optional
        Probability that a row of the left table has no counterpart.
    """

    left: Indices
    right: Indices
    square: Floats
    sigma: Floats | None = None
    match: Floats | None = None
    none: Floats | None = None

    def kept(self, chosen: NDArray[np.bool_] | Indices) -> "Matches":
        """Return some of the pairs."""
        sigma, match = (None if values is None else values[chosen] for values in (self.sigma, self.match))
        return Matches(self.left[chosen], self.right[chosen], self.square[chosen], sigma, match, self.none)


def placed(table: pa.Table, side: Side, frame: str) -> Placed:
    """Bring the rows of a table to the common frame and epoch.

    Parameters
    ----------
    table : pyarrow.Table
        Sorted by `_healpix_29`.
    side : Side
    frame : str
        The common one.
    """
    ra, dec = (np.ascontiguousarray(table[name].to_numpy(), dtype=np.float64) for name in side.position)
    index = table[_INDEX].to_numpy()
    here, missing = (ra, dec), None
    if side.moving is not None and table.num_rows:
        there = moved(table, side.position, side.moving)
        here, missing = (there.ra, there.dec), there.missing
    # other writers may have rows without a position, which match nothing
    rows = np.flatnonzero(np.isfinite(here[0]) & (np.abs(here[1]) <= 90))
    cov = None if side.errors is None else covariances(table, side.errors, side.name)[rows]
    at = index
    if len(rows) < len(index):
        at, here = index[rows], (here[0][rows], here[1][rows])
    if side.frame != frame:
        from sciplat.sky.frame import turned

        ra, dec, index = _in_frame(ra, dec, index, side.frame, frame)
        own_ra, here = here[0], turned(*here, side.frame, frame)
        if cov is not None:
            cov = turned_covariances(cov, own_ra, *here, side.frame, frame)
    if side.moving is not None or side.frame != frame:
        at = healpix_29(*here)
        order = stable_order(at)
        rows, at, here = rows[order], at[order], (here[0][order], here[1][order])
        cov = None if cov is None else cov[order]
    return Placed(Points(at, *here, rows), index, ra, dec, missing, cov)


def _in_frame(ra: Floats, dec: Floats, index: Indices, frame: str, to: str) -> tuple[Floats, Floats, Indices]:
    """Return positions and their indices in another frame; of what has no position they stay as they are."""
    from sciplat.sky.frame import turned

    good = np.isfinite(ra) & (np.abs(dec) <= 90)
    new_ra, new_dec, new_index = ra.copy(), dec.copy(), index.copy()
    new_ra[good], new_dec[good] = turned(ra[good], dec[good], frame, to)
    new_index[good] = healpix_29(new_ra[good], new_dec[good])
    return new_ra, new_dec, new_index


def matches(left: Placed, right: Placed, matching: Matching) -> Matches:
    """Return the pairs that are wanted, in the order of the left rows.

    Those of one left row are the nearest first, with `find="all"` in the order of the right rows.

    Parameters
    ----------
    left, right : Placed
    matching : Matching
    """
    if matching.left.errors is None:
        pairs = _pairs_by_distance(left.points, right.points, matching)
        return _in_order(Matches(pairs.left, pairs.right, pairs.square), left, right, matching.find)
    pairs, sigma, density = _candidates(left, right, matching)
    match = none = None
    if matching.density_order is not None:
        match, none = _probable(pairs, density, left, right, matching.density_order)
        inside = _are_within(pairs, sigma, matching)
        pairs, sigma, match = pairs.kept(inside), sigma[inside], match[inside]
    chosen = _chosen(pairs, right.points.rank, left.points.rank, matching)
    found = Matches(pairs.left, pairs.right, pairs.square, sigma, match, none).kept(chosen)
    return _in_order(found, left, right, matching.find)


def _pairs_by_distance(left: Points, right: Points, matching: Matching) -> Pairs:
    radius = matching.radius or 0.0
    if matching.find == "all":
        return pairs_within(left, right, radius)
    pairs = nearest_pairs(left, right, radius, matching.neighbours)
    if matching.find == "nearest" or not len(pairs):
        return pairs
    is_seen = np.zeros(len(right), bool)
    is_seen[pairs.right] = True
    seen = np.flatnonzero(is_seen)
    back = nearest_pairs(right.taken(seen), left, radius)
    best = np.full(len(right), -1)
    best[seen[back.left]] = back.right
    return pairs.kept(best[pairs.right] == pairs.left)


def _candidates(left: Placed, right: Placed, matching: Matching) -> tuple[Pairs, Floats, Floats]:
    """Return the pairs that errors allow, their separations in standard deviations, and densities; see the kernel.

    Right rows with errors of about one size are looked at together, so that a single large one costs little.
    """
    from sciplat.kernels.errors import largest_error

    mine, its = _covariances(left), _covariances(right)
    errors, its_errors = largest_error(mine), largest_error(its)
    sizes = np.frexp(its_errors)[1]
    parts = [(Pairs.none(), np.empty(0), np.empty(0))]
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        reach = _reaches(errors, its_errors[rows].max(), matching)
        pairs = pairs_within(left.points, right.points.taken(rows), reach)
        pairs = replace(pairs, right=rows[pairs.right])
        sigma, density = _normalised(pairs, left.points, mine, right.points, its)
        inside = sigma <= matching.listed_sigma
        parts.append((pairs.kept(inside), sigma[inside], density[inside]))
    found, *numbers = zip(*parts, strict=True)
    pairs, (sigma, density) = joined(found), (np.concatenate(values) for values in numbers)
    if len(parts) == 2:  # of one size, in order already
        return pairs, sigma, density
    order = np.lexsort([pairs.right, pairs.left])
    return pairs.kept(order), sigma[order], density[order]


def _covariances(side: Placed) -> Floats:
    if side.cov is None:
        raise ValueError("a side without errors")
    return side.cov


def _reaches(errors: Floats, its_error: float, matching: Matching) -> Floats:
    """Return how far from each left row candidates with errors up to `its_error` may lie, in degrees."""
    # the tangent offset that sigma is measured with is no shorter than the angle
    reach = matching.listed_sigma * np.hypot(errors, its_error) * SURE
    if matching.radius is not None and matching.density_order is None:
        return np.minimum(reach, matching.radius)
    if reach.max(initial=0.0) > MAX_REACH:
        raise ArgumentError(
            f"errors of positions reach farther than {MAX_REACH:g} deg",
            found=f"{reach.max():.3g} deg",
            hint="leave such rows out with .where(...)",
        )
    return reach


def _normalised(pairs: Pairs, mine: Points, cov: Floats, its: Points, its_cov: Floats) -> tuple[Floats, Floats]:
    from sciplat.kernels.errors import normalised_separations

    sigma, density = np.empty(len(pairs)), np.empty(len(pairs))
    sides = (mine.ra, mine.dec, cov, its.ra, its.dec, its_cov)
    normalised_separations(pairs.left, pairs.right, *sides, sigma, density)
    return sigma, density


def _are_within(pairs: Pairs, sigma: Floats, matching: Matching) -> NDArray[np.bool_]:
    """Return which candidates of a prior are near enough."""
    inside = np.ones(len(pairs), bool)
    if matching.n_sigma is not None:
        inside &= sigma <= matching.n_sigma
    if matching.radius is not None:
        inside &= pairs.square <= squares(np.array([matching.radius]))[0]
    return inside


def _probable(pairs: Pairs, density: Floats, left: Placed, right: Placed, order: int) -> tuple[Floats, Floats]:
    """Return the probability of each pair, and of each row of the left table to have no counterpart."""
    rows, its = left.points.rank, np.sort(right.points.rank)
    match, of_points = probabilities(pairs.left, density, left.index[rows], right.index[its], order)
    none = np.ones(len(left.index))
    none[rows] = of_points
    return match, none


def _chosen(pairs: Pairs, right_rank: Indices, left_rank: Indices, matching: Matching) -> Indices:
    """Return the places of the pairs that are wanted among all candidates."""
    if matching.find == "all":
        return np.arange(len(pairs))
    nearest = np.lexsort([right_rank[pairs.right], pairs.square, pairs.left])
    place = _place_in_group(pairs.left[nearest])
    if matching.find == "nearest":
        return nearest[place < matching.neighbours]
    from_right = np.lexsort([left_rank[pairs.left], pairs.square, pairs.right])
    first = from_right[_place_in_group(pairs.right[from_right]) == 0]
    mine = nearest[place == 0]
    return mine[np.isin(mine, first)]


def _place_in_group(sorted_keys: Indices) -> Indices:
    """Return the number of each row among those of its key."""
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    return np.arange(len(sorted_keys)) - np.repeat(starts, np.diff(starts, append=len(sorted_keys)))


def _in_order(found: Matches, left: Placed, right: Placed, find: Find) -> Matches:
    """Return pairs of points as pairs of rows of the tables, in their order."""
    i, j = left.points.rank[found.left], right.points.rank[found.right]
    rows = replace(found, left=i, right=j)
    same, after = np.diff(i) == 0, np.diff(j) >= 0
    if (np.diff(i) >= 0).all() and (find != "all" or (after | ~same).all()):
        return rows
    return rows.kept(np.lexsort([j, i]) if find == "all" else np.argsort(i, kind="stable"))

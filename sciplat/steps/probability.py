"""How probable it is that a pair is one source, and that a row has no counterpart.

For a left row and its candidates j, exactly one of these holds: candidate j is the counterpart, or none is. A
counterpart lies around the left row with the density f_j (normal, with the combined errors); everything else is spread
evenly with nu right rows per square degree; a fraction c of the left rows have a counterpart. So

    match_j = w_j / (1 - c + sum of w)      none = (1 - c) / (1 - c + sum of w)      w_j = c f_j / nu

This is the posterior of Budavari and Szalay (2008, ApJ 679, 301): their Bayes factor for normal errors on a small part
of the sky, B = 2 / sqrt(det C) exp(-sigma^2 / 2) with C in rad^2, is 4 pi f_j with f_j per steradian, and the prior of
a pair is c / (4 pi nu), 4 pi nu being the number of right rows on the whole sky. So B times the prior is w_j. The
candidates of one row share its probability like the reliabilities of Sutherland and Saunders (1992, MNRAS 259, 413).

The prior is self-consistent, as theirs: c is the fraction of left rows with a counterpart according to the posteriors
themselves. Both c and nu belong to a HEALPix cell that is fixed on the sky, so that they do not depend on how the
catalogs are cut into files.
"""

import numpy as np
from numpy.typing import NDArray

from sciplat.sky.cell import MAX_ORDER, cell_area

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
_ROWS = 1000  # in a cell: c and nu are known to a few percent
_ORDERS = (3, 12)  # 54 square degrees to 0.7 square arcminutes
_FINER = 3  # orders: the density is measured in 64 parts of a cell
_PRECISION = 1e-12  # of c
_MAX_STEPS = 100


def probabilities(
    pairs_left: Indices, density: Floats, left_index: Indices, right_index: Indices, order: int
) -> tuple[Floats, Floats]:
    """Return the probability of each pair, and of each left row that none of its candidates is its counterpart.

    Parameters
    ----------
    pairs_left : ndarray of int64, shape (p,)
        Left row of each pair, sorted. All pairs within about 5 sigma belong here, of all left rows: a counterpart
        farther away counts as none.
    density : ndarray of float64, shape (p,)
        Density of the counterpart's positions where the right row is, 1/deg^2; see `normalised_separations`.
    left_index, right_index : ndarray of int64, shapes (n,) and (m,)
        Order-29 indices of all rows of both catalogs in the cells of `order` that are touched.
    order : int
        Of the cells in which the prior is estimated; see `density_order`.

    Returns
    -------
    match : ndarray of float64, shape (p,)
    none : ndarray of float64, shape (n,)
        1 where a row has no pair. The matches of a left row and its `none` add up to 1.

    Notes
    -----
    One left row is judged at a time: that a right row may also be the counterpart of another left row is left aside.
    nu is measured where the right catalog has rows. Left rows beyond its coverage count as rows without a counterpart:
    in a cell where it ends, c is too small, and matches are rather too improbable than too probable.
    """
    cells, place = np.unique(left_index >> 2 * (MAX_ORDER - order), return_inverse=True)
    ratio = density / _surface_density(right_index, cells, order)[place[pairs_left]]
    # bincount adds in the order of the pairs, cell by cell: other cells change no bit
    total = np.bincount(pairs_left, ratio, minlength=len(left_index)).astype(np.float64)
    prior = _fractions(total, place, len(cells))[place]
    none = (1 - prior) / (1 - prior + prior * total)
    match = (prior / (1 - prior + prior * total))[pairs_left] * ratio
    return match, none


def density_order(rows: float, area_deg2: float) -> int:
    """Return the order of the cells in which the prior is estimated: the finest ones that hold about 1,000 rows.

    Parameters
    ----------
    rows : float
        Number of rows of the sparser catalog.
    area_deg2 : float
        Area that they cover, square degrees.

    Returns
    -------
    int
        3 to 12.
    """
    first, last = _ORDERS
    fine = [order for order in range(first, last + 1) if rows * cell_area(order) >= _ROWS * area_deg2]
    return max(fine, default=first)


def _surface_density(index: Indices, cells: Indices, order: int) -> Floats:
    """Return right rows per square degree in each of `cells`, which are sorted, where there are right rows.

    It is the mean, over the right rows of the cell, of the density of others in the row's own small cell: without bias
    for rows spread evenly, and hardly changed where the coverage ends inside the cell. Where rows are so few that the
    small cells hold no others, it is the density in the whole cell; at least one row is counted.
    """
    small, others = np.unique(index >> 2 * (MAX_ORDER - order - _FINER), return_counts=True)
    place = np.searchsorted(cells, small >> 2 * _FINER)
    inside = np.append(cells, -1)[place] == small >> 2 * _FINER
    place, others = place[inside], others[inside].astype(np.float64)
    rows = np.maximum(np.bincount(place, others, minlength=len(cells)), 1)
    pairs = np.bincount(place, others * (others - 1), minlength=len(cells))
    return np.maximum(pairs / rows / cell_area(order + _FINER), rows / cell_area(order))


def _fractions(total: Floats, place: Indices, cells: int) -> Floats:
    """Return the fraction c of rows with a counterpart for each cell.

    Where c is consistent, c (n + 2) = 1 + sum over the n rows of c t / (1 - c + c t), t being a row's total of f / nu:
    the mean of the posteriors with Laplace's pseudo-counts, one row with and one without a counterpart. There is one
    such c, the maximum of a likelihood that is concave in c. Newton's steps are kept between the bounds that the sign
    of the difference gives; a cell that has converged is left alone, so that other cells change no bit.
    """
    has_pairs = total > 0
    size = np.bincount(place, minlength=cells) + 2.0
    total, place = total[has_pairs], place[has_pairs]
    low, high, fraction = np.zeros(cells), np.ones(cells), np.full(cells, 0.5)
    moving = np.ones(cells, dtype=bool)
    for _ in range(_MAX_STEPS):
        scale = 1 / (1 + fraction[place] * (total - 1))
        with_counterpart = np.bincount(place, fraction[place] * total * scale, minlength=cells)
        excess = 1 + with_counterpart - fraction * size
        slope = np.bincount(place, total * scale * scale, minlength=cells) - size
        low, high = np.where(excess >= 0, fraction, low), np.where(excess <= 0, fraction, high)
        step = fraction - excess / slope
        step = np.where((low <= step) & (step <= high), step, 0.5 * (low + high))
        step = np.where(moving, step, fraction)
        moving &= np.abs(step - fraction) > _PRECISION
        fraction = step
        if not moving.any():
            break
    return fraction

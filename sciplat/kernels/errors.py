"""Separations of pairs in units of their errors, for elliptical errors of both sides.

Positions and offsets are degrees. A covariance is (variance along right ascension times cos(dec), covariance, variance
along declination), deg^2, in the position's own east and north.

East and north turn along a great circle, near the poles a lot. Both covariances are brought to the middle of the pair:
there the great circle has the position angle p, and the axes of the two ends are turned by half the convergence of the
meridians, g / 2, to either side. With a = (dec_right - dec_left) / 2, m = (dec_right + dec_left) / 2, b = (ra_right -
ra_left) / 2 and the separation s, Delambre's analogies (Todhunter, "Spherical Trigonometry", 1886, chapter IV) for
the triangle of the two positions and the pole are

    sin(s/2) sin p = sin b cos m        cos(s/2) sin(g/2) = sin b sin m
    sin(s/2) cos p = cos b sin a        cos(s/2) cos(g/2) = cos b cos a

No difference of almost equal numbers is taken, so that they hold from coincident points to nearly 180 degrees, at the
poles and across RA = 0. If the sides change places, the offset changes its sign and the covariances their order:
the result is the same.
"""

import math

import numpy as np

from sciplat.kernels._jit import kernel
from sciplat.kernels.separation import signed


@kernel
def normalised_separations(i, j, left_ra, left_dec, left_cov, right_ra, right_dec, right_cov, out_sigma, out_density):
    """Measure pairs in standard deviations of their separation.

    Parameters
    ----------
    i, j : (p,) int64
        Left and right row of each pair.
    left_ra, left_dec : (n,) float64
        Degrees; any longitude.
    left_cov : (n, 3) float64
        Covariances, deg^2; see above.
    right_ra, right_dec, right_cov : (m,), (m,) and (m, 3) float64
        The same of the right side.
    out_sigma : (p,) float64
        sqrt(d^T C^-1 d), with C the sum of both covariances and d the offset: as long as the separation, in the
        direction of the great circle.
    out_density : (p,) float64
        exp(-sigma^2 / 2) / (2 pi sqrt(det C)), 1/deg^2: how dense the counterpart's positions are here.

    Notes
    -----
    The errors are taken to be normal in a plane that touches the sky between the two positions, as everywhere in
    astrometry; the plane keeps separations and directions from the middle. Rounding errors grow with the square of
    the axis ratio of C: 1e-14 for round errors, 1e-8 where one axis is a thousand times the other.
    """
    for p in range(i.size):
        left, right = i[p], j[p]
        east, north, cos, sin = _offset_and_turn(left_ra[left], left_dec[left], right_ra[right], right_dec[right])
        xx, xy, yy = _turned(left_cov[left, 0], left_cov[left, 1], left_cov[left, 2], cos, sin)
        other_xx, other_xy, other_yy = _turned(right_cov[right, 0], right_cov[right, 1], right_cov[right, 2], cos, -sin)
        xx, xy, yy = xx + other_xx, xy + other_xy, yy + other_yy
        determinant = xx * yy - xy * xy
        square = (yy * east * east - 2.0 * xy * east * north + xx * north * north) / determinant
        out_sigma[p] = math.sqrt(square)
        out_density[p] = math.exp(-0.5 * square) / (2.0 * math.pi * math.sqrt(determinant))


@kernel
def _offset_and_turn(left_ra, left_dec, right_ra, right_dec):
    """Return the offset from left to right in the middle (east, north), and cosine and sine of g / 2; see above."""
    difference = signed(right_ra) - signed(left_ra)  # each by itself: of their difference the last digits would be lost
    b = math.radians(0.5 * (difference - 360.0 * np.rint(difference / 360.0)))
    a, m = math.radians(0.5 * (right_dec - left_dec)), math.radians(0.5 * (right_dec + left_dec))
    if left_dec * right_dec > 0.0:  # from the pole, for the same reason
        cos_m = math.sin(math.radians(0.5 * ((90.0 - abs(left_dec)) + (90.0 - abs(right_dec)))))
    else:
        cos_m = math.cos(m)
    east, north = math.sin(b) * cos_m, math.cos(b) * math.sin(a)
    cos, sin = math.cos(b) * math.cos(a), math.sin(b) * math.sin(m)
    near, far = math.sqrt(east * east + north * north), math.sqrt(cos * cos + sin * sin)
    stretch = math.degrees(2.0 * math.atan2(near, far)) / near if near > 0.0 else 0.0
    return stretch * east, stretch * north, cos / far, sin / far


@kernel
def _turned(xx, xy, yy, cos, sin):
    """Return the left end's covariance in the middle, where all its position angles are greater by g / 2."""
    turned_xx = cos * cos * xx + 2.0 * cos * sin * xy + sin * sin * yy
    turned_xy = cos * sin * (yy - xx) + (cos * cos - sin * sin) * xy
    turned_yy = sin * sin * xx - 2.0 * cos * sin * xy + cos * cos * yy
    return turned_xx, turned_xy, turned_yy


def largest_error(cov):
    """Return the standard deviation along the major axis of each error ellipse.

    Parameters
    ----------
    cov : ndarray of float64, shape (n, 3)
        Covariances, deg^2; see above.

    Returns
    -------
    ndarray of float64, shape (n,)
        Degrees: the square root of the covariance's larger eigenvalue, a.

    Notes
    -----
    Pairs within `n_sigma` are at most ``n_sigma * sqrt(a_left**2 + a_right**2)`` apart. For the eigenvalues e_k >= 0 of
    C and the parts d_k of d along its axes, sigma^2 = sum of d_k^2 / e_k >= |d|^2 / max(e), so that |d| <= sigma
    sqrt(max(e)). The largest eigenvalue of a sum is at most the sum of the largest ones, since max(e) is the maximum of
    u^T (C_left + C_right) u over unit vectors u, and each term is at most its own maximum. Turning the axes
    changes no eigenvalue. Any a_right that is the largest of many rows will do for all of them.
    """
    xx, xy, yy = cov.T
    return np.sqrt(0.5 * (xx + yy) + np.hypot(0.5 * (xx - yy), xy))

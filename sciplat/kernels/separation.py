"""Angles between positions, stable from coincident points to antipodes.

The haversine sin^2(d/2) has full relative precision for small angles; near 180 degrees that of the angle to the
antipode has. Source: R. W. Sinnott 1984, Sky and Telescope 68, 159; the antipode follows from cos^2 = 1 - sin^2.
"""

import math

from sciplat.kernels._jit import kernel

RADIANS = math.pi / 180
_SMALL = 0.02  # radians: up to here four terms of the series of the sine are exact


@kernel
def square(ra, dec, other_ra, other_dec):
    """Return sin^2(d/2) of two positions in degrees; the same bits for both orders.

    It is sin^2(along) + sin^2(across) (cos^2(between) - sin^2(along)), with half the differences in declination and in
    right ascension, and the declination between both; at a pole the second term is exactly 0.
    """
    turn = ra - other_ra
    if turn > 180 or turn < -180:  # each by itself: of their difference the last digits would be lost
        turn = signed(ra) - signed(other_ra)
        turn -= 360 * math.floor(turn / 360 + 0.5)
    across = _sine_of_half(turn * RADIANS)
    along = _sine_of_half((dec - other_dec) * RADIANS)
    if dec * other_dec > 0:  # from the pole, whose cosine would lose its last digits
        between = _sine_of_half(((90 - abs(dec)) + (90 - abs(other_dec))) * RADIANS)
    else:
        between = math.cos((dec + other_dec) * (0.5 * RADIANS))
    along *= along
    return along + across * across * (between * between - along)


@kernel
def signed(ra):
    """Return a right ascension as -180 to 180 degrees."""
    return ra - 360 * math.floor(ra / 360 + 0.5)


@kernel
def _sine_of_half(angle):
    half = 0.5 * angle
    if -_SMALL < angle < _SMALL:
        x = half * half
        return half * (1 - x * (1 / 6 - x * (1 / 120 - x / 5040)))
    return math.sin(half)


@kernel
def square_of(angle):
    """Return sin^2 of half an angle in degrees."""
    half = _sine_of_half(angle * RADIANS)
    return half * half


@kernel
def angle_of(squared):
    """Return the angle in degrees whose half has this sin^2; up to 90 degrees it has full precision."""
    return 2 * math.asin(math.sqrt(min(squared, 1.0))) / RADIANS


@kernel
def angles_of(squared, out_angle):
    """Return the angles of many.

    Parameters
    ----------
    squared : ndarray of float64, shape (n,)
    out_angle : ndarray of float64, shape (n,)
        Degrees.
    """
    for i in range(squared.shape[0]):
        out_angle[i] = angle_of(squared[i])


@kernel
def squares_of(angle, out_square):
    """Return sin^2 of half of many angles.

    Parameters
    ----------
    angle : ndarray of float64, shape (n,)
        Degrees.
    out_square : ndarray of float64, shape (n,)
    """
    for i in range(angle.shape[0]):
        out_square[i] = square_of(angle[i])


@kernel
def separations(ra, dec, other_ra, other_dec, out_angle):
    """Measure the angles between positions.

    Parameters
    ----------
    ra, dec, other_ra, other_dec : ndarray of float64, shape (n,)
        Degrees.
    out_angle : ndarray of float64, shape (n,)
        Degrees, 0 to 180.
    """
    for i in range(ra.shape[0]):
        near = square(ra[i], dec[i], other_ra[i], other_dec[i])
        if near <= 0.5:
            out_angle[i] = angle_of(near)
        else:
            out_angle[i] = 180 - angle_of(square(ra[i] + 180, -dec[i], other_ra[i], other_dec[i]))

"""Exact areas that a circle and the pixel grid have in common.

The circle is centred at the origin, lengths are in pixels, areas in square pixels. Everything follows from
one function of one variable, the area under the arc sqrt(r^2 - t^2) for 0 <= t <= x: it is needed only on the
grid lines (4 r + 4 of them), and the area of every pixel is a difference of these. Pixels outside the circle
get exactly 0; elsewhere the absolute error is a few ulp of r^2 (1e-14 at r = 10).
"""

import math

from sciplat.kernels._jit import kernel


@kernel
def area_under_circle(x, r):
    """Return the signed area under the circle's upper arc between 0 and `x`.

    Parameters
    ----------
    x : float
        Position of a grid line; beyond the circle it counts as the circle's edge.
    r : float
        Radius, > 0.

    Returns
    -------
    float
        (x sqrt(r^2 - x^2) + r^2 asin(x / r)) / 2, odd in `x`, pi r^2 / 4 at x = r.

    Notes
    -----
    The arcsine is a polynomial (on 0 <= s <= 1/2, else by the half-angle formula) and not `math.asin`, so that
    a loop over lines vectorises: 0.5 ns instead of 12 ns per line. The coefficients are those of the Chebyshev
    interpolant of (asin(s) / s - 1) / s^2 in s^2 at 12 nodes, computed with 80 digits; its relative error is
    below 1e-16.
    """
    u = min(abs(x) / r, 1.0)
    steep = u > 0.5
    z = 0.5 * (1.0 - u) if steep else u * u
    s = math.sqrt(z) if steep else u
    series = 0.02816921806088141
    series = series * z - 0.01074905033969781
    series = series * z + 0.016035514349148825
    series = series * z + 0.007802949477353317
    series = series * z + 0.011875494382636922
    series = series * z + 0.013929652902326633
    series = series * z + 0.017355259955786323
    series = series * z + 0.02237204763174451
    series = series * z + 0.03038194736709848
    series = series * z + 0.044642857103423646
    series = series * z + 0.07500000000020764
    series = series * z + 0.1666666666666665
    angle = s + s * z * series
    angle = 0.5 * math.pi - 2.0 * angle if steep else angle
    return math.copysign(0.5 * r * r * (u * math.sqrt((1.0 - u) * (1.0 + u)) + angle), x)


@kernel
def strip_area(x, area_x, near, far, area_near, area_far, r):
    """Return the signed area of the circle between the lines 0 and `x` and the lines `near` and `far`.

    Parameters
    ----------
    x, area_x : float
        A grid line and `area_under_circle(x, r)`; both may be negative.
    near, far : float
        The strip's lines at a right angle to it, 0 <= near <= far.
    area_near, area_far : float
        `area_under_circle` of `near` and `far`.
    r : float
        Radius.

    Returns
    -------
    float
        Area, odd in `x`. Its difference between the two sides of a pixel is the pixel's overlap.

    Notes
    -----
    The rectangle between the origin and a point outside the circle shares with the circle the areas under the
    arc on both its sides less a quarter of the disc. Beyond the arc the result is the same number for every
    `x`, so that differences vanish exactly.
    """
    crossed = abs(area_x) + area_far - 0.25 * math.pi * r * r - abs(x) * near
    beyond = crossed if x * x < r * r - near * near else area_far - area_near
    return math.copysign(abs(x) * (far - near) if x * x <= r * r - far * far else beyond, x)


@kernel
def circle_pixel_overlap(dx, dy, r):
    """Return the exact area that a circle shares with one pixel.

    Parameters
    ----------
    dx, dy : float
        Centre of the unit pixel relative to the circle's centre, in pixels.
    r : float
        Radius of the circle in pixels, > 0; it may be smaller than a pixel.

    Returns
    -------
    float
        Area in square pixels, in [0, 1].
    """
    below, above = dy - 0.5, dy + 0.5
    if below < 0.0 < above:
        area = _pixel_strip(dx, 0.0, above, r) + _pixel_strip(dx, 0.0, -below, r)
    else:
        near, far = min(abs(below), abs(above)), max(abs(below), abs(above))
        area = _pixel_strip(dx, near, far, r)
    return min(max(area, 0.0), 1.0)


@kernel
def _pixel_strip(dx, near, far, r):
    """Return the circle's area in the part of a pixel column between the lines `near` and `far`."""
    left, right = dx - 0.5, dx + 0.5
    area_near, area_far = area_under_circle(near, r), area_under_circle(far, r)
    to_right = strip_area(right, area_under_circle(right, r), near, far, area_near, area_far, r)
    to_left = strip_area(left, area_under_circle(left, r), near, far, area_near, area_far, r)
    return to_right - to_left

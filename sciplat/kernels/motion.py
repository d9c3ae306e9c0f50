"""Positions of stars at another epoch: straight and uniform motion through space.

Source: The Hipparcos and Tycho Catalogues (ESA SP-1200, 1997), volume 1, section 1.5.5; Butkevich and Lindegren
2014 (A&A 570, A62), without the light travel time (Barnard's star: 0.07 mas in 25 years). With r the direction of
the star, p and q the unit vectors towards east and north there, and t the years, the direction at the other epoch is
that of

    (1 + radial t) r + (pmra t) p + (pmdec t) q.

Only the changes of the coordinates are computed, in the star's own tangent plane: small motions lose no digits, and
the poles are points like any other.
"""

import math

from sciplat.kernels._jit import kernel


@kernel
def propagate(ra, dec, pmra, pmdec, radial, years, out_ra, out_dec):
    """Move stars to another epoch.

    Parameters
    ----------
    ra, dec : (n,) float64
        Degrees. At a pole the right ascension tells which way east and north are.
    pmra, pmdec : (n,) float64
        Proper motions, radians per year; `pmra` includes cos(dec).
    radial : (n,) float64
        Radial velocity by distance, per year, away from us positive; 0 where it is not known.
    years : (n,) float64
        From the epoch of the position to the other one.
    out_ra, out_dec : (n,) float64
        Degrees, 0 <= ra < 360; NaN where they depend on a NaN. A star that does not move keeps its bits, but for
        whole turns of the right ascension.
    """
    for k in range(ra.size):
        east, north, away = pmra[k] * years[k], pmdec[k] * years[k], 1.0 + radial[k] * years[k]
        if east == 0.0 and north == 0.0 and away > 0.0:
            # a tiny negative angle rounds to exactly 360 under the first modulus
            out_ra[k], out_dec[k] = ra[k] % 360.0 % 360.0, dec[k]
            continue
        sin, cos = math.sin(math.radians(dec[k])), math.cos(math.radians(dec[k]))
        # along the star's old meridian, away from the axis through the poles: negative beyond a pole
        along = away * cos - north * sin
        bend = math.sqrt(along * along + east * east) - along
        turn = math.atan2(east, along)
        rise = math.atan2(north - bend * sin, away + bend * cos)
        out_ra[k] = (ra[k] + math.degrees(turn)) % 360.0 % 360.0
        out_dec[k] = max(min(dec[k] + math.degrees(rise), 90.0), -90.0)

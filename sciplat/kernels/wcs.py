"""Gnomonic (TAN) world coordinates with SIP distortion, for many sources at once.

Axes and units: sky in degrees; pixels 0-based, x along the last axis of the image, y along the first.

The geometry is Calabretta and Greisen 2002 (A&A 395, 1077), sections 2.4 and 5.1.3; the distortion is the
SIP convention, Shupe et al. 2005 (ASPC 347, 491). `basis` holds, as rows, the unit vectors of the tangent
plane's two axes and of its pole in the frame of the sky positions: the pole of the native system (LONPOLE)
and any rotation between frames are folded into it. With (u, v) the pixel offsets from the reference pixel,

    (xi, eta) = linear (u + A(u, v), v + B(u, v)),     A(u, v) = sum of sip_a[i, j] u^i v^j  (B alike).
"""

import math

from sciplat.kernels._jit import kernel

_MAX_ITERATIONS = 30
_TOLERANCE = 1e-10  # of a pixel, or of the offset where that is larger than one


@kernel
def tan_to_pixel(ra, dec, basis, linear_inverse, crpix, sip_a, sip_b, out_x, out_y, out_scale):
    """Take sky positions to pixels.

    Parameters
    ----------
    ra, dec : (n,) float64
        Degrees.
    basis : (3, 3) float64
        Rows: first axis (xi), second axis (eta) and pole of the tangent plane.
    linear_inverse : (2, 2) float64
        Pixels per degree: the inverse of the CD matrix.
    crpix : (2,) float64
        Reference pixel, 0-based, x first.
    sip_a, sip_b : (m + 1, m + 1) float64
        Coefficients of the distortion polynomials, zero where i + j > m; shape (0, 0) for none.
    out_x, out_y : (n,) float64
        Pixel position; NaN for positions 90 degrees or more from the pole, not finite, or where the
        distortion cannot be inverted.
    out_scale : (n,) float64
        Square root of the solid angle of the pixel at the source, degrees per pixel:
        |det linear| |det (I + dSIP)| cos^3(rho), with rho the distance from the pole.
    """
    determinant = linear_inverse[0, 0] * linear_inverse[1, 1] - linear_inverse[0, 1] * linear_inverse[1, 0]
    for k in range(ra.size):
        lon, lat = math.radians(ra[k]), math.radians(dec[k])
        a, b, c = math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)
        cos_rho = basis[2, 0] * a + basis[2, 1] * b + basis[2, 2] * c
        out_x[k], out_y[k], out_scale[k] = math.nan, math.nan, math.nan
        if not cos_rho > 0.0:  # also where a coordinate is NaN
            continue
        xi = math.degrees((basis[0, 0] * a + basis[0, 1] * b + basis[0, 2] * c) / cos_rho)
        eta = math.degrees((basis[1, 0] * a + basis[1, 1] * b + basis[1, 2] * c) / cos_rho)
        f = linear_inverse[0, 0] * xi + linear_inverse[0, 1] * eta
        g = linear_inverse[1, 0] * xi + linear_inverse[1, 1] * eta
        u, v, stretch = undistort(f, g, sip_a, sip_b)
        if math.isfinite(stretch):
            out_x[k], out_y[k] = u + crpix[0], v + crpix[1]
            out_scale[k] = math.sqrt(abs(stretch / determinant) * cos_rho**3)


@kernel
def tan_to_sky(x, y, basis, linear, crpix, sip_a, sip_b, out_ra, out_dec):
    """Take pixels to sky positions.

    Parameters
    ----------
    x, y : (n,) float64
        Pixel positions, 0-based.
    basis, crpix, sip_a, sip_b
        As in `tan_to_pixel`.
    linear : (2, 2) float64
        Degrees per pixel: the CD matrix.
    out_ra, out_dec : (n,) float64
        Degrees, 0 <= ra < 360.
    """
    for k in range(x.size):
        u, v = x[k] - crpix[0], y[k] - crpix[1]
        f, _, _ = polynomial(sip_a, u, v)
        g, _, _ = polynomial(sip_b, u, v)
        f, g = u + f, v + g
        xi = math.radians(linear[0, 0] * f + linear[0, 1] * g)
        eta = math.radians(linear[1, 0] * f + linear[1, 1] * g)
        a = basis[0, 0] * xi + basis[1, 0] * eta + basis[2, 0]
        b = basis[0, 1] * xi + basis[1, 1] * eta + basis[2, 1]
        c = basis[0, 2] * xi + basis[1, 2] * eta + basis[2, 2]
        # a tiny negative angle rounds to exactly 360 under the first modulus
        out_ra[k] = math.degrees(math.atan2(b, a)) % 360.0 % 360.0
        out_dec[k] = math.degrees(math.atan2(c, math.hypot(a, b)))


@kernel
def undistort(f, g, sip_a, sip_b):
    """Solve u + A(u, v) = f, v + B(u, v) = g by Newton's method, from (f, g).

    Returns u, v and the determinant of d(f, g)/d(u, v) there; the latter is NaN without convergence.
    """
    if sip_a.size == 0:
        return f, g, 1.0
    u, v = f, g
    for _ in range(_MAX_ITERATIONS):
        a, a_u, a_v = polynomial(sip_a, u, v)
        b, b_u, b_v = polynomial(sip_b, u, v)
        determinant = (1.0 + a_u) * (1.0 + b_v) - a_v * b_u
        r, s = f - u - a, g - v - b
        step_u = ((1.0 + b_v) * r - a_v * s) / determinant
        step_v = ((1.0 + a_u) * s - b_u * r) / determinant
        u, v = u + step_u, v + step_v
        if max(abs(step_u), abs(step_v)) <= _TOLERANCE * max(1.0, abs(u), abs(v)):
            return u, v, determinant
    return u, v, math.nan


@kernel
def polynomial(coefficients, u, v):
    """Return sum of coefficients[i, j] u^i v^j and its derivatives by u and by v (Horner's scheme)."""
    order = coefficients.shape[0] - 1
    value, by_u, by_v = 0.0, 0.0, 0.0
    for i in range(order, -1, -1):
        row, row_by_v = 0.0, 0.0
        for j in range(order - i, -1, -1):
            row_by_v = row_by_v * v + row
            row = row * v + coefficients[i, j]
        by_u = by_u * u + value
        value = value * u + row
        by_v = by_v * u + row_by_v
    return value, by_u, by_v

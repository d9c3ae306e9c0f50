"""Sums of pixels in circular apertures, all radii of a source in one pass over its pixels.

Pixel [j, i] of the arrays is the image's pixel (i + x0, j + y0), and covers +-0.5 around its centre. All
geometry is relative to the source's nearest pixel, and the order of summation belongs to the source: the
results have the same bits for every window that contains the aperture, and for every order of sources and radii.

A source's box of pixels is loaded once, in float64, bad pixels as zero. For every radius the overlaps of a row
are the differences of `strip_area` between grid lines, and the products are added up column by column: loops
without branches, which the compiler vectorises without reordering a sum. Rows are padded to whole vectors; a
padded pixel lies outside the circle, where the overlap is exactly 0.
"""

import math

import numpy as np

from sciplat.kernels._jit import kernel
from sciplat.kernels.flags import BAD_PIXEL, NO_VARIANCE, SATURATED, TRUNCATED
from sciplat.kernels.overlap import area_under_circle, strip_area

# Numbers in the widest vector of today's processors
_VECTOR = 8
# Beyond this a position has no pixel number; it only has to fit an integer
_FARTHEST = 2.0**31


def aperture_scratch(radius_max):
    """Return the arrays in which `aperture_sums` works; every thread needs its own.

    Parameters
    ----------
    radius_max : float
        Largest radius that will be asked for, in pixels.

    Returns
    -------
    tuple of float64 arrays
        Right and upper edges of the box's pixels, the areas under the circle up to them, sums of the columns,
        and the box itself: pixel, variance, 1 if good.
    """
    half = _half_width(float(radius_max))
    size = _padded(half)
    return np.empty((2, size)), np.empty((2, size)), np.empty((3, size)), np.empty((3, 2 * half + 1, size))


@kernel
def aperture_sums(
    science, variance, mask, bad_bits, saturated_bits, saturation, x, y, x0, y0, radii, background, scratch,
    out_flux, out_variance, out_area, out_flag,
):  # fmt: skip
    """Sum the good pixels in circular apertures, weighted with their exact overlap.

    Parameters
    ----------
    science : (ny, nx) float32 array
        Pixel values.
    variance : (ny, nx) or (0, 0) float32 array
        Variance of every pixel; (0, 0) for none.
    mask : (ny, nx) or (0, 0) uint32 array
        Mask bits of every pixel; (0, 0) for none.
    bad_bits, saturated_bits : uint32
        Bits of `mask` that make a pixel bad, or bad and saturated.
    saturation : float
        Pixels at or above this value are saturated; inf for no limit.
    x, y : (n,) float64 array
        Centres in image pixels.
    x0, y0 : int
        Image pixel of science[0, 0]. The arrays may be a window of the image that contains the apertures
        wherever the image does: an aperture that leaves the window counts as truncated.
    radii : (n, k) float64 array
        Radii in pixels, in any order.
    background : (n,) float64 array
        Value to subtract from every pixel.
    scratch : tuple of arrays
        From `aperture_scratch`.
    out_flux : (n, k) float64 array
        Sum over good pixels of overlap x (pixel - background), not rescaled; NaN without a finite background.
    out_variance : (n, k) float64 array
        Sum over good pixels of overlap x variance; NaN without a variance.
    out_area : (n, k) float64 array
        Sum over good pixels of the overlap, in square pixels.
    out_flag : (n, k) integer array
        TRUNCATED, BAD_PIXEL, SATURATED, NO_VARIANCE for every aperture.

    Notes
    -----
    Bad pixels: bits in `mask`, science or variance not finite, variance negative, saturated. A radius that is
    not positive or exceeds the scratch arrays, and a position that is not finite, yield NaN and no flag.
    """
    lines, areas, sums, box = scratch
    bits = bad_bits | saturated_bits
    has_variance = variance.size > 0
    for n in range(x.size):
        half = _largest_half_width(radii[n], box.shape[1])
        if half < 0 or not (abs(x[n]) < _FARTHEST and abs(y[n]) < _FARTHEST):
            out_flux[n], out_variance[n], out_area[n], out_flag[n] = math.nan, math.nan, math.nan, 0
            continue
        column, row = math.floor(x[n] + 0.5), math.floor(y[n] + 0.5)
        left, bottom = column - half - x0, row - half - y0
        _draw_lines(x[n] - column, y[n] - row, half, lines)
        any_bad = _load_box(science, variance, mask, bits, saturation, background[n], left, bottom, half, box)
        for k in range(radii.shape[1]):
            own = _half_width(radii[n, k]) if _usable(radii[n, k], box.shape[1]) else -1
            _sum_circle(radii[n, k], own, half, lines, areas, box, sums)
            flux, noise, area = 0.0, 0.0, 0.0
            for c in range(_padded(own)):
                flux += sums[0, c]
                noise += sums[1, c]
                area += sums[2, c]
            out_flux[n, k] = flux if own >= 0 and math.isfinite(background[n]) else math.nan
            out_variance[n, k] = noise if own >= 0 and has_variance else math.nan
            out_area[n, k] = area if own >= 0 else math.nan
        _flag_edges(science.shape, left, bottom, has_variance, radii[n], lines, out_flag[n])
        if any_bad:
            _flag_pixels(
                science, mask, saturated_bits, saturation, left, bottom, half, radii[n], lines, box, out_flag[n],
            )  # fmt: skip


@kernel
def _half_width(radius):
    """Return how many pixels on each side of its centre's pixel a circle can touch."""
    return math.ceil(radius + 1.0) - 1


@kernel
def _padded(half):
    """Return the number of columns of a box, a multiple of the vector length."""
    return (2 * half + _VECTOR) // _VECTOR * _VECTOR


@kernel
def _usable(radius, rows):
    """Return whether a radius is positive and fits the scratch arrays."""
    return 0.0 < radius < rows and 2 * _half_width(radius) + 1 <= rows


@kernel
def _largest_half_width(radii, rows):
    """Return the half width of the largest usable circle, -1 if there is none."""
    half = -1
    for k in range(radii.size):
        if _usable(radii[k], rows):
            half = max(half, _half_width(radii[k]))
    return half


@kernel
def _draw_lines(dx, dy, half, lines):
    """Draw the pixels' right and upper edges around a source (dx, dy) from the centre of the box."""
    for c in range(_padded(half)):
        lines[0, c] = c - half + 0.5 - dx
        lines[1, c] = c - half + 0.5 - dy


@kernel
def _load_box(science, variance, mask, bits, saturation, background, left, bottom, half, box):
    """Load the pixels less the background, zero where bad or beyond the array; return whether any is bad."""
    size, columns = _padded(half), 2 * half + 1
    start, stop = min(max(0, -left), columns), max(0, min(columns, science.shape[1] - left))
    has_variance, has_mask = variance.size > 0, mask.size > 0
    n_bad = 0
    for j in range(columns):
        inside = 0 <= bottom + j < science.shape[0] and start < stop
        if not inside or stop - start < columns:
            box[:, j, :size] = 0.0
        for c in range(columns, size):
            box[0, j, c] = box[1, j, c] = box[2, j, c] = 0.0
        if not inside:
            continue
        row, first = np.uintp(bottom + j), left + start
        for c in range(stop - start):
            # unsigned, because numba turns signed indexes around and that does not vectorise
            here, there = np.uintp(first + c), np.uintp(start + c)
            pixel = science[row, here]
            noise = variance[row, here] if has_variance else np.float32(0.0)
            good = (-math.inf < pixel) & (pixel < saturation) & (noise >= 0.0) & (noise < math.inf)
            good &= (mask[row, here] & bits) == 0 if has_mask else True
            box[0, j, there] = pixel - background if good else 0.0
            box[1, j, there] = noise if good else 0.0
            box[2, j, there] = 1.0 if good else 0.0
            n_bad += 0 if good else 1
    return n_bad > 0


@kernel
def _sum_circle(radius, own, half, lines, areas, box, sums):
    """Sum overlap x (pixel, variance, good) over the rows of one circle, every column by itself."""
    size = _padded(own)
    # the circle's own box within that of the largest, moved to lower numbers where padding would leave it
    first = min(half - own, _padded(half) - size)
    quarter = 0.25 * math.pi * radius * radius
    for c in range(size):
        areas[0, c] = area_under_circle(lines[0, first + c], radius)
    for c in range(size):
        areas[1, c] = area_under_circle(lines[1, first + c], radius)
    for c in range(size):
        sums[0, c] = sums[1, c] = sums[2, c] = 0.0
    below, area_below = -radius, -quarter
    # the row of the centre is done in two strips, below and above it
    for j in range(2 * own + 2):
        row = half - own + j - (j > own)
        above = 0.0 if j == own else lines[1, row]
        area_above = 0.0 if j == own else areas[1, row - first]
        near, far = min(abs(below), abs(above)), max(abs(below), abs(above))
        area_near, area_far = min(abs(area_below), abs(area_above)), max(abs(area_below), abs(area_above))
        below, area_below = above, area_above
        # the box's left edge is never inside the circle
        before = area_near - area_far
        for c in range(size):
            here = np.uintp(first + c)
            edge = strip_area(lines[0, here], areas[0, c], near, far, area_near, area_far, radius)
            overlap = max(edge - before, 0.0)
            before = edge
            sums[0, c] += overlap * box[0, row, here]
            sums[1, c] += overlap * box[1, row, here]
            sums[2, c] += overlap * box[2, row, here]


@kernel
def _flag_edges(shape, left, bottom, has_variance, radii, lines, out_flag):
    """Set the flags of all circles that follow without looking at a pixel."""
    x_first, y_first = lines[0, 0] - 1.0 - left, lines[1, 0] - 1.0 - bottom
    reach = min(-x_first, x_first + shape[1], -y_first, y_first + shape[0])
    for k in range(radii.size):
        out_flag[k] = (TRUNCATED if radii[k] > reach else 0) | (0 if has_variance else NO_VARIANCE)


@kernel
def _flag_pixels(science, mask, saturated_bits, saturation, left, bottom, half, radii, lines, box, out_flag):
    """Flag every circle that shares an area with a bad pixel."""
    start, stop = max(0, -left), min(2 * half + 1, science.shape[1] - left)
    for j in range(max(0, -bottom), min(2 * half + 1, science.shape[0] - bottom)):
        missing = 0
        for c in range(stop - start):
            missing += 1 if box[2, np.uintp(j), np.uintp(start + c)] == 0.0 else 0
        for c in range(start, stop if missing > 0 else start):
            if box[2, j, c] == 0.0:
                saturated = saturation < math.inf and science[bottom + j, left + c] >= saturation
                if mask.size > 0:
                    saturated = saturated or mask[bottom + j, left + c] & saturated_bits != 0
                dx, dy = max(lines[0, c] - 1.0, -lines[0, c], 0.0), max(lines[1, j] - 1.0, -lines[1, j], 0.0)
                for k in range(radii.size):
                    if dx * dx + dy * dy < radii[k] * radii[k]:
                        out_flag[k] |= BAD_PIXEL | SATURATED if saturated else BAD_PIXEL

"""Background of every source from the good pixels in an annulus around it.

Pixel [j, i] of the arrays is the image's pixel (i + x0, j + y0). A pixel belongs to the annulus as a whole if its
centre lies at inner <= distance <= outer, borders inside. Distances are taken relative to the source's nearest pixel,
so that the result has the same bits for every window that contains the annulus.
"""

import math

import numpy as np

from sciplat.kernels._jit import kernel
from sciplat.kernels.flags import NO_ANNULUS

MEDIAN = 0
MEAN = 1
MODE = 2

# Standard deviation of a normal distribution in units of its median absolute deviation
_MAD_TO_SIGMA = 1.482602218505602
_CLIP_SIGMA = 3.0
_CLIP_ROUNDS = 5
# Beyond this a position has no pixel number; it only has to fit an integer
_FARTHEST = 2.0**31


def annulus_scratch_size(outer_max):
    """Return the length of the float64 scratch array for `annulus_background`.

    Parameters
    ----------
    outer_max : float
        Largest outer radius that will be asked for, in pixels.

    Returns
    -------
    int
        Room for the values of the pixels and for their deviations.
    """
    return 2 * (2 * math.floor(outer_max + 0.5) + 1) ** 2


@kernel
def annulus_background(
    science, variance, mask, bad_bits, saturated_bits, saturation, x, y, x0, y0, inner, outer, method, scratch,
    out_background, out_scatter, out_count, out_flag,
):  # fmt: skip
    """Estimate the background around every source.

    Parameters
    ----------
    science : (ny, nx) float32 array
        Pixel values.
    variance : (ny, nx) or (0, 0) float32 array
        A pixel whose variance is negative or not finite is bad; (0, 0) for none.
    mask : (ny, nx) or (0, 0) uint32 array
        Mask bits of every pixel; (0, 0) for none.
    bad_bits, saturated_bits : uint32
        Bits of `mask` that make a pixel bad.
    saturation : float
        Pixels at or above this value are bad; inf for no limit.
    x, y : (n,) float64 array
        Centres in image pixels.
    x0, y0 : int
        Image pixel of science[0, 0].
    inner, outer : (n,) float64 array
        Radii of the annulus in pixels.
    method : int
        MEDIAN, MEAN (of the pixels within 3 sigma of the median, sigma from the median absolute deviation, repeated
        at most 5 times) or MODE (3 median - 2 mean of the same pixels; Pearson's rule).
    scratch : (m,) float64 array
        Room to work in, m = `annulus_scratch_size(largest outer radius)`; every thread needs its own.
    out_background : (n,) float64 array
        Background per pixel; NaN without a good pixel.
    out_scatter : (n,) float64 array
        1.4826 times the median absolute deviation for MEDIAN, else the standard deviation of the pixels kept.
    out_count : (n,) integer array
        Number of pixels used.
    out_flag : (n,) integer array
        NO_ANNULUS where no good pixel was found, or the annulus is no number or exceeds the scratch array.
    """
    bits = bad_bits | saturated_bits
    for n in range(x.size):
        count = 0
        if _usable(x[n], y[n], inner[n], outer[n], scratch.size):
            count = _collect(science, variance, mask, bits, saturation, x[n], y[n], x0, y0, inner[n], outer[n], scratch)
        out_flag[n] = 0 if count > 0 else NO_ANNULUS
        if count == 0:
            out_background[n], out_scatter[n], out_count[n] = math.nan, math.nan, 0
        elif method == MEDIAN:
            median = median_in_place(scratch, 0, count)
            sigma = _MAD_TO_SIGMA * _median_deviation(scratch, count, median)
            out_background[n], out_scatter[n], out_count[n] = median, sigma, count
        else:
            median, mean, deviation, kept = _clip(scratch, count)
            out_background[n] = mean if method == MEAN else 3.0 * median - 2.0 * mean
            out_scatter[n], out_count[n] = deviation, kept


@kernel
def median_in_place(values, start, stop):
    """Return the median of values[start:stop], which are reordered.

    Parameters
    ----------
    values : (n,) float64 array
        Without NaN.
    start, stop : int
        Range, not empty.

    Returns
    -------
    float
        Middle value, or the mean of the two middle values.
    """
    middle = start + (stop - start) // 2
    upper = _select(values, start, stop, middle)
    if (stop - start) % 2 == 1:
        return upper
    lower = values[start]
    for i in range(start + 1, middle):
        lower = max(lower, values[i])
    return 0.5 * (lower + upper)


@kernel
def _usable(x, y, inner, outer, size):
    """Return whether position and radii are numbers, and the annulus fits the scratch array."""
    fits = 0.0 <= inner <= outer < size and 2 * (2 * math.floor(outer + 0.5) + 1) ** 2 <= size
    return fits and abs(x) < _FARTHEST and abs(y) < _FARTHEST


@kernel
def _collect(science, variance, mask, bits, saturation, x, y, x0, y0, inner, outer, out_values):
    """Copy the good pixels of one annulus; return their number."""
    x_near, y_near = math.floor(x + 0.5), math.floor(y + 0.5)
    left, bottom = x0 - x_near, y0 - y_near
    dx, dy = x - x_near, y - y_near
    half = math.floor(outer + 0.5)
    first, columns = max(-half, left), min(half + 1, left + science.shape[1]) - max(-half, left)
    box = out_values.size // 2
    has_variance, has_mask = variance.size > 0, mask.size > 0
    stop = box
    for j in range(max(-half, bottom), min(half + 1, bottom + science.shape[0])):
        dy2 = (j - dy) * (j - dy)
        row = np.uintp(j - bottom)
        for c in range(columns):
            # unsigned, because numba turns signed indexes around and that does not vectorise
            here = np.uintp(first - left + c)
            d2 = (first + c - dx) * (first + c - dx) + dy2
            pixel = science[row, here]
            good = (inner * inner <= d2) & (d2 <= outer * outer) & (-math.inf < pixel) & (pixel < saturation)
            good &= (variance[row, here] >= 0.0) & (variance[row, here] < math.inf) if has_variance else True
            good &= (mask[row, here] & bits) == 0 if has_mask else True
            out_values[np.uintp(stop + c)] = pixel if good else math.inf
        stop += max(columns, 0)
    count = 0
    for i in range(box, stop):
        # always written, counted if good: no branch to mispredict
        value = out_values[i]
        out_values[count] = value
        count += value < math.inf
    return count


@kernel
def _median_deviation(scratch, count, median):
    """Return the median absolute deviation of scratch[:count], computed in the other half."""
    other = scratch.size // 2
    for i in range(count):
        scratch[other + i] = abs(scratch[i] - median)
    return median_in_place(scratch, other, other + count)


@kernel
def _clip(scratch, count):
    """Clip scratch[:count] around its median; return median, mean, standard deviation and number kept."""
    median = median_in_place(scratch, 0, count)
    for _ in range(_CLIP_ROUNDS):
        limit = _CLIP_SIGMA * _MAD_TO_SIGMA * _median_deviation(scratch, count, median)
        kept = 0
        for i in range(count):
            if abs(scratch[i] - median) <= limit:
                scratch[kept] = scratch[i]
                kept += 1
        if kept == count:
            break
        count = kept
        median = median_in_place(scratch, 0, count)
    # relative to the median: a large level does not swallow a small scatter
    first, second = 0.0, 0.0
    for i in range(count):
        first += scratch[i] - median
    first /= count
    for i in range(count):
        second += (scratch[i] - median - first) ** 2
    return median, median + first, math.sqrt(second / count), count


@kernel
def _select(values, start, stop, k):
    """Return the value that sorting values[start:stop] would put at `k`; no larger one stays before it.

    Quickselect: pseudo-random pivots, so that no pattern in an image makes it quadratic; values equal to the
    pivot are set aside, so that many equal values do not either.
    """
    state = 1
    while stop - start > 1:
        state = (state * 48271) % 2147483647
        one = values[start + state % (stop - start)]
        state = (state * 48271) % 2147483647
        two = values[start + state % (stop - start)]
        middle = values[(start + stop) // 2]
        pivot = max(min(one, two), min(max(one, two), middle))
        below = start
        for i in range(start, stop):
            # swapped always, counted if smaller: no branch to mispredict
            value = values[i]
            values[i] = values[below]
            values[below] = value
            below += value < pivot
        if k < below:
            stop = below
            continue
        if below > start:
            start = below
            continue
        equal = below
        for i in range(below, stop):
            value = values[i]
            values[i] = values[equal]
            values[equal] = value
            equal += value == pivot
        if k < equal:
            return pivot
        start = equal
    return values[k]

"""Slow and obvious answers that the kernels must reproduce; nothing here may import them."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(30)


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

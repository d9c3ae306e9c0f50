"""Exact sums for each of many groups: the same bits in any order, rounded once at the end.

A sum is kept as a wide integer in limbs of 32 bits (see `kernels/exact_sum.py`), only as wide as the values need: four
or five limbs for magnitudes, at most 68 for all that float64 can hold. Sums of squares are kept the same way, so that
variances follow from exact integers without cancellation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_LIMB_BITS = 32
_EXACT_INTEGER = 2**53  # float64 holds all integers up to it
_BITS = 112  # of an integer square root's operand: more than twice a float64's


@dataclass(frozen=True, eq=False)
class ExactSums:
    """The exact sum of each group.

    Parameters
    ----------
    limbs : ndarray of int64, shape (groups, limbs)
        The sum of a group's finite values is ``sum(limbs[group, j] * 2**(32 j + exponent))``.
    exponent : int
        A multiple of 32.
    special : ndarray of float64, shape (groups,)
        Sum of a group's infinities and NaNs by IEEE 754; 0 where there is none.
    """

    limbs: NDArray[np.int64] = field(repr=False)
    exponent: int
    special: NDArray[np.float64] = field(repr=False)

    def integers(self) -> NDArray[np.object_]:
        """Return the sums of the finite values as Python integers, in units of 2**exponent; shape (groups,)."""
        total = np.zeros(len(self.limbs), dtype=object)
        for limb in self.limbs.T[::-1]:
            total = (total << _LIMB_BITS) + limb.astype(object)
        return total

    def means(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the sums divided by `counts`, rounded once; NaN where a count is 0. Counts of 1 give the sums."""
        pairs = zip(self.integers().tolist(), counts.tolist(), strict=True)
        means = [scaled_ratio(total, count, self.exponent) for total, count in pairs]
        special = np.where(np.isnan(self.special), np.nan, self.special)  # inf - inf may have another sign bit
        return np.where(special == 0, means, special)


def exact_sums(values: NDArray[np.generic], groups: NDArray[np.int64], size: int) -> ExactSums:
    """Return the exact sums of numbers.

    Parameters
    ----------
    values : ndarray of numbers, shape (n,)
        Integers of any size, booleans, or floats of at most 64 bits.
    groups : ndarray of int64, shape (n,)
        0 to size - 1; fewer than 2**30 values in each.
    size : int
        Number of groups.
    """
    parts = [_sum_products(part, None, groups, size) for part in _float_parts(values)]
    return regrouped_sums(parts, [np.arange(size)] * len(parts), size)


def exact_squares(values: NDArray[np.generic], groups: NDArray[np.int64], size: int) -> ExactSums:
    """Return the exact sums of the squares of numbers; see `exact_sums`."""
    factors = _float_parts(values)
    pairs = [(left, right) for left in factors for right in factors]
    parts = [_sum_products(left, right, groups, size) for left, right in pairs]
    return regrouped_sums(parts, [np.arange(size)] * len(parts), size)


def regrouped_sums(parts: Sequence[ExactSums], places: Sequence[NDArray[np.int64]], size: int) -> ExactSums:
    """Add up sums of different groupings.

    Parameters
    ----------
    parts : sequence of ExactSums
    places : sequence of ndarray of int64
        The new group of each group of each part; no two groups of a part share one.
    size : int
        Number of new groups.
    """
    exponent = min(part.exponent for part in parts)
    offsets = [(part.exponent - exponent) // _LIMB_BITS for part in parts]
    width = max(offset + part.limbs.shape[1] for part, offset in zip(parts, offsets, strict=True))
    limbs, special = np.zeros((size, width), np.int64), np.zeros(size)
    with np.errstate(invalid="ignore"):  # inf - inf
        for part, offset, place in zip(parts, offsets, places, strict=True):
            limbs[place, offset : offset + part.limbs.shape[1]] += part.limbs
            special[place] += part.special
    _carry(limbs)
    return ExactSums(limbs, exponent, special)


def variances(sums: ExactSums, squares: ExactSums, counts: NDArray[np.int64], *, root: bool) -> NDArray[np.float64]:
    """Return the sample variance (n - 1 in the denominator) of each group, or its root; rounded once.

    Parameters
    ----------
    sums, squares : ExactSums
        Of the values and of their squares.
    counts : ndarray of int64, shape (groups,)
        Number of values; the result is NaN below 2, and where a value is not finite.
    root : bool
        Return standard deviations.
    """
    exponent = min(2 * sums.exponent, squares.exponent)
    firsts = sums.integers() ** 2 << (2 * sums.exponent - exponent)
    seconds = squares.integers() << (squares.exponent - exponent)
    numbers = counts.astype(object)
    spread = (numbers * seconds - firsts).tolist()  # n sum(x^2) - sum(x)^2
    rounded = _scaled_root if root else scaled_ratio
    pairs = zip(spread, (numbers * (numbers - 1)).tolist(), strict=True)
    found = [rounded(above, below, exponent) for above, below in pairs]
    return np.where(sums.special == 0, found, np.nan)


def scaled_ratio(above: int, below: int, exponent: int) -> float:
    """Return above / below * 2**exponent, rounded once: NaN for below = 0, infinite where it is too large."""
    if below == 0:
        return math.nan
    try:
        return (above << exponent) / below if exponent >= 0 else above / (below << -exponent)
    except OverflowError:
        return math.inf if above > 0 else -math.inf


def _scaled_root(above: int, below: int, exponent: int) -> float:
    """Return the square root of above / below * 2**exponent, an even exponent, rounded once.

    The integer root has more bits than a float64, and an odd last bit where something is left over: rounding it again
    then gives the same as rounding the root itself ("round to odd").
    """
    if below == 0:
        return math.nan
    half = max(_BITS + below.bit_length() - above.bit_length(), 0) // 2 + 1
    quotient, rest = divmod(above << 2 * half, below)
    root = math.isqrt(quotient)
    root |= rest > 0 or root * root < quotient
    return scaled_ratio(root, 1, exponent // 2 - half)


def _float_parts(values: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Return float64 arrays whose sum is exactly the values: two of them for large integers."""
    if values.dtype.kind in "fb" or not len(values):
        return [values.astype(np.float64)]
    if int(values.min()) >= -_EXACT_INTEGER and int(values.max()) <= _EXACT_INTEGER:
        return [values.astype(np.float64)]
    wide = values.astype(np.uint64 if values.dtype.kind == "u" else np.int64)
    low = wide & wide.dtype.type(2**_LIMB_BITS - 1)
    return [(wide >> wide.dtype.type(_LIMB_BITS)).astype(np.float64) * 2.0**_LIMB_BITS, low.astype(np.float64)]


def _sum_products(
    left: NDArray[np.float64], right: NDArray[np.float64] | None, groups: NDArray[np.int64], size: int
) -> ExactSums:
    """Return the exact sums of left * right, or of left alone."""
    from sciplat.kernels.exact_sum import add_products, add_values  # numba

    bits = left.view(np.int64)
    lowest, highest = _powers(bits)
    if right is not None:
        right_bits = right.view(np.int64)
        right_lowest, right_highest = _powers(right_bits)
        lowest, highest = lowest + right_lowest, highest + right_highest + 54
    exponent = lowest // _LIMB_BITS * _LIMB_BITS
    # a value touches three limbs, and the sum of many may need one more
    limbs = np.zeros((size, (highest - exponent) // _LIMB_BITS + 4), np.int64)
    if right is None:
        add_values(bits, groups, exponent, limbs)
    else:
        add_products(bits, right_bits, groups, exponent, limbs)
    _carry(limbs)
    return ExactSums(limbs, exponent, _special_sums(left, groups, size))


def _powers(bits: NDArray[np.int64]) -> tuple[int, int]:
    """Return the lowest and highest power of two among the last bits of the finite values; zeros do not count."""
    magnitude = bits & np.int64(2**63 - 1)
    magnitude = magnitude[(magnitude > 0) & (magnitude < np.int64(0x7FF << 52))]
    if not len(magnitude):
        return 0, 0
    return max(int(magnitude.min() >> 52), 1) - 1075, max(int(magnitude.max() >> 52), 1) - 1075


def _special_sums(values: NDArray[np.float64], groups: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    special = np.zeros(size)
    found = ~np.isfinite(values)
    if found.any():
        with np.errstate(invalid="ignore"):  # inf - inf
            np.add.at(special, groups[found], values[found])
    return special


def _carry(limbs: NDArray[np.int64]) -> None:
    """Bring all limbs but the last into 0 ... 2**32 - 1, in place, so that there is room for more."""
    for place in range(limbs.shape[1] - 1):
        limbs[:, place + 1] += limbs[:, place] >> _LIMB_BITS
        limbs[:, place] &= 2**_LIMB_BITS - 1

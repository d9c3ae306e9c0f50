"""Exact quantiles in few passes: rows are counted by the leading bits of their values, then by more bits of a few.

Bit patterns of float64, read as integers and with those of negative numbers turned round, have the numbers' order.
The leading 22 bits (sign, exponent and ten of the fraction) give every value to a thousandth; the counts say which of
these bins hold the wanted ranks, and only their rows are looked at again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.steps.bins import BinCounts, count_bins, merge_bins, numbers

SHIFTS = (42, 21, 0)  # bits that are left off in each pass
_TURNED = np.int64(2**63 - 1)


@dataclass(frozen=True, eq=False)
class PatternCounts:
    """Counts rows by the leading bits of a column's values; nulls and NaN are left out.

    Parameters
    ----------
    column : str
    shift : int
        Bits that are left off.
    coarser : int, optional
        Bits that were left off before.
    within : ndarray of int64, optional
        Only rows with these leading bits count.
    """

    column: str
    shift: int
    coarser: int = 0
    within: NDArray[np.int64] | None = field(default=None, repr=False)
    row_bytes: ClassVar[int] = 60

    def __call__(self, table: pa.Table) -> BinCounts:
        """Return the rows with each pattern."""
        patterns = _patterns(numbers(table[self.column]))
        if self.within is not None:
            patterns = patterns[np.isin(patterns >> self.coarser, self.within)]
        return count_bins(patterns >> self.shift, table.num_rows)

    def merged(self, parts: Sequence[BinCounts]) -> BinCounts:
        """Add up counts."""
        return merge_bins(parts)


def locate(found: BinCounts, ranks: NDArray[np.int64]) -> tuple[BinCounts, NDArray[np.int64]]:
    """Return the bins that hold the rows of some ranks, and the ranks among the rows of these bins alone."""
    ends = np.cumsum(found.counts)
    hit = np.searchsorted(ends, ranks, side="right")
    chosen, place = np.unique(hit, return_inverse=True)
    kept = BinCounts(found.bins[chosen], found.counts[chosen], found.rows)
    inside = ranks - (ends[hit] - found.counts[hit])
    return kept, inside + (np.cumsum(kept.counts) - kept.counts)[place]


def at_ranks(found: BinCounts, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values at some ranks, of counts by whole patterns."""
    patterns = found.bins[np.searchsorted(np.cumsum(found.counts), ranks, side="right")]
    return _turned(patterns).view(np.float64)


def ranks_of(q: NDArray[np.float64], rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the two ranks between which each quantile lies, and how far: Hyndman and Fan's (1996) definition 7."""
    place = (rows - 1) * q
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, rows - 1), place - low


def between(low: NDArray[np.float64], high: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values at a part of the way; from the nearer end, so that it never leads beyond the other."""
    with np.errstate(invalid="ignore", over="ignore"):
        step = high - low
        value = np.where(part < 0.5, low + step * part, high - step * (1 - part))
    return np.where((low == high) | (part == 0), low, value)


def _patterns(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return integers in the order of the values; NaN is left out, -0 is 0."""
    floats = values.astype(np.float64) + 0.0
    return _turned(floats[~np.isnan(floats)].view(np.int64))


def _turned(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    return bits ^ ((bits >> 63) & _TURNED)

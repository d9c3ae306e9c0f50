"""Rows counted in bins that have integer numbers: only the bins that hold something are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_SPREAD = 4  # bins for each row up to which counting beats sorting


@dataclass(frozen=True, eq=False)
class BinCounts:
    """The rows in each bin.

    Parameters
    ----------
    bins : ndarray of int64, shape (n,)
        Ascending numbers of the bins that hold something.
    counts : ndarray of int64, shape (n,)
    rows : int
        All rows that were looked at; some may lie in no bin.
    """

    bins: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    rows: int

    def __len__(self) -> int:
        return len(self.bins)


def count_bins(numbers: NDArray[np.int64], rows: int) -> BinCounts:
    """Count how often each number stands there; `rows` of which some gave no number."""
    if not len(numbers):
        return BinCounts(numbers, numbers, rows)
    first = int(numbers.min())
    if int(numbers.max()) - first <= _SPREAD * len(numbers):
        counts = np.bincount(numbers - first)
        bins = np.flatnonzero(counts)
        return BinCounts(bins + first, counts[bins], rows)
    bins, counts = np.unique(numbers, return_counts=True)
    return BinCounts(bins, counts, rows)


def merge_bins(parts: Sequence[BinCounts]) -> BinCounts:
    """Add up counts."""
    bins, place = np.unique(np.concatenate([part.bins for part in parts]), return_inverse=True)
    counts = np.zeros(len(bins), np.int64)
    np.add.at(counts, place, np.concatenate([part.counts for part in parts]))
    return BinCounts(bins, counts, sum(part.rows for part in parts))


def numbers(column: pa.ChunkedArray) -> NDArray[np.generic]:
    """Return the values of a column of numbers without its nulls; booleans are 0 and 1."""
    values = np.asarray(column.drop_null().combine_chunks().to_numpy(zero_copy_only=False))
    return values.view(np.uint8) if values.dtype == bool else values

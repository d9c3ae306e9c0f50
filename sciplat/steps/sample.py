"""A part of the rows, chosen by a hash of each row's identity: the same rows wherever cells end."""

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd: its multiples and its powers differ modulo 2**64
_AT_ONCE = 50_000  # rows: hashing a text takes 40 bytes for each letter


def sample(table: pa.Table, identity: str | None, position: tuple[str, str], fraction: float, seed: int) -> pa.Table:
    """Keep about a fraction of the rows; each row is kept or not by what it is, not by where it stands.

    Of two fractions with one seed, the smaller sample is a part of the larger one.

    Parameters
    ----------
    table : pyarrow.Table
    identity : str or None
        Column of integers or texts that names the rows; rows of one name are kept or left out together. Without one,
        and where it is null, the position stands for it.
    position : tuple of str
        Names of the right ascension and declination.
    fraction : float
        Above 0, at most 1.
    seed : int
        0 to 2**64 - 1.
    """
    start = _mixed(np.array([seed], np.uint64))[0]
    largest = np.uint64(math.ceil(fraction * 2.0**64) - 1)
    kept = np.zeros(table.num_rows, dtype=bool)
    for first in range(0, table.num_rows, _AT_ONCE):
        values = _values(table.slice(first, _AT_ONCE), identity, position)
        kept[first : first + _AT_ONCE] = _sequence(values, start) <= largest
    return table.filter(pa.array(kept))


def can_name(kind: pa.DataType) -> bool:
    """Return whether values of a type can name rows: integers and texts."""
    return _is_text(kind) or pa.types.is_integer(kind)


def _values(table: pa.Table, identity: str | None, position: tuple[str, str]) -> Hashes:
    """Return a number for each row that follows from its identity."""
    if identity is None:
        return _position_values(table, position)
    names = table[identity]
    values = _text_values(names) if _is_text(names.type) else _integer_values(names)
    if names.null_count:
        values = np.where(names.is_null().to_numpy(), _position_values(table, position), values)
    return values


def _integer_values(column: pa.ChunkedArray) -> Hashes:
    filled = column.fill_null(0)
    wide = filled if pa.types.is_uint64(column.type) else filled.cast(pa.int64())
    return wide.to_numpy().view(np.uint64)


def _text_values(column: pa.ChunkedArray) -> Hashes:
    """Return the value of a polynomial whose coefficients are the bytes of each text, modulo 2**64."""
    texts = column.cast(pa.large_string()).fill_null("").combine_chunks()
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    starts, lengths = ends[:-1] - ends[0], np.diff(ends)
    powers = np.cumprod(np.full(lengths.max(initial=0), _GOLDEN))
    places = np.arange(len(letters)) - np.repeat(starts, lengths)
    terms = (letters + np.uint64(1)) * powers[places]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    return sums[starts + lengths] - sums[starts]


def _position_values(table: pa.Table, position: tuple[str, str]) -> Hashes:
    # adding 0.0 makes -0.0 positive: they are one place
    ra, dec = ((table[name].cast(pa.float64()).to_numpy() + 0.0).view(np.uint64) for name in position)
    return _sequence(dec, 0) ^ ra


def _sequence(number: Hashes, start: np.uint64 | int) -> Hashes:
    """Return the numbers of these places in the sequence of SplitMix64 that begins at `start`.

    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA '14, 453.
    """
    return _mixed(np.uint64(start) + number * _GOLDEN)


def _mixed(state: Hashes) -> Hashes:
    """Return the output of SplitMix64 for each state: the 13th of D. Stafford's 64-bit mixers (2011)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)

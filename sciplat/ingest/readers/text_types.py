"""As which types the text of columns can be read, and what some types would not keep.

A column has the type that holds all of its values, in all files: a whole number is a float64 beside a fraction. Where
this would round a whole number, nothing is guessed: identifiers of 64 bits would become those of other sources.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciplat.errors import InputError
from sciplat.ingest.readers.reader import Opened, go_to, open_bytes, printable
from sciplat.ingest.readers.text_header import Layout
from sciplat.ingest.readers.text_lines import line_of_row, parsed

_EXACT = 2.0**53
_BEYOND_INT64 = 2.0**63
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_LONG = r"^\s*[+-]?\d{16,}\s*$"  # fewer digits are exact
_LONGEST = 300  # digits of what is less than the largest float64


@dataclass(frozen=True)
class Block:
    """Some lines of a file, of which something was noted; they are looked at again for a message."""

    layout: Layout
    start: int
    size: int
    line: int


@dataclass(frozen=True)
class Reading:
    """As which type the text of a column can be read.

    Parameters
    ----------
    kind : pyarrow.DataType
    rounded : Block or None
        The first with a whole number that a float64 does not hold.
    fraction : Block or None
        The first with numbers that only a float64 holds.
    negative : Block or None
        The first of whole numbers with a negative one.
    hexadecimal : bool
        Whether there are whole numbers such as 0x10, which no float64 is read from.
    """

    kind: pa.DataType
    rounded: Block | None = None
    fraction: Block | None = None
    negative: Block | None = None
    hexadecimal: bool = False


NOTHING = Reading(pa.null())


@dataclass(frozen=True)
class OpenedText(Opened):
    """A source of text, whose types are a matter of choice.

    Parameters
    ----------
    readings : mapping of str to Reading
        Of every column.
    """

    readings: Mapping[str, Reading] = field(default_factory=dict)


def merged(readings: Iterable[Reading]) -> Reading:
    """Return as what all of several readings can be read; their order only decides which places are named."""
    kind: pa.DataType = pa.null()
    rounded = fraction = negative = None
    hexadecimal = False
    for each in readings:
        kind = _promoted(kind, each.kind)
        rounded, fraction = rounded or each.rounded, fraction or each.fraction
        negative, hexadecimal = negative or each.negative, hexadecimal or each.hexadecimal
    if kind == pa.uint64() and negative:
        kind = pa.float64()
    if kind == pa.float64() and hexadecimal:
        kind = pa.string()
    return Reading(kind, rounded, fraction, negative, hexadecimal)


def _promoted(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Return the type of which both the values of `first` and of `second` can be read."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    numbers = {pa.int64(): 0, pa.uint64(): 1, pa.float64(): 2}
    times = {pa.date32(): 0, pa.timestamp("s"): 1, pa.timestamp("ns"): 2}
    zoned = {pa.timestamp("s", "UTC"): 0, pa.timestamp("ns", "UTC"): 1}
    for order in (numbers, times, zoned):
        if first in order and second in order:
            return max(first, second, key=order.__getitem__)
    return pa.string()


def readings_of(table: pa.Table, text: bytes, block: Block) -> dict[str, Reading]:
    """Return as what the columns of a block can be read, given as what Arrow reads them."""
    kinds = {each.name: each.type for each in table.schema}
    if binary := [name for name, kind in kinds.items() if pa.types.is_binary(kind)]:
        raise InputError(
            f"{block.layout.path} holds text that is not UTF-8", found=f"in the column {binary[0]!r}", hint="iconv"
        )
    large = [name for name, kind in kinds.items() if kind == pa.float64() and _is_large(table[name])]
    whole = [name for name, kind in kinds.items() if kind == pa.int64()]
    again = large + (whole if any(x in text and b"0" + x in text for x in (b"x", b"X")) else [])
    written = _written(again, text, block)
    found = {name: Reading(kind, fraction=block if kind == pa.float64() else None) for name, kind in kinds.items()}
    for name in large:
        found[name] = _large_reading(table[name], written[name], block)
    for name in whole:
        is_hexadecimal = name in written and pc.any(pc.match_substring(written[name], "0x", ignore_case=True)).as_py()
        found[name] = _whole_reading(table[name], block, hexadecimal=bool(is_hexadecimal))
    return found


def _written(names: list[str], text: bytes, block: Block) -> dict[str, pa.ChunkedArray]:
    """Return the text of some columns."""
    if not names:
        return {}
    table = parsed(block.layout, text, dict.fromkeys(names, pa.string()), None, names)
    return dict(zip(names, table.columns, strict=True))


def _is_large(column: pa.ChunkedArray) -> bool:
    ends = pc.min_max(column).as_py()
    return max(-(ends["min"] or 0), ends["max"] or 0) >= _EXACT


def _large_reading(column: pa.ChunkedArray, written: pa.ChunkedArray, block: Block) -> Reading:
    """Return the reading of large numbers: as floats, or whole ones of 64 bits without a sign."""
    texts = pc.utf8_trim_whitespace(written.filter(column.is_valid()))
    long = texts.filter(pc.match_substring_regex(texts, _LONG)).to_pylist()
    rounded = block if any(map(_is_rounded, long)) else None
    if pc.max(column).as_py() >= _BEYOND_INT64:
        try:  # identifiers of 64 bits would lose digits
            texts.cast(pa.uint64())
        except pa.ArrowInvalid:
            pass
        else:
            return Reading(pa.uint64(), rounded)
    return Reading(pa.float64(), rounded, fraction=block)


def _whole_reading(column: pa.ChunkedArray, block: Block, *, hexadecimal: bool) -> Reading:
    ends = pc.min_max(column).as_py()
    low, high = ends["min"] or 0, ends["max"] or 0
    rounded = None
    if max(-low, high) > _EXACT:
        sizes = np.abs(column.drop_null().to_numpy()).astype(np.uint64)  # up to 2**63, the smallest int64
        rounded = block if (sizes.astype(np.float64).astype(np.uint64) != sizes).any() else None
    return Reading(column.type, rounded, negative=block if low < 0 else None, hexadecimal=hexadecimal)


def _is_rounded(text: str) -> bool:
    """Return whether a float64 does not hold a whole number."""
    return len(text) > _LONGEST or int(text) != int(float(text))


def check_exact(column: str, kind: pa.DataType, reading: Reading, other: str) -> None:
    """Refuse to round whole numbers.

    Parameters
    ----------
    column : str
    kind : pyarrow.DataType
        As which its text will be read.
    reading : Reading
    other : str
        The source that states a type, if one does.

    Raises
    ------
    InputError
        A value would be another one.
    """
    if not pa.types.is_floating(kind) or reading.rounded is None:
        return
    places = [_find(reading.rounded, column, lambda text: bool(_WHOLE.fullmatch(text)) and _is_rounded(text))]
    if reading.fraction:
        places.append(_find(reading.fraction, column, lambda text: bool(text) and not _WHOLE.fullmatch(text)))
        places.append(_find(reading.fraction, column, lambda text: text.startswith("-")))
    if reading.negative:
        places.append(_find(reading.negative, column, lambda text: text.startswith("-")))
    places = [place for place in [*places, other and f"{kind} in {other}"] if place]
    raise InputError(
        f"the column {column!r} holds whole numbers that would lose digits as {kind}",
        found=" and ".join(places[:2]),
        hint="repair these values, or write the column as text, for example in Parquet",
    )


def _find(block: Block, column: str, is_it: Callable[[str], bool]) -> str:
    """Return the place and text of the first value in a block that is looked for, empty if there is none."""
    with open_bytes(Path(block.layout.path)) as file:
        go_to(file, block.start)
        text = file.read(block.size)
    missing = parsed(block.layout, text, {column: pa.float64()}, None, [column])[column].is_null().to_pylist()
    values: list[Any] = parsed(block.layout, text, {column: pa.string()}, None, [column])[column].to_pylist()
    for row, (value, is_missing) in enumerate(zip(values, missing, strict=True)):
        if not is_missing and is_it(value.strip()):
            return f"{block.layout.path}, line {line_of_row(text, block.line, row)}: {printable(value[:40])}"
    return ""

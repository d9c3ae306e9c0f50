"""The first pass of an ingest: parts of the input are read, placed on the sky and sorted.

The sorted pieces stay in memory or lie beside the store, and are merged later, cell by cell, so that no more of the
input is held than a worker may hold. Whatever their size and wherever they lie, the merged rows are the same.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import InputError, PositionError, StoreCorrupt
from sciplat.io.catalog_store import read_cell
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import FileEntry
from sciplat.io.spill import SortedPart, Spill
from sciplat.io.staging import STAGING
from sciplat.io.storage import Storage, sha256
from sciplat.sky.cell import Cell, healpix_29
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.steps.sort import sorted_rows
from sciplat.tasks.attempt import as_failure
from sciplat.tasks.progress import Progress
from sciplat.tasks.stream import Stream
from sciplat.tasks.workers import open_workers

_MOST_RANGES = 64


class Part(Protocol):
    """A part of the input that is read without the others."""

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        ...

    @property
    def key(self) -> str:
        """A text that names it in every process."""
        ...

    @property
    def size(self) -> int:
        """About the bytes that its rows take in memory."""
        ...

    @property
    def first(self) -> int:
        """Number in its source of its first row."""
        ...

    def read(self) -> Iterator[pa.Table]:
        """Yield its rows in their order, a few at a time."""
        ...


Parts = tuple[Part, ...]  # that are sorted together: one after the other in the input


class Piece(Protocol):
    """Sorted rows of the input."""

    @property
    def rows(self) -> int:
        """How many."""
        ...

    @property
    def size(self) -> int:
        """Bytes in memory."""
        ...

    @property
    def span(self) -> tuple[int, int]:
        """First order-29 index that may be there, and first beyond."""
        ...

    def read(self, cell: Cell) -> pa.Table:
        """Return the rows in a cell, sorted."""
        ...

    def count(self, ranges: Ranges) -> NDArray[np.int64]:
        """Return the rows in each of some sorted ranges of order-29 indices; (n, 2) to (n,)."""
        ...


@dataclass(frozen=True)
class HeldPiece:
    """Sorted rows in memory."""

    table: pa.Table

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return int(self.table.num_rows)

    @property
    def size(self) -> int:
        """Bytes of the table."""
        return int(self.table.nbytes)

    @property
    def span(self) -> tuple[int, int]:
        """First index, and the one after the last."""
        return _span(self._index)

    def read(self, cell: Cell) -> pa.Table:
        """Return the rows in a cell without copying them."""
        first, last = np.searchsorted(self._index, [cell.start, cell.stop]).tolist()
        return self.table.slice(first, last - first)

    def count(self, ranges: Ranges) -> NDArray[np.int64]:
        """Return the rows in each range."""
        return _count(self._index, ranges)

    @property
    def _index(self) -> NDArray[np.int64]:
        return self.table[HEALPIX_COLUMN].to_numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class StoredPiece:
    """Sorted rows in a Parquet file.

    Parameters
    ----------
    storage : Storage
    file : FileEntry
    span : tuple of int
        First order-29 index that may be there, and first beyond.
    """

    storage: Storage
    file: FileEntry
    span: tuple[int, int]

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return self.file.rows

    @property
    def size(self) -> int:
        """Bytes of its table."""
        return self.file.memory

    def read(self, cell: Cell) -> pa.Table:
        """Read the rows in a cell."""
        return self._read(None, np.array([[cell.start, cell.stop]]))

    def count(self, ranges: Ranges) -> NDArray[np.int64]:
        """Read the indices of the rows that may lie in the ranges, and count."""
        whole = Coverage.from_ranges(ranges)
        near = whole.clipped(*self.span, limit=_MOST_RANGES)
        if len(near) == 0:
            return np.zeros(len(ranges), dtype=np.int64)
        return _count(self._read([HEALPIX_COLUMN], near).column(0).to_numpy(), ranges)

    def _read(self, columns: list[str] | None, ranges: Ranges) -> pa.Table:
        try:
            return read_cell(self.storage, self.file, columns, ranges)
        except StoreCorrupt as error:
            if self.file.path.startswith(f"{STAGING}/"):
                error.hint = "restart=True (--restart) drops what was sorted and begins anew"
            raise


def _span(index: NDArray[np.int64]) -> tuple[int, int]:
    return int(index[0]), int(index[-1]) + 1


def _count(index: NDArray[np.int64], ranges: Ranges) -> NDArray[np.int64]:
    first, last = np.searchsorted(index, ranges).T
    counts: NDArray[np.int64] = (last - first).astype(np.int64)
    return counts


class Allowance:
    """Bytes of sorted rows that may stay in memory; shared by the threads of one process."""

    def __init__(self, size: int) -> None:
        self._left, self._lock = size, threading.Lock()

    def take(self, size: int) -> bool:
        """Return whether so many bytes may stay."""
        with self._lock:
            fits = size <= self._left
            self._left -= size if fits else 0
        return fits


@dataclass(frozen=True)
class SortParts:
    """Read parts of the input and sort their rows along the sky.

    Parameters
    ----------
    spill : Spill
        Where pieces go that may not stay in memory.
    schema : pyarrow.Schema
        Of the rows, without `_healpix_29`; those of the parts are converted to it.
    position : tuple of str
        Columns with the position in degrees.
    skip_bad : bool
        Leave out rows without a position instead of refusing them.
    chunk : int
        Bytes of rows that are sorted together.
    allowance : Allowance, optional
        None where the work is done by other processes.
    """

    spill: Spill
    schema: pa.Schema
    position: tuple[str, str]
    skip_bad: bool
    chunk: int
    allowance: Allowance | None = None

    def __call__(self, parts: Parts) -> tuple[int, tuple[Piece, ...]]:
        """Return the rows that were left out, and the pieces, in the order of the parts."""
        pieces: list[Piece] = []
        gathered: list[tuple[pa.Table, NDArray[np.int64]]] = []  # readers yield little at a time
        size = skipped = 0
        for table, index, bad in self._tables(parts):
            if gathered and size + table.nbytes > self.chunk:
                pieces += self._sorted(gathered)
                gathered, size = [], 0
            gathered.append((table, index))
            size, skipped = size + table.nbytes, skipped + bad
        pieces += self._sorted(gathered)
        stored = tuple((piece.file, piece.span) for piece in pieces if isinstance(piece, StoredPiece))
        if len(stored) == len(pieces):  # what stays in memory is gone after a kill
            self.spill.commit(SortedPart(parts_name(parts), skipped, stored))
        return skipped, tuple(pieces)

    def _tables(self, parts: Parts) -> Iterator[tuple[pa.Table, NDArray[np.int64], int]]:
        """Yield rows with their order-29 indices, and how many beside them have no position."""
        for part in parts:
            row = part.first
            for table in part.read():
                placed, index = self._placed(table, part.source, row)
                row += table.num_rows
                yield placed, index, table.num_rows - placed.num_rows

    def _placed(self, table: pa.Table, source: str, row: int) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return the rows with a position as the store has them, and their order-29 indices."""
        table = self._converted(table, source)
        # digits that a float cannot hold are lost: such a position is far off the sphere
        ra, dec = (np.asarray(table[name].cast(pa.float64(), safe=False).fill_null(np.nan)) for name in self.position)
        good = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)
        bad = len(good) - int(np.count_nonzero(good))
        if bad and not self.skip_bad:
            first = int(np.argmin(good))
            raise PositionError(
                f"{source} has rows without a position on the sphere",
                found=f"{self.position[0]} = {ra[first]}, {self.position[1]} = {dec[first]} in row {row + first:,}, "
                f"counted from 0; {bad:,} such rows among {len(ra):,} that were looked at",
                hint='repair the rows, or leave them out: bad="skip" (--bad skip)',
            )
        if bad:
            table, ra, dec = table.filter(pa.array(good)), ra[good], dec[good]
        return table, healpix_29(ra, dec)

    def _converted(self, table: pa.Table, source: str) -> pa.Table:
        """Return the rows in the columns of the store; a wider float is rounded, anything else must fit."""
        try:
            converted = table.select(self.schema.names).cast(self.schema)
        except pa.ArrowException as error:
            raise InputError(f"the values of {source} do not fit the store's columns", found=str(error)) from None
        for name in self.schema.names:
            before, after = table[name], converted[name]
            if pa.types.is_floating(after.type) and before.type != after.type:
                wide, narrow = (each.cast(pa.float64()).fill_null(0).to_numpy() for each in (before, after))
                if (np.isinf(narrow) & ~np.isinf(wide)).any():
                    raise InputError(f"a value of {name!r} in {source} does not fit the store", found=str(after.type))
        return converted

    def _sorted(self, gathered: Sequence[tuple[pa.Table, NDArray[np.int64]]]) -> list[Piece]:
        """Return the rows as one piece, none if there is none; it stays in memory if it may."""
        index = np.concatenate([np.empty(0, np.int64), *(each for _, each in gathered)])
        if len(index) == 0:
            return []
        table = sorted_rows(pa.concat_tables(each for each, _ in gathered), index)
        if self.allowance is not None and self.allowance.take(table.nbytes):
            return [HeldPiece(table)]
        span = _span(table[HEALPIX_COLUMN].to_numpy())
        return [StoredPiece(self.spill.staging.storage, self.spill.write(table), span)]


def parts_together(parts: Sequence[Part], size: int) -> list[Parts]:
    """Return the parts in groups, each of parts that follow each other and have at most so many bytes."""
    groups: list[Parts] = []
    left = 0
    for part in parts:
        if groups and part.size <= left:
            groups[-1] = (*groups[-1], part)
            left -= part.size
        else:
            groups.append((part,))
            left = size - part.size
    return groups


def parts_name(parts: Parts) -> str:
    """Return a short name of parts that can stand in the name of a file."""
    return sha256("\n".join(part.key for part in parts).encode())[:24]


@dataclass(frozen=True)
class SortedInput:
    """The whole input, sorted in pieces.

    Parameters
    ----------
    pieces : tuple of Piece
        In the order of the input.
    skipped : int
        Rows that were left out.
    """

    pieces: tuple[Piece, ...] = field(repr=False)
    skipped: int

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def spilled(self) -> int:
        """Bytes of the pieces beside the store."""
        return sum(piece.file.size for piece in self.pieces if isinstance(piece, StoredPiece))


def sort_parts(parts: Sequence[Part], sort: SortParts) -> SortedInput:
    """Sort all parts; those that an earlier run has sorted are not read again.

    Parameters
    ----------
    parts : sequence of Part
        In the order of the input.
    sort : SortParts

    Raises
    ------
    SciplatError
        The first error of a part.
    """
    groups = {parts_name(group): group for group in parts_together(parts, sort.chunk)}
    sort.spill.forget_others(groups)
    storage, done = sort.spill.staging.storage, sort.spill.done(list(groups))
    skipped = {name: each.skipped for name, each in done.items()}
    pieces: dict[str, tuple[Piece, ...]] = {
        name: tuple(StoredPiece(storage, file, span) for file, span in each.pieces) for name, each in done.items()
    }
    left = (group for name, group in groups.items() if name not in done)
    with Progress("read", len(groups), done=len(done)) as bar, Stream(sort, left, open_workers()) as stream:
        for each in stream:
            if each.error is not None or each.result is None:
                raise as_failure(each.error or RuntimeError("no answer"), f"reading {each.item[0].source}")
            name = parts_name(each.item)
            skipped[name], pieces[name] = each.result
            bar.advance(rows=sum(piece.rows for piece in pieces[name]))
    return SortedInput(tuple(piece for name in groups for piece in pieces[name]), sum(skipped.values()))


def count_rows(pieces: Sequence[Piece], ranges: Ranges) -> NDArray[np.int64]:
    """Return the rows of all pieces in each of some sorted ranges; (n, 2) to (n,)."""
    total = np.zeros(len(ranges), dtype=np.int64)
    with Stream(_Count(ranges), pieces, open_workers()) as stream:
        for each in stream:
            if each.error is not None or each.result is None:
                raise as_failure(each.error or RuntimeError("no answer"), "counting rows")
            total += each.result
    return total


@dataclass(frozen=True)
class _Count:
    ranges: Any

    def __call__(self, piece: Piece) -> NDArray[np.int64]:
        return piece.count(self.ranges)

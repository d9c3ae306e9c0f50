"""The second pass of an ingest: the rows of one cell, from all sorted pieces of the input."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from sciplat.sky.cell import Cell
from sciplat.steps.sort import merged_rows
from sciplat.tasks.quote import Cost, rates
from sciplat.tasks.sort import HeldPiece, Piece

_ORDER_BYTES = 40  # of a row while it is sorted: its index twice, its place, and what sorting needs


class Pieces:
    """All sorted pieces, in the order of the input, and where on the sky each lies.

    Parameters
    ----------
    pieces : tuple of Piece
    """

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self.all = pieces
        self._start, self._stop = np.array([piece.span for piece in pieces], dtype=np.int64).reshape(-1, 2).T

    def near(self, cell: Cell) -> tuple[Piece, ...]:
        """Return those that may have rows in a cell."""
        near = np.flatnonzero((self._start < cell.stop) & (cell.start < self._stop))
        return tuple(self.all[place] for place in near)

    @property
    def held(self) -> int:
        """Bytes of those in memory."""
        return sum(piece.size for piece in self.all if isinstance(piece, HeldPiece))


@dataclass(frozen=True)
class MergeTask:
    """Gather the rows of one cell from sorted pieces.

    Parameters
    ----------
    cell : Cell
    pieces : tuple of Piece
        In the order of the input, which rows of one position keep.
    schema : pyarrow.Schema
        Of the rows.
    """

    cell: Cell
    pieces: tuple[Piece, ...] = field(repr=False)
    schema: pa.Schema = field(repr=False)

    def run(self) -> pa.Table:
        """Read the rows and sort them."""
        tables = [piece.read(self.cell) for piece in self.pieces]
        found = [table.cast(self.schema) for table in tables if table.num_rows]
        return merged_rows(found) if found else self.schema.empty_table()


def merge_cost(rows: int, pieces: Sequence[Piece]) -> Cost:
    """Return the cost of gathering so many rows from pieces.

    Parameters
    ----------
    rows : int
    pieces : sequence of Piece
        Those that have rows in it.
    """
    total = sum(piece.rows for piece in pieces) or 1
    size = rows * sum(piece.size for piece in pieces) / total
    stored = [piece for piece in pieces if not isinstance(piece, HeldPiece)]
    rate, share = rates(), rows / total
    return Cost(
        read=sum(piece.size for piece in stored) * share,
        requests=2.0 * len(stored),
        rows=rows,
        places=rows,
        size=size,
        memory=(2.2 if stored else 1.2) * size + _ORDER_BYTES * rows,
        seconds=len(stored) * rate.open + size * rate.scan + rows * rate.within,
    )

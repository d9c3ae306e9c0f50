"""What a plan is made of: nodes that answer schema, cells and tasks. Nothing runs here."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.io.catalog_store import ROW_GROUP, CatalogStore
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import FileEntry
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.region import describe_region
from sciplat.sky.align import common_ranges, meeting_pairs
from sciplat.sky.cell import Cell, cell_ranges, positions_29
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.region import Region
from sciplat.tasks.quote import Cost, rates
from sciplat.tasks.task import ScanTask, SelectTask, Task, WithinTask

# bytes for each row, beside the rows themselves
_VARIED_BYTES = 32  # of a text or list of unknown length
_INDEX_BYTES = 16  # the index is read first, to know which rows are inside
_TEST_BYTES = 75  # a region's test holds unit vectors and distances
_SAMPLES = 16  # places in a cell that tell how much of it lies in a region
_MANY_RANGES = 5000


class Node(Protocol):
    """One operation of a plan."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the result."""
        ...

    @property
    def properties(self) -> dict[str, Any]:
        """What the result says of itself: names of the position columns, frame, kind, rows per cell."""
        ...

    @property
    def cells(self) -> Sequence[Cell]:
        """Disjoint cells that hold all rows, in the order of the sky."""
        ...

    def task(self, cell: Cell, cover: Coverage | None = None) -> Task:
        """Return the task for one of the cells, or for a part of one; rows outside a cover may be left out."""
        ...

    def cost(self, cell: Cell) -> Cost:
        """Return what that task is expected to take."""
        ...

    def describe(self) -> Record:
        """Return the operation with its arguments and inputs, as JSON."""
        ...

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the expected rows in each of some ranges of order-29 cells, sorted and disjoint; (n, 2) to (n,)."""
        ...


@dataclass(frozen=True)
class _Width:
    """Bytes of a row in a store: what is read of it, its widest column, and all; texts and lists by a guess."""

    read: float  # without texts and lists
    widest: float
    is_varied: bool  # whether texts or lists are read
    stored: float
    stored_varied: float


@dataclass(frozen=True)
class Scan:
    """Read a catalog store.

    Parameters
    ----------
    store : CatalogStore
    columns : tuple of str
        In the order of the result.
    cover : Coverage, optional
        Cells that it does not touch are not read.
    bounds : tuple of (str, (low, high))
        Columns with inclusive intervals, None where they are open: row groups without a row inside are not read. They
        follow from the operations above, which look at the rows themselves, and are no part of the record.
    """

    store: CatalogStore
    columns: tuple[str, ...]
    cover: Coverage | None = None
    bounds: tuple[tuple[str, tuple[Any, Any]], ...] = ()

    @cached_property
    def schema(self) -> pa.Schema:
        """The chosen columns."""
        return pa.schema([self.store.schema.field(name) for name in self.columns])

    @property
    def properties(self) -> dict[str, Any]:
        """The store's."""
        return with_columns_there(self.store.manifest.properties, self.columns)

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The store's cells, without those that the cover does not touch."""
        entries = self.store.entries
        return [e.cell for e in entries if self.cover is None or self.cover.meets(e.cell.start, e.cell.stop)]

    @property
    def extent(self) -> Coverage | None:
        """A coverage that holds all rows, None where it is not known."""
        return self.cover

    @cached_property
    def _starts(self) -> list[int]:
        return [entry.cell.start for entry in self.store.entries]

    def task(self, cell: Cell, cover: Coverage | None = None) -> ScanTask:
        """Return the reading of a cell or of a part of it."""
        if cover is None:
            cover = self.cover
        elif self.cover is not None:
            cover = Coverage(common_ranges(self.cover.ranges, cover.ranges), cover.squares)
        if cover is not None:  # no more of it than the task needs travels
            cover = Coverage(cover.clipped(cell.start, cell.stop), cover.squares)
        return ScanTask(self.store.storage, self._file(cell), cell, self.columns, cover, self.bounds)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost of the row groups that are read, and of the rows that are kept of them."""
        file, rate = self._file(cell), rates()
        inside = cell_ranges([cell]) if self.cover is None else self.cover.clipped(cell.start, cell.stop)
        rows = min(float(self.rows_in(inside).sum()), file.rows)
        # a row group of another writer may be a whole cell
        read = min(file.rows, rows + 2 * len(inside) * ROW_GROUP) if self.store.has_digests else file.rows
        varied = self._varied_bytes(file)
        width = self._width.read + varied
        share = read / file.rows * width / max(self._stored_bytes(file), 1)
        # columns are read one after the other: the rows that are kept, and one column that is being decoded
        memory = rows * width + (2 * max(self._width.widest, varied) + _INDEX_BYTES) * read
        seconds = rate.open + rate.scan * read * width
        return Cost(
            read=file.size * share,
            requests=2 + len(self.columns) * share,
            rows=rows,
            places=rows * (file.places or file.rows) / file.rows,
            size=rows * width,
            memory=memory,
            seconds=seconds,
        )

    def describe(self) -> Record:
        """Return the input: where it is, and which version of it."""
        manifest = self.store.manifest
        where = {"url": self.store.storage.url, "version": manifest.number, "digest": self.store.digest}
        citation = "; ".join(manifest.properties.get("citations", []))
        return {"op": "scan", **where, "citation": citation, "columns": list(self.columns)}

    @cached_property
    def _width(self) -> _Width:
        """Bytes of a row, once for all cells: tables have hundreds of columns."""
        # the index is always read
        read = [self.store.schema.field(name) for name in dict.fromkeys([*self.columns, HEALPIX_COLUMN])]
        return _Width(
            read=row_bytes(field for field in read if not _is_varied(field)),
            widest=max(row_bytes([field]) for field in read),
            is_varied=any(map(_is_varied, read)),
            stored=row_bytes(self.store.schema),
            stored_varied=row_bytes(filter(_is_varied, self.store.schema)),
        )

    def _stored_bytes(self, file: FileEntry) -> float:
        return file.memory / file.rows if file.memory else self._width.stored

    def _varied_bytes(self, file: FileEntry) -> float:
        """Return the bytes of all texts and lists of a row, as the file's writer found them, if any is read."""
        # how they are spread over texts and lists is not known: all of them count for each
        fixed = self._width.stored - self._width.stored_varied
        return self._stored_bytes(file) - fixed if self._width.is_varied else 0.0

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the expected rows by the store's density."""
        return self.store.expected_rows(ranges)

    def _file(self, cell: Cell) -> FileEntry:
        return self.store.entries[bisect_right(self._starts, cell.start) - 1].file


@dataclass(frozen=True)
class OverOne:
    """What a node over one other says of its rows unless it knows better: the same as the other."""

    inner: Node

    @property
    def properties(self) -> dict[str, Any]:
        """What the result says of itself."""
        return self.inner.properties

    @property
    def cells(self) -> Sequence[Cell]:
        """Disjoint cells that hold all rows, in the order of the sky."""
        return self.inner.cells

    @property
    def extent(self) -> Coverage | None:
        """A coverage that holds all rows, None where it is not known."""
        return extent_of(self.inner)

    def keeps(self, columns: Iterable[str]) -> bool:
        """Return whether each row has these columns from a row of the inner node, as they are there."""
        return set(columns) <= set(self.inner.schema.names)

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the expected rows in each of some ranges: as many as the inner node has there."""
        return self.inner.rows_in(ranges)


@dataclass(frozen=True)
class RowFilter(OverOne):
    """A node that looks at each row by itself, and keeps it as it is or leaves it out."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the result."""
        return self.inner.schema


@dataclass(frozen=True)
class Within(RowFilter):
    """Keep the rows in a region."""

    region: Region
    cover: Coverage = field(repr=False)

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The inner node's cells that the region touches."""
        return [cell for cell in self.inner.cells if self.cover.meets(cell.start, cell.stop)]

    @property
    def extent(self) -> Coverage | None:
        """The region's cover, which scans inside know already."""
        return extent_of(self.inner) or self.cover

    def task(self, cell: Cell, cover: Coverage | None = None) -> WithinTask:
        """Return the inner task with the rows outside left out."""
        ra, dec = self.properties["position"]
        return WithinTask(self.inner.task(cell, cover), self.region, (ra, dec))

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, with the rows that are expected inside."""
        inner = self.inner.cost(cell)
        rows = float(self.rows_in(cell_ranges([cell]))[0])
        kept = min(rows / inner.rows, 1) if inner.rows else 0.0
        return replace(
            inner,
            rows=rows,
            places=inner.places * kept,
            size=inner.size * kept,
            memory=max(inner.memory, inner.size * (1 + kept) + _TEST_BYTES * inner.rows),
            seconds=inner.seconds + rates().within * inner.rows,
        )

    def describe(self) -> Record:
        """Return the region."""
        return {"op": "within", "inner": self.inner.describe(), "region": describe_region(self.region)}

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the expected rows in the part of each range that lies in the region."""
        cells, shares = self._shares
        i, j = meeting_pairs(ranges, cells)
        parts = np.stack([np.maximum(ranges[i, 0], cells[j, 0]), np.minimum(ranges[i, 1], cells[j, 1])], axis=1)
        rows = np.bincount(i, self.inner.rows_in(parts) * shares[j], minlength=len(ranges))
        return rows.astype(np.float64)

    @cached_property
    def _shares(self) -> tuple[Ranges, NDArray[np.float64]]:
        """The cells of the cover as ranges, and how much of each lies in the region."""
        if len(self.cover.ranges) > _MANY_RANGES:  # so many follow the border closely
            return self.cover.ranges, np.ones(len(self.cover.ranges))
        cells = cell_ranges(self.cover.cells)
        sixteenth = (cells[:, 1] - cells[:, 0])[:, np.newaxis] // _SAMPLES
        # three quarters into a cell's indices lies its centre
        places = cells[:, :1] + sixteenth * np.arange(_SAMPLES) + sixteenth * 3 // 4
        inside = self.region.contains(*positions_29(places.ravel()))
        return cells, inside.reshape(places.shape).mean(axis=1)


@dataclass(frozen=True)
class Select(OverOne):
    """Keep some columns."""

    columns: tuple[str, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The chosen columns."""
        return pa.schema([self.inner.schema.field(name) for name in self.columns])

    @property
    def properties(self) -> dict[str, Any]:
        """The inner node's."""
        return with_columns_there(self.inner.properties, self.columns)

    def task(self, cell: Cell, cover: Coverage | None = None) -> SelectTask:
        """Return the inner task with the other columns left out."""
        return SelectTask(self.inner.task(cell, cover), self.columns)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost; the other columns are held until the inner task ends."""
        inner = self.inner.cost(cell)
        kept, dropped = self._widths
        # how the rest is spread over texts and lists is not known: all of it counts for each
        size = max(inner.size - inner.rows * dropped, 0.0) if kept is None else inner.rows * kept
        return replace(inner, size=size)

    @cached_property
    def _widths(self) -> tuple[float | None, float]:
        """Bytes of a row in the chosen columns, None with texts or lists among them, and in the other numbers."""
        dropped = [f for f in self.inner.schema if f.name not in self.columns and not _is_varied(f)]
        return None if any(map(_is_varied, self.schema)) else row_bytes(self.schema), row_bytes(dropped)

    def describe(self) -> Record:
        """Return the columns."""
        return {"op": "select", "inner": self.inner.describe(), "columns": list(self.columns)}


def extent_of(node: Node) -> Coverage | None:
    """Return a coverage that holds all rows of a plan, None where it is not known."""
    return node.extent if isinstance(node, Scan | OverOne) else None


def with_columns_there(properties: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return the properties without what they say of epoch, motion and errors in columns that are not there."""
    kept = dict(properties)
    if isinstance(kept.get("epoch"), dict) and kept["epoch"]["column"] not in columns:
        kept["epoch"] = None
    for name in ("motion", "errors"):
        if any(each["column"] not in columns for each in kept.get(name, {}).values()):
            del kept[name]  # one without the other has no meaning
    return kept


def row_bytes(fields: Iterable[pa.Field]) -> float:
    """Return about how many bytes one row takes in memory; texts and lists count as 32."""
    return sum(_VARIED_BYTES if _is_varied(field) else field.type.bit_width / 8 for field in fields)


def _is_varied(field: pa.Field) -> bool:
    return not pa.types.is_primitive(field.type)

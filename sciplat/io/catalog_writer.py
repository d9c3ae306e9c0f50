"""Writing a catalog version: cells one by one, in any process, then everything published at once."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.errors import StoreExists
from sciplat.io import hats
from sciplat.io.catalog_store import ROW_GROUP, CatalogStore, point_to_newest, store_name
from sciplat.io.cell_report import CellReport
from sciplat.io.density import DENSITY, encode_density
from sciplat.io.kept import Kept
from sciplat.io.publish import (
    FileEntry,
    Manifest,
    check_absent,
    commit,
    file_entry,
    new_write_id,
    read_manifest,
    version_folder,
    version_numbers,
)
from sciplat.io.storage import Storage
from sciplat.sky.cell import Cell, split_cells

_ZSTD_LEVEL = 1  # level 15, which HATS writers use, costs twenty times the time for a quarter of the space


@dataclass(frozen=True)
class CellWriter:
    """Writes the files of cells into the folder of a version in the making.

    Parameters
    ----------
    storage : Storage
        Of the whole store.
    folder : str
        Of the version.
    """

    storage: Storage
    folder: str

    def write(self, cell: Cell, table: pa.Table, rows_per_cell: int) -> CellReport:
        """Write the rows of one cell, split into finer cells where they are more than `rows_per_cell`.

        Parameters
        ----------
        cell : Cell
        table : pyarrow.Table
            All rows lie in the cell and are sorted by `_healpix_29`.
        rows_per_cell : int
        """
        return write_cells(
            self.storage, lambda part: f"{self.folder}/{hats.cell_path(part)}", cell, table, rows_per_cell
        )


def write_cells(
    storage: Storage, path: Callable[[Cell], str], cell: Cell, table: pa.Table, rows_per_cell: int
) -> CellReport:
    """Write the rows of one cell, split into finer cells where they are more than `rows_per_cell`.

    Parameters
    ----------
    storage : Storage
    path : callable
        Returns the path of a cell's file.
    cell : Cell
    table : pyarrow.Table
        All rows lie in the cell and are sorted by `_healpix_29`.
    rows_per_cell : int
    """
    files = []
    for part in encode_cells(cell, table, rows_per_cell):
        name = path(part.cell)
        storage.write(name, part.data)
        files.append(part.entry(name))
    return CellReport.of(files, table[hats.HEALPIX_COLUMN].to_numpy())


@dataclass(frozen=True)
class CatalogWriter:
    """A version in the making: its files lie in a folder of their own that nothing points to yet.

    Parameters
    ----------
    storage : Storage
        Of the whole store.
    write_id : str
    parent : Manifest or None
        The version that is replaced.
    properties : dict
        What the store says of itself; "position" names the position columns.
    kept : Kept, optional
        Cells of the parent that the new version has too.
    """

    storage: Storage
    write_id: str
    parent: Manifest | None
    properties: dict[str, Any]
    kept: Kept | None = None

    @classmethod
    def begin(cls, storage: Storage, properties: dict[str, Any], *, replace: bool = False) -> "CatalogWriter":
        """Prepare a first version, or with `replace` the next one.

        Raises
        ------
        StoreExists
            If something stands there already and is not to be replaced.
        """
        parent = read_manifest(storage) if replace and version_numbers(storage) else None
        if parent is None:
            check_absent(storage)
        elif parent.properties["kind"] == "images" and properties["kind"] != "images":
            raise StoreExists(f"{storage.url} is the table of an image store", hint="another URL")
        return cls(storage, new_write_id(), parent, properties)

    @property
    def number(self) -> int:
        """The version's number."""
        return self.parent.number + 1 if self.parent else 1

    @property
    def folder(self) -> str:
        """The version's folder in the store."""
        return version_folder(self.number, self.write_id)

    @property
    def cells(self) -> "CellWriter":
        """What writes the cells: small enough to travel with every task."""
        return CellWriter(self.storage, self.folder)

    def publish(
        self, schema: pa.Schema, reports: Iterable[CellReport], *, extra: tuple[FileEntry, ...] = ()
    ) -> CatalogStore:
        """Complete the folder and make the version visible.

        Parameters
        ----------
        schema : pyarrow.Schema
        reports : iterable of CellReport
            Of every cell.
        extra : tuple of FileEntry
            Files of the store outside the folder that belong to the version.

        Raises
        ------
        ConflictError
            If another writer was first.
        """
        written = list(reports)
        found = ((hats.parse_cell_path(file.path), file) for report in written for file in report.files)
        cells = sorted(((cell, file) for cell, file in found if cell is not None), key=lambda pair: pair[0].start)
        files = [file for _, file in cells]
        for path, data in self._small_files(schema, [(cell, file.rows) for cell, file in cells], written).items():
            self.storage.write(f"{self.folder}/{path}", data)
            files.append(file_entry(f"{self.folder}/{path}", data))
        parent = self.parent.number if self.parent else None
        manifest = Manifest(self.number, self.write_id, parent, self.folder, self.properties, (*files, *extra))
        published = commit(self.storage, manifest)
        point_to_newest(self.storage)
        return CatalogStore(self.storage, published)

    def _small_files(
        self, schema: pa.Schema, cells: list[tuple[Cell, int]], reports: list[CellReport]
    ) -> dict[str, bytes]:
        pixels = np.concatenate([np.empty(0, np.int64), *(report.map_pixels for report in reports)])
        counts = np.concatenate([np.empty(0, np.int64), *(report.map_counts for report in reports)])
        properties = hats.catalog_properties(
            store_name(self.storage),
            self.properties["kind"],
            sum(rows for _, rows in cells),
            [cell for cell, _ in cells],
            tuple(self.properties["position"]),
        )
        return {
            "hats.properties": properties,
            "properties": properties,
            "partition_info.csv": hats.partition_info(cells),
            "skymap.fits": hats.sky_map_fits(pixels, counts),
            DENSITY: encode_density([report.knots for report in reports]),
            "dataset/_common_metadata": hats.common_metadata(schema),
        }

    def rebased(self, kept: Kept) -> "CatalogWriter":
        """Return the writer of the same cells into a version that follows the newest one.

        Parameters
        ----------
        kept : Kept
            Of this writer.

        Raises
        ------
        ConflictError
            If another writer has changed one of these cells since.
        """
        newest = read_manifest(self.storage)
        kept.check_apart(newest, self.write_id)
        self.storage.remove(self.folder)  # its number is taken
        cited = dict.fromkeys([*newest.properties.get("citations", []), *self.properties.get("citations", [])])
        kept = replace(kept, parent=CatalogStore(self.storage, newest))
        return replace(self, parent=newest, kept=kept, properties=self.properties | {"citations": list(cited)})

    def link_kept(self) -> list[CellReport]:
        """Take over the cells of the parent that the new version has too."""
        return self.kept.link(self.folder) if self.kept else []

    def abandon(self) -> None:
        """Remove what was written, unless it has been published; a store that stood there before is as it was."""
        later = [number for number in version_numbers(self.storage) if number >= self.number]
        if any(read_manifest(self.storage, number).write_id == self.write_id for number in later):
            return
        for name in self.storage.names(""):  # more than one, if another writer was first
            if name.endswith(f"-{self.write_id}"):
                self.storage.remove(name)
        self.storage.remove_empty("versions")
        self.storage.remove_empty("")


@dataclass(frozen=True)
class EncodedCell:
    """The rows of one cell as the bytes of a Parquet file.

    Parameters
    ----------
    cell : Cell
    data : memoryview
    footer : int
        Length of its footer in bytes.
    rows, places : int
        Of the table: its rows, and the different positions among them.
    memory : int
        Bytes of the table.
    """

    cell: Cell
    data: memoryview
    footer: int
    rows: int
    places: int
    memory: int

    def entry(self, path: str) -> FileEntry:
        """Return what a manifest says of the file at this path."""
        entry = file_entry(path, self.data, rows=self.rows, footer=self.footer)
        return replace(entry, memory=self.memory, places=self.places)


def encode_cells(cell: Cell, table: pa.Table, rows_per_cell: int) -> Iterator[EncodedCell]:
    """Yield the files of one cell.

    Parameters
    ----------
    cell : Cell
    table : pyarrow.Table
        All rows lie in the cell and are sorted by `_healpix_29`.
    rows_per_cell : int
        A cell with more rows becomes several finer ones.
    """
    index = table[hats.HEALPIX_COLUMN].to_numpy()
    fits = len(index) <= rows_per_cell
    parts = ([(cell, 0, len(index))] if len(index) else []) if fits else split_cells(index, rows_per_cell)
    for part, first, last in parts:
        rows = table.slice(first, last - first)
        data, footer = encode_parquet(rows)
        places = 1 + int(np.count_nonzero(np.diff(index[first:last])))
        yield EncodedCell(part, data, footer, rows.num_rows, places, rows.nbytes)


def encode_parquet(table: pa.Table, row_group: int | None = None, codec: str = "zstd") -> tuple[memoryview, int]:
    """Return a table as the bytes of a Parquet file with row groups of so many rows, and the length of its footer."""
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pa.default_memory_pool().release_unused()  # the file is not in the pool: what lies idle there would come on top
    sink = io.BytesIO()  # grows in place, where Arrow's own buffers double and copy
    pq.write_table(
        table,
        sink,
        row_group_size=row_group or ROW_GROUP,
        compression=codec,
        compression_level=_ZSTD_LEVEL if codec == "zstd" else None,
        use_dictionary=texts,  # numbers rarely repeat enough to pay for one
        use_byte_stream_split=floats,
        write_page_checksum=True,
    )
    data = sink.getbuffer()
    return data, int.from_bytes(data[-8:-4], "little")

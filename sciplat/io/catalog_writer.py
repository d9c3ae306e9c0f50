"""Writing a catalog version: cells one by one, in any process, then everything published at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.errors import StoreExists
from sciplat.io import hats
from sciplat.io.catalog_store import ROW_GROUP, CatalogStore, point_to_newest, store_name
from sciplat.io.publish import (
    FileEntry,
    Manifest,
    check_absent,
    commit,
    file_entry,
    new_write_id,
    read_manifest,
    version_numbers,
)
from sciplat.io.storage import Storage
from sciplat.sky.cell import MAX_ORDER, Cell, split_cells

_ZSTD_LEVEL = 1  # level 15, which HATS writers use, costs twenty times the time for a quarter of the space


@dataclass(frozen=True)
class CellReport:
    """What was written for one cell: small enough to travel from any worker.

    Parameters
    ----------
    files : tuple of FileEntry
    map_pixels, map_counts : ndarray of int64, shape (n,)
        HEALPix pixels of order 8 that hold rows, and how many.
    """

    files: tuple[FileEntry, ...]
    map_pixels: NDArray[np.int64]
    map_counts: NDArray[np.int64]


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
        index = table[hats.HEALPIX_COLUMN].to_numpy()
        if len(index) == 0:
            return CellReport((), index, index)
        fits = len(index) <= rows_per_cell
        parts = [(cell, 0, len(index))] if fits else split_cells(index, rows_per_cell)
        files = tuple(self._write_file(part, table.slice(first, last - first)) for part, first, last in parts)
        pixels, counts = np.unique(index >> 2 * (MAX_ORDER - hats.MAP_ORDER), return_counts=True)
        return CellReport(files, pixels, counts.astype(np.int64))

    def _write_file(self, cell: Cell, table: pa.Table) -> FileEntry:
        data, footer = encode_parquet(table)
        path = f"{self.folder}/{hats.cell_path(cell)}"
        self.storage.write(path, data)
        return file_entry(path, data, rows=table.num_rows, footer=footer)


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
    """

    storage: Storage
    write_id: str
    parent: Manifest | None
    properties: dict[str, Any]

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
        return f"v{self.number}-{self.write_id}"

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
            "dataset/_common_metadata": hats.common_metadata(schema),
        }

    def abandon(self) -> None:
        """Remove what was written, unless it has been published; a store that stood there before is as it was."""
        published = self.number in version_numbers(self.storage)
        if published and read_manifest(self.storage, self.number).write_id == self.write_id:
            return
        self.storage.remove(self.folder)
        self.storage.remove_empty("versions")
        self.storage.remove_empty("")


def encode_parquet(table: pa.Table) -> tuple[memoryview, int]:
    """Return a table as the bytes of a Parquet file, and the length of its footer."""
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=texts,  # numbers rarely repeat enough to pay for one
        use_byte_stream_split=floats,
        write_page_checksum=True,
    )
    data = memoryview(sink.getvalue())
    return data, int.from_bytes(data[-8:-4], "little")

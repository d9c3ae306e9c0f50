"""Catalog stores: a HATS collection of Parquet files, one for each cell, with versions and checksums.

Rows of a cell are sorted by `_healpix_29`; a reader prunes cells, then row groups, then rows.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.errors import ColumnError, StoreCorrupt, may_pass
from sciplat.io import hats
from sciplat.io.density import DENSITY, Density, parse_density
from sciplat.io.provenance import parse_provenance
from sciplat.io.publish import FileEntry, Manifest, read_manifest
from sciplat.io.storage import LocalStorage, Storage, sha256
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges

ROW_GROUP = 120_000  # rows: a small cone touches one or two groups
PROVENANCE = "provenance.json"
LOG = "log.jsonl"  # of the run that made the version
_BESIDE_THE_ROWS = ("report", "fingerprint", "citations")  # properties that may differ where the rows are the same


@dataclass(frozen=True)
class CellEntry:
    """One cell of a catalog version and its file."""

    cell: Cell
    file: FileEntry


@dataclass(frozen=True)
class CatalogStore:
    """One pinned version of a catalog on storage.

    Parameters
    ----------
    storage : Storage
    manifest : Manifest
    """

    storage: Storage
    manifest: Manifest = field(repr=False)

    @cached_property
    def entries(self) -> tuple[CellEntry, ...]:
        """The cells with their files, in the order of the sky."""
        named = ((hats.parse_cell_path(file.path), file) for file in self.manifest.files if file.rows)
        entries = (CellEntry(cell, file) for cell, file in named if cell is not None)
        return tuple(sorted(entries, key=lambda entry: entry.cell.start))

    @cached_property
    def schema(self) -> pa.Schema:
        """Names, types, units and descriptions of the columns."""
        return pq.read_schema(io.BytesIO(self._small_file("dataset/_common_metadata"))).remove_metadata()

    @cached_property
    def _density(self) -> Density:
        if self._has(DENSITY):
            return parse_density(self._small_file(DENSITY))
        # other writers give none: their rows are taken to be spread evenly over each cell
        ends = cell_ranges([entry.cell for entry in self.entries]).ravel()
        total = np.cumsum([0, *(entry.file.rows for entry in self.entries)])
        return Density(ends, np.stack([total[:-1], total[1:]], axis=1).ravel())

    def expected_rows(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the rows in each range of order-29 cells, known to a thousandth of each cell's rows."""
        return self._density.rows_in(ranges)

    @property
    def digest(self) -> str:
        """SHA-256 of the version's rows and of what it says of them: equal digest, equal input of a plan."""
        said = {name: value for name, value in self.manifest.properties.items() if name not in _BESIDE_THE_ROWS}
        return sha256(f"{self.manifest.digest} {json.dumps(said, sort_keys=True)}".encode())

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the version was made, as W3C PROV-JSON; empty for one that was ingested."""
        return parse_provenance(self._small_file(PROVENANCE)) if self._has(PROVENANCE) else {}

    def _has(self, name: str) -> bool:
        path = f"{self.manifest.folder}/{name}"
        return any(file.path == path for file in self.manifest.files)

    def _small_file(self, name: str) -> bytes:
        path = f"{self.manifest.folder}/{name}"
        entry = next((file for file in self.manifest.files if file.path == path), None)
        if entry is None:
            raise _damaged(path, "the manifest does not name it")
        try:
            data = self.storage.read(path)
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from None
        if sha256(data) != entry.sha256:
            raise _damaged(path, "content differs from its digest")
        return data

    @property
    def position(self) -> tuple[str, str]:
        """Names of the columns of right ascension and declination."""
        ra, dec = self.manifest.properties["position"]
        return str(ra), str(dec)


def open_catalog_store(storage: Storage, version: int | None = None) -> CatalogStore:
    """Open a version of a catalog, the newest unless `version` is given; reads its manifest only.

    Raises
    ------
    StoreNotFound, StoreCorrupt
        If there is none, or its manifest is damaged.
    """
    manifest = read_manifest(storage, version)
    if version is None and isinstance(storage, LocalStorage):
        # a crash may have kept a writer from this; a store that only its owner may write to is read as it is
        with contextlib.suppress(OSError):
            point_to_newest(storage)
    return CatalogStore(storage, manifest)


def store_name(storage: Storage) -> str:
    """Return the last part of the store's URL."""
    return storage.url.rstrip("/").rsplit("/", 1)[-1] or "catalog"


def read_cell(
    storage: Storage,
    file: FileEntry,
    columns: Sequence[str] | None = None,
    ranges: NDArray[np.int64] | None = None,
) -> pa.Table:
    """Read the rows of one file.

    Parameters
    ----------
    storage : Storage
        Of the catalog.
    file : FileEntry
        As the manifest has it: the footer must be what was written.
    columns : sequence of str, optional
        In this order; all by default.
    ranges : ndarray of int64, shape (n, 2), optional
        Sorted half-open ranges of order-29 indices: only these rows, and only row groups that may hold them.

    Raises
    ------
    StoreCorrupt
        If the file is missing, truncated or damaged.
    ColumnError
        If a column is not there.
    """
    wanted = None if columns is None else list(dict.fromkeys([*columns, hats.HEALPIX_COLUMN]))
    try:
        with storage.open(file.path) as source:
            metadata = checked_footer(source, file)
            reader = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
            if wanted is not None and (missing := set(wanted) - set(reader.schema_arrow.names)):
                raise ColumnError(
                    f"the catalog has no column {min(missing)!r}", found=", ".join(reader.schema_arrow.names)
                )
            return _read_columns(reader, columns or reader.schema_arrow.names, _groups(metadata, ranges), ranges)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StoreCorrupt) or may_pass(error):
            raise
        raise _damaged(file.path, str(error)) from None


def _read_columns(
    reader: pq.ParquetFile, columns: Sequence[str], groups: list[int], ranges: NDArray[np.int64] | None
) -> pa.Table:
    """Read column after column: a reader of many holds what the file has of all of them until its end."""
    inside = None
    if ranges is not None:
        index = reader.read_row_groups(groups, columns=[hats.HEALPIX_COLUMN], use_threads=False).column(0)
        inside = Coverage(ranges).contains(index.to_numpy())
    parts = []
    for name in dict.fromkeys(columns):
        part = reader.read_row_groups(groups, columns=[name], use_threads=False)
        # where all rows are inside, a copy would be made for nothing
        parts.append(part if inside is None or inside.all() else part.filter(pa.array(inside)))
    pa.default_memory_pool().release_unused()  # pages that were decoded
    schema = pa.schema([part.field(0) for part in parts], metadata=reader.schema_arrow.metadata)
    return pa.table([part.column(0) for part in parts], schema=schema).select(list(columns))


def point_to_newest(storage: Storage) -> None:
    """Let `collection.properties` name the newest version; never an older one than it names now."""
    while True:
        newest = read_manifest(storage)
        if _pointed_number(storage) >= newest.number:
            return
        storage.write(hats.COLLECTION, hats.collection_properties(store_name(storage), newest.folder))


def _pointed_number(storage: Storage) -> int:
    """Return the number of the version that other readers see, 0 if there is none."""
    try:
        folder = hats.parse_properties(storage.read(hats.COLLECTION)).get("hats_primary_table_url", "")
    except FileNotFoundError:
        return 0
    number = folder.removeprefix("v").partition("-")[0]
    return int(number) if number.isdecimal() else 0


def checked_footer(source: Any, file: FileEntry) -> pq.FileMetaData:
    """Parse a file's footer once it is known to be the written one: a flipped bit there can end the interpreter.

    Raises
    ------
    StoreCorrupt
        If it is not.
    """
    source.seek(max(file.size - 8 - file.footer, 0))
    tail = source.read()
    if len(tail) != file.footer + 8 or sha256(tail[:-8]) != file.footer_sha256 or tail[-4:] != b"PAR1":
        raise _damaged(file.path, "the footer differs from its digest")
    return pq.read_metadata(io.BytesIO(b"PAR1" + tail))


def _groups(metadata: pq.FileMetaData, ranges: NDArray[np.int64] | None) -> list[int]:
    """Return the row groups whose span of `_healpix_29` meets the ranges."""
    groups = list(range(metadata.num_row_groups))
    if ranges is None or not groups:
        return groups
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    column = names.index(hats.HEALPIX_COLUMN)
    chosen = []
    for group in groups:
        span = metadata.row_group(group).column(column).statistics
        place = int(np.searchsorted(ranges[:, 1], span.min, side="right"))
        if place < len(ranges) and ranges[place, 0] <= span.max:
            chosen.append(group)
    return chosen


def _damaged(path: str, found: str) -> StoreCorrupt:
    return StoreCorrupt(f"the file {path} is damaged", found=found, hint="sciplat verify names all damaged files")

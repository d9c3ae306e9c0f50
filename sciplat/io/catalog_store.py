"""Catalog stores: a HATS collection of Parquet files, one for each cell, with versions and checksums.

Rows of a cell are sorted by `_healpix_29`; a reader prunes cells, then row groups, then rows.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.errors import StoreNotFound
from sciplat.io import hats
from sciplat.io.density import DENSITY, Density, parse_density
from sciplat.io.foreign_cell import ForeignFile, footers, read_foreign_cell
from sciplat.io.object_storage import ObjectStorage
from sciplat.io.parquet import (
    Bounds,
    check_columns,
    damage,
    damaged,
    matching_groups,
    parse_footer,
    read_groups,
)
from sciplat.io.provenance import parse_provenance
from sciplat.io.publish import FileEntry, Manifest, parse_folder, parse_manifest, read_manifest, version_numbers
from sciplat.io.ranges import RangeReader
from sciplat.io.storage import LocalStorage, Storage, sha256
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges, Squares

ROW_GROUP = 20_000  # rows: a small cone touches one or two groups and decodes them as a whole
PROVENANCE = "provenance.json"
LOG = "log.jsonl"  # of the run that made the version
BESIDE_THE_ROWS = ("report", "fingerprint", "citations")  # properties that may differ where the rows are the same


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

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.manifest.rows

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

    @cached_property
    def sky_map(self) -> NDArray[np.int64]:
        """Rows in each HEALPix pixel of order 8; shape (786432,)."""
        return hats.parse_sky_map(self._small_file("skymap.fits"))

    def knots(self, entry: CellEntry, first_row: int) -> NDArray[np.int64]:
        """Return how the rows of a cell are spread, as `CellReport` has it; `first_row` are the rows before it."""
        return self._density.knots(entry.cell.start, entry.cell.stop, first_row, entry.file.rows)

    @property
    def digest(self) -> str:
        """SHA-256 of the version's rows and of what it says of them: equal digest, equal input of a plan."""
        said = {name: value for name, value in self.manifest.properties.items() if name not in BESIDE_THE_ROWS}
        return sha256(f"{self.manifest.digest} {json.dumps(said, sort_keys=True)}".encode())

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the version was made, as W3C PROV-JSON; empty for one that was ingested."""
        return parse_provenance(self._small_file(PROVENANCE)) if self._has(PROVENANCE) else {}

    @property
    def has_digests(self) -> bool:
        """Whether the manifest promises every byte; a catalog of another writer has no such thing."""
        return True

    def _has(self, name: str) -> bool:
        path = f"{self.manifest.folder}/{name}"
        return any(file.path == path for file in self.manifest.files)

    def _small_file(self, name: str) -> bytes:
        path = f"{self.manifest.folder}/{name}"
        entry = next((file for file in self.manifest.files if file.path == path), None)
        if entry is None:
            raise damaged(path, "the manifest does not name it")
        with _reading(self.storage, path):
            data = self.storage.read(path)
        if sha256(data) != entry.sha256:
            raise damaged(path, "content differs from its digest")
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
    manifest = _read_manifest(storage, version)
    if version is None and isinstance(storage, LocalStorage):
        # a crash may have kept a writer from this; a store that only its owner may write to is read as it is
        with contextlib.suppress(OSError):
            if pointed_number(storage) < manifest.number:
                point_to_newest(storage)
    return CatalogStore(storage, manifest)


def _read_manifest(storage: Storage, version: int | None) -> Manifest:
    """Return a version's manifest, of a web server without listings too."""
    try:
        return read_manifest(storage, version)
    except StoreNotFound:
        if not (isinstance(storage, ObjectStorage) and storage.is_web) or version_numbers(storage):
            raise
        path = f"versions/{version or pointed_number(storage)}.json"
        try:
            data = storage.read(path)
        except FileNotFoundError:
            data = b""
        if not data:
            raise
        return parse_manifest(data, f"{storage.url}/{path}")


def store_name(storage: Storage) -> str:
    """Return the last part of the store's URL."""
    return storage.url.rstrip("/").rsplit("/", 1)[-1] or "catalog"


def read_cell(
    storage: Storage,
    file: FileEntry,
    columns: Sequence[str] | None = None,
    ranges: NDArray[np.int64] | None = None,
    bounds: Bounds | None = None,
    squares: Squares | None = None,
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
    bounds : mapping, optional
        Column to inclusive (low, high), None where it is open: row groups whose statistics show that no row can lie
        inside are not read. The rows of the others are not tested. Nulls lie nowhere.
    squares : ndarray of int64, shape (m, 5), optional
        To which the ranges are cut, as a `Coverage` has them.

    Raises
    ------
    StoreCorrupt
        If the file is missing, truncated or damaged.
    StoreNotFound
        If it is missing because its version has been removed.
    StorageError
        If the storage does not answer or refuses to.
    ColumnError
        If a column is not there.
    """
    cover = None if ranges is None else Coverage(ranges, squares)
    if isinstance(file, ForeignFile):
        return read_foreign_cell(storage, file, columns, cover, bounds)
    with _reading(storage, file.path), storage.open(file.path, file.size) as source:
        metadata = checked_footer(source, file)
        reader = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
        names = reader.schema_arrow.names
        check_columns(columns or (), names)
        groups = matching_groups(metadata, hats.HEALPIX_COLUMN, ranges, bounds)
        inside = None if cover is None else cover.contains
        return read_groups(source, reader, groups, columns or names, hats.HEALPIX_COLUMN, inside)


def read_footers(storage: Storage, file: FileEntry) -> list[pq.FileMetaData]:
    """Return the metadata of one file, or of all files of a cell that another writer made.

    Parameters and errors are `read_cell`'s.
    """
    if isinstance(file, ForeignFile):
        return footers(storage, file.path, is_folder=file.is_folder)
    with _reading(storage, file.path), storage.open(file.path, file.size) as source:
        return [checked_footer(source, file)]


def check_version(storage: Storage, number: int) -> None:
    """Refuse a version that has been removed since it was opened.

    Raises
    ------
    StoreNotFound
        If its manifest is gone.
    """
    try:
        storage.size(f"versions/{number}.json")
    except FileNotFoundError:
        raise StoreNotFound(f"version {number} of {storage.url} has been removed", hint="open the newest") from None


@contextlib.contextmanager
def _reading(storage: Storage, path: str) -> Iterator[None]:
    """Tell a file that went with its version from one that is damaged."""
    with damage(path):
        try:
            yield
        except FileNotFoundError:
            if number := parse_folder(path.partition("/")[0])[0]:
                check_version(storage, number)
            raise


def point_to_newest(storage: Storage) -> None:
    """Let `collection.properties` name the newest version; never an older one than it names now."""
    while True:
        newest = read_manifest(storage)
        if pointed_number(storage) >= newest.number:
            return
        storage.write(hats.COLLECTION, hats.collection_properties(store_name(storage), newest.folder))


def pointed_number(storage: Storage) -> int:
    """Return the number of the version that other readers see, 0 if there is none."""
    try:
        folder = hats.parse_properties(storage.read(hats.COLLECTION)).get("hats_primary_table_url", "")
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return parse_folder(folder)[0]


def checked_footer(source: Any, file: FileEntry) -> pq.FileMetaData:
    """Parse a file's footer once it is known to be the written one: a flipped bit there can end the interpreter.

    Raises
    ------
    StoreCorrupt
        If it is not.
    """
    start = max(file.size - 8 - file.footer, 0)
    if isinstance(source, RangeReader):
        source.fetch([(start, file.size)])
    source.seek(start)
    tail = source.read()
    if len(tail) != file.footer + 8 or sha256(tail[:-8]) != file.footer_sha256 or tail[-4:] != b"PAR1":
        raise damaged(file.path, "the footer differs from its digest")
    return parse_footer(tail)

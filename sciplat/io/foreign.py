"""HATS catalogs that others made: single ones and the primary tables of collections, opened as stores of ours.

Only small files are read: properties, partition list, schema. Rows and sizes of single cells are often said nowhere;
then each cell is taken to hold its share.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.errors import ArgumentError, InputError, RegionError, StoreCorrupt, StoreNotFound
from sciplat.io import hats
from sciplat.io.catalog_store import CatalogStore, open_catalog_store, pointed_number
from sciplat.io.foreign_cell import ForeignFile, footers, plain_type
from sciplat.io.objects import Storage, sha256
from sciplat.io.parquet import damage, damaged
from sciplat.io.publish import Manifest, version_numbers
from sciplat.sky.cell import MAX_ORDER, Cell, cell_ranges

_OTHER_TABLES = ("margin", "association", "index", "map")  # that stand beside a catalog
_FOLDER = re.compile(r"(?!\.)[\w.+ -]+(/(?!\.)[\w.+ -]+)*")
_SUFFIX = re.compile(r"/|(\.\w+)+")  # of a cell's files
_LARGEST = 1 << 25  # bytes of a `_metadata` that is read on opening
_ROWS_PER_CELL = 1_000_000
_AT_ONCE = 16  # files that are asked at the same time
_DIGITS = 13  # of a number of rows or bytes that makes sense

Properties = dict[str, str]


@dataclass(frozen=True)
class ForeignStore(CatalogStore):
    """A HATS catalog of another writer: no versions, and no digests that would tell a damaged file.

    Parameters
    ----------
    columns : pyarrow.Schema
        Of the rows as they are read.
    said : str
        Digest of what the catalog says of itself.
    """

    columns: pa.Schema = field(repr=False)
    said: str = field(repr=False)

    @property
    def schema(self) -> pa.Schema:
        """Names, types, units and descriptions of the columns."""
        return self.columns

    @property
    def has_digests(self) -> bool:
        """False."""
        return False

    @cached_property
    def rows(self) -> int:
        """The number of rows as the files themselves have it: what is said of them may be a share, or out of date."""
        files = [file for file in self.manifest.files if isinstance(file, ForeignFile)]
        is_folder = any(file.is_folder for file in files)
        return sum(_rows_in_files(self.storage, [file.path for file in files], is_folder=is_folder))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the catalog says, and of sizes and times or tags of its files where they are told cheaply."""
        folder = f"{self.manifest.folder}/dataset".strip("/")
        return sha256("\n".join([self.said, *self.storage.marks(folder)]).encode())


def open_any_catalog(storage: Storage, version: int | None = None) -> CatalogStore:
    """Open a catalog of ours or a HATS catalog of another writer; reads small files only.

    Parameters
    ----------
    storage : Storage
    version : int, optional
        The newest by default; other writers have none.

    Raises
    ------
    StoreNotFound, StoreCorrupt
        If there is none, or what it says of itself makes no sense.
    InputError
        If it is a catalog that we do not read.
    ArgumentError
        If a version of another writer's catalog is asked for.
    """
    try:
        return open_catalog_store(storage, version)
    except StoreNotFound:
        if version_numbers(storage) or (version is not None and pointed_number(storage)):
            raise
        store = _open_foreign(storage)
        if store is None:
            raise
    if version is not None:
        raise ArgumentError(
            f"{storage.url} has no versions", found=f"version={version}", hint="another writer made it; leave it out"
        )
    return store


def _open_foreign(storage: Storage) -> ForeignStore | None:
    """Return the HATS catalog in a folder, None if there is none."""
    folder = _primary_folder(storage)
    text = _first_of(storage, [_below(folder, name) for name in ("hats.properties", "properties")])
    path = _below(folder, "hats.properties")
    about = _parsed(text, path) if text else {}
    if not {"obs_collection", "dataproduct_type", "hats_col_ra"} & set(about):
        if _first_of(storage, [_below(folder, "catalog_info.json")]):
            raise InputError(
                f"{storage.url} is a catalog of the old hipscat format",
                hint="open its HATS edition, or ingest its Parquet files",
            )
        if folder:
            raise damaged(hats.COLLECTION, f"the folder {folder!r} that it names holds no catalog")
        return None
    _check_properties(storage, path, about)
    cells, listed = _cells(storage, folder, about)
    schema = _schema(storage, folder, list(cells), about)
    files = tuple(_files(cells, about, schema))
    manifest = Manifest(0, "", None, folder, _our_properties(storage, about, schema), files)
    said = sha256(b"\0".join([text, listed, str(schema).encode()]))
    return ForeignStore(storage, manifest, _ours(schema, about), said)


def _primary_folder(storage: Storage) -> str:
    """Return the folder of a collection's primary table; empty where there is no collection."""
    text = _first_of(storage, [hats.COLLECTION])
    folder = _parsed(text, hats.COLLECTION).get("hats_primary_table_url", "") if text else ""
    if folder and not _FOLDER.fullmatch(folder):
        raise damaged(hats.COLLECTION, f"the primary table {folder!r} does not lie in the collection")
    return folder


def _check_properties(storage: Storage, path: str, about: Properties) -> None:
    kind = about.get("dataproduct_type", "object")
    if kind in _OTHER_TABLES:
        raise InputError(f"{storage.url} is no catalog of sources", found=f"a HATS {kind}", hint="open its catalog")
    if not {"hats_col_ra", "hats_col_dec"} <= set(about):
        raise InputError(f"the catalog {storage.url} does not name its position columns", found=f"a HATS {kind}")
    if not _SUFFIX.fullmatch(_suffix(about)):
        raise damaged(path, f"{_suffix(about)!r} is no end of a file's name")


def _cells(storage: Storage, folder: str, about: Properties) -> tuple[dict[Cell, tuple[str, int]], bytes]:
    """Return the path and rows of each cell, and the text that names them.

    Where rows are not said, `_metadata` tells; then the catalog's total is shared out, or all footers are asked.
    """
    suffix = _suffix(about)
    text = _first_of(storage, [_below(folder, "partition_info.csv")])
    rows = _listed_cells(text, _below(folder, "partition_info.csv")) if text else {}
    paths = {cell: _cell_path(folder, cell, suffix) for cell in rows}
    if not rows or 0 in rows.values():
        summary = _summary(storage, folder)
        rows = {cell: said or summary.get(cell, 0) for cell, said in rows.items()} or summary
        paths = {cell: paths.get(cell) or _cell_path(folder, cell, suffix) for cell in rows}
    if not rows:
        paths = _found_paths(storage, folder)
        rows = dict.fromkeys(paths, 0)
    _check_disjoint(list(rows), storage.url)
    if unknown := [cell for cell, said in rows.items() if not said]:
        left = _number(about, "hats_nrows") - sum(rows.values())
        rows |= _shared_rows(storage, {cell: paths[cell] for cell in unknown}, left, is_folder=suffix == "/")
    return {cell: (paths[cell], rows[cell]) for cell in rows}, text or repr(sorted(map(str, rows))).encode()


def _listed_cells(text: bytes, path: str) -> dict[Cell, int]:
    """Return the cells of a partition list and their rows, 0 where they are not said."""
    try:
        lines = list(csv.DictReader(io.StringIO(text.decode())))
        rows = {Cell(int(each["Norder"]), int(each["Npix"])): int(each.get("num_rows") or 0) for each in lines}
        if wrong := [said for said in rows.values() if not 0 <= said < 10**_DIGITS]:
            raise ValueError(f"a cell with {wrong[0]} rows")
    except (ValueError, KeyError, TypeError, csv.Error, RegionError) as error:
        raise damaged(path, " ".join(str(error).split())) from None
    return rows


def _summary(storage: Storage, folder: str) -> dict[Cell, int]:
    """Return the cells that a small `_metadata` names with their rows; none if there is none."""
    path = _below(folder, "dataset/_metadata")
    try:
        if storage.size(path) > _LARGEST:
            return {}
        data = storage.read(path)
    except FileNotFoundError:
        return {}
    rows: dict[Cell, int] = {}
    with damage(path):
        metadata = pq.read_metadata(io.BytesIO(data))
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            cell = hats.parse_cell_path(group.column(0).file_path)
            if cell is not None and group.num_rows > 0:
                rows[cell] = rows.get(cell, 0) + group.num_rows
    return rows


def _found_paths(storage: Storage, folder: str) -> dict[Cell, str]:
    """Return the path of each cell as a listing of the data files has it."""
    paths: dict[Cell, str] = {}
    for path in storage.files(_below(folder, "dataset")):
        cell = hats.parse_cell_path(path)
        parts = path.split("/")
        if cell is not None and not parts[-1].startswith((".", "_")) and ".." not in parts:
            last = next(place for place, part in enumerate(parts) if part.startswith("Npix="))
            paths[cell] = "/".join(parts[: last + 1])
    return paths


def _check_disjoint(cells: list[Cell], url: str) -> None:
    ranges = cell_ranges(sorted(cells, key=lambda cell: cell.start))
    if np.any(ranges[1:, 0] < ranges[:-1, 1]):
        raise StoreCorrupt(f"cells of the catalog {url} overlap", hint="its maker can make the partition list anew")


def _shared_rows(storage: Storage, paths: dict[Cell, str], total: int, *, is_folder: bool) -> dict[Cell, int]:
    """Return equal shares of a number of rows, or what the files themselves say where that is too small."""
    enough = total >= len(paths)
    rows = _shares(total, len(paths)) if enough else _rows_in_files(storage, paths.values(), is_folder=is_folder)
    return dict(zip(paths, rows, strict=True))


def _rows_in_files(storage: Storage, paths: Iterable[str], *, is_folder: bool) -> list[int]:
    """Return the rows in the files of each cell by their footers."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda path: footers(storage, path, is_folder=is_folder), paths)
        return [sum(each.num_rows for each in files) for files in found]


def _schema(storage: Storage, folder: str, cells: list[Cell], about: Properties) -> pa.Schema:
    """Return the catalog's schema as `_common_metadata` has it, or its first file."""
    path = _below(folder, "dataset/_common_metadata")
    text = _first_of(storage, [path])
    if text:
        with damage(path):
            return pq.read_schema(io.BytesIO(text))
    if not cells:
        raise StoreNotFound(f"the catalog {storage.url} has neither cells nor a schema")
    suffix = _suffix(about)
    first = _cell_path(folder, min(cells, key=lambda cell: cell.start), suffix)
    return next(iter(footers(storage, first, is_folder=suffix == "/"))).schema.to_arrow_schema()


def _files(cells: dict[Cell, tuple[str, int]], about: Properties, schema: pa.Schema) -> Iterator[ForeignFile]:
    sizes = _shares(1024 * _number(about, "hats_estsize"), len(cells))
    ours = _ours(schema, about)
    for (cell, (path, rows)), size in zip(cells.items(), sizes, strict=True):
        yield ForeignFile(
            path,
            size,
            sha256="",
            rows=rows,
            cell=cell,
            is_folder=_suffix(about) == "/",
            index=_index_column(schema, about),
            position=(about["hats_col_ra"], about["hats_col_dec"]),
            schema=ours,
        )


def _index_column(schema: pa.Schema, about: Properties) -> str | None:
    """Return the column of order-29 indices, None if there is none."""
    name = about.get("hats_col_healpix", hats.HEALPIX_COLUMN)
    order = about.get("hats_col_healpix_order", str(MAX_ORDER))
    there = name in schema.names and pa.types.is_integer(schema.field(name).type)
    return name if there and order == str(MAX_ORDER) else None


def _ours(schema: pa.Schema, about: Properties) -> pa.Schema:
    """Return the columns as we read them: the index first, plain types, nothing of pandas."""
    others = [each for each in schema if each.name not in (hats.HEALPIX_COLUMN, _index_column(schema, about))]
    fields = [pa.field(each.name, plain_type(each.type), metadata=_said_of(each)) for each in others]
    return pa.schema([pa.field(hats.HEALPIX_COLUMN, pa.int64()), *fields])


def _said_of(column: pa.Field) -> dict[bytes, bytes] | None:
    about = {key: value for key, value in (column.metadata or {}).items() if not key.startswith(b"PARQUET:")}
    return about or None


def _our_properties(storage: Storage, about: Properties, schema: pa.Schema) -> dict[str, Any]:
    position = [about["hats_col_ra"], about["hats_col_dec"]]
    for name in position:
        kind = schema.field(name).type if name in schema.names else None
        if kind is None or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise StoreCorrupt(
                f"the catalog {storage.url} has no column of numbers {name!r}", found=", ".join(schema.names)
            )
    return {
        "position": position,
        "id": hats.identity_column(schema.names),
        "kind": "sources",
        "frame": "icrs",
        "epoch": None,
        "rows_per_cell": _number(about, "hats_max_rows") or _ROWS_PER_CELL,
        "citations": [],
    }


def _first_of(storage: Storage, paths: Sequence[str]) -> bytes:
    """Return the first of some small files that is there, nothing if none is."""
    for path in paths:
        try:
            return storage.read(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
    return b""


def _parsed(text: bytes, path: str) -> Properties:
    try:
        return hats.parse_properties(text)
    except ValueError as error:
        raise damaged(path, str(error)) from None


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _cell_path(folder: str, cell: Cell, suffix: str) -> str:
    """Return the path of a cell's file, or of its folder."""
    path = _below(folder, hats.cell_path(cell)).removesuffix(".parquet")
    return path if suffix == "/" else f"{path}{suffix}"


def _suffix(about: Properties) -> str:
    """Return the end of the names of the cells' files, a slash for folders."""
    return about.get("hats_npix_suffix", ".parquet")


def _number(about: Properties, key: str) -> int:
    """Return a whole number that the catalog says of itself, 0 if it says none that makes sense."""
    text = about.get(key, "")
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0


def _shares(total: int, parts: int) -> list[int]:
    """Return a number cut into nearly equal whole parts."""
    cuts = [total * place // max(parts, 1) for place in range(parts + 1)]
    return [stop - start for start, stop in itertools.pairwise(cuts)]

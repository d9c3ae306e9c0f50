"""Foreign tables, from files or from memory: one schema for all, and parts of the rows that are read apart."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from sciplat.errors import ArgumentError, InputError, InputNotFound
from sciplat.ingest.position import is_degrees
from sciplat.ingest.readers.arrow_file import open_arrow
from sciplat.ingest.readers.columns import common_type, conformed, pieces
from sciplat.ingest.readers.fits_table import open_fits
from sciplat.ingest.readers.memory import is_table, open_table
from sciplat.ingest.readers.parquet import open_parquet
from sciplat.ingest.readers.reader import Opened, Slice, errors_of
from sciplat.ingest.readers.text import open_text
from sciplat.ingest.readers.text_types import OpenedText, check_exact, merged
from sciplat.ingest.readers.votable import open_votable
from sciplat.sky.column import unit_of

Source: TypeAlias = Any
"""A path, pattern or folder, a pyarrow.Table, a pandas.DataFrame or an astropy Table."""

_READERS: dict[str, Callable[[Path, int], Opened]] = {
    ".parquet": open_parquet,
    **dict.fromkeys((".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".tsv.zst"), open_text),
    **dict.fromkeys((".ecsv", ".ecsv.gz", ".ecsv.zst"), open_text),
    **dict.fromkeys((".fits", ".fits.gz", ".fit", ".fit.gz"), open_fits),
    **dict.fromkeys((".vot", ".vot.gz", ".votable", ".votable.gz", ".xml", ".xml.gz"), open_votable),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), open_arrow),
}
_KINDS = ".parquet, .csv, .tsv, .ecsv, .fits, .vot, .xml or .arrow"
_OF_MEMORY = "convert its columns to numbers or text"  # what to try


@dataclass(frozen=True)
class Part:
    """Rows of one source that follow each other; travels to workers, and holds no open file.

    Parameters
    ----------
    source : str
        For people: the path, or "table 1 in memory".
    key : str
        Names source and slice, the same in every process.
    schema : pyarrow.Schema
        Of all sources together.
    chunk : int
        About the bytes of a table that `read` yields.
    rows : Slice
        How they are read.
    state : (int, int) or None
        Size in bytes and mtime_ns of the file when it was opened; None for a table in memory.
    """

    source: str
    key: str
    schema: pa.Schema
    chunk: int
    rows: Slice
    state: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """About the bytes that its rows take in memory."""
        return self.rows.size

    @property
    def first(self) -> int:
        """Number in its source of its first row."""
        return self.rows.first

    def read(self) -> Iterator[pa.Table]:
        """Yield its rows in order, in tables of the schema's columns and at most `chunk` bytes (or one row).

        Raises
        ------
        InputError, InputNotFound
            The source cannot be read (any more), or is not what it was when it was opened.
        """
        self.check_unchanged()
        try:
            with errors_of(self.source, **({} if self.state else {"hint": _OF_MEMORY})):
                for table in self.rows.read(self.schema, self.chunk):
                    yield from pieces(conformed(table, self.schema, self.source), self.chunk)
        except InputError:
            self.check_unchanged()  # what cannot be read may be half of two files
            raise
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise InputError if its file is not what it was when it was opened."""
        if self.state is not None:
            _check_state(Path(self.source), self.state)


@dataclass(frozen=True)
class Sources:
    """What several sources hold.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of all of them; unit, ucd and description in the fields' metadata.
    parts : tuple of Part
        All rows, in the order of the sources.
    records : list of dict
        For JSON, of each source: path, size and mtime_ns of a file, number, rows and digest of a table in memory.
    """

    schema: pa.Schema
    parts: tuple[Part, ...]
    records: list[dict[str, Any]]

    @property
    def size(self) -> int:
        """About the bytes that all rows take in memory."""
        return sum(part.size for part in self.parts)

    def check_unchanged(self) -> None:
        """Raise InputError if a file is not what it was when it was opened, InputNotFound if it is gone."""
        for record in self.records:
            if state := _state_in(record):
                _check_state(Path(record["path"]), state)


def _state_in(record: dict[str, Any]) -> tuple[int, int] | None:
    """Return the size and mtime_ns of a file, None for a table in memory."""
    return (record["size"], record["mtime_ns"]) if "path" in record else None


def _check_state(path: Path, state: tuple[int, int]) -> None:
    with errors_of(path):
        now = path.stat()
    if (now.st_size, now.st_mtime_ns) != state:
        raise InputError(
            f"{path} changed while it was read",
            found=f"{now.st_size:,} bytes now, {state[0]:,} at first, and another time of change",
            hint="run it again when the file is complete, or ingest a copy of it",
        )


def open_sources(sources: Source | Iterable[Source], *, chunk: int) -> Sources:
    """Find out what sources hold, without keeping their rows.

    Parameters
    ----------
    sources : path, pattern, folder, pyarrow.Table, pandas.DataFrame, astropy Table, or any number of these
        Files are Parquet, CSV, TSV or ECSV (also .gz and .zst), FITS or VOTable (also .gz) or Arrow; a folder stands
        for all such files in it, a FITS file or VOTable for its first table. Text is read through once for its types.
        A path may be written as file:///path.
    chunk : int
        About how many bytes of memory a part of the rows may take.

    Raises
    ------
    InputNotFound
        If a path names no file of a known kind.
    InputError
        If a file cannot be read or is given twice, or the sources have different columns or units.
    ArgumentError
        If a source is none of the above.
    """
    names: list[str] = []
    opened: list[Opened] = []
    records: list[dict[str, Any]] = []
    seen: dict[Path, Path] = {}
    for source in _listed(sources):
        for name, each, record in _open_source(source, len(opened) + 1, chunk, seen):
            names.append(name)
            opened.append(each)
            records.append(record)
    if not opened:
        raise InputNotFound("no source to ingest", hint="one or more files, or a pyarrow.Table")
    schema = _unified(names, opened)
    parts = (
        Part(name, f"{number} {name}: {rows.label}", schema, chunk, rows, _state_in(record))
        for number, (name, each, record) in enumerate(zip(names, opened, records, strict=True), 1)
        for rows in each.slices
    )
    return Sources(schema, tuple(parts), records)


def _is_source(source: object) -> bool:
    return isinstance(source, str | os.PathLike) or is_table(source)


def _listed(sources: Any) -> list[Any]:
    if _is_source(sources):
        return [sources]
    # what looks like a table is iterable too, over names or rows
    listed = [] if hasattr(sources, "columns") or isinstance(sources, Mapping) else sources
    listed = list(listed) if isinstance(listed, Iterable) else []
    strange = [item for item in listed if not _is_source(item)]
    if strange or (not listed and not isinstance(sources, list | tuple)):
        raise ArgumentError(
            "sources are files, folders, patterns or tables of pyarrow, pandas or astropy",
            found=type(strange[0] if strange else sources).__name__,
            hint="pyarrow.table(...) makes a table of many things",
        )
    return listed


def _open_source(
    source: Any, number: int, chunk: int, seen: dict[Path, Path]
) -> Iterator[tuple[str, Opened, dict[str, Any]]]:
    """Yield name, content and record of every file or table that a source stands for; note the files in `seen`."""
    if is_table(source):
        name = f"table {number} in memory"
        with errors_of(name, hint=_OF_MEMORY):
            opened, record = open_table(source, name, chunk)
        yield name, opened, {"table": number, **record}
        return
    for path in _expand(source):
        reader = _reader(path)
        if reader is None:
            raise InputError(f"{path} is no table of a known kind", hint=f"files ending in {_KINDS}")
        _check_once(path, seen)
        with errors_of(path):
            state = path.stat()
            opened = reader(path, chunk)
        yield str(path), opened, {"path": str(path), "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def _check_once(path: Path, seen: dict[Path, Path]) -> None:
    """Refuse a file that is given twice, under another name too: its rows would count twice."""
    real = path.resolve()
    if real in seen:
        raise InputError(
            f"{path} is given twice", found=f"as {seen[real]} too", hint="leave one of them away: its rows would double"
        )
    seen[real] = path


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return the local path that a source names, as a path or as file:///path.

    Raises
    ------
    InputNotFound
        If it is a URL.
    """
    text = os.fspath(source)
    url = urlsplit(text) if text.startswith("file://") else None
    if url is not None and url.netloc in ("", "localhost"):
        return Path(unquote(url.path))
    if "://" in text:
        raise InputNotFound(f"{text} is not a local file", hint="copy the files to a local disk first")
    return Path(text).expanduser()


def _expand(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a path, pattern or folder stands for, sorted; absolute, since workers read them."""
    path = local_path(source).absolute()
    if path.is_file():
        return [path]
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
    visible = (file for file in candidates if not file.name.startswith("."))
    found = sorted(file for file in visible if _reader(file) is not None and file.is_file())
    if not found:
        kind = "folder without tables" if path.is_dir() else "no such file"
        raise InputNotFound(f"nothing to ingest at {path}", found=kind, hint=f"files ending in {_KINDS}")
    return found


def _reader(path: Path) -> Callable[[Path, int], Opened] | None:
    name = path.name.lower()
    return next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)


def _unified(names: list[str], opened: list[Opened]) -> pa.Schema:
    """Return the columns of all sources, in the order of the first; refuse other columns, units and types."""
    first = opened[0].schema
    for name, each in zip(names, opened, strict=True):
        if different := sorted(set(each.schema.names) ^ set(first.names)):
            raise InputError(
                f"{name} has other columns than {names[0]}", found=", ".join(different[:5]), hint="ingest them apart"
            )
    return pa.schema([_unified_field(column, names, opened) for column in first.names])


def _unified_field(column: str, names: list[str], opened: list[Opened]) -> pa.Field:
    fields = [each.schema.field(column) for each in opened]
    metadata: dict[bytes, bytes] = {}
    stated = ""
    for name, field in zip(names, fields, strict=True):
        unit = unit_of(field)
        if unit and metadata.get(b"unit") and not is_same_unit(unit, metadata[b"unit"].decode(errors="replace")):
            raise InputError(
                f"{name} has another unit than {stated} in {column!r}",
                found=f"{unit} and {metadata[b'unit'].decode(errors='replace')}",
                hint="ingest them apart",
            )
        stated = stated or (name if unit else "")
        metadata = {**(field.metadata or {}), **metadata}
    return pa.field(column, _unified_type(column, names, opened), metadata=metadata)


def is_same_unit(first: str, second: str) -> bool:
    """Return whether two texts mean the same unit, such as km/s and km s-1."""
    if first == second or (is_degrees(first) and is_degrees(second)):
        return True
    from astropy.units import Unit

    return bool(Unit(first, parse_strict="silent") == Unit(second, parse_strict="silent"))


def _unified_type(column: str, names: list[str], opened: list[Opened]) -> pa.DataType:
    """Return the type of a column in all sources: of text what the others have, if it can be read so."""
    stated: pa.DataType = pa.null()
    where = ""
    texts = []
    for name, each in zip(names, opened, strict=True):
        if isinstance(each, OpenedText):
            texts.append((name, each.readings[column]))
        else:
            stated, where = _merged(column, (where, stated), (name, each.schema.field(column).type)), where or name
    if pa.types.is_string(stated) or pa.types.is_large_string(stated):
        return stated
    reading = merged(each for _, each in texts)
    name = next((name for name, each in texts if each.kind == reading.kind), names[0])
    kind = _merged(column, (where, stated), (name, reading.kind))
    check_exact(column, kind, reading, where)
    return kind


def _merged(column: str, first: tuple[str, pa.DataType], second: tuple[str, pa.DataType]) -> pa.DataType:
    kind = common_type(first[1], second[1])
    if kind is None:
        raise InputError(
            f"{second[0]} and {first[0]} have types that do not fit together in {column!r}",
            found=f"{second[1]} and {first[1]}",
            hint="ingest them apart, or convert one",
        )
    return kind

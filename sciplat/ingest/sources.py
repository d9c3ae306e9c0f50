"""Foreign tables, from files or from memory, as one Arrow table."""

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from sciplat.errors import InputError, InputNotFound

Source: TypeAlias = str | os.PathLike[str] | pa.Table


def read_sources(sources: Source | Sequence[Source]) -> pa.Table:
    """Return the rows of all sources, one after the other.

    Parameters
    ----------
    sources : path, pattern, folder, pyarrow.Table, or a list of these
        Files end in .parquet, .csv, .tsv (also .gz), .fits, .fit (also .gz); a folder stands for all such files in it.

    Raises
    ------
    InputNotFound
        If a path names no file of a known kind.
    InputError
        If a file cannot be read, or the files have different columns.
    """
    listed = [sources] if isinstance(sources, str | os.PathLike | pa.Table) else list(sources)
    tables: list[tuple[str, pa.Table]] = []
    for source in listed:
        if isinstance(source, pa.Table):
            tables.append(("the table in memory", source))
        else:
            tables.extend((str(path), _read_file(path)) for path in _expand(source))
    if not tables:
        raise InputNotFound("no source to ingest", hint="one or more files, or a pyarrow.Table")
    first_name, first = tables[0]
    for name, table in tables[1:]:
        if table.schema.names != first.schema.names:
            different = sorted(set(table.schema.names) ^ set(first.schema.names)) or ["their order"]
            raise InputError(
                f"{name} has other columns than {first_name}", found=", ".join(different[:5]), hint="ingest them apart"
            )
    try:
        return pa.concat_tables([table for _, table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError("the files' columns have types that do not fit together", found=str(error)) from None


def _expand(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a path, pattern or folder stands for, sorted."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    candidates = path.iterdir() if path.is_dir() else (Path(name) for name in glob.glob(str(path)))  # noqa: PTH207
    found = sorted(file for file in candidates if _reader(file) is not None)
    if not found:
        kind = "folder without tables" if path.is_dir() else "no such file"
        raise InputNotFound(f"nothing to ingest at {path}", found=kind, hint=f"files ending in {', '.join(_READERS)}")
    return found


def _read_file(path: Path) -> pa.Table:
    reader = _reader(path)
    if reader is None:
        raise InputError(f"{path} is no table of a known kind", hint=f"files ending in {', '.join(_READERS)}")
    try:
        return reader(path)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read", found=str(error).strip().split("\n")[0], hint="is the file complete?"
        ) from None


def _reader(path: Path) -> Callable[[Path], pa.Table] | None:
    name = path.name.lower().removesuffix(".gz")
    return next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read()


def _read_csv(path: Path) -> pa.Table:
    from pyarrow import csv

    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter))


def _read_fits(path: Path) -> pa.Table:
    from astropy.table import Table

    table = Table.read(path, format="fits")
    arrays, fields = [], []
    for name in table.colnames:
        column = table[name]
        if column.ndim > 1:
            raise InputError(f"the column {name!r} of {path} holds arrays", hint="remove it")
        # FITS is big-endian, Arrow native; bytes become text
        values = column.astype(str) if column.dtype.kind == "S" else column.astype(column.dtype.newbyteorder("="))
        mask = getattr(values, "mask", None)
        array = pa.array(values.tolist()) if values.dtype.kind == "U" else pa.array(values.data.data, mask=mask)
        about = {"unit": str(column.unit or ""), "description": column.description or ""}
        fields.append(pa.field(name, array.type, metadata={key: text for key, text in about.items() if text}))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".fits": _read_fits,
    ".fit": _read_fits,
}

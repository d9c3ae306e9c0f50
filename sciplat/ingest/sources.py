"""Foreign tables, from files or from memory, as one Arrow table."""

import glob
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError, InputError, InputNotFound
from sciplat.ingest.fits_file import read_hdus

Source: TypeAlias = str | os.PathLike[str] | pa.Table


def read_sources(sources: Source | Iterable[Source]) -> pa.Table:
    """Return the rows of all sources, one after the other.

    Parameters
    ----------
    sources : path, pattern, folder, pyarrow.Table, or any number of these
        Files end in .parquet, .csv, .tsv, .fits, .fit (all but Parquet also .gz); a folder stands for all such files in
        it, a FITS file for its first table.

    Raises
    ------
    InputNotFound
        If a path names no file of a known kind.
    InputError
        If a file cannot be read, or the files have different columns or units.
    ArgumentError
        If a source is neither a path nor a pyarrow.Table.
    """
    tables: list[tuple[str, pa.Table]] = []
    for source in _listed(sources):
        if isinstance(source, pa.Table):
            tables.append((f"table {len(tables) + 1} in memory", source))
        else:
            tables.extend((str(path), _read_file(path)) for path in _expand(source))
    if not tables:
        raise InputNotFound("no source to ingest", hint="one or more files, or a pyarrow.Table")
    for name, table in tables:
        _check_unique(name, table)
    # the same columns in another order are the same columns
    fitting = [_fitted(table, name, *tables[0]) for name, table in tables]
    try:
        return pa.concat_tables(fitting, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError("the files' columns have types that do not fit together", found=_one_line(error)) from None


def _listed(sources: Any) -> list[Any]:
    if isinstance(sources, str | os.PathLike | pa.Table):
        return [sources]
    # a DataFrame or astropy Table is iterable too, over names or rows
    listed = [] if hasattr(sources, "columns") or isinstance(sources, Mapping) else sources
    listed = list(listed) if isinstance(listed, Iterable) else []
    strange = [item for item in listed if not isinstance(item, str | os.PathLike | pa.Table)]
    if strange or (not listed and not isinstance(sources, list | tuple)):
        raise ArgumentError(
            "sources are files, folders, patterns or pyarrow tables",
            found=type(strange[0] if strange else sources).__name__,
            hint="a DataFrame: pyarrow.Table.from_pandas(frame)",
        )
    return listed


def _check_unique(name: str, table: pa.Table) -> None:
    if twice := [column for column, count in Counter(table.schema.names).items() if count > 1]:
        raise InputError(f"{name} has two columns called {twice[0]!r}", hint="rename one of them")


def _fitted(table: pa.Table, name: str, first_name: str, first: pa.Table) -> pa.Table:
    """Return a table with its columns in the order of the first; refuse other columns and other units."""
    if different := sorted(set(table.schema.names) ^ set(first.schema.names)):
        raise InputError(
            f"{name} has other columns than {first_name}", found=", ".join(different[:5]), hint="ingest them apart"
        )
    for column in first.schema:
        units = unit_of(column), unit_of(table.schema.field(column.name))
        if all(units) and units[0] != units[1]:
            raise InputError(
                f"{name} has another unit than {first_name} in {column.name!r}",
                found=f"{units[1]} and {units[0]}",
                hint="ingest them apart",
            )
    return table.select(first.schema.names)


def unit_of(column: pa.Field) -> str:
    """Return the unit that a column's metadata states, empty if it states none."""
    return str((column.metadata or {}).get(b"unit", b"").decode(errors="replace")).strip()


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return the local path that a source names.

    Raises
    ------
    InputNotFound
        If it is a URL.
    """
    text = os.fspath(source)
    if "://" in text:
        raise InputNotFound(f"{text} is not a local file", hint="copy the files to a local disk first")
    return Path(text).expanduser()


def _expand(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a path, pattern or folder stands for, sorted."""
    path = local_path(source)
    if path.is_file():
        return [path]
    candidates = path.iterdir() if path.is_dir() else (Path(name) for name in glob.glob(str(path)))  # noqa: PTH207
    visible = (file for file in candidates if not file.name.startswith("."))
    found = sorted(file for file in visible if _reader(file) is not None and file.is_file())
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
    except InputError:
        raise
    except Exception as error:  # a broken file makes its parser raise anything
        raise InputError(f"{path} cannot be read", found=_one_line(error), hint="is the file complete?") from error


def _reader(path: Path) -> Callable[[Path], pa.Table] | None:
    name = path.name.lower()
    packed = name.endswith(".gz")
    name = name.removesuffix(".gz")
    suffixes = (suffix for suffix in _READERS if name.endswith(suffix) and not (packed and suffix == ".parquet"))
    return next((_READERS[suffix] for suffix in suffixes), None)


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
    from astropy.utils.exceptions import AstropyWarning

    # before astropy allocates what a header asks for: the file is whole
    kinds = {hdu.index: str(hdu.header.get("XTENSION", "")).strip() for hdu in read_hdus(path) if not hdu.compressed}
    index = next((index for index, kind in kinds.items() if kind in ("BINTABLE", "TABLE")), None)
    if index is None:
        raise InputError(f"{path} holds no table", found=f"{len(kinds)} HDUs without one", hint="sciplat ingest images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # of units outside the FITS standard: they are only copied
        table = Table.read(path, format="fits", hdu=index)
    arrays = [_arrow(path, table[name]) for name in table.colnames]
    fields = []
    for name, array in zip(table.colnames, arrays, strict=True):
        about = {"unit": str(table[name].unit or ""), "description": table[name].description or ""}
        metadata = {key: text for key, text in about.items() if text}
        fields.append(pa.field(name, array.type, metadata=metadata))
    return pa.table(arrays, schema=pa.schema(fields))


def _arrow(path: Path, column: Any) -> pa.Array:
    """Return a FITS column: native byte order, text for bytes, lists for arrays, null where it is masked."""
    if column.dtype.kind == "c":
        raise InputError(f"the column {column.name!r} of {path} holds complex numbers", hint="remove it")
    if column.dtype.kind == "O":
        return pa.array([np.asarray(value).tolist() for value in column])
    if column.ndim > 1:
        flat = _arrow(path, column.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape[1:])))
    if column.dtype.kind in "SU":
        return pa.array(column.astype(str).tolist(), pa.string())
    values = column.astype(column.dtype.newbyteorder("="))
    return pa.array(values.data.data, mask=getattr(values, "mask", None))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".fits": _read_fits,
    ".fit": _read_fits,
}

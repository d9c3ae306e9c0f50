"""Tables in memory: of pyarrow, pandas or astropy; a slice travels with its rows."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sciplat.errors import InputError
from sciplat.ingest.readers.astropy_table import arrow_of_astropy
from sciplat.ingest.readers.columns import conformed, pieces, plain_schema
from sciplat.ingest.readers.reader import Opened, one_line
from sciplat.steps.digest import table_digest


@dataclass(frozen=True)
class Held:
    """Rows that are in memory."""

    table: pa.Table = field(hash=False)
    first: int
    size: int
    digest: str

    @property
    def label(self) -> str:
        """Which rows of which content."""
        return f"{self.digest}, rows {self.first} to {self.first + self.table.num_rows - 1}"

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order."""
        del schema, chunk
        yield self.table

    def __reduce__(self) -> tuple[Callable[..., "Held"], tuple[Any, ...]]:
        """Travel without what the slice was cut from, which a pickled Arrow array would take along."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return _unpickled, (sink.getvalue().to_pybytes(), self.first, self.size, self.digest)


def _unpickled(rows: bytes, first: int, size: int, digest: str) -> Held:
    return Held(pa.ipc.open_stream(rows).read_all(), first, size, digest)


def is_table(source: object) -> bool:
    """Return whether something is a table in memory that can be read."""
    return isinstance(source, pa.Table) or _is_a(source, "pandas", "DataFrame") or _is_astropy(source)


def _is_a(source: object, module: str, name: str) -> bool:
    """Return whether something is of a class, without importing its library: the user has, if it is."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(source, kind)


def _is_astropy(source: object) -> bool:
    return _is_a(source, "astropy.table", "Table")


def open_table(source: Any, name: str, chunk: int) -> tuple[Opened, dict[str, Any]]:
    """Return a table in memory as a source, with its number of rows and the digest of its content."""
    if isinstance(source, pa.Table):
        table = source
    else:
        table = arrow_of_astropy(source, name) if _is_astropy(source) else _arrow_of_pandas(source, name)
    schema = plain_schema(table.schema, name)
    table = conformed(table, schema, name)
    digest = table_digest(table)
    slices: list[Held] = []
    first = 0
    for piece in pieces(table, chunk):
        slices.append(Held(piece, first, int(piece.nbytes), digest))
        first += piece.num_rows
    return Opened(schema, tuple(slices)), {"rows": table.num_rows, "digest": digest}


def _arrow_of_pandas(frame: Any, name: str) -> pa.Table:
    """Return a DataFrame; its index becomes columns where it has names."""
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{name} has two columns called {twice!r}", hint="rename one of them")
    unnamed = [level for level, label in enumerate(frame.index.names) if label is None]
    keeps_index = len(unnamed) < frame.index.nlevels
    plain = frame.reset_index(level=unnamed, drop=True) if keeps_index else frame
    try:
        return pa.Table.from_pandas(plain, preserve_index=keeps_index)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        _refuse_column(frame, name)
        raise InputError(f"{name} has an index that no catalog can hold", found=one_line(error)) from None


def _refuse_column(frame: Any, name: str) -> None:
    """Raise what is wrong with the first column that Arrow cannot hold."""
    for label in frame.columns:
        try:
            pa.Table.from_pandas(frame[[label]], preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"the column {label!r} of {name} has values that no catalog can hold",
                found=f"{frame[label].dtype}: {one_line(error)}",
                hint="convert it to numbers, text or times, or remove it",
            ) from None

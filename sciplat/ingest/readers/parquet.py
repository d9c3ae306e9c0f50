"""Parquet files: a slice is a run of row groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.ingest.readers.columns import conformed, plain_schema
from sciplat.ingest.readers.reader import Opened

_BUFFER = 1 << 16  # bytes per column: without it a whole column of a row group is read at once
_PROBE = 1000  # rows of which the width is measured


@dataclass(frozen=True)
class RowGroups:
    """The row groups `start` to before `end` of a file; a row takes about `width` bytes in memory."""

    path: str
    start: int
    end: int
    first: int
    size: int
    width: int

    @property
    def label(self) -> str:
        """Which row groups."""
        return f"row groups {self.start} to {self.end - 1}"

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order."""
        del schema
        with pq.ParquetFile(self.path, buffer_size=_BUFFER, page_checksum_verification=True) as file:
            rows = max(1, chunk // self.width)
            for batch in file.iter_batches(rows, row_groups=range(self.start, self.end)):
                yield pa.Table.from_batches([batch])


def open_parquet(path: Path, chunk: int) -> Opened:
    """Read the footer of a Parquet file, and a few rows to see how wide they are."""
    with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
        schema = plain_schema(file.schema_arrow, str(path))
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        width = _width(file, schema, str(path))
    slices: list[RowGroups] = []
    start = first = rows = size = 0
    for number, group in enumerate(groups):
        more = max(group.total_byte_size, group.num_rows * width)
        if rows and size + more > chunk:
            slices.append(RowGroups(str(path), start, number, first, size, max(1, size // rows)))
            start, first, rows, size = number, first + rows, 0, 0
        rows, size = rows + group.num_rows, size + more
    if rows:
        slices.append(RowGroups(str(path), start, len(groups), first, size, max(1, size // rows)))
    return Opened(schema, tuple(slices))


def _width(file: pq.ParquetFile, schema: pa.Schema, name: str) -> int:
    """Return the bytes of a row in memory: a dictionary's values take much less in the file."""
    if file.metadata.num_rows == 0 or not schema.names:
        return 1
    probe = conformed(pa.Table.from_batches([next(file.iter_batches(_PROBE))]), schema, name)
    return 1 + int(probe.nbytes) // max(1, int(probe.num_rows))

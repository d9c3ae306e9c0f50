"""Arrow IPC files, of the file and of the stream format: a slice is a run of record batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sciplat.errors import InputError
from sciplat.ingest.readers.columns import plain_schema
from sciplat.ingest.readers.reader import Opened

_MAGIC = b"ARROW1"


@dataclass(frozen=True)
class Batches:
    """The record batches `start` to before `end` of a file."""

    path: str
    start: int
    end: int
    first: int
    size: int

    @property
    def label(self) -> str:
        """Which record batches."""
        return f"batches {self.start} to {self.end - 1}"

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order."""
        del schema, chunk
        with pa.memory_map(self.path) as file:
            is_stream = _is_stream(Path(self.path))
            for batch in pa.ipc.open_stream(file) if is_stream else _batches(file, self.start, self.end):
                batch.validate(full=True)  # offsets beyond the values would end the process
                yield pa.Table.from_batches([batch])


def open_arrow(path: Path, chunk: int) -> Opened:
    """Read the schema of an Arrow file, and how many rows its batches have."""
    with pa.memory_map(str(path)) as file:
        if _is_stream(path):
            reader = pa.ipc.open_stream(file)
            schema = plain_schema(reader.schema, str(path))
            counts = [(batch.num_rows, batch.nbytes) for batch in reader]
            rows, size = (sum(column) for column in zip((0, 0), *counts, strict=True))
            return Opened(schema, (Batches(str(path), 0, len(counts), 0, size),) if rows else ())
        reader = pa.ipc.open_file(file)
        schema = plain_schema(reader.schema, str(path))
        return Opened(schema, tuple(_slices(path, file, chunk)))


def _is_stream(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start[:4] == b"FEA1":
        raise InputError(f"{path} is Feather of version 1", hint="write it once more, as version 2 or as Parquet")
    return start != _MAGIC


def _batches(file: pa.NativeFile, start: int, end: int) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(file)
    for number in range(start, end):
        yield reader.get_batch(number)


def _slices(path: Path, file: pa.NativeFile, chunk: int) -> Iterator[Batches]:
    reader = pa.ipc.open_file(file)
    if reader.num_record_batches == 0:
        return
    head = reader.get_batch(0)
    width = 1 + head.nbytes // max(1, head.num_rows)
    # one column tells the number of rows; a compressed batch would be unpacked as a whole
    brief = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[0]))
    start = first = rows = 0
    for number in range(reader.num_record_batches):
        more = brief.get_batch(number).num_rows
        if rows and (rows + more) * width > chunk:
            yield Batches(str(path), start, number, first, rows * width)
            start, first, rows = number, first + rows, 0
        rows += more
    if rows:
        yield Batches(str(path), start, reader.num_record_batches, first, rows * width)

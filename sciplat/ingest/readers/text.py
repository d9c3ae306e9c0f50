"""CSV, TSV and ECSV: text read block by block, the types of its columns known from all of it.

A first pass infers the types, counts the rows and keeps nothing; it also finds whatever cannot be read. A slice is a
range of bytes between two line ends. Values hold no line breaks, and what quotes them must be closed in its line:
otherwise the rows would depend on where the blocks end.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from sciplat.config import settings
from sciplat.ingest.readers.columns import plain_schema
from sciplat.ingest.readers.ecsv import decoded
from sciplat.ingest.readers.reader import Opened, about, is_packed, open_bytes
from sciplat.ingest.readers.text_header import Layout, read_layout
from sciplat.ingest.readers.text_lines import END, blocks, parsed
from sciplat.ingest.readers.text_types import NOTHING, Block, OpenedText, Reading, merged, readings_of

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lines:
    """The lines of a file from one offset to before another, of the unpacked text."""

    layout: Layout
    start: int
    end: int
    first: int
    size: int

    @property
    def label(self) -> str:
        """Which bytes."""
        return f"bytes {self.start} to {self.end - 1}"

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order, as the types of `schema` wherever text can be read as these."""
        types = {field.name: field.type for field in schema if _is_readable(field.type)}
        if self.layout.declared:
            types = self.layout.declared.text_types()
        with open_bytes(Path(self.layout.path)) as file:
            for block in blocks(file, self.layout.path, self.start, self.end, chunk):
                table = parsed(self.layout, block, types, None)
                yield decoded(table, self.layout.declared) if self.layout.declared else table


@dataclass(frozen=True)
class _Counted:
    """What the first pass finds in a block: its rows, their bytes in memory, and as what they can be read."""

    block: Block
    rows: int
    size: int
    readings: dict[str, Reading]


def open_text(path: Path, chunk: int) -> Opened:
    """Read a text file once: the types of its columns, and where its rows are."""
    with open_bytes(path) as file:
        layout = read_layout(path, file)
    plain_schema(pa.schema([(name, pa.null()) for name in layout.names]), str(path))  # no name twice
    readings = dict.fromkeys(layout.names, NOTHING)
    slices: list[Lines] = []
    rows = size = first = 0
    start = end = layout.start
    for found in _in_order(_counted, _located(layout, chunk)):
        readings = {name: merged((known, found.readings.get(name, NOTHING))) for name, known in readings.items()}
        if rows and size + found.size > chunk and not is_packed(path):
            slices.append(Lines(layout, start, end, first, size))
            start, first, rows, size = end, first + rows, 0, 0
        end = found.block.start + found.block.size
        rows, size = rows + found.rows, size + found.size
    if rows:
        slices.append(Lines(layout, start, end, first, size))
    if layout.declared:
        return Opened(plain_schema(layout.declared.schema, str(path)), tuple(slices))
    units = layout.units or ("",) * len(layout.names)
    fields = [
        pa.field(name, reading.kind, metadata=about(unit=unit))
        for (name, reading), unit in zip(readings.items(), units, strict=False)
    ]
    return OpenedText(plain_schema(pa.schema(fields), str(path)), tuple(slices), readings)


def _located(layout: Layout, chunk: int) -> Iterator[tuple[Block, bytes]]:
    """Yield the text of all rows, block by block, and where it is."""
    start, line = layout.start, layout.lines
    with open_bytes(Path(layout.path)) as file:
        for text in blocks(file, layout.path, start, END, chunk):
            yield Block(layout, start, len(text), line), text
            start, line = start + len(text), line + text.count(b"\n")


def _counted(located: tuple[Block, bytes]) -> _Counted:
    block, text = located
    declared = block.layout.declared
    table = parsed(block.layout, text, declared.text_types() if declared else {}, block.line)
    if declared:
        table = decoded(table, declared)
    readings = {} if declared else readings_of(table, text, block)
    return _Counted(block, table.num_rows, table.nbytes, readings)


def _in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply a function to items on threads, a few ahead; the first error in their order is raised."""
    threads = settings().threads
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _is_readable(kind: pa.DataType) -> bool:
    """Return whether text can be read as a type."""
    return not (pa.types.is_null(kind) or pa.types.is_nested(kind) or pa.types.is_float16(kind))

"""CSV, TSV and ECSV: text read block by block, the types of its columns known from all of it.

A first pass infers the types, counts the rows and keeps nothing; it also finds whatever cannot be read. A slice is a
range of bytes between two line ends. Values hold no line breaks, and what quotes them must be closed in its line:
otherwise the rows would depend on where the blocks end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from sciplat.errors import InputError
from sciplat.ingest.readers.columns import plain_schema
from sciplat.ingest.readers.ecsv import Declared, decoded, read_header
from sciplat.ingest.readers.reader import Opened, go_to, is_packed, open_bytes, printable

_SMALLEST, _LARGEST = 1 << 10, 1 << 22  # bytes of text that are parsed at once
_LONGEST = 1 << 26  # bytes of a line
_END = 1 << 62
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]  # 0 and 1 are numbers
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_BEYOND_INT64 = 2.0**63


@dataclass(frozen=True)
class Layout:
    """How the lines of a file become columns.

    Parameters
    ----------
    path : str
    names : tuple of str
    delimiter : str
    declared : Declared or None
        What the header of an ECSV file says of its columns.
    start : int
        Offset of the first row.
    lines : int
        Lines before the first row.
    """

    path: str
    names: tuple[str, ...]
    delimiter: str
    declared: Declared | None
    start: int
    lines: int


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
            for block in _blocks(file, self.layout.path, self.start, self.end, chunk):
                table = _parsed(self.layout, block, types, None)
                yield decoded(table, self.layout.declared) if self.layout.declared else table


def open_text(path: Path, chunk: int) -> Opened:
    """Read a text file once: the types of its columns, and where its rows are."""
    with open_bytes(path) as file:
        layout = _read_layout(path, file)
    plain_schema(pa.schema([(name, pa.null()) for name in layout.names]), str(path))  # no name twice
    types: dict[str, pa.DataType] = dict.fromkeys(layout.names, pa.null())
    slices: list[Lines] = []
    position, line, rows, size = layout.start, layout.lines, 0, 0
    start, first = position, 0
    with open_bytes(path) as file:
        for block in _blocks(file, str(path), position, _END, chunk):
            table = _parsed(layout, block, layout.declared.text_types() if layout.declared else {}, line)
            if layout.declared:
                table = decoded(table, layout.declared)
            else:
                types = {name: _promoted(types[name], _inferred(layout, table, name, block)) for name in types}
            if rows and size + table.nbytes > chunk and not is_packed(path):
                slices.append(Lines(layout, start, position, first, size))
                start, first, rows, size = position, first + rows, 0, 0
            position, line = position + len(block), line + block.count(b"\n")
            rows, size = rows + table.num_rows, size + table.nbytes
    if rows:
        slices.append(Lines(layout, start, position, first, size))
    schema = layout.declared.schema if layout.declared else pa.schema(list(types.items()))
    return Opened(plain_schema(schema, str(path)), tuple(slices), text=layout.declared is None)


def _read_layout(path: Path, file: BinaryIO) -> Layout:
    """Read the header, which is the first line that is not empty."""
    comments, lines, start = [], 0, 0
    while line := file.readline(_LONGEST):
        lines, start = lines + 1, start + len(line)
        is_comment = line.startswith(b"# ") and ".ecsv" in path.name.lower()
        if not is_comment and line.strip():
            break
        comments.append(line)
    head = line.removeprefix(b"\xef\xbb\xbf").strip()
    if not head:
        raise InputError(f"{path} cannot be read", found="an empty file", hint="is the file complete?")
    if head.lower().startswith(_PAGES):
        raise InputError(f"{path} is no table", found="a web page or XML", hint="what did the server answer?")
    if b"\0" in head or not _is_utf8(head):
        raise InputError(f"{path} is no text", found=printable(head[:20].decode("latin-1")), hint="UTF-8 is needed")
    if b"\r" in head or len(line) == _LONGEST:
        raise InputError(f"{path} has a header without a line end", hint="lines end with LF or CR LF")
    declared = None
    delimiter = "\t" if ".tsv" in path.name.lower() else ","
    if ".ecsv" in path.name.lower():
        declared, delimiter = read_header(path, comments)
    parse = csv.ParseOptions(delimiter=delimiter)
    names = tuple(csv.read_csv(pa.BufferReader(head + b"\n"), parse_options=parse).column_names)
    if declared and names != tuple(declared.schema.names):
        raise InputError(f"{path} is broken", found="its header declares other columns than its first line names")
    return Layout(str(path), names, delimiter, declared, start, lines)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _blocks(file: BinaryIO, path: str, start: int, end: int, chunk: int) -> Iterator[bytes]:
    """Yield the text between two offsets, in whole lines."""
    size = min(max(chunk // 2, _SMALLEST), _LARGEST)  # numbers take up to four times the bytes of their text
    go_to(file, start)
    while start < end and (block := file.read(min(size, end - start))):
        if not block.endswith(b"\n"):
            block += file.readline(_LONGEST)
        if len(block) >= size + _LONGEST:
            raise InputError(f"{path} has a line of more than {_LONGEST >> 20} MiB", hint="is it a table?")
        start += len(block)
        yield block


def _parsed(layout: Layout, block: bytes, types: Mapping[str, pa.DataType], line: int | None) -> pa.Table:
    """Parse whole lines; `line` is the number of lines before them, where it is known."""
    wrong: list[Any] = []

    def refuse(row: Any) -> str:
        wrong.append(row)
        return "error"

    lines = _count_lines(block)
    if lines == 0:
        return pa.table([pa.nulls(0, types.get(name, pa.null())) for name in layout.names], layout.names)
    text, size = block, 1 << 20
    if quoted := b'"' in block:
        # a quote that is not closed swallows what follows; a last row of nothing makes this seen at the end too
        nothing = layout.delimiter * (len(layout.names) - 1) or '""'
        text = block + (b"" if block.endswith(b"\n") else b"\n") + nothing.encode() + b"\n"
        size = len(text) + 1
    parse = csv.ParseOptions(delimiter=layout.delimiter, invalid_row_handler=refuse)
    read = csv.ReadOptions(column_names=layout.names, block_size=size)
    try:
        table = csv.read_csv(pa.BufferReader(text), read, parse, _conversion(layout, types))
    except pa.ArrowInvalid:
        if not wrong:
            raise
        raise _ragged(layout, block, wrong[0], line) from None
    if table.num_rows != lines + quoted:
        raise InputError(
            f"{layout.path} has a line break within a value, or a quote that is not closed",
            found=_place(block, line, next((k for k, row in enumerate(block.split(b"\n")) if row.count(b'"') % 2), 0)),
            hint="write such values without line breaks, for example as Parquet",
        )
    return table.slice(0, lines)


def _conversion(layout: Layout, types: Mapping[str, pa.DataType]) -> csv.ConvertOptions:
    options: dict[str, Any] = {}
    if layout.declared:  # ECSV knows one sign for what is missing; nan is a number
        options = {"null_values": [""], "strings_can_be_null": True}
    return csv.ConvertOptions(column_types=types, true_values=_TRUE, false_values=_FALSE, **options)


def _count_lines(block: bytes) -> int:
    """Return the number of lines that are not empty."""
    if b"\n\n" in block or b"\n\r\n" in block or block.startswith((b"\n", b"\r\n")):
        return sum(1 for line in block.split(b"\n") if line.rstrip(b"\r"))
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _ragged(layout: Layout, block: bytes, row: Any, line: int | None) -> InputError:
    text = str(row.text)
    at = next((k for k, each in enumerate(block.split(b"\n")) if each.rstrip(b"\r") == text.encode()), 0)
    return InputError(
        f"{layout.path} has a line of {row.actual_columns} values where the header has {row.expected_columns}",
        found=f"{_place(block, line, at)}: {printable(text[:60])}",
        hint="repair the line, or fetch the file once more",
    )


def _place(block: bytes, line: int | None, at: int) -> str:
    return f"line {line + at + 1}" if line is not None else printable(block.split(b"\n")[at][:60].decode("latin-1"))


def _inferred(layout: Layout, table: pa.Table, name: str, block: bytes) -> pa.DataType:
    """Return the type of a column of one block."""
    kind = table.schema.field(name).type
    if pa.types.is_binary(kind):
        raise InputError(f"{layout.path} holds text that is not UTF-8", found=f"in the column {name!r}", hint="iconv")
    if pa.types.is_float64(kind) and (pc.max(table[name]).as_py() or 0) >= _BEYOND_INT64:
        try:  # identifiers of 64 bits would lose digits
            return _parsed(layout, block, {name: pa.uint64()}, None).schema.field(name).type
        except pa.ArrowInvalid:
            return kind
    return kind


def _promoted(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Return the type of which both the values of `first` and of `second` can be read."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    numbers = {pa.int64(): 0, pa.uint64(): 1, pa.float64(): 2}
    times = {pa.date32(): 0, pa.timestamp("s"): 1, pa.timestamp("ns"): 2}
    zoned = {pa.timestamp("s", "UTC"): 0, pa.timestamp("ns", "UTC"): 1}
    for order in (numbers, times, zoned):
        if first in order and second in order:
            return max(first, second, key=order.__getitem__)
    return pa.string()


def promoted_text(types: list[pa.DataType]) -> pa.DataType:
    """Return the type as which the values of columns of several text files can be read."""
    kind = pa.null()
    for each in types:
        kind = _promoted(kind, each)
    return kind


def _is_readable(kind: pa.DataType) -> bool:
    """Return whether text can be read as a type."""
    return not (pa.types.is_null(kind) or pa.types.is_nested(kind) or pa.types.is_float16(kind))

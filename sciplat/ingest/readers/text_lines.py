"""Text cut into whole lines, and parsed: what cannot be is named with its line."""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from sciplat.errors import InputError
from sciplat.ingest.readers.reader import go_to, printable
from sciplat.ingest.readers.text_header import LONGEST, Layout

END = 1 << 62
_SMALLEST, _LARGEST = 1 << 10, 1 << 22  # bytes of text that are parsed at once
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]  # 0 and 1 are numbers
_MOST_PADDED = 1000


def blocks(file: BinaryIO, path: str, start: int, end: int, chunk: int) -> Iterator[bytes]:
    """Yield the text between two offsets, in whole lines.

    Raises
    ------
    InputError
        A line is too long.
    EOFError
        The text ends before `end`, unless that is `END`.
    """
    size = min(max(chunk // 2, _SMALLEST), _LARGEST)  # numbers take up to four times the bytes of their text
    go_to(file, start)
    while start < end and (block := file.read(min(size, end - start))):
        if not block.endswith(b"\n"):
            block += file.readline(LONGEST)
        if len(block) >= size + LONGEST:
            raise InputError(f"{path} has a line of more than {LONGEST >> 20} MiB", hint="is it a table?")
        start += len(block)
        yield block
    if start < end != END:
        raise EOFError("the file is shorter than it was")


def parsed(
    layout: Layout, block: bytes, types: Mapping[str, pa.DataType], line: int | None, only: list[str] | None = None
) -> pa.Table:
    """Parse whole lines.

    Parameters
    ----------
    layout : Layout
    block : bytes
    types : mapping of str to pyarrow.DataType
        Of columns whose type is not left to their values.
    line : int or None
        The number of lines before them, where it is known.
    only : list of str, optional
        The columns that are wanted; all of them without it.
    """
    wrong: list[Any] = []

    def refuse(row: Any) -> str:
        wrong.append(row)
        return "error"

    if block[:1] in (b"\r", b"\n") and not block.strip(b"\r\n"):
        return pa.table({name: pa.nulls(0, types.get(name, pa.null())) for name in only or layout.names})
    text, size = block, 1 << 20
    if quoted := b'"' in block:
        # a quote that is not closed swallows what follows; a last row of nothing makes this seen at the end too
        nothing = layout.delimiter * (len(layout.names) - 1) or '""'
        text = block + (b"" if block.endswith(b"\n") else b"\n") + nothing.encode() + b"\n"
        size = len(text) + 1
    parse = csv.ParseOptions(delimiter=layout.delimiter, invalid_row_handler=refuse)
    read = csv.ReadOptions(column_names=layout.names, block_size=size)
    try:
        table = csv.read_csv(pa.BufferReader(text), read, parse, _conversion(layout, types, only))
    except pa.ArrowInvalid:
        if not wrong:
            raise
        raise _ragged(layout, block, wrong[0], line) from None
    rows = table.num_rows - quoted
    # empty lines and line breaks within values both make less rows than lines
    if rows != block.count(b"\n") + (not block.endswith(b"\n")) and rows != _count_lines(block):
        at = next((k for k, row in enumerate(block.split(b"\n")) if row.count(b'"') % 2), 0)
        raise InputError(
            f"{layout.path} has a line break within a value, or a quote that is not closed",
            found=_place(block, line, at),
            hint="write such values without line breaks, for example as Parquet",
        )
    return _trimmed(table.slice(0, rows)) if layout.padded else table.slice(0, rows)


def _conversion(layout: Layout, types: Mapping[str, pa.DataType], only: list[str] | None) -> csv.ConvertOptions:
    options: dict[str, Any] = {}
    if layout.declared:  # ECSV knows one sign for what is missing; nan is a number
        options = {"null_values": [""], "strings_can_be_null": True}
    if layout.padded:
        blanks = [" " * count for count in range(1, min(layout.padded, _MOST_PADDED) + 1)]
        options = {"null_values": [*csv.ConvertOptions().null_values, *blanks]}
    if only:
        options["include_columns"] = only
    return csv.ConvertOptions(column_types=types, true_values=_TRUE, false_values=_FALSE, **options)


def _trimmed(table: pa.Table) -> pa.Table:
    """Return text without the blanks that fill it up."""
    columns = [pc.utf8_trim(column, " ") if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(columns, table.schema.names)


def _count_lines(block: bytes) -> int:
    """Return the number of lines that are not empty."""
    return sum(1 for line in block.split(b"\n") if line.rstrip(b"\r"))


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


def line_of_row(block: bytes, line: int, row: int) -> int:
    """Return the number of the line of a row, given the lines before its block."""
    filled = (number for number, text in enumerate(block.split(b"\n"), line + 1) if text.rstrip(b"\r"))
    return next(number for count, number in enumerate(filled) if count == row)

"""The header of a text table: comments, the line of names, and the lines of units and dashes that VizieR writes."""

import re
from csv import reader
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv

from sciplat.errors import InputError
from sciplat.ingest.readers.ecsv import Declared, read_header
from sciplat.ingest.readers.reader import printable

LONGEST = 1 << 26  # bytes of a line
_MOST_SPLIT = 1 << 17  # bytes; longer values are refused by Python's reader
_BOM = b"\xef\xbb\xbf"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "commas", " ": "spaces"}
_NUMBER = re.compile(r"\s*[+-]?\.?\d[\d.]*([eEdD][+-]?\d+)?\s*")


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
    units : tuple of str
        Of the columns; empty where no line states them.
    padded : int
        Letters to which values may be filled up with blanks; 0 where blanks are text.
    """

    path: str
    names: tuple[str, ...]
    delimiter: str
    declared: Declared | None
    start: int
    lines: int
    units: tuple[str, ...] = ()
    padded: int = 0


def read_layout(path: Path, file: BinaryIO) -> Layout:
    """Read the header, which is the first line that is neither empty nor a comment."""
    name = path.name.lower()
    comments, line, start, lines = _first_lines(path, file)
    head = line.strip()
    _check_head(path, head, comments)
    declared = None
    delimiter = "\t" if ".tsv" in name else ","
    if ".ecsv" in name or (comments and comments[0].startswith(b"# %ECSV")):
        declared, delimiter = read_header(path, comments)
    elif comments and _is_row(head, delimiter):
        head, start, lines = _commented_names(path, comments, head, delimiter), start - len(line), lines - 1
        return Layout(str(path), _names(path, head, delimiter), delimiter, None, start, lines)
    names = _names(path, head, delimiter)
    if declared:
        if names != tuple(declared.schema.names):
            raise InputError(f"{path} is broken", found="its header declares other columns than its first line names")
        return Layout(str(path), names, delimiter, declared, start, lines)
    following = [file.readline(LONGEST), file.readline(LONGEST)]
    if len(names) == 1:
        _check_delimiter(path, head, following[0], delimiter)
    units: tuple[str, ...] = ()
    padded = 0
    for number, dashes in enumerate(following):
        if padded := _width_of_dashes(dashes, len(names), delimiter):
            units = tuple(_split(following[0], delimiter)) if number else ()
            start, lines = start + sum(map(len, following[: number + 1])), lines + number + 1
            break
    return Layout(str(path), names, delimiter, None, start, lines, units, padded)


def _first_lines(path: Path, file: BinaryIO) -> tuple[list[bytes], bytes, int, int]:
    """Return the comments, the line after them, the offset behind it, and the number of lines so far."""
    comments: list[bytes] = []
    start = lines = 0
    while line := file.readline(LONGEST):
        if len(line) == LONGEST or start > LONGEST:
            raise InputError(f"{path} has a header without a line end", hint="lines end with LF or CR LF")
        lines, start = lines + 1, start + len(line)
        text = line.removeprefix(_BOM) if lines == 1 else line
        if text.strip() and not text.startswith(b"#"):
            return comments, text, start, lines
        comments.append(text)
    return comments, b"", start, lines


def _check_head(path: Path, head: bytes, comments: list[bytes]) -> None:
    if not head:
        found = "nothing but comments" if b"".join(comments).strip() else "an empty file"
        raise InputError(f"{path} cannot be read", found=found, hint="is the file complete?")
    if head.lower().startswith(_PAGES):
        raise InputError(f"{path} is no table", found="a web page or XML", hint="what did the server answer?")
    if b"\0" in head or not _is_utf8(head):
        raise InputError(f"{path} is no text", found=printable(head[:20].decode("latin-1")), hint="UTF-8 is needed")
    if b"\r" in head:
        raise InputError(f"{path} has a header without a line end", hint="lines end with LF or CR LF")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _names(path: Path, head: bytes, delimiter: str) -> tuple[str, ...]:
    try:
        table = csv.read_csv(pa.BufferReader(head + b"\n"), parse_options=csv.ParseOptions(delimiter=delimiter))
    except pa.ArrowInvalid:
        raise InputError(
            f"{path} has a header with a line break within a name, or a quote that is not closed",
            found=printable(head[:60].decode(errors="replace")),
            hint="write the names of the columns in one line",
        ) from None
    return tuple(table.column_names)


def _split(line: bytes, delimiter: str) -> list[str]:
    """Return the values of a line, none of one that is too long to be of a header."""
    if len(line) > _MOST_SPLIT:
        return []
    text = line.decode(errors="replace").rstrip("\r\n")
    if delimiter == " ":
        return text.split()
    return [item.strip() for item in next(reader([text], delimiter=delimiter), [])]


def _is_row(head: bytes, delimiter: str) -> bool:
    """Return whether a line after comments holds values: a number, or nothing, is no name."""
    return any(not item or _NUMBER.fullmatch(item) for item in _split(head, delimiter))


def _commented_names(path: Path, comments: list[bytes], row: bytes, delimiter: str) -> bytes:
    """Return the names that the last comment lists, as in "#id,ra,dec"."""
    last = next(line for line in reversed(comments) if line.strip()).lstrip(b"#").strip()
    if len(_split(last, delimiter)) != len(_split(row, delimiter)) or not _is_utf8(last):
        raise InputError(
            f"{path} has no line with the names of the columns after its comments",
            found=printable(row[:60].decode(errors="replace")),
            hint="write them in a line of their own before the first row",
        )
    return last


def _check_delimiter(path: Path, head: bytes, row: bytes, delimiter: str) -> None:
    """Refuse a single column that something else seems to separate."""
    for other, name in _DELIMITERS.items():
        columns = len(_split(head, other))
        if other == delimiter or columns == 1 or len(_split(row, other)) != columns:
            continue
        remedy = {"\t": "name it .tsv", ",": "name it .csv"}
        raise InputError(
            f"{path} has a single column; the columns seem to be separated by {name}",
            found=printable(head[:60].decode(errors="replace")),
            hint=remedy.get(other, "write it with commas between the columns, or as Parquet, FITS or ECSV"),
        )


def _width_of_dashes(line: bytes, columns: int, delimiter: str) -> int:
    """Return the longest of the dashes that underline all columns, 0 for another line."""
    items = _split(line, delimiter)
    is_rule = len(items) == columns and all(item and not item.strip("-") for item in items)
    longest = max(map(len, items), default=0)
    return longest if is_rule and longest > 1 else 0

"""What a reader of any format gives: the schema of a source, and slices of its rows to be read apart."""

import errno
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import pyarrow as pa

from sciplat.errors import InputError, InputNotFound, SciplatError

_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}


class Slice(Protocol):
    """Consecutive rows of a source, read when asked for: frozen, pickles, holds no open file."""

    @property
    def label(self) -> str:
        """Which part of its source it is."""

    @property
    def size(self) -> int:
        """About the bytes that its rows take in memory."""

    @property
    def first(self) -> int:
        """Number in its source of its first row."""

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order, in tables of about `chunk` bytes.

        The columns are those of the source, in types that can be cast to those of `schema`: where a type is a matter of
        choice, as in text, it is that of `schema`.
        """


@dataclass(frozen=True)
class Opened:
    """A source of which the schema is known and no rows are held.

    Parameters
    ----------
    schema : pyarrow.Schema
        Its columns; unit, ucd and description in the fields' metadata.
    slices : tuple of Slice
        All its rows, in order.
    """

    schema: pa.Schema
    slices: tuple[Slice, ...]


def about(**known: object) -> dict[str, str]:
    """Return the metadata of a field, of what is known of unit, ucd and description."""
    texts = {key: " ".join(str(value or "").split()) for key, value in known.items()}
    return {key: text for key, text in texts.items() if text}


@contextmanager
def errors_of(name: str | Path, hint: str = "is the file complete?") -> Iterator[None]:
    """Turn everything that a broken source makes its parser raise into one InputError that names the source."""
    try:
        yield
    except (SciplatError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOENT:
            raise InputNotFound(f"{name} is not there any more", hint="was it moved or removed?") from error
        raise InputError(f"{name} cannot be read", found=one_line(error), hint=hint) from error


def one_line(error: BaseException) -> str:
    """Return the message of a foreign error, fit to be shown."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__


def printable(text: str) -> str:
    """Return a text with a question mark for what cannot be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def is_packed(path: Path) -> bool:
    """Return whether a file is compressed as a whole, so that it is read from its start.

    Raises
    ------
    InputError
        Its name ends in .gz or .zst, and it is not compressed so.
    """
    return _packing(path) != ""


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to be read from its start, unpacked where it is compressed as a whole."""
    packing = _packing(path)
    if packing == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if packing == ".zst":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _packing(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    packing = next((suffix for suffix, magic in _MAGIC.items() if start.startswith(magic)), "")
    if path.suffix.lower() in _MAGIC and path.suffix.lower() != packing:
        raise InputError(f"{path} is not compressed as its name says", hint="is it complete? or rename it")
    return packing


def go_to(file: BinaryIO, offset: int) -> None:
    """Go from a file's start to an offset; what cannot be sought is read."""
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0:
        passed = file.read(min(offset, 1 << 20))
        if not passed:
            raise EOFError("the file is shorter than it was")
        offset -= len(passed)

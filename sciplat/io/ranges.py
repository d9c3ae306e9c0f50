"""Reading a remote object in few requests: ranges that are asked for together, and kept as long as they are needed."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_GAP = 1 << 18  # bytes between two ranges that are read along: a request takes longer than they do
_LONGEST = 1 << 26  # bytes that one request asks for, so that several run side by side
_TAIL = 1 << 16  # bytes at the end of a file of unknown layout: a Parquet footer is rarely longer

Range = tuple[int, int]  # first byte and the one after the last


class RangeReader(io.RawIOBase):
    """A seekable reader of a remote object that asks for ranges of bytes and keeps what it was given.

    Parameters
    ----------
    read_ranges : callable
        Takes half-open ranges and returns the bytes of each: fewer where the object ends before, the whole object where
        the server knows no ranges.
    size : int
        Bytes of the object.
    """

    mode = "rb"

    def __init__(self, read_ranges: Callable[[Sequence[Range]], list[bytes]], size: int) -> None:
        super().__init__()
        self._read_ranges, self._size = read_ranges, size
        self._place = 0
        self._pieces: list[tuple[int, bytes]] = []
        self._is_whole = False

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Ask for ranges that will be read, all at the same time and near ones together."""
        wanted = [each for each in ranges if self._piece(*each) is None]
        if not wanted:
            return
        merged = _merged(wanted)
        for (start, stop), data in zip(merged, self._read_ranges(merged), strict=True):
            if len(data) > stop - start:  # the server knows no ranges
                self._pieces, self._is_whole = [(0, data)], True
                return
            self._pieces.append((start, data))

    def forget(self) -> None:
        """Drop what was given, unless the server would give all of it again."""
        if not self._is_whole:
            self._pieces = []

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readall(self) -> bytes:
        """Read from the place to the end, with one question."""
        return self.read(max(self._size - self._place, 0)) or b""

    def readinto(self, buffer: Any) -> int:
        """Read from the place on, as far as `buffer` and the object go."""
        stop = min(self._place + len(buffer), self._size)
        if stop <= self._place:
            return 0
        if self._piece(self._place, stop) is None:
            # who reads the last bytes of a file reads more of its end
            near_end = self._size - self._place <= _TAIL
            self.fetch([(max(self._size - _TAIL, 0), self._size) if near_end else (self._place, stop)])
        start, data = self._piece(self._place, self._place + 1) or (0, b"")
        part = data[self._place - start : stop - start]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _piece(self, start: int, stop: int) -> tuple[int, bytes] | None:
        return next((each for each in self._pieces if each[0] <= start and stop <= each[0] + len(each[1])), None)


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges sorted, with near ones made one as long as it is not too long."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start - merged[-1][1] <= _GAP and stop - merged[-1][0] <= _LONGEST:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged

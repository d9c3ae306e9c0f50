"""Sorted pieces of an input that does not fit in memory, and records that say which parts of the input they hold.

They lie in the staging area of the ingest, as Parquet files that are checked like those of a store:

    <url>/.staging/<fingerprint>/sorted-<key>.json     a part of the input, and its pieces
                                 <id>-sorted.parquet
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from sciplat.errors import StoreCorrupt
from sciplat.io.catalog_writer import encode_parquet
from sciplat.io.publish import FileEntry, file_entry
from sciplat.io.staging import Staging
from sciplat.io.storage import sha256

_ROW_GROUP = 1 << 13  # rows at most: a cell holds a small part of a piece, and little more is to be read for it
_GROUPS, _FEWEST = 16, 1 << 10  # of a small piece, and rows of each at least
_RECORD = "sorted-"
_AT_ONCE = 16  # records that are read: object storage takes its time for each


@dataclass(frozen=True)
class SortedPart:
    """A part of the input whose rows lie in files, sorted.

    Parameters
    ----------
    key : str
        Names the part.
    skipped : int
        Rows that were left out.
    pieces : tuple of (FileEntry, (int, int))
        Each is sorted, together they hold the rows in the order of the part. With the first order-29 index of each,
        and the one after its last.
    """

    key: str
    skipped: int
    pieces: tuple[tuple[FileEntry, tuple[int, int]], ...]


@dataclass(frozen=True)
class Spill:
    """The sorted pieces of one ingest.

    Parameters
    ----------
    staging : Staging
        Of the ingest.
    """

    staging: Staging

    def write(self, table: pa.Table) -> FileEntry:
        """Write a sorted piece; it counts once the part that it belongs to is committed."""
        row_group = min(max(table.num_rows // _GROUPS, _FEWEST), _ROW_GROUP)
        data, footer = encode_parquet(table, row_group, "lz4")  # read once: half the time, little more space
        path = f"{self.staging.folder}/{uuid.uuid4().hex[:12]}-sorted.parquet"
        self.staging.storage.write(path, data)
        return replace(file_entry(path, data, rows=table.num_rows, footer=footer), memory=table.nbytes)

    def commit(self, part: SortedPart) -> None:
        """Make a part of the input done."""
        body = asdict(part)
        text = json.dumps({"sha256": _digest(body), "part": body})  # tuples become lists in both
        self.staging.storage.write(f"{self.staging.folder}/{_RECORD}{part.key}.json", text.encode())

    def forget_others(self, keys: Iterable[str]) -> None:
        """Remove what stands for other parts: with another limit of memory the input was cut into others."""
        named = {f"{_RECORD}{key}.json" for key in keys}
        for name in self.staging.storage.names(self.staging.folder):
            if name.startswith(_RECORD) and name not in named:
                part = self._read(name.removeprefix(_RECORD).removesuffix(".json"))
                for path in [f"{self.staging.folder}/{name}", *(file.path for file, _ in part.pieces)]:
                    self.staging.storage.remove(path)

    def done(self, keys: Sequence[str]) -> dict[str, SortedPart]:
        """Return those of the named parts that are done.

        Raises
        ------
        StoreCorrupt
            If a record is damaged.
        """
        present = set(self.staging.storage.names(self.staging.folder))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(self._read, [key for key in keys if f"{_RECORD}{key}.json" in present]))
        here = {f"{self.staging.folder}/{name}" for name in present}
        return {part.key: part for part in parts if here.issuperset(file.path for file, _ in part.pieces)}

    def _read(self, key: str) -> SortedPart:
        path = f"{self.staging.folder}/{_RECORD}{key}.json"
        try:
            outer = json.loads(self.staging.storage.read(path))
            body = dict(outer["part"])
            pieces = tuple((FileEntry(**file), (int(first), int(stop))) for file, (first, stop) in body.pop("pieces"))
            part = SortedPart(**body, pieces=pieces)
            if _digest(outer["part"]) != outer["sha256"] or part.key != key:
                raise ValueError("its content differs from its digest")
            if any(file.path.rpartition("/")[0] != self.staging.folder for file, _ in pieces):
                raise ValueError("it names files elsewhere")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorrupt(
                f"{path} in {self.staging.storage.url} is damaged",
                found=str(error),
                hint="remove the file: the part that it stands for is read again",
            ) from None
        return part


def _digest(body: dict[str, object]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode())

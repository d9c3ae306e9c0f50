"""Versions of a store: small manifests, created if absent, that name every file with its size and digest.

A reader pins a manifest and never sees half of a version. A writer that finds its number taken has lost against
another one and says so.
"""

import errno
import json
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sciplat.config import is_whole
from sciplat.errors import ArgumentError, ConflictError, StoreCorrupt, StoreExists, StoreNotFound
from sciplat.io.storage import LocalStorage, Storage, sha256, sync_path

FORMAT = 2  # of the manifest; a reader refuses a newer one
_AT_ONCE = 16  # files that get their names: object storage takes its time for each
_NO_PLACE = (errno.ENAMETOOLONG, errno.ELOOP)  # a name that is too long, a link to itself


@dataclass(frozen=True)
class FileEntry:
    """One file of a version.

    Parameters
    ----------
    path : str
        Relative to the store.
    size : int
        Bytes.
    sha256 : str
        Of the whole file.
    rows : int
        Rows of a Parquet file, 0 for other files.
    footer : int
        Bytes of a Parquet footer, 0 for other files.
    footer_sha256 : str
        Of the footer: it is checked before anything parses it.
    memory : int
        Bytes of the whole table once it is read, 0 if that is not known.
    places : int
        Different positions among the rows, 0 if that is not known.
    """

    path: str
    size: int
    sha256: str
    rows: int = 0
    footer: int = 0
    footer_sha256: str = ""
    memory: int = 0
    places: int = 0


@dataclass(frozen=True)
class Manifest:
    """What one version of a store consists of.

    Parameters
    ----------
    number : int
        1 for the first version.
    write_id : str
        Random name of the write that made it: keeps two writers apart.
    parent : int or None
        The version that this one follows.
    folder : str
        Folder of the version, relative to the store.
    properties : dict
        What the store says of itself (frame, columns, rows per cell...), JSON values.
    files : tuple of FileEntry
    """

    number: int
    write_id: str
    parent: int | None
    folder: str
    properties: dict[str, Any]
    files: tuple[FileEntry, ...] = field(repr=False)

    @property
    def rows(self) -> int:
        """Rows of the whole version."""
        return sum(entry.rows for entry in self.files)

    @property
    def size(self) -> int:
        """Bytes of the whole version."""
        return sum(entry.size for entry in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over path and digest of every file with rows: equal rows in equal cells, equal digest."""
        return rows_digest(self.folder, self.files)

    def to_json(self) -> bytes:
        """Return the manifest with a digest of its own text."""
        body = asdict(self) | {"format": FORMAT, "rows": self.rows}
        text = json.dumps(body, sort_keys=True)
        return json.dumps({"sha256": sha256(text.encode()), "manifest": body}, sort_keys=True, indent=1).encode()


def rows_digest(folder: str, files: Iterable[FileEntry]) -> str:
    """Return the digest of the files with rows in a version's folder, whatever the folder is called."""
    lines = sorted(f"{entry.path.removeprefix(folder)} {entry.sha256}" for entry in files if entry.rows)
    return sha256("\n".join(lines).encode())


def new_write_id() -> str:
    """Return a random name for one write."""
    return uuid.uuid4().hex[:12]


def version_folder(number: int, write_id: str) -> str:
    """Return the name of a version's folder."""
    return f"v{number}-{write_id}"


def parse_folder(name: str) -> tuple[int, str]:
    """Return the number and write id in the name of a version's folder; 0 and nothing for another name."""
    number, _, write_id = name.removeprefix("v").partition("-")
    return (int(number), write_id) if number.isdecimal() else (0, "")


def version_numbers(storage: Storage) -> list[int]:
    """Return the numbers of all published versions, ascending.

    Raises
    ------
    ArgumentError
        If no store can stand there.
    """
    try:
        names = storage.names("versions")
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise ArgumentError(
            f"{storage.url} is no place for a store", found=error.strerror or repr(error), hint="another URL"
        ) from None
    stems = (name.removesuffix(".json") for name in names)
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def read_manifest(storage: Storage, number: int | None = None) -> Manifest:
    """Return a version's manifest, the newest unless `number` is given.

    Raises
    ------
    ArgumentError
        If the number is none.
    StoreNotFound
        If there is no store or no such version.
    StoreCorrupt
        If the manifest's text is not what was written.
    """
    if number is not None and not is_whole(number):
        raise ArgumentError(f"version={number!r} is no whole number", hint="sciplat versions URL lists the versions")
    numbers = version_numbers(storage)
    if not numbers:
        raise StoreNotFound(f"there is no store at {storage.url}", hint="ingest one, or check the path")
    chosen = numbers[-1] if number is None else number
    if chosen not in numbers:
        raise StoreNotFound(f"{storage.url} has no version {chosen}", found=f"versions {numbers}")
    return parse_manifest(storage.read(f"versions/{chosen}.json"), f"{storage.url}/versions/{chosen}.json")


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest in the bytes of its file; `where` names it in errors.

    Raises
    ------
    StoreCorrupt
        If it is not what was written.
    """
    try:
        outer = json.loads(data)
        body = dict(outer["manifest"])
        if sha256(json.dumps(body, sort_keys=True).encode()) != outer["sha256"]:
            raise StoreCorrupt(f"the manifest {where} is damaged", hint="restore the file from a copy")
        version = body.pop("format")
        body.pop("rows")
        if version > FORMAT:
            raise StoreCorrupt(
                f"the store's format {version} is newer than this sciplat", found=where, hint="upgrade sciplat"
            )
        files = tuple(FileEntry(**entry) for entry in body.pop("files"))
        for entry in files:
            _check_path(entry.path)
        return Manifest(**body, files=files)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(
            f"the manifest {where} is damaged", found=repr(error), hint="restore the file from a copy"
        ) from None


def _check_path(path: str) -> None:
    """Refuse a path that leaves the store; an image store's table may name the arrays beside it."""
    parts = path.removeprefix("../").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise ValueError(f"the path {path!r}")


def check_absent(storage: Storage, leftovers: tuple[str, ...] = ("v1-", "versions")) -> None:
    """Refuse a place where something stands already.

    Parameters
    ----------
    storage : Storage
    leftovers : tuple of str
        Beginnings of names that a write which never ended may have left; they are no obstacle.

    Raises
    ------
    StoreExists
        If there is a store, a file, or a folder with other files in it.
    ArgumentError
        If nothing can be written there.
    """
    published = version_numbers(storage)
    storage.check_place()
    if published:
        raise StoreExists(
            f"a store stands already at {storage.url}",
            hint="another URL; or a new version: .write with replace=True (--replace), ingest with mode='append' "
            "(--mode append)",
        )
    if others := [name for name in storage.names("") if not name.startswith(leftovers)]:
        raise StoreExists(f"{storage.url} is not empty", found=", ".join(others[:3]), hint="another URL")


def commit(storage: Storage, manifest: Manifest) -> Manifest:
    """Make a version visible; its files are complete.

    Raises
    ------
    ConflictError
        If another writer has published a version with this number first.
    """
    later = [number for number in version_numbers(storage) if number >= manifest.number]
    # a number may be free again because its version was removed: the newest one tells that others were first
    if not later and storage.create(f"versions/{manifest.number}.json", manifest.to_json()):
        return manifest
    # an answer may have been lost on the way although the object was made: the write id tells
    winner = read_manifest(storage, min(later, default=manifest.number))
    if winner.write_id != manifest.write_id:
        raise ConflictError(
            f"version {winner.number} of {storage.url} was published by another writer",
            found=f"write {winner.write_id}, this is {manifest.write_id}",
            hint="read the new version and write again",
        )
    return winner


def link_files(storage: Storage, names: Mapping[str, str]) -> None:
    """Give many files a second name; on a local disk all names are there for good when this returns."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        deque(pool.map(storage.link, names, names.values()), maxlen=0)
    if isinstance(storage, LocalStorage):
        for folder in sorted({path.rpartition("/")[0] for path in names.values()}):
            sync_path(storage.at(folder))


def new_names(files: Iterable[FileEntry], names: Mapping[str, str]) -> tuple[FileEntry, ...]:
    """Return the entries of files under their second names."""
    return tuple(replace(file, path=names[file.path]) for file in files)


def file_entry(path: str, data: bytes | memoryview, *, rows: int = 0, footer: int = 0) -> FileEntry:
    """Return the entry of a file with this content; a Parquet `footer` ends 8 bytes before the file does."""
    size = len(data)
    tail = sha256(data[size - 8 - footer : size - 8]) if footer else ""
    return FileEntry(path, size, sha256(data), rows, footer, tail)

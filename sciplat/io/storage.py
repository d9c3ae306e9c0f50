"""Bytes at a URL: whole objects that appear complete or not at all, on local disks and on object storage.

Local files get their final name by a rename after their content has reached the disk; object storage makes an
object visible when its single PUT is complete. Temporary names begin with a dot.
"""

import contextlib
import hashlib
import os
import posixpath
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sciplat.errors import ArgumentError, StorageError, StoreExists


def sha256(data: bytes | memoryview) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class Storage(ABC):
    """A folder of objects. Paths are relative to it, with forward slashes."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The folder's absolute URL, or path on a local disk."""

    @abstractmethod
    def child(self, path: str) -> "Storage":
        """Return the folder `path` below this one."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return an object; FileNotFoundError if there is none."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the bytes of an object; FileNotFoundError if there is none."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Return a seekable reader of an object."""

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview) -> None:
        """Make or replace an object as a whole; it is on the disk when this returns."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Make an object unless there is one; return whether it was made."""

    @abstractmethod
    def link(self, source: str, target: str) -> None:
        """Give a complete object a second name, or make a copy beside it where there are no such names."""

    @abstractmethod
    def check_place(self) -> None:
        """Refuse a folder that cannot be made or written to."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder, without those that begin with a dot; empty if there is none."""

    @abstractmethod
    def files(self, path: str) -> list[str]:
        """Return the sorted paths of all objects below a folder."""

    @abstractmethod
    def remove_empty(self, path: str) -> None:
        """Remove a folder, and then those above it up to this one, as far as nothing at all is in them."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove an object or a folder with all below it; nothing happens if there is none."""


@dataclass(frozen=True)
class LocalStorage(Storage):
    """A folder on a local disk."""

    root: Path

    @property
    def url(self) -> str:
        """The absolute path."""
        return str(self.root)

    def at(self, path: str) -> Path:
        """Return the place of a file or folder."""
        return Path(os.path.normpath(self.root / path))

    def child(self, path: str) -> "LocalStorage":
        """Return the folder `path` below this one."""
        return LocalStorage(self.at(path))

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        return self.at(path).read_bytes()

    def size(self, path: str) -> int:
        """Return the bytes of a file."""
        return self.at(path).stat().st_size

    def open(self, path: str) -> BinaryIO:
        """Return a reader of a file."""
        return self.at(path).open("rb")

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write a file under a temporary name, sync it, and rename it."""
        target = self.at(path)
        with writing(str(target), len(data)):
            temporary = self._temporary(target, data)
            try:
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            sync_path(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """Give a complete file its name by a hard link, which fails if the name is taken."""
        target = self.at(path)
        with writing(str(target), len(data)):
            temporary = self._temporary(target, data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            sync_path(target.parent)
        return True

    def link(self, source: str, target: str) -> None:
        """Make a hard link; the caller syncs the folder."""
        place = self.at(target)
        with writing(str(place), 0):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.at(source), place)

    def check_place(self) -> None:
        """Look at the nearest thing on the way that exists.

        Raises
        ------
        StoreExists
            If it is a file.
        ArgumentError
            If it is a folder that nothing can be written to.
        """
        place = next(path for path in (self.root, *self.root.parents) if path.exists())
        what = f"{self.root} is no place for a store"
        if not place.is_dir():
            raise StoreExists(what, found=f"{place} is a file", hint="another URL")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ArgumentError(what, found=f"{place} cannot be written to", hint="another URL")

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder."""
        folder = self.at(path)
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))

    def files(self, path: str) -> list[str]:
        """Return the sorted paths of all files below a folder."""
        below = self.at(path).rglob("*")
        return sorted(file.relative_to(self.root).as_posix() for file in below if file.is_file())

    def remove_empty(self, path: str) -> None:
        """Remove folders that hold nothing, hidden files included."""
        folder = self.at(path)
        while folder.is_relative_to(self.root):
            with contextlib.suppress(OSError):  # not there, or not empty: then those above are not either
                folder.rmdir()
            folder = folder.parent

    def remove(self, path: str) -> None:
        """Remove a file or folder."""
        target = self.at(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    @staticmethod
    def _temporary(target: Path, data: bytes | memoryview) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # Ctrl-C as well
            temporary.unlink(missing_ok=True)
            raise
        return temporary


@dataclass(frozen=True)
class ObjectStorage(Storage):
    """A folder of any fsspec file system: s3, http (for reading), memory.

    Parameters
    ----------
    address : str
        URL with its protocol.
    options : Mapping
        Given to the file system; may hold credentials, so it is never shown.
    """

    address: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def url(self) -> str:
        """The URL."""
        return self.address

    def child(self, path: str) -> "ObjectStorage":
        """Return the folder `path` below this one."""
        protocol, _, rest = self.address.partition("://")
        return ObjectStorage(f"{protocol}://{posixpath.normpath(f'{rest}/{path}')}", self.options)

    @property
    def _system(self) -> tuple[Any, str]:
        import fsspec

        # fsspec keeps one instance for equal arguments, so this is cheap and the class stays picklable
        system, root = fsspec.core.url_to_fs(self.address, **self.options)
        return system, root.rstrip("/")

    def _locate(self, path: str) -> tuple[Any, str]:
        system, root = self._system
        return system, posixpath.normpath(f"{root}/{path}")

    def read(self, path: str) -> bytes:
        """Return an object."""
        system, full = self._locate(path)
        data: bytes = system.cat_file(full)
        return data

    def size(self, path: str) -> int:
        """Return the bytes of an object."""
        system, full = self._locate(path)
        return int(system.size(full))

    def open(self, path: str) -> BinaryIO:
        """Return a reader of an object."""
        system, full = self._locate(path)
        reader: BinaryIO = system.open(full, "rb")
        return reader

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Put an object."""
        system, full = self._locate(path)
        system.pipe_file(full, bytes(data))

    def create(self, path: str, data: bytes) -> bool:
        """Put an object on the condition that there is none."""
        system, full = self._locate(path)
        try:
            system.pipe_file(full, data, mode="create")
        except FileExistsError:
            return False
        return True

    def link(self, source: str, target: str) -> None:
        """Copy on the server's side."""
        system, full = self._locate(source)
        system.cp_file(full, self._locate(target)[1])

    def check_place(self) -> None:
        """Do nothing: object storage tells at the first write."""

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder."""
        system, full = self._locate(path)
        system.invalidate_cache(full)
        try:
            listed = system.ls(full, detail=False)
        except FileNotFoundError:
            return []
        found = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in listed}
        return sorted(name for name in found if not name.startswith("."))

    def files(self, path: str) -> list[str]:
        """Return the sorted paths of all objects below a folder."""
        system, root = self._system
        return sorted(name.removeprefix(root).strip("/") for name in system.find(f"{root}/{path}"))

    def remove_empty(self, path: str) -> None:
        """Do nothing: object storage has no folders without objects."""

    def remove(self, path: str) -> None:
        """Remove an object or all objects below a folder."""
        system, full = self._locate(path)
        if system.exists(full):
            system.rm(full, recursive=True)


def without_secrets(value: Any) -> Any:
    """Return JSON values with user, password and query taken out of every URL in their texts."""
    if isinstance(value, dict):
        return {key: without_secrets(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(each) for each in value]
    return _URL.sub(r"\1\2", value) if isinstance(value, str) else value


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/]*@)?([^\s?]*)(?:\?\S*)?")


def open_storage(url: "str | os.PathLike[str]", options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage at a path or URL; a relative path is made absolute now.

    Raises
    ------
    ArgumentError
        If the URL's protocol is unknown, or is one that chains several file systems, or the URL holds a secret: URLs
        are logged and recorded.
    """
    text = os.fspath(url)
    if not text or "\0" in text:
        raise ArgumentError(f"{text!r} is no URL", hint="a path, s3://, https:// or memory://")
    if "::" in text:
        raise ArgumentError(f"the URL {text!r} chains file systems", hint="a plain path or one protocol")
    protocol, mark, rest = text.partition("://")
    if not mark or protocol == "file":
        path = Path(rest if mark else text).expanduser()
        return LocalStorage(Path(os.path.normpath(Path.cwd() / path)))
    place, query, _ = rest.partition("?")
    user = place.partition("/")[0].rpartition("@")[0]
    if query or ":" in user or (user and not protocol.startswith("ab")):  # Azure writes container@account
        raise ArgumentError(
            f"a {protocol}:// URL that holds a password or a query is no place for a store",
            hint="credentials go into storage_options=",
        )
    import fsspec

    if protocol not in fsspec.available_protocols():
        raise ArgumentError(f"the protocol of {text!r} is unknown", hint="a path, s3://, https:// or memory://")
    if not rest.strip("/"):
        raise ArgumentError(f"the URL {text!r} names no folder", hint=f"{protocol}://bucket/store")
    return ObjectStorage(text.rstrip("/"), dict(options or {}))


@contextlib.contextmanager
def writing(path: str, size: int) -> Iterator[None]:
    """Turn the system's errors into one that names what was written and how much.

    Raises
    ------
    StorageError
        For any OSError inside.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written",
            found=f"{error.strerror or error}; {size:,} bytes",
            hint="more space, or another URL; the same command goes well then",
        ) from None


def sync_path(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

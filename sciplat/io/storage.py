"""Bytes at a URL: whole objects that appear complete or not at all, on local disks and on object storage.

Local files get their final name by a rename after their content has reached the disk; object storage makes an
object visible when its single PUT is complete. Temporary names begin with a dot.
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from sciplat.errors import ArgumentError, StorageError, StoreExists
from sciplat.io.object_storage import ObjectStorage
from sciplat.io.objects import Storage, sha256, without_secrets

__all__ = [
    "LocalStorage",
    "ObjectStorage",
    "Storage",
    "open_storage",
    "sha256",
    "sync_path",
    "without_secrets",
    "writing",
]

Result = TypeVar("Result")
_ATTEMPTS = 20
_BUSY = (errno.ENOENT, errno.ENOTEMPTY, errno.EISDIR)  # a folder that others remove too, or still write into


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

    def open(self, path: str, size: int = 0) -> BinaryIO:  # noqa: ARG002
        """Return a reader of a file."""
        return self.at(path).open("rb")

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write a file under a temporary name, sync it, and rename it."""
        target = self.at(path)
        with writing(str(target), len(data)):
            _named(target, data, lambda temporary: temporary.replace(target))

    def create(self, path: str, data: bytes) -> bool:
        """Give a complete file its name by a hard link, which fails if the name is taken."""
        target = self.at(path)
        with writing(str(target), len(data)):
            return _named(target, data, lambda temporary: _linked(temporary, target))

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
        try:
            return sorted(entry.name for entry in self.at(path).iterdir() if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):  # others may be removing it
            return []

    def files(self, path: str) -> list[str]:
        """Return the sorted paths of all files below a folder."""
        below = _below(self.at(path))
        return sorted(file.relative_to(self.root).as_posix() for file in below if file.is_file())

    def modified(self, path: str) -> float:
        """Return when a file, or the newest thing in a folder, was written."""
        place = self.at(path)
        return max([place.lstat().st_mtime, *(about.st_mtime for about in _looked_at(_below(place)))])

    def marks(self, path: str) -> list[str]:
        """Return the path, size and time of every file below a folder."""
        found = []
        for name in self.files(path):
            with contextlib.suppress(FileNotFoundError):  # others may be removing it
                about = self.at(name).stat()
                found.append(f"{name} {about.st_size} {about.st_mtime_ns}")
        return found

    def remove_empty(self, path: str) -> None:
        """Remove folders that hold nothing, hidden files included."""
        folder = self.at(path)
        while folder.is_relative_to(self.root):
            with contextlib.suppress(OSError):  # not there, or not empty: then those above are not either
                folder.rmdir()
            folder = folder.parent

    def freed(self, paths: Sequence[str]) -> list[int]:
        """Return the bytes below each path; those of a file with several names are free when the last one goes."""
        names, freed = Counter[tuple[int, int]](), []
        for path in paths:
            total, place = 0, self.at(path)
            for about in _looked_at([place, *_below(place)]):
                names[about.st_dev, about.st_ino] += 1
                if not stat.S_ISDIR(about.st_mode) and names[about.st_dev, about.st_ino] == about.st_nlink:
                    total += about.st_size
            freed.append(total)
        return freed

    def remove(self, path: str) -> None:
        """Remove a file or folder."""
        target = self.at(path)
        for attempt in range(_ATTEMPTS):
            try:
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                target.unlink(missing_ok=True)
            except OSError as error:
                if error.errno not in _BUSY or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def remove_all(self, paths: Sequence[str]) -> None:
        """Remove files."""
        for path in paths:
            self.at(path).unlink(missing_ok=True)


def _below(folder: Path) -> Iterator[Path]:
    """Yield all files and folders below one; some of them may be gone when they are looked at."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _looked_at(places: Iterable[Path]) -> Iterator[os.stat_result]:
    """Yield what the system says of each file or folder that is still there."""
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            yield place.lstat()


def _named(target: Path, data: bytes | memoryview, give_name: Callable[[Path], Result]) -> Result:
    """Write a file under a temporary name and give it its own; return what that returned.

    Another writer that clears up may take the temporary file, or a folder that is still empty, for left-overs: then
    it is written again.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # the second where it goes while it is made
            return _written(target, data, give_name)
    return _written(target, data, give_name)


def _written(target: Path, data: bytes | memoryview, give_name: Callable[[Path], Result]) -> Result:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        result = give_name(temporary)
    finally:  # after Ctrl-C as well
        temporary.unlink(missing_ok=True)
    sync_path(target.parent)
    return result


def _linked(temporary: Path, target: Path) -> bool:
    """Give a file a second name; return False if that is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    return True


def open_storage(url: "str | os.PathLike[str]", options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage at a path or URL; a relative path is made absolute now.

    Raises
    ------
    ArgumentError
        If the URL's protocol is unknown, or is one that chains several file systems, or the URL holds a secret: URLs
        are logged and recorded.
    """
    given: object = url  # callers are not all checked for types
    text = os.fspath(url) if isinstance(given, str | os.PathLike) else given
    if not isinstance(text, str):
        raise ArgumentError("a URL is a text or a path", found=repr(url), hint="a path, s3://, https:// or memory://")
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

"""A folder of objects: what local disks and object storage have in common."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/]*@)?([^\s?]*)(?:\?\S*)?")


def sha256(data: bytes | memoryview) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def without_secrets(value: Any) -> Any:
    """Return JSON values with user, password and query taken out of every URL in their texts."""
    if isinstance(value, dict):
        return {key: without_secrets(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(each) for each in value]
    return _URL.sub(r"\1\2", value) if isinstance(value, str) else value


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
    def open(self, path: str, size: int = 0) -> BinaryIO:
        """Return a seekable reader of an object; whoever knows its `size` saves a question over the network."""

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
    def modified(self, path: str) -> float:
        """Return when an object, or the newest below a folder, was written: seconds since 1970; FileNotFoundError."""

    @abstractmethod
    def marks(self, path: str) -> list[str]:
        """Return what tells that an object below a folder has changed, without reading any; sorted, maybe empty."""

    @abstractmethod
    def remove_empty(self, path: str) -> None:
        """Remove a folder, and then those above it up to this one, as far as nothing at all is in them."""

    @abstractmethod
    def freed(self, paths: Sequence[str]) -> list[int]:
        """Return the bytes that each object or folder gives back when they are removed one after the other."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove an object or a folder with all below it; nothing happens if there is none."""

    @abstractmethod
    def remove_all(self, paths: Sequence[str]) -> None:
        """Remove objects, no folders, in as few requests as it takes; nothing happens where there is none."""

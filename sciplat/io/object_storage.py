"""Object storage through fsspec: S3 and its like, web servers (for reading), memory.

An object becomes visible when its PUT is complete. Errors of the client libraries become ours, in plain words and
without credentials.
"""

import contextlib
import glob
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from sciplat.errors import ArgumentError, MissingDependency, SciplatError, StorageError
from sciplat.io.objects import Storage, without_secrets
from sciplat.io.ranges import Range, RangeReader

_NEVER = (400, 404, 405, 410, 501)  # web servers' answers that stay the same
_TAKEN = ("PreconditionFailed", "412")  # S3's words for an object that is there
_BEYOND = ("InvalidRange", "416")  # and for a range behind the end of one
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}  # of sciplat, that bring a protocol's library
_memory_lock = threading.Lock()  # fsspec's memory looks first and writes then


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

    @property
    def protocol(self) -> str:
        """The URL's protocol."""
        return self.address.partition("://")[0]

    @property
    def is_web(self) -> bool:
        """Whether it is a web server: for reading only, and perhaps without listings."""
        return self.protocol in ("http", "https")

    @property
    def _is_s3(self) -> bool:
        return self.protocol in ("s3", "s3a")

    def child(self, path: str) -> "ObjectStorage":
        """Return the folder `path` below this one."""
        return ObjectStorage(_joined(self.address, path), self.options)

    @property
    def _system(self) -> tuple[Any, str]:
        import fsspec

        # fsspec keeps one instance for equal arguments, so this is cheap and the class stays picklable;
        # a listing that is kept would hide what others publish
        system, root = fsspec.core.url_to_fs(self.address, **{"use_listings_cache": False, **self.options})
        return system, root.rstrip("/")

    def _locate(self, path: str) -> tuple[Any, str]:
        system, root = self._system
        return system, _joined(root, path)

    def read(self, path: str) -> bytes:
        """Return an object."""
        with self._talking(path, "read"):
            system, full = self._locate(path)
            # s3fs asks for the size of an object first, but not of a range without an end
            return _range_answer(_tried(system.cat_file, full, **({"start": 0} if self._is_s3 else {})))

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Return several ranges of bytes, asked for at the same time.

        Parameters
        ----------
        path : str
        ranges : sequence of (int, int)
            Half open.

        Returns
        -------
        list of bytes
            Shorter than asked for where the object ends before, and the whole object where the server knows no ranges.
        """
        with self._talking(path, "read"):
            system, full = self._locate(path)
            paths, starts, stops = [full] * len(ranges), [each[0] for each in ranges], [each[1] for each in ranges]
            found = system.cat_ranges(paths, starts, stops, on_error="return")
            return [_range_answer(each) for each in found]

    def size(self, path: str) -> int:
        """Return the bytes of an object."""
        with self._talking(path, "read"):
            system, full = self._locate(path)
            size = system.size(full)
            return len(system.cat_file(full)) if size is None else int(size)

    def open(self, path: str, size: int = 0) -> BinaryIO:
        """Return a reader of an object."""
        return cast("BinaryIO", RangeReader(partial(self.read_ranges, path), size or self.size(path)))

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Put an object."""
        with self._talking(path, "written", len(data)):
            system, full = self._locate(path)
            system.pipe_file(full, bytes(data))

    def create(self, path: str, data: bytes) -> bool:
        """Put an object on the condition that there is none.

        The answer to a PUT may be lost and the client asks again: then False may stand for an object that this call
        has made, and whoever must know reads it.
        """
        with self._talking(path, "written", len(data)):
            system, full = self._locate(path)
            try:
                with _memory_lock if self.protocol == "memory" else contextlib.nullcontext():
                    system.pipe_file(full, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if _code(error) in _TAKEN:
                    return False
                raise
        return True

    def link(self, source: str, target: str) -> None:
        """Copy on the server's side."""
        with self._talking(target, "written"):
            system, full = self._locate(source)
            system.cp_file(full, self._locate(target)[1])

    def check_place(self) -> None:
        """Refuse a web server; other object storage tells at the first write.

        Raises
        ------
        ArgumentError
            If nothing can be written there.
        """
        if self.is_web:
            raise ArgumentError(
                f"{self.url} is no place for a store", found="a web server is for reading", hint="a path or s3://"
            )

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder; none where a web server gives no listing."""
        with self._talking(path, "listed"):
            system, full = self._locate(path)
            try:
                listed = system.ls(f"{full}/" if self.is_web else full, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            except Exception as error:
                if self.is_web and 400 <= _status(error) < 500:
                    return []
                raise
        inside = (entry.rstrip("/") for entry in listed if entry.rstrip("/") != full)
        found = {self._plain(entry.rsplit("/", 1)[-1]) for entry in inside}
        return sorted(name for name in found if not name.startswith(".") and "/" not in name)

    def files(self, path: str) -> list[str]:
        """Return the sorted paths of all objects below a folder."""
        with self._talking(path, "listed"):
            system, root = self._system
            found = system.find(_joined(root, path))
        return sorted(self._plain(name.removeprefix(root).strip("/")) for name in found)

    def modified(self, path: str) -> float:
        """Return when an object, or the newest below a folder, was written."""
        with self._talking(path, "read"):
            system, full = self._locate(path)
            found = system.find(full, detail=True)
            times = [about.get("LastModified") or system.modified(name) for name, about in found.items()]
        if not times:
            raise FileNotFoundError(2, "there is no such object", _joined(self.address, path))
        return max(float(time.timestamp()) for time in times)

    def marks(self, path: str) -> list[str]:
        """Return the path, size and tag or time of every object below a folder; nothing of a web server."""
        if self.is_web:
            return []
        with self._talking(path, "listed"):
            system, root = self._system
            found = system.find(_joined(root, path), detail=True)
        return sorted(f"{name.removeprefix(root)} {_mark(about)}" for name, about in found.items())

    def remove_empty(self, path: str) -> None:
        """Do nothing: object storage has no folders without objects."""

    def freed(self, paths: Sequence[str]) -> list[int]:
        """Return the bytes of all objects at or below each path, as the listing has them."""
        freed = []
        for path in paths:
            with self._talking(path, "listed"):
                system, full = self._locate(path)
                freed.append(sum(int(about["size"] or 0) for about in system.find(full, detail=True).values()))
        return freed

    def remove(self, path: str) -> None:
        """Remove an object or all objects below a folder."""
        with self._talking(path, "removed"):
            system, full = self._locate(path)
            _remove(system, system.find(full))

    def remove_all(self, paths: Sequence[str]) -> None:
        """Remove objects, on S3 a thousand with one request."""
        if paths:
            with self._talking(paths[0], "removed"):
                _remove(self._system[0], [self._locate(path)[1] for path in paths])

    def _plain(self, name: str) -> str:
        """Return a name from a listing as it is; web pages quote theirs."""
        return unquote(name) if self.is_web else name

    @contextlib.contextmanager
    def _talking(self, path: str, verb: str, size: int | None = None) -> Iterator[None]:
        """Turn what a client library raises into our errors, which name the object.

        Raises
        ------
        FileNotFoundError
            If there is no such object, on reading.
        StorageError, MissingDependency, ArgumentError
            For anything else.
        """
        what = f"{without_secrets(_joined(self.address, path))} cannot be {verb}"
        try:
            yield
        except SciplatError:
            raise
        except FileNotFoundError as error:
            if verb == "read":
                raise FileNotFoundError(2, "there is no such object", _joined(self.address, path)) from None
            raise self._failure(what, error, size) from None
        except Exception as error:  # noqa: BLE001  # every library has its own
            raise self._failure(what, error, size) from None

    def _failure(self, what: str, error: Exception, size: int | None) -> SciplatError:
        told = self._shown(error) + ("" if size is None else f"; {size:,} bytes")
        if isinstance(error, ImportError):
            extra = _EXTRAS.get(self.protocol)
            hint = f"pip install 'sciplat[{extra}]'" if extra else "install the library of this protocol"
            return MissingDependency(what, found=told, hint=hint)
        if isinstance(error, NotImplementedError):
            return ArgumentError(what, found=f"{self.protocol}:// does not know how", hint="a path or s3://")
        failure = StorageError(what, found=told, hint="the same call again; the network or the server may be at fault")
        if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credentials" in type(error).__name__:
            failure.kind, failure.hint = "usage", "credentials go into storage_options="
        elif isinstance(error, (TypeError, ValueError, FileNotFoundError)) or _status(error) in _NEVER:
            failure.kind, failure.hint = "usage", "check the URL and storage_options="
        return failure

    def _shown(self, error: Exception) -> str:
        """Return the text of an error in one line, without signed queries and without any of the options."""
        text = " ".join(str(without_secrets(str(error))).split())[:500]
        for secret in _texts(self.options):
            text = text.replace(secret, "***")
        return text or type(error).__name__


def _joined(root: str, path: str) -> str:
    """Return a path below a root that may have a protocol."""
    head, mark, rest = root.rpartition("://")
    return f"{head}{mark}{posixpath.normpath(f'{rest}/{path}')}"


def _remove(system: Any, names: list[str]) -> None:
    """Remove objects by their full names; some may be gone."""
    literal = [glob.escape(name) for name in names]  # fsspec takes names for patterns
    try:
        if literal:
            system.rm(literal)
    except FileNotFoundError:  # others are removing them too
        for name in literal:
            with contextlib.suppress(FileNotFoundError):
                system.rm(name)


def _tried(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function returns or raises, as fsspec does for several ranges."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # noqa: BLE001  # it is raised by who looks at it
        return error


def _range_answer(answer: Any) -> bytes:
    """Return the bytes of one range, none behind the end of the object; raise the error that came instead."""
    if not isinstance(answer, BaseException):
        return bytes(answer)
    if _code(answer) in _BEYOND or _status(answer) == 416:
        return b""
    raise answer


def _status(error: BaseException) -> int:
    """Return the status with which a web server answered, 0 if it is none."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def _code(error: BaseException) -> str:
    """Return S3's name of an error, as botocore's exception behind it has it."""
    response = getattr(error.__cause__ or error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _mark(about: Mapping[str, Any]) -> str:
    """Return the size of an object and the tag or time of its content."""
    tags = (about.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created"))
    return f"{about.get('size')} {next((tag for tag in tags if tag), '')}"


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts among options, those inside others too, except addresses."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str) and len(value) > 3 and "://" not in value:
        yield value

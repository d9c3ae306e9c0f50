"""The log of a run: JSON lines beside the data, for whoever wants to know from another terminal how it stands."""

import json
import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sciplat.errors import SciplatError, StoreCorrupt
from sciplat.io.catalog_store import LOG
from sciplat.io.publish import read_manifest, version_numbers
from sciplat.io.staging import staging_areas
from sciplat.io.storage import Storage, without_secrets

Events = list[dict[str, Any]]
_OFTEN, _SELDOM = 2.0, 60.0  # seconds between two lines of progress, at the beginning and at most
_FAILURES, _TRACEBACKS = 1000, 20  # that a log tells of
_SLOWDOWN = 0.02  # of the time that has passed: a long run's log stays short


class RunLog:
    """Writes one run's log. It is small, so it is put as a whole: object storage knows no appending.

    Parameters
    ----------
    storage : Storage
        Of the store.
    path : str
        Of the log.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._lines: list[bytes] = []
        self._failures = 0
        self._begun = self._written = time.monotonic()

    def event(self, name: str, **facts: Any) -> None:
        """Add a line and write the log; where it cannot be written the plan goes on."""
        self._add(name, facts)
        with suppress(OSError):
            self._storage.write(self._path, self.content)
        self._written = time.monotonic()

    def failure(self, name: str, error: SciplatError, **facts: Any) -> None:
        """Add a line about an error, to be written with the next progress; of very many the first ones must do."""
        self._failures += 1
        if self._failures <= _FAILURES:
            traceback = getattr(error, "traceback", "") if self._failures <= _TRACEBACKS else ""
            self._add(name, {**facts, "error": str(error), "traceback": traceback})

    def progress(self, **facts: Any) -> None:
        """Add a line of progress, unless the last time of writing is young."""
        age = time.monotonic() - self._written
        if age > min(max(_OFTEN, _SLOWDOWN * (self._written - self._begun)), _SELDOM):
            self.event("progress", **facts)

    def _add(self, name: str, facts: dict[str, Any]) -> None:
        line = {"time": now(), "event": name, **without_secrets(facts)}
        self._lines.append(json.dumps(line).encode() + b"\n")

    @property
    def content(self) -> bytes:
        """The log as it stands."""
        return b"".join(self._lines)


def origin(write_id: str) -> dict[str, Any]:
    """Return which run this is and where."""
    return {"write_id": write_id, "host": platform.node(), "process": os.getpid()}


def now() -> str:
    """Return the time, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_logs(storage: Storage) -> list[Events]:
    """Return the logs of a store's unfinished runs and of its newest version, each as a list of events, by their begin.

    Raises
    ------
    StoreCorrupt
        If a log is damaged.
    """
    # a run that ends meanwhile moves its log from the first place to the second
    paths = [f"{area.folder}/{name}" for area in staging_areas(storage) for name in _log_names(storage, area.folder)]
    logs = [_read_log(storage, path) for path in paths]
    if version_numbers(storage):
        manifest = read_manifest(storage)
        path = f"{manifest.folder}/{LOG}"
        logs += [_read_log(storage, path) for file in manifest.files if file.path == path]
    return sorted((log for log in logs if log), key=lambda log: str(log[0]["time"]))


def _log_names(storage: Storage, folder: str) -> list[str]:
    return [name for name in storage.names(folder) if name.startswith("log-")]


def _read_log(storage: Storage, path: str) -> Events:
    """Return the events of a log, none if it is gone."""
    try:
        lines = storage.read(path).decode().splitlines()
        return [{"time": str(event["time"]), "event": str(event["event"]), **event} for event in map(json.loads, lines)]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt(f"the log {path} in {storage.url} is damaged", found=str(error)) from None

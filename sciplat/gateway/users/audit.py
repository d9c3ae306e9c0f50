"""The audit log: who did what, when, from where, and what came of it; one JSON object a line."""

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LONGEST = 300  # characters of a value: nobody fills the log with one request
_log = logging.getLogger(__name__)


class Audit:
    """An audit log that is only ever added to.

    Parameters
    ----------
    path : Path
        The file, made with mode 0600. It is opened for every line, so that it may be rotated by renaming it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn = False  # the last line was cut, by a full disk

    def write(
        self,
        event: str,
        *,
        user: str | None = None,
        cluster: str | None = None,
        source: str | None = None,
        outcome: str = "ok",
        **details: Any,
    ) -> None:
        """Add a line. A log that cannot be written is a warning, not an error: the gateway goes on.

        Parameters
        ----------
        event : str
            What was done, such as "request" or "cluster-stopped".
        user, cluster : str, optional
        source : str, optional
            The address from which it was asked for.
        outcome : str
            "ok", or why not.
        **details
            More that is worth knowing.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"event": event, "user": user, "cluster": cluster, "source": source, "outcome": outcome, **details}
        kept = {key: _short(value) for key, value in record.items() if value is not None}
        line = f"{json.dumps({'time': time, **kept})}\n".encode()
        try:
            self._add(line)
        except OSError as error:
            _log.warning("The audit log %s cannot be written: %s", self.path, error)

    def _add(self, line: bytes) -> None:
        content = b"\n" + line if self._torn else line
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.geteuid() == 0:  # an operator's command: the gateway, whose folder it is, must go on writing
                folder = self.path.parent.stat()
                os.fchown(file, folder.st_uid, folder.st_gid)
            written = os.write(file, content)  # one call, so that lines of several processes do not mix
        finally:
            os.close(file)
        self._torn = written < len(content)
        if self._torn:
            raise OSError("only a part of a line was written")


def _short(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_short(item) for item in list(value)[:20]]
    return str(value)[:_LONGEST]

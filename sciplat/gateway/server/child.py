"""A process that is started again when it ends, known by a record that a later supervisor finds."""

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sciplat.errors import GatewayError
from sciplat.gateway.backends.processes import Process, is_running, read_environment, send_signal, start_process
from sciplat.gateway.private import write_private

_LOOK = 0.05
_FORCED = 5.0  # seconds in which a killed process is gone
_STEADY = 30.0  # seconds of life after which an end is not one of a series
_SLOWEST = 5.0  # seconds before the next start in a series
_LARGEST = 64 * 1024**2  # bytes of a log, of which one more is kept
_TAIL = 8192  # bytes
_KEY = "DASK_GATEWAY_PROXY_TOKEN"


@dataclass
class Child:
    """One of the gateway's two processes.

    Parameters
    ----------
    name : str
    command : list of str
        Program, with its path, and arguments.
    environment : dict
        All of its environment.
    state : Path
        The gateway's folder: `run` in it has the record, `logs` the log.
    held : tuple of int
        Descriptors that it holds too.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(repr=False)
    state: Path
    held: tuple[int, ...] = ()
    process: Process | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)
    _ends: int = field(default=0, init=False)
    _begin: int = field(default=0, init=False)

    @property
    def record(self) -> Path:
        """Where is kept which process it is."""
        return self.state / "run" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.state / "logs" / f"{self.name}.log"

    def adopt(self) -> bool:
        """Take over the process that a former supervisor started in the same way, if it still runs; else end it."""
        found = recorded(self.record)
        if found is None:
            return False
        same_secret = read_environment(found).get(_KEY) == self.environment.get(_KEY)
        if _command(found) != self.command or not same_secret:
            end(found)
            return False
        self.process, self._started = found, time.monotonic()
        return True

    def end_former(self) -> None:
        """End at once the process that a former supervisor left."""
        found = recorded(self.record)
        if found is not None:
            end(found, 0.0)

    def start(self) -> None:
        """Start it, in a session of its own: Ctrl-C is for the supervisor alone.

        Raises
        ------
        OSError
            If it cannot be started or recorded.
        """
        self._started = time.monotonic()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._begin = os.fstat(descriptor).st_size
            started = start_process(
                self.command, environment=self.environment, folder=self.state, output=descriptor, held=self.held
            )
        finally:
            os.close(descriptor)
        try:
            write_record(self.record, started)
        except OSError:  # nobody would find it again
            end(started)
            raise
        self.process = started

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and is_running(self.process)

    def keep(self) -> None:
        """Start it again if it has ended: at once the first time, later in a series, and whenever the disk is full."""
        with suppress(OSError):
            self._cut_log()
        if self.runs:
            return
        lived = time.monotonic() - self._started
        self._ends = 0 if lived > _STEADY else self._ends
        if self._ends and lived < min(0.2 * 2 ** min(self._ends, 10), _SLOWEST):
            return
        self._ends += 1
        with suppress(OSError):
            self.start()

    def stop(self, seconds: float) -> None:
        """Ask it to end, and see that it does."""
        if self.process is not None:
            end(self.process, seconds)
        self.record.unlink(missing_ok=True)

    def tail(self, lines: int = 8) -> str:
        """Return the last lines that it has written since its start."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - _TAIL, min(self._begin, size)))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n         ".join(text.splitlines()[-lines:])

    def _cut_log(self) -> None:
        """Put a log aside that has become large; the process goes on writing at the end of the same file."""
        if self.log.stat().st_size > _LARGEST:
            shutil.copy(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)


def end(process: Process, seconds: float = 5.0) -> None:
    """End a process: politely, and after some seconds by force.

    Raises
    ------
    GatewayError
        If it is there still: it is another user's, or the kernel holds it.
    """
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, _FORCED)):
        if patience and is_running(process):
            send_signal(process, number)
            limit = time.monotonic() + patience
            while is_running(process) and time.monotonic() < limit:
                time.sleep(_LOOK)
    if is_running(process):
        raise GatewayError(f"the process {process.pid} does not end", hint=f"kill -9 {process.pid}, as its owner")


def write_record(path: Path, process: Process) -> None:
    """Keep what tells a process from a later one with the same number."""
    write_private(path, json.dumps({**asdict(process), "boot": _boot()}))


def recorded(path: Path) -> Process | None:
    """Return the process of a record if it still is the same one, since the same start of the machine."""
    try:
        record = json.loads(path.read_text())
        process = Process(int(record["pid"]), int(record["started"]))
        return process if record["boot"] == _boot() and is_running(process) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _command(process: Process) -> list[str]:
    try:
        text = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(one) for one in text.split(b"\0")[:-1]]

"""A user's function in a process of its own: one that never ends, or takes all memory, is stopped alone.

The parent writes the request to the child's standard input: settings, function and cell pickled, then the table as an
Arrow stream. The child answers into a file without a name that both hold open: the memory it had before the call
(8 bytes), then its error, pickled, or None and the result as an Arrow stream. All that it prints goes through pipes.
"""

import codecs
import io
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import cloudpickle
import psutil
import pyarrow as pa

from sciplat.errors import StepError
from sciplat.sky.cell import Cell
from sciplat.steps.map import Step, step_error, step_on_cell
from sciplat.tasks.output import OUTPUT_LIMIT, printed_too_much

_POLL = 0.02  # seconds between two looks at a child
_STARTUP = 60.0  # seconds a child may take to import what the function needs
_CHUNK = 1 << 16  # bytes: a pipe holds no more
_MEMORY_BYTES = 8  # of the number at the head of the report

_lock = threading.Lock()
_running: set[subprocess.Popen[bytes]] = set()


def apply_apart(
    step: Step,
    table: pa.Table,
    schema: pa.Schema,
    cell: Cell,
    *,
    surrounded: bool,
    timeout: float | None,
    memory: int | None,
) -> pa.Table:
    """Do what `apply_step` does in a process of its own, which is stopped when it passes a limit.

    Parameters
    ----------
    step, table, schema, cell, surrounded
        As for `sciplat.steps.map.apply_step`. The function travels by cloudpickle.
    timeout : float or None
        Seconds for the function, from its call to its result; the start of the process has a minute of its own.
    memory : int or None
        Bytes by which the resident memory of the process may grow during the call. It is looked at every 20 ms, and
        processes that the function starts are not counted.

    Returns
    -------
    pyarrow.Table
        With exactly `schema`, sorted by `_healpix_29`.

    Raises
    ------
    StepError
        As `apply_step`, or if a limit is passed, the process dies, prints more than 1 MiB, or cannot have the function.
    """
    where = step_on_cell(step, cell)
    watch = _Watch(where, _request(where, step, table, schema, cell, surrounded=surrounded), timeout, memory)
    with tempfile.TemporaryFile() as report:
        with _child(report.fileno()) as process:
            watch.until_it_ends(process, report.fileno())
        return _read_report(where, process.returncode, report)


def stop_all() -> None:
    """Stop all processes that run a function now; those who wait for one get a StepError.

    A call that begins later starts a new process: hand out nothing more before.
    """
    with _lock:
        for process in _running:
            _kill(process)


def _request(where: str, step: Step, table: pa.Table, schema: pa.Schema, cell: Cell, *, surrounded: bool) -> memoryview:
    settings = {"where": where, "path": sys.path, "python_path": os.environ.get("PYTHONPATH")}
    sink = io.BytesIO()  # grows in place, where Arrow's own buffers double and copy
    sink.write(pickle.dumps(settings))
    try:
        sink.write(cloudpickle.dumps((step, schema, cell, surrounded)))
    except Exception as error:
        failure = step_error(f"{where} cannot travel to a process of its own", error)
        failure.hint = "open files, locks and connections inside the function, not around it"
        raise failure from error
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getbuffer()


@contextmanager
def _child(report: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child; whatever happens, it and all it has started are gone in the end."""
    command = [sys.executable, "-P", "-X", "faulthandler", "-m", "sciplat.tasks.apart_child"]
    with _lock:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [*command, str(os.getpid()), str(report)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # -m must find this sciplat
            pass_fds=[report],
            start_new_session=True,
        )
        _running.add(process)
    with process:  # closes the pipes and waits
        try:
            yield process
        finally:
            with _lock:  # before its number is free for others
                _running.discard(process)
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that nobody has waited for yet, and its descendants."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: all are dead already
        os.killpg(process.pid, signal.SIGKILL)


class _Watch:
    """The parent's side of one child: feeds it, passes on what it prints, and raises when it passes a limit."""

    def __init__(self, where: str, request: memoryview, timeout: float | None, memory: int | None) -> None:
        self.where, self.request, self.timeout, self.memory = where, request, timeout, memory
        self.next_look = time.monotonic()
        self.deadline = None if timeout is None else self.next_look + _STARTUP + timeout
        self.memory_before: int | None = None
        self.output_left = OUTPUT_LIMIT
        self.decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}

    def until_it_ends(self, process: subprocess.Popen[bytes], report: int) -> None:
        """Return when the child has ended and all that it printed is passed on."""
        child = psutil.Process(process.pid)
        with selectors.DefaultSelector() as pipes:
            for name in ("stdin", "stdout", "stderr"):
                pipe = getattr(process, name)
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ, name)
            while not self._look(child, report):
                self._serve(pipes, _POLL)
            while self._serve(pipes, 0):
                pass

    def _serve(self, pipes: selectors.BaseSelector, wait: float) -> bool:
        """Move what can be moved through the pipes; return whether there was any."""
        ready = pipes.select(wait)
        for key, _ in ready:
            more = self._feed(key.fd) if key.data == "stdin" else self._pass_on(key.fd, key.data)
            if not more:
                pipes.unregister(key.fileobj)
        return bool(ready)

    def _feed(self, pipe: int) -> bool:
        """Write a part of the request; the pipe stays open, its end tells the child that the parent has died."""
        try:
            self.request = self.request[os.write(pipe, self.request[:_CHUNK]) :]
        except BrokenPipeError:
            return False
        if self.request:
            return True
        self.request = memoryview(b"")  # an empty part would hold the whole in memory
        return False

    def _pass_on(self, pipe: int, name: str) -> bool:
        data = os.read(pipe, _CHUNK)
        fits = data[: self.output_left]
        self.output_left -= len(fits)
        text = self.decoders[name].decode(fits, final=not data)
        stream = getattr(sys, name)
        if text and stream is not None:
            stream.write(text)
        if len(fits) < len(data):
            raise printed_too_much(self.where, OUTPUT_LIMIT)
        return bool(data)

    def _look(self, child: psutil.Process, report: int) -> bool:
        """Return whether the child has ended; at most every 20 ms, because a long request takes many writes."""
        now = time.monotonic()
        if now < self.next_look:
            return False
        self.next_look = now + _POLL
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                return True
            resident = child.memory_info().rss
        except psutil.NoSuchProcess:  # somebody ignores SIGCHLD, or macOS calls a zombie so
            return True
        if self.memory_before is None:
            self._see_begin(now, report)
        self._check_limits(now, resident)
        return False

    def _see_begin(self, now: float, report: int) -> None:
        head = os.pread(report, _MEMORY_BYTES, 0)  # the place in the file is the child's
        if len(head) == _MEMORY_BYTES:
            self.memory_before = int.from_bytes(head, "little")
            self.deadline = None if self.timeout is None else now + self.timeout

    def _check_limits(self, now: float, resident: int) -> None:
        if self.deadline is not None and now > self.deadline:
            raise StepError(
                f"{self.where} did not end in time",
                found=f"no result within {self.timeout:g} s",
                hint="give a longer timeout=, or cells with fewer rows",
            )
        grown = 0 if self.memory_before is None else resident - self.memory_before
        if self.memory is not None and grown > self.memory:
            raise StepError(
                f"{self.where} takes more memory than it may",
                found=f"{grown / 2**20:.0f} MiB more than before the call, {self.memory / 2**20:.0f} MiB allowed",
                hint="give a larger memory=, or cells with fewer rows",
            )


def _read_report(where: str, code: int, report: IO[bytes]) -> pa.Table:
    """Return the result in the report, or raise the error in it."""
    report.seek(0, os.SEEK_END)
    if code != 0 or report.tell() <= _MEMORY_BYTES:
        raise _death(where, code)
    report.seek(_MEMORY_BYTES)
    error = pickle.load(report)  # noqa: S301 - written by our own child
    if error is not None:
        raise error
    with pa.ipc.open_stream(report) as stream:
        return stream.read_all()


def _death(where: str, code: int) -> StepError:
    """Return the error of a child that ended without a report."""
    if code >= 0:
        hint = "let the function return its table: it must not end the process"
        return StepError(f"{where} ended its process", found=f"exit code {code}, and no result", hint=hint)
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    hints = {"SIGKILL": "it was stopped, perhaps because the machine ran out of memory: give memory= a limit"}
    hint = hints.get(name, "a compiled library failed: look at what it printed")
    return StepError(f"{where} died", found=f"killed by {name}", hint=hint)

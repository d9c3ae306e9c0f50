"""A bound on what one thread prints, so that a user's function fills neither a disk nor a worker's log.

`sys.stdout` and `sys.stderr` belong to the process, and notebooks, pytest and Dask exchange them at any time. While
a bound is active in any thread, they are wrapped in a stream that asks which thread writes; the last one out unwraps
what it finds wrapped and leaves alone what others have put there.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sciplat.errors import StepError

OUTPUT_LIMIT = 1 << 20
_NAMES = ("stdout", "stderr")
_lock = threading.Lock()
_active = 0  # bounds in all threads
_thread = threading.local()


@contextmanager
def bounded_output(what: str, limit: int = OUTPUT_LIMIT) -> Iterator[None]:
    """Bound what the current thread writes to `sys.stdout` and `sys.stderr` together.

    What other threads write is neither touched nor counted. Neither is what passes `sys.stdout` by: a stream that
    somebody put there in the meantime, a log handler that kept the older one, `os.write`, and compiled code.

    Parameters
    ----------
    what : str
        What prints, for the error: for example "survey.colours:redden on cell 5/1284".
    limit : int
        Characters, or bytes where bytes are written.

    Raises
    ------
    StepError
        Inside the print that passes the limit; what fits has been written.
    """
    bounds = _bounds()
    bounds.append(_Bound(what, limit))
    _wrap()
    try:
        yield
    finally:
        _unwrap()
        bounds.pop()


def printed_too_much(what: str, limit: int) -> StepError:
    """Return the error of output beyond its limit."""
    return StepError(
        f"{what} prints too much",
        found=f"more than {limit:,} characters",
        hint="print less: the function is called once for every cell",
    )


class _Bound:
    def __init__(self, what: str, limit: int) -> None:
        self.what, self.limit, self.left = what, limit, limit


class _BoundedStream:
    """A stream that counts what threads with bounds write, and is the other stream in everything else."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    @property
    def buffer(self) -> "_BoundedStream":
        """The stream of bytes below a stream of text."""
        return _BoundedStream(self._target.buffer)

    def write(self, data: Any) -> Any:
        """Write what the bounds of this thread allow; the nested ones all count."""
        bounds = _bounds()
        if not bounds:
            return self._target.write(data)
        tightest = min(bounds, key=lambda bound: bound.left)
        fits = data[: tightest.left]
        for bound in bounds:
            bound.left -= len(fits)
        written = self._target.write(fits)
        if len(fits) < len(data):
            raise printed_too_much(tightest.what, tightest.limit)
        return written

    def close(self) -> None:
        """Only flush: the stream belongs to everybody in the process."""
        self._target.flush()

    def writelines(self, lines: Any) -> None:
        """Write one line after the other."""
        for line in lines:
            self.write(line)


def _bounds() -> list[_Bound]:
    """Return the bounds of the current thread, the innermost last."""
    if not hasattr(_thread, "bounds"):
        _thread.bounds = []
    found: list[_Bound] = _thread.bounds
    return found


def _wrap() -> None:
    global _active  # noqa: PLW0603
    with _lock:
        _active += 1
        for name in _NAMES:
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _BoundedStream):
                setattr(sys, name, _BoundedStream(stream))


def _unwrap() -> None:
    global _active  # noqa: PLW0603
    with _lock:
        _active -= 1
        for name in _NAMES:
            stream = getattr(sys, name)
            if not _active and isinstance(stream, _BoundedStream):
                setattr(sys, name, stream._target)  # noqa: SLF001

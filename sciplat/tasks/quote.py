"""What work takes: the cost of one task, and how fast this machine is, measured once and kept."""

import json
import os
import platform
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from sciplat.io.storage import LocalStorage

_REPORT_BYTES = 24  # of a row: its pixel on the sky, twice, and where that changes


@dataclass(frozen=True)
class Cost:
    """What a task is expected to take.

    Parameters
    ----------
    read : float
        Bytes from storage.
    requests : float
        Reads of files, or of ranges in them.
    rows, places : float
        Rows of the result, and the different positions among them.
    size : float
        Bytes of the result in memory.
    memory : float
        Bytes held at once at the worst moment.
    seconds : float
        Of one thread.
    """

    read: float = 0.0
    requests: float = 0.0
    rows: float = 0.0
    places: float = 0.0
    size: float = 0.0
    memory: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Rates:
    """Seconds of one thread for each unit of work, while all threads are busy.

    The defaults were measured on a small cloud machine; ``sciplat calibrate`` measures this one.

    Parameters
    ----------
    open : float
        Opening a file of a catalog.
    scan : float
        Reading a byte of rows, as they are in memory.
    within : float
        Testing a row against a region.
    nest : float
        Gathering a row.
    window : float
        Opening a plane of an image.
    pixel : float
        Reading a pixel of a plane.
    place : float
        Looking for a source on an image.
    measure : float
        Measuring a source in one aperture.
    commit : float
        Bringing a file to the disk.
    write : float
        Encoding and writing a byte of rows, as they are in memory.
    """

    open: float = 1e-3
    scan: float = 1e-9
    within: float = 1e-7
    nest: float = 1e-6
    window: float = 2e-3
    pixel: float = 5e-9
    place: float = 1e-6
    measure: float = 4e-6
    commit: float = 5e-3
    write: float = 5e-9


@lru_cache(maxsize=1)
def rates() -> Rates:
    """Return the rates of this machine, or the defaults if they have never been measured."""
    try:
        kept = json.loads(_rates_path().read_text())
        return Rates(**{field.name: float(kept["rates"][field.name]) for field in fields(Rates)})
    except (OSError, ValueError, KeyError, TypeError):
        return Rates()


def keep_rates(measured: Rates) -> Path:
    """Keep the rates of this machine for later processes; return the file."""
    path = _rates_path()
    body = {"machine": platform.node(), "rates": asdict(measured)}
    LocalStorage(path.parent).write(path.name, json.dumps(body, indent=1).encode())
    rates.cache_clear()
    return path


def is_calibrated() -> bool:
    """Return whether this machine's rates have been measured."""
    return _rates_path().is_file()


def _rates_path() -> Path:
    # one home may serve many machines
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return base / "sciplat" / f"rates-{platform.node() or 'here'}.json"


def write_cost(inner: Cost) -> Cost:
    """Return the cost of a task with the writing of its result."""
    rate = rates()
    seconds = inner.seconds + rate.commit + rate.write * inner.size
    # the encoded file, at most as large, stands beside the rows; then the index is looked at
    memory = max(inner.memory, 2 * inner.size + _REPORT_BYTES * inner.rows)
    return replace(inner, memory=memory, seconds=seconds)

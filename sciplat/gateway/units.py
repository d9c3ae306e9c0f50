"""Durations and sizes as people write them, "30 min", "2 h", "7 d", "4 GiB", and times as programs do."""

import re
from datetime import UTC, datetime

from sciplat.config import parse_bytes
from sciplat.errors import ArgumentError

_SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}  # the largest first
_BYTES = {"TiB": 1024**4, "GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}  # the largest first
_PART = r"(\d+(?:\.\d*)?)\s*(d|h|min|s)"
_DURATION = re.compile(rf"{_PART}(?:\s*{_PART})*")
_LEAST_MEMORY = 1024**2  # below it a unit has been forgotten: nothing runs in less


def parse_duration(text: object, *, what: str = "the duration") -> float:
    """Return a duration in seconds, given as text such as "90 s", "30 min", "2 h", "7 d" or "1 h 30 min".

    Parameters
    ----------
    text : str
        A bare number is refused: nobody knows whether 30 are seconds or minutes.
    what : str
        Names it in the error.

    Raises
    ------
    ArgumentError
        If it is no duration longer than nothing.
    """
    told = str(text).strip()
    parts = re.findall(_PART, told) if isinstance(text, str) and _DURATION.fullmatch(told) else []
    units = [unit for _, unit in parts]
    if units != sorted(set(units), key=list(_SECONDS).index):  # "1 min 2 h" and "1 h 2 h" are slips
        parts = []
    seconds = sum(float(count) * _SECONDS[unit] for count, unit in parts)
    if not 0 < seconds < float("inf"):
        wrong = "has no unit" if re.fullmatch(r"\d+(\.\d*)?", told) else "is none"
        raise ArgumentError(f"{what} {wrong}", found=repr(text)[:80], hint='"90 s", "30 min", "2 h" or "7 d"')
    return seconds


def parse_memory(size: object, *, what: str = "the size") -> int:
    """Return a number of bytes, given as text with a unit such as "4 GiB" or "500 MB", or as a number.

    Parameters
    ----------
    size : str or int
    what : str
        Names it in the error.

    Raises
    ------
    ArgumentError
        If it is no size, or less than 1 MiB, in which nothing could run.
    """
    if isinstance(size, str) and size.strip().isdigit():
        raise ArgumentError(f"{what} has no unit", found=repr(size)[:80], hint=f'"{size.strip()[:20]} GiB"')
    count = parse_bytes(size, what=what)
    if count < _LEAST_MEMORY:
        raise ArgumentError(f"{what} is less than 1 MiB", found=repr(size)[:80], hint='"4 GiB"')
    return count


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, rounded: "1 h 30 min"; `parse_duration` reads it."""
    if seconds < 60:
        return f"{max(seconds, 0):.3g} s"
    named = list(_SECONDS.items())
    large = next(at for at, (_, length) in enumerate(named) if seconds >= length)
    (unit, length), (smaller, part) = named[large], named[large + 1]
    count, rest = divmod(round(seconds / part), length // part)
    return f"{count} {unit} {rest} {smaller}" if rest else f"{count} {unit}"


def format_memory(count: int) -> str:
    """Return a number of bytes in its largest binary unit, rounded: "1.5 GiB"; `parse_memory` reads it."""
    for unit, size in _BYTES.items():
        if count >= size:
            return f"{round(count / size, 2):g} {unit}"
    return f"{count} B"


def iso(time: float | None) -> str | None:
    """Return a time (seconds since 1970) in ISO 8601, UTC."""
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")

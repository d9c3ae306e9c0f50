"""What a FITS header says about an image, read as a profile says: text, numbers, and the time."""

import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.iers import LeapSeconds
from numpy.typing import NDArray

from sciplat.errors import InputError
from sciplat.ingest.profile import Meaning, TimeMeaning

_SECONDS = 86400.0
# TAI minus these scales, seconds; TDB differs from TT by less than 2 ms
_TAI_MINUS = {"tai": 0.0, "tt": -32.184, "tdb": -32.184, "gps": 19.0}
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)


class Headers:
    """The header of an image and the primary one: a keyword is looked up in this order."""

    def __init__(self, own: fits.Header, primary: fits.Header) -> None:
        self._both = (own, primary)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a keyword; a card that cannot be parsed counts as missing."""
        for header in self._both:
            try:
                value = header.get(name)
            except fits.VerifyError:
                continue
            if value is not None and not isinstance(value, fits.card.Undefined):
                return value
        return default

    def text(self, meaning: Meaning) -> str | None:
        """Return a text; None if there is none, or the pattern does not match it."""
        for name in meaning.keywords:
            text = str(self.get(name, "")).strip()
            if text and meaning.pattern:
                match = re.search(meaning.pattern, text)
                text = (match[1] or "") if match else ""
            if text:
                return text
        return None

    def number(self, meaning: Meaning) -> float | None:
        """Return a finite number, or the mean of several; None if there is none."""
        numbers = [value for name in meaning.keywords if (value := self._number(name)) is not None]
        if not numbers:
            return None
        return math.fsum(numbers) / len(numbers) if meaning.combine == "mean" else numbers[0]

    def positive(self, meaning: Meaning) -> float | None:
        """Return a number above zero; None if there is none."""
        value = self.number(meaning)
        return value if value is not None and value > 0.0 else None

    def mjd(self, meaning: TimeMeaning, exposure: float | None) -> float | None:
        """Return the middle of the exposure, MJD in TAI; None if the header does not tell.

        Raises
        ------
        InputError
            The header's time scale is unknown.
        """
        middle = self._first_time(meaning.middle)
        start = self._first_time(meaning.start)
        if middle is None and start is not None and exposure is not None:
            middle = start + exposure / 2.0 / _SECONDS
        if middle is None:
            return None
        scale = meaning.scale
        named = str(self.get("TIMESYS", "")).lower().split() if scale == "header" else [scale]
        return to_tai(middle, named[0] if named else "utc")

    def _number(self, name: str) -> float | None:
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        return number if math.isfinite(number) else None

    def _first_time(self, names: tuple[str, ...]) -> float | None:
        for name in names:
            time = self._number(name)
            if time is None:
                time = _parse_time(str(self.get(name, "")))
            if time is not None:
                return time
        return None


def to_tai(mjd: float, scale: str) -> float:
    """Return the MJD in TAI of an MJD in another time scale.

    Raises
    ------
    InputError
        The scale is unknown.
    """
    if scale == "utc":
        starts, offsets = _leap_seconds()
        index = int(np.searchsorted(starts, mjd, side="right")) - 1
        return mjd + float(offsets[max(index, 0)]) / _SECONDS
    if scale not in _TAI_MINUS:
        raise InputError(
            "the header's time scale is unknown", found=f"TIMESYS = {scale!r}", hint='a profile with time.scale = "utc"'
        )
    return mjd + _TAI_MINUS[scale] / _SECONDS


@lru_cache(maxsize=1)
def _leap_seconds() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the days (MJD) from which TAI - UTC has been so many seconds."""
    table = LeapSeconds.from_erfa()  # the built-in table: nothing is downloaded
    months = zip(table["year"], table["month"], strict=True)
    days = [(datetime(int(year), int(month), 1, tzinfo=UTC) - _MJD_ZERO).days for year, month in months]
    return np.array(days, dtype=np.float64), np.asarray(table["tai_utc"], dtype=np.float64)


def _parse_time(text: str) -> float | None:
    """Return the MJD of a date and time; a date alone tells no time."""
    if "T" not in text:
        return None
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (time - _MJD_ZERO).total_seconds() / _SECONDS

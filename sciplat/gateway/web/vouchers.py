"""Random texts that stand for something for a while, like tickets and cookies; only their digests are kept."""

import hashlib
import secrets
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Vouchers(Generic[T]):
    """What texts stand for, in bounded memory.

    Parameters
    ----------
    lifetime : float
        Seconds for which a text is good.
    most : int
        Texts that are good at once; the oldest make way.
    """

    def __init__(self, lifetime: float, most: int = 10_000) -> None:
        self._lifetime = lifetime
        self._most = most
        self._kept: dict[bytes, tuple[float, T]] = {}  # in the order of their ends

    def make(self, value: T) -> str:
        """Return a new text that stands for a value."""
        now = time.monotonic()
        for digest, (end, _) in list(self._kept.items()):
            if end > now and len(self._kept) < self._most:
                break
            del self._kept[digest]
        text = secrets.token_urlsafe(32)
        self._kept[_digest(text)] = now + self._lifetime, value
        return text

    def find(self, text: str) -> T | None:
        """Return what a text stands for, None if it is not good or not any more."""
        end, value = self._kept.get(_digest(text), (0.0, None))
        return value if time.monotonic() < end else None

    def end(self, text: str) -> None:
        """Make a text good for nothing."""
        self._kept.pop(_digest(text), None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

"""Failed logins by address, in bounded memory: a flood of them is told apart from a few."""

from collections import OrderedDict

MOST = 20  # failures
_WINDOW = 60.0  # s, from the first of them
_REMEMBERED = 10_000  # addresses


class FailedLogins:
    """Counted by address, to say from when on each is not worth a line of the audit log any more.

    Nobody waits who has a good token, however many bad ones come from their address: behind a hub's proxy all users
    share one, and tokens are too long to be guessed. Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, source: str, now: float) -> tuple[int, float]:
        """Count a failure; return how many there are in this address's minute, and the seconds until its end."""
        since, count = self._failures.get(source, (now, 0))
        if now >= since + _WINDOW:
            since, count = now, 0
        self._failures[source] = since, count + 1
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        return count + 1, since + _WINDOW - now

"""Failed logins by address: who fails too often waits, in bounded memory."""

from collections import OrderedDict

_MOST = 20  # failures
_WINDOW = 60.0  # s, from the first of them
_REMEMBERED = 10_000  # addresses, and credentials


class FailedLogins:
    """Counted by address, to say who must wait.

    Credentials that were good before are heard from everywhere: behind a hub's proxy all users share one address, and
    one user's expired token must not shut the others out. Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def wait(self, source: str, credential: bytes, now: float) -> float:
        """Return for how many seconds an address is not heard with a credential (its digest); 0 if it is."""
        since, count = self._failures.get(source, (now, 0))
        if count < _MOST or credential in self._good:
            return 0.0
        return max(since + _WINDOW - now, 0.0)

    def failed(self, source: str, credential: bytes, now: float) -> bool:
        """Count a failure; return whether it is the one after which the address must wait."""
        self._good.pop(credential, None)
        since, count = self._failures.get(source, (now, 0))
        if now >= since + _WINDOW:
            since, count = now, 0
        self._failures[source] = since, count + 1
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        return count + 1 == _MOST

    def passed(self, credential: bytes) -> None:
        """Remember that a credential is good."""
        self._good[credential] = None
        self._good.move_to_end(credential)
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)

"""What a user is told of an error, or a quota that stands in the way: own clusters by name, of others only totals."""

import time
from typing import TYPE_CHECKING, Any

from sciplat.errors import SciplatError

if TYPE_CHECKING:
    from sciplat.gateway.quota.limits import Account, Refusal

MARK = "quota: "  # by which our client knows such a reason


def one_line(error: BaseException) -> str:
    """Return an error as one line."""
    if isinstance(error, SciplatError):
        return ": ".join(part for part in (error.what, error.found) if part) + (
            f" (try: {error.hint})" if error.hint else ""
        )
    return " ".join(str(error).split()) or type(error).__name__


def own_holders(backend: Any, user: str, account: "Account", limit: str, now: float) -> list[tuple[str, float]]:
    """Return which of a user's own clusters use a limit, and how much; a group's other members stay unnamed."""
    holders: list[tuple[str, float]] = backend.ledger.holders(account, limit, now)
    if account.kind == "user":
        return holders
    own = backend.db.username_to_clusters.get(user, {})
    return [(cluster, amount) for cluster, amount in holders if cluster in own]


def tell(backend: Any, refusal: "Refusal", user: str) -> str:
    """Return a refusal in one line for the user whom it stands in the way."""
    holders = own_holders(backend, user, refusal.account, refusal.limit, time.time())
    return MARK + " ".join(refusal.message(holders).split())

"""Quotas: what a user and their groups may have at once and in a period, and whether something more still fits.

Everything here is pure: what is used comes from the ledger, the time from the caller (seconds since 1970, UTC).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Literal

from sciplat.gateway.units import format_memory

Period = Literal["day", "week", "month"]
LIMITS = ("clusters", "workers", "cores", "memory", "gpus", "core_hours")
_SHOWN = 3  # clusters that a message names


@dataclass(frozen=True)
class Limits:
    """The most that an account may have; None is no limit.

    Parameters
    ----------
    clusters, workers, cores, gpus : int, optional
        At the same time.
    memory : int, optional
        Bytes at the same time.
    core_hours : float, optional
        In each period.
    period : {"day", "week", "month"}
        Of the UTC calendar; weeks begin on Monday.
    """

    clusters: int | None = None
    workers: int | None = None
    cores: int | None = None
    memory: int | None = None
    gpus: int | None = None
    core_hours: float | None = None
    period: Period = "month"

    def cap(self, limit: str) -> float | None:
        """Return the cap of one of `LIMITS`."""
        cap: float | None = getattr(self, limit)
        return cap


@dataclass(frozen=True)
class Amount:
    """What is asked for, or used: counts, bytes of memory, and hours of one core."""

    clusters: int = 0
    workers: int = 0
    cores: int = 0
    memory: int = 0
    gpus: int = 0
    core_hours: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(**{limit: getattr(self, limit) + getattr(other, limit) for limit in LIMITS})

    def __mul__(self, times: int) -> "Amount":
        return Amount(**{limit: getattr(self, limit) * times for limit in LIMITS})

    def of(self, limit: str) -> float:
        """Return how much it is of one of `LIMITS`."""
        amount: float = getattr(self, limit)
        return amount


@dataclass(frozen=True)
class Account:
    """Who is charged: a user or a group."""

    kind: Literal["user", "group"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Standing:
    """What an account may have, and what it has: at once now, and core-hours in this period."""

    account: Account
    limits: Limits
    used: Amount


@dataclass(frozen=True)
class Refusal:
    """The limit that stands in the way.

    Parameters
    ----------
    account : Account
    limit : str
        One of `LIMITS`.
    cap, used, asked : float
        In the limit's unit: a count, bytes, or core-hours.
    fits : int
        How much of what was asked for would still fit, in the limit's unit.
    resets : float, optional
        When the period ends; for core-hours only.
    """

    account: Account
    limit: str
    cap: float
    used: float
    asked: float
    fits: int
    resets: float | None = None

    def message(self, holders: Sequence[tuple[str, float]] = ()) -> str:
        """Return in words which limit it is, who uses how much of it, and what would still fit.

        Parameters
        ----------
        holders : sequence of (str, float)
            Clusters and how much each uses, the largest first.
        """
        amounts = (self.used, self.cap, self.asked, self.fits)
        used, cap, asked, fits = (_in_words(self.limit, amount) for amount in amounts)
        by = f" ({_list_holders(self.limit, holders)})" if holders else ""
        if self.resets is not None:
            end = datetime.fromtimestamp(self.resets, UTC)
            return f"{self.account} has used {used} of {cap}{by}; the next period begins {end:%Y-%m-%d %H:%M} UTC"
        return f"{self.account} uses {used} of {cap}{by}; {asked} more asked for, {fits} would still fit"


@dataclass(frozen=True)
class Policy:
    """The quotas of a site.

    Parameters
    ----------
    default : Limits, optional
        Of users who have none of their own.
    users, groups : mapping of str to Limits
        By name.
    """

    default: Limits | None = None
    users: Mapping[str, Limits] = field(default_factory=dict)
    groups: Mapping[str, Limits] = field(default_factory=dict)

    def accounts(self, user: str, groups: Iterable[str]) -> list[tuple[Account, Limits]]:
        """Return what a user's use counts against: the user, then every group of theirs that has limits."""
        accounts = [Account("user", user)]
        accounts += [Account("group", group) for group in dict.fromkeys(groups) if group in self.groups]
        return [(account, self.limits(account)) for account in accounts]

    def limits(self, account: Account) -> Limits:
        """Return the limits of an account, without any where the site names none."""
        if account.kind == "group":
            return self.groups.get(account.name, Limits())
        return self.users.get(account.name, self.default or Limits())


def decide(ask: Amount, standings: Sequence[Standing], now: float) -> Refusal | None:
    """Return what stands in the way of an ask, or None if it may be granted.

    A limit of which nothing is asked does not matter, with one exception: where the core-hours of the period are
    used up, nothing is granted, not even an empty ask.

    Parameters
    ----------
    ask : Amount
    standings : sequence of Standing
        Of all accounts that the ask counts against.
    now : float
        Seconds since 1970.

    Returns
    -------
    Refusal or None
        The tightest of the limits in the way.
    """
    refusals = [
        _refuse(ask, standing, limit, now)
        for standing in standings
        for limit in LIMITS
        if _times(ask, standing, limit) < 1
    ]
    return min(refusals, key=lambda refusal: refusal.fits / (refusal.asked or 1), default=None)


def how_many(ask: Amount, standings: Sequence[Standing], most: int) -> int:
    """Return how many times, at most `most`, an ask would be granted one after the other."""
    times = [_times(ask, standing, limit) for standing in standings for limit in LIMITS]
    return int(min([most, *times]))


def period_start(now: float, period: Period) -> float:
    """Return when the period that contains `now` began, in seconds since 1970."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "week":
        day -= timedelta(days=day.weekday())
    elif period == "month":
        day = day.replace(day=1)
    return day.timestamp()


def period_end(now: float, period: Period) -> float:
    """Return when the period that contains `now` ends, which is when the next one begins."""
    start = period_start(now, period)
    longest = {"day": 1, "week": 7, "month": 31}[period]
    return period_start(start + longest * 86400, period)


def _times(ask: Amount, standing: Standing, limit: str) -> float:
    """Return how many times an ask fits below one limit; infinity where the limit does not matter."""
    cap = standing.limits.cap(limit)
    if cap is None:
        return inf
    asked, left = ask.of(limit), cap - standing.used.of(limit)
    if limit == "core_hours" and left <= 0:
        return 0
    return max(left // asked, 0) if asked > 0 else inf


def _refuse(ask: Amount, standing: Standing, limit: str, now: float) -> Refusal:
    cap, used = standing.limits.cap(limit) or 0, standing.used.of(limit)
    resets = period_end(now, standing.limits.period) if limit == "core_hours" else None
    return Refusal(standing.account, limit, cap, used, ask.of(limit), int(max(cap - used, 0)), resets)


def _in_words(limit: str, amount: float) -> str:
    if limit == "memory":
        return format_memory(int(amount))
    if limit == "core_hours":
        return f"{amount:.1f} core-hours"
    name = "GPUs" if limit == "gpus" else limit
    return f"{amount:.0f} {name if amount != 1 else name[:-1]}"


def _list_holders(limit: str, holders: Sequence[tuple[str, float]]) -> str:
    # A name's first part tells one's own clusters apart; those of others in a group are not to be read from here.
    named = [f"{cluster[:8]}: {_in_words(limit, amount)}" for cluster, amount in holders[:_SHOWN]]
    more = len(holders) - _SHOWN
    return ", ".join(named) + (f" and {more} more clusters" if more > 0 else "")

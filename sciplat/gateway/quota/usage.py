"""What leases are charged: each from its start to its end, or as far as it was seen to run, within a span of time."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select

from sciplat.errors import ArgumentError
from sciplat.gateway.quota.tables import cluster_groups, leases

_GIB = float(1 << 30)
KEYS: dict[str, ColumnElement[Any]] = {
    "user": leases.c.user,
    "group": func.coalesce(cluster_groups.c.name, ""),
    "cluster": leases.c.cluster,
}
CLUSTERS = func.coalesce(func.sum(case((leases.c.name == "", 1), else_=0)), 0)
WORKERS = func.coalesce(func.sum(case((leases.c.name == "", 0), else_=1)), 0)


def ran(since: float, until: float) -> ColumnElement[bool]:
    """Return the condition that a lease is charged for a part of a span, in seconds since 1970."""
    return or_(_ended(since, until), _goes_on(since, until))


def hours(
    what: ColumnElement[Any], since: float, until: float, end: ColumnElement[Any] | None = None
) -> ColumnElement[float]:
    """Return the sum over leases of `what` times the hours that each ran within a span; for rows that `ran`."""
    end = func.coalesce(leases.c.ended, leases.c.seen) if end is None else end
    first = case((leases.c.started > since, leases.c.started), else_=since)
    last = case((end < until, end), else_=until)
    return func.coalesce(func.sum(what * (last - first)) / 3600.0, 0.0)


def sum_core_hours(connection: Connection, whose: ColumnElement[bool], since: float, until: float) -> float:
    """Return what leases under a condition are charged within a span; in two sums, the long one from an index."""
    ended = hours(leases.c.cores, since, until, leases.c.ended)
    going_on = hours(leases.c.cores, since, until, leases.c.seen)
    parts = (select(ended).where(_ended(since, until)), select(going_on).where(_goes_on(since, until)))
    return sum(connection.execute(part.where(whose)).scalar_one() for part in parts)


def report_usage(
    connection: Connection, by: Sequence[str], since: float, until: float, user: str | None
) -> list[dict[str, Any]]:
    """Return what was used within a span, one row for each user, group or cluster or their combination.

    See `Ledger.usage`.
    """
    unknown = [key for key in by if key not in KEYS]
    if unknown or not by:
        raise ArgumentError("usage is summed by user, group or cluster", found=repr(list(by)), hint='by=("user",)')
    until = max(since, until)  # a span that ends before it begins is empty
    columns = [KEYS[key].label(key) for key in dict.fromkeys(by)]
    query = select(
        *columns,
        hours(leases.c.cores, since, until).label("core_hours"),
        hours(leases.c.gpus, since, until).label("gpu_hours"),
        hours(leases.c.memory / _GIB, since, until).label("memory_gib_hours"),
        CLUSTERS.label("clusters"),
        WORKERS.label("workers"),
    ).where(ran(since, until))
    if "group" in by:  # otherwise a lease would count once for every group
        query = query.select_from(leases.outerjoin(cluster_groups, cluster_groups.c.cluster == leases.c.cluster))
    if user is not None:
        query = query.where(leases.c.user == user)
    rows = connection.execute(query.group_by(*columns).order_by(*columns)).mappings()
    return [dict(row) for row in rows]


def _ended(since: float, until: float) -> ColumnElement[bool]:
    return and_(leases.c.ended > since, leases.c.ended > leases.c.started, leases.c.started < until)


def _goes_on(since: float, until: float) -> ColumnElement[bool]:
    return and_(leases.c.ended.is_(None), leases.c.seen > since, leases.c.started < until)

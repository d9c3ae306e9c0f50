"""The ledger: who was granted which scheduler and worker, from when until when, and so what every quota has left.

One row is one lease. What is used is summed up from the rows and never kept beside them, so that a crash at any
moment neither loses nor doubles a charge.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Update, and_, exists, func, insert, or_, select, update

from sciplat.gateway.quota.limits import (
    Account,
    Amount,
    Limits,
    Policy,
    Refusal,
    Standing,
    decide,
    how_many,
    period_end,
    period_start,
)
from sciplat.gateway.quota.tables import cluster_groups, leases, open_engine, transaction
from sciplat.gateway.quota.usage import CLUSTERS, WORKERS, hours, ran, report_usage, sum_core_hours

_AT_ONCE: dict[str, ColumnElement[Any]] = {
    "clusters": CLUSTERS,
    "workers": WORKERS,
    "cores": func.coalesce(func.sum(leases.c.cores), 0),
    "memory": func.coalesce(func.sum(leases.c.memory), 0),
    "gpus": func.coalesce(func.sum(leases.c.gpus), 0),
}


@dataclass(frozen=True)
class Lease:
    """A scheduler or a worker that a user asks for.

    Parameters
    ----------
    cluster : str
    name : str
        Of the worker; empty for the scheduler.
    user : str
    groups : tuple of str
        Of the user when the cluster was asked for: all its leases count against them.
    cores : int
    memory : int
        Bytes.
    gpus : int
    """

    cluster: str
    name: str
    user: str
    groups: tuple[str, ...]
    cores: int
    memory: int
    gpus: int

    @property
    def ask(self) -> Amount:
        """Return what it counts against quotas."""
        scheduler = not self.name
        return Amount(int(scheduler), int(not scheduler), self.cores, self.memory, self.gpus)


@dataclass(frozen=True)
class Held:
    """A lease and what became of it; times are seconds since 1970.

    Parameters
    ----------
    lease : Lease
        Its groups in alphabetical order.
    granted : float
    started, seen, ended : float, optional
        When it ran first, when it was known to run last, and when it ended.
    job : str, optional
        The batch system's id.
    settled : bool
        Whether start and end are those of the batch system.
    """

    lease: Lease
    granted: float
    started: float | None
    seen: float | None
    ended: float | None
    job: str | None
    settled: bool


class Ledger:
    """The leases of a site, in a database that several processes and threads may use at once.

    A lease counts against what may be held at once from its grant to its end, and is charged core-hours from its
    start. As long as it has not ended it is charged up to when it was seen last.

    Parameters
    ----------
    url : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
    policy : Policy

    Raises
    ------
    SiteError
        If the URL is no database for a ledger, or it belongs to a newer sciplat.
    StorageError
        If the database does not answer; so does every method.
    """

    def __init__(self, url: str, policy: Policy) -> None:
        self._engine = open_engine(url)
        self._policy = policy

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    # asking and taking

    def grant(self, lease: Lease, now: float) -> Refusal | None:
        """Take a lease if every quota allows it, or return what stands in the way.

        A lease that is held is granted again without counting twice. One that has ended is decided anew, and goes
        on if it is granted: it did not end after all.
        """
        this = _is(lease.cluster, lease.name)
        with transaction(self._engine, alone=True) as connection:
            row = connection.execute(select(leases.c.id, leases.c.ended).where(this)).one_or_none()
            if row is not None and row.ended is None:
                return None
            refusal = decide(lease.ask, self._weigh(connection, lease.user, lease.groups, now), now)
            if refusal is None and row is None:
                _insert(connection, lease, now)
            elif refusal is None:
                connection.execute(update(leases).where(this).values(ended=None, settled=False))
        return refusal

    def grant_first(self, asked: Sequence[Lease], now: float) -> int:
        """Take as many new leases of one owner and of one size as every quota allows, and return how many.

        They are taken in their order, in one transaction: a thousand workers would hold up everybody else.
        """
        first = asked[0]
        with transaction(self._engine, alone=True) as connection:
            fits = how_many(first.ask, self._weigh(connection, first.user, first.groups, now), len(asked))
            for lease in asked[:fits]:
                _insert(connection, lease, now)
        return fits

    def refusal(self, user: str, groups: Iterable[str], ask: Amount, now: float) -> Refusal | None:
        """Return what stands in the way of an ask, without taking anything."""
        with transaction(self._engine) as connection:
            return decide(ask, self._weigh(connection, user, groups, now), now)

    def room(self, user: str, groups: Iterable[str], ask: Amount, most: int, now: float) -> int:
        """Return how many times, at most `most`, an ask would be granted now."""
        with transaction(self._engine) as connection:
            return how_many(ask, self._weigh(connection, user, groups, now), most)

    # what becomes of a lease

    def submitted(self, cluster: str, name: str, job: str) -> None:
        """Note the batch system's id of a lease."""
        self._change(update(leases).where(_is(cluster, name)).values(job=job))

    def seen(self, cluster: str, names: Sequence[str], now: float) -> None:
        """Note that leases of a cluster run, for the first time or still. What has ended stays so."""
        running = and_(leases.c.cluster == cluster, leases.c.name.in_(names), leases.c.ended.is_(None))
        later = or_(leases.c.seen.is_(None), leases.c.seen < now)
        started = func.coalesce(leases.c.started, now)
        self._change(update(leases).where(running, later).values(started=started, seen=now))

    def ended(self, cluster: str, name: str | None, now: float | None = None) -> None:
        """Note that a lease, or for no name all of a cluster's, has ended; saying so again changes nothing.

        Without a time it ended when it was seen last.
        """
        which = leases.c.cluster == cluster if name is None else _is(cluster, name)
        when: Any = func.coalesce(leases.c.seen, leases.c.granted) if now is None else now
        self._change(update(leases).where(which, leases.c.ended.is_(None)).values(ended=when))

    def settle(self, cluster: str, name: str, started: float, ended: float) -> None:
        """Put what the batch system knows of a lease in the place of what was seen."""
        times = {"started": started, "ended": ended, "settled": True}
        self._change(update(leases).where(_is(cluster, name)).values(times))

    # looking

    def open_leases(self) -> list[Held]:
        """Return all leases that have not ended, in the order of their grants."""
        return self._held(leases.c.ended.is_(None))

    def unsettled(self, since: float) -> list[Held]:
        """Return the leases of known jobs that ended at `since` or later and are not settled."""
        return self._held(leases.c.ended >= since, leases.c.job.is_not(None), leases.c.settled.is_(False))

    def standings(self, user: str, groups: Iterable[str], now: float) -> list[Standing]:
        """Return what a user has and may have, then the same of each of their groups that has limits."""
        with transaction(self._engine) as connection:
            return self._weigh(connection, user, groups, now, all_hours=True)

    def holders(self, account: Account, limit: str, now: float) -> list[tuple[str, float]]:
        """Return the clusters that use an account's limit and how much each uses, the largest first.

        Parameters
        ----------
        account : Account
        limit : str
            One of `LIMITS`.
        now : float
        """
        if limit == "core_hours":
            span = _period(self._policy.limits(account), now)
            amount, counts = hours(leases.c.cores, *span), ran(*span)
        else:
            amount, counts = _AT_ONCE[limit], leases.c.ended.is_(None)
        query = select(leases.c.cluster, amount).where(counts, _belongs(account)).group_by(leases.c.cluster)
        with transaction(self._engine) as connection:
            found = [(cluster, float(amount)) for cluster, amount in connection.execute(query) if amount]
        return sorted(found, key=lambda holder: (-holder[1], holder[0]))

    def usage(self, by: Sequence[str], since: float, until: float, *, user: str | None = None) -> list[dict[str, Any]]:
        """Return what was used within a span of time.

        Parameters
        ----------
        by : sequence of {"user", "group", "cluster"}
            A row for each, or for each combination. A lease whose owner is in several groups counts fully in each
            group's row; one without a group is in the row of the group "".
        since, until : float
            Seconds since 1970.
        user : str, optional
            Whose leases alone are looked at.

        Returns
        -------
        list of dict
            The keys of `by`, ``core_hours``, ``gpu_hours``, ``memory_gib_hours``, and how many ``clusters`` and
            ``workers`` ran.

        Raises
        ------
        ArgumentError
            If `by` is empty or has another key.
        """
        with transaction(self._engine) as connection:
            return report_usage(connection, by, since, until, user)

    def _weigh(
        self, connection: Connection, user: str, groups: Iterable[str], now: float, *, all_hours: bool = False
    ) -> list[Standing]:
        """Return the standings of all accounts; core-hours that no quota limits only if asked for."""
        standings = []
        for account, limits in self._policy.accounts(user, groups):
            held = connection.execute(select(*_AT_ONCE.values()).where(leases.c.ended.is_(None), _belongs(account)))
            used = Amount(*(int(amount) for amount in held.one()))
            if all_hours or limits.core_hours is not None:
                used += Amount(core_hours=sum_core_hours(connection, _belongs(account), *_period(limits, now)))
            standings.append(Standing(account, limits, used))
        return standings

    def _held(self, *which: ColumnElement[bool]) -> list[Held]:
        query = select(leases).where(*which).order_by(leases.c.granted, leases.c.id)
        members = select(cluster_groups).where(cluster_groups.c.cluster.in_(select(leases.c.cluster).where(*which)))
        with transaction(self._engine) as connection:
            rows = connection.execute(query).all()
            groups: dict[str, list[str]] = {}
            for name, cluster in connection.execute(members):
                groups.setdefault(cluster, []).append(name)
        return [_as_held(row, groups.get(row.cluster, [])) for row in rows]

    def _change(self, statement: Update) -> None:
        with transaction(self._engine) as connection:
            connection.execute(statement)


def _is(cluster: str, name: str) -> ColumnElement[bool]:
    return and_(leases.c.cluster == cluster, leases.c.name == name)


def _belongs(account: Account) -> ColumnElement[bool]:
    if account.kind == "user":
        return leases.c.user == account.name
    return exists().where(cluster_groups.c.name == account.name, cluster_groups.c.cluster == leases.c.cluster)


def _period(limits: Limits, now: float) -> tuple[float, float]:
    return period_start(now, limits.period), period_end(now, limits.period)


def _insert(connection: Connection, lease: Lease, now: float) -> None:
    values = {
        "cluster": lease.cluster,
        "name": lease.name,
        "user": lease.user,
        "cores": lease.cores,
        "memory": lease.memory,
        "gpus": lease.gpus,
        "granted": now,
    }
    connection.execute(insert(leases).values(values))
    known = connection.scalars(select(cluster_groups.c.name).where(cluster_groups.c.cluster == lease.cluster))
    groups = [{"name": group, "cluster": lease.cluster} for group in set(lease.groups).difference(known)]
    if groups:
        connection.execute(insert(cluster_groups), groups)


def _as_held(row: Row[Any], groups: Sequence[str]) -> Held:
    lease = Lease(row.cluster, row.name, row.user, tuple(sorted(groups)), row.cores, row.memory, row.gpus)
    return Held(lease, row.granted, row.started, row.seen, row.ended, row.job, row.settled)

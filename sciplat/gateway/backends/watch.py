"""What the gateway looks at now and then: lifetimes, budgets, the batch system's accounting, and what nobody owns."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from dask_gateway_server.backends.db_base import JobStatus

from sciplat.gateway.backends.agree import make_agree
from sciplat.gateway.backends.cluster_config import owner
from sciplat.gateway.quota.ledger import Ledger
from sciplat.gateway.quota.limits import Amount, Refusal
from sciplat.gateway.quota.refusals import tell
from sciplat.gateway.units import format_duration

if TYPE_CHECKING:
    from sciplat.gateway.backends.backend import SiteBackend

Owner = tuple[str, tuple[str, ...]]

_LOOK = 5.0  # seconds between two looks at lifetimes
_REAP = 30.0  # seconds between two looks for what nobody owns
_SETTLE = 60.0  # seconds between two looks into the batch system's accounting
_UNSETTLED = 7 * 86_400.0  # seconds for which accounting may still correct a charge


class Watch:
    """Ends what has lived too long, has spent its budget, or belongs to nobody; corrects charges.

    Parameters
    ----------
    backend : SiteBackend
    """

    def __init__(self, backend: "SiteBackend") -> None:
        self._backend = backend
        self._looks = {self._end_old: _LOOK, self._reap: _REAP, self._agree: _REAP, self._settle: _SETTLE}

    async def forever(self) -> None:
        """Look again and again until cancelled; none waits for another: users can hold up the reaper with jobs."""
        await asyncio.gather(*(self._again(look, period) for look, period in self._looks.items()))

    async def _again(self, look: Callable[[], Awaitable[None]], period: float) -> None:
        while True:
            try:
                await look()
            except Exception:
                self._backend.log.exception("Error in %s", look)
            await asyncio.sleep(period)

    async def _end_old(self) -> None:
        """Stop clusters that are too old, or whose owners have spent their core-hours."""
        now, spent = time.time(), await self._spent()
        for cluster in list(self._backend.db.active_clusters()):
            reason = self._over(cluster, now, spent.get(owner(cluster)))
            if reason:
                self._backend.end(cluster, reason)

    async def _spent(self) -> dict[Owner, Refusal]:
        """Return who may run nothing more, and why; sums over a long period take a while, so not in the event loop."""
        owners = {owner(cluster) for cluster in self._backend.db.active_clusters()}
        ledger, now = self._backend.ledger, time.time()
        refusals = {one: await asyncio.to_thread(ledger.refusal, *one, Amount(), now) for one in owners}
        return {one: refusal for one, refusal in refusals.items() if refusal is not None}

    def _over(self, cluster: Any, now: float, refusal: Refusal | None) -> str:
        lifetime = cluster.config.lifetime
        if lifetime and now - cluster.start_time / 1000 > lifetime:
            return f"it has lived for {format_duration(lifetime)}, the longest this gateway allows"
        idle = cluster.config.idle_timeout
        beat = self._backend.beats.get(cluster.name)
        if idle and beat and beat.quiet_since and now - beat.quiet_since > idle and not _awaits(cluster):
            return f"it had nothing to do for {format_duration(idle)}"  # and asks for workers that no quota allows
        if refusal is not None and refusal.limit == "core_hours":
            return tell(self._backend, refusal, cluster.username)
        return ""

    async def _reap(self) -> None:
        """End jobs or processes of this site that no row of the database owns."""
        owned = {c.name for c in self._backend.db.name_to_cluster.values() if c.stop_time is None}
        for ended in await self._backend.reap(owned):
            self._backend.log.warning("Ended what nobody owns: %s", ended)
            self._backend.audit.write("reaped", what=ended)

    async def _agree(self) -> None:
        """Make up for what was not written down because ledger or database had failed."""
        await make_agree(self._backend)

    async def _settle(self) -> None:
        """Let what the batch system says replace what heartbeats said."""
        ledger = self._backend.ledger
        if not self._backend.has_accounting:
            return
        held = await asyncio.to_thread(ledger.unsettled, time.time() - _UNSETTLED)
        if not held:
            return
        for lease, times in (await self._backend.accounted(held)).items():
            await asyncio.to_thread(ledger.settle, *lease, *times)


def _awaits(cluster: Any) -> bool:
    """Return whether workers have been asked for and are not there yet."""
    return any(worker.status < JobStatus.RUNNING for worker in cluster.active_workers())


def charge(ledger: Ledger, workers: Iterable[Any]) -> None:
    """Charge workers that run, whether or not their scheduler tells of them: it is a process of their user's."""
    names: dict[str, list[str]] = {}
    for worker in workers:
        names.setdefault(worker.cluster.name, []).append(worker.name)
    for cluster, found in names.items():
        ledger.seen(cluster, found, time.time())

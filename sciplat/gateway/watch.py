"""What the gateway looks at now and then: lifetimes, budgets, the batch system's accounting, and what nobody owns."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from dask_gateway_server.backends.db_base import JobStatus

from sciplat.gateway.quota import Amount
from sciplat.gateway.refusals import tell
from sciplat.gateway.units import format_duration

if TYPE_CHECKING:
    from sciplat.gateway.backend import SiteBackend

_LOOK = 5.0  # seconds between two looks at lifetimes
_REAP = 30.0  # seconds between two looks for what nobody owns
_SETTLE = 60.0  # seconds between two looks into the batch system's accounting
_UNSETTLED = 86_400.0  # seconds for which accounting may still correct a charge


class Watch:
    """Ends what has lived too long, has spent its budget, or belongs to nobody; corrects charges.

    Parameters
    ----------
    backend : SiteBackend
    """

    def __init__(self, backend: "SiteBackend") -> None:
        self._backend = backend
        self._next = {self._end_old: 0.0, self._reap: 0.0, self._settle: 0.0}
        self._periods = {self._end_old: _LOOK, self._reap: _REAP, self._settle: _SETTLE}

    async def forever(self) -> None:
        """Look again and again until cancelled; one look that fails does not end the others."""
        while True:
            for look, period in self._periods.items():
                if time.monotonic() < self._next[look]:
                    continue
                self._next[look] = time.monotonic() + period
                try:
                    await look()
                except Exception:
                    self._backend.log.exception("Error in %s", look.__name__)
            await asyncio.sleep(1.0)

    async def _end_old(self) -> None:
        """Stop clusters that are too old, or whose owners have spent their core-hours."""
        now = time.time()
        for cluster in list(self._backend.db.active_clusters()):
            reason = self._over(cluster, now)
            if reason:
                self._backend.end(cluster, reason)

    def _over(self, cluster: Any, now: float) -> str:
        lifetime = cluster.config.lifetime
        if lifetime and now - cluster.start_time / 1000 > lifetime:
            return f"it has lived for {format_duration(lifetime)}, the longest this gateway allows"
        idle = cluster.config.idle_timeout
        beat = self._backend.beats.get(cluster.name)
        if idle and beat and beat.quiet_since and now - beat.quiet_since > idle and not _awaits(cluster):
            return f"it had nothing to do for {format_duration(idle)}"  # and asks for workers that no quota allows
        refusal = self._backend.ledger.refusal(cluster.username, tuple(cluster.config.owner_groups), Amount(), now)
        if refusal is not None and refusal.limit == "core_hours":
            return tell(self._backend, refusal, cluster.username)
        return ""

    async def _reap(self) -> None:
        """End jobs or processes of this site that no row of the database owns."""
        owned = {c.name for c in self._backend.db.name_to_cluster.values() if c.stop_time is None}
        for ended in await self._backend.reap(owned):
            self._backend.log.warning("Ended what nobody owns: %s", ended)
            self._backend.audit.write("reaped", what=ended)

    async def _settle(self) -> None:
        """Let what the batch system says replace what heartbeats said."""
        held = self._backend.ledger.unsettled(time.time() - _UNSETTLED)
        if not held:
            return
        for (cluster, name), (started, ended) in (await self._backend.accounted(held)).items():
            self._backend.ledger.settle(cluster, name, started, ended)


def _awaits(cluster: Any) -> bool:
    """Return whether workers have been asked for and are not there yet."""
    return any(worker.status < JobStatus.RUNNING for worker in cluster.active_workers())

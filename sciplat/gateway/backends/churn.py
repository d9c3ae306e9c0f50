"""How long a cluster waits for new workers when those it gets end as soon as they are there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dask_gateway_server.backends.db_base import JobStatus

from sciplat.gateway.backends.cluster_config import staying

SHORT = 10.0  # seconds: a worker that lived for less has hardly worked
LONGEST = 60.0  # seconds of waiting


@dataclass
class _Past:
    """What is remembered of a cluster: when workers joined, and how long it waits and waited."""

    joined: dict[str, float] = field(default_factory=dict)
    delay: float = 0.0
    until: float = 0.0


class Churn:
    """Counts the workers of each cluster that end within seconds and have to be replaced.

    The first replacement waits for a second, the next ones for twice as long each, up to a minute. A worker that lived
    for longer ends that. Workers that never joined are counted elsewhere, as failures to start.
    """

    def __init__(self) -> None:
        self._past: dict[str, _Past] = {}

    def look(self, cluster: Any, message: Mapping[str, Iterable[str]], now: float) -> None:
        """Take note of who joins and who leaves.

        Parameters
        ----------
        cluster : Cluster
            As it was before its heartbeat.
        message : mapping
            The heartbeat, checked.
        now : float
            Seconds since 1970.
        """
        past = self._past.setdefault(cluster.name, _Past())
        active, closing = set(message["active_workers"]), set(message["closing_workers"])
        for worker in cluster.active_workers():
            if worker.name in active | closing and worker.status < JobStatus.RUNNING:
                past.joined.setdefault(worker.name, now)
        going = closing | set(message["closed_workers"]) - active
        left = [worker for worker in staying(cluster) if worker.name in going]
        wanted: Any = message["count"]
        replaced = wanted > len(staying(cluster)) - len(left)  # otherwise fewer are wanted, which is nobody's failure
        for worker in left:
            begun = past.joined.pop(worker.name, now if worker.status < JobStatus.RUNNING else 0.0)
            if replaced:
                _count(past, now - begun, now)

    def wait(self, cluster: str, now: float) -> float:
        """Return for how many seconds a cluster gets no new workers."""
        past = self._past.get(cluster)
        return max(past.until - now, 0.0) if past else 0.0

    def forget(self, cluster: str) -> None:
        """Forget a cluster that is over."""
        self._past.pop(cluster, None)


def _count(past: _Past, lived: float, now: float) -> None:
    """Count the end of a worker; many that end together count as one."""
    if lived >= SHORT:
        past.delay = past.until = 0.0
    elif now >= past.until:
        quiet = now - past.until > LONGEST
        past.delay = 1.0 if quiet or not past.delay else min(2 * past.delay, LONGEST)
        past.until = now + past.delay

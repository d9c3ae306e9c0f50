"""Makes the ledger and the gateway's database agree again.

The two come apart when the gateway is killed, or one of them fails, between the change of one and the other; or when a
job could not be ended.
"""

import time
from typing import TYPE_CHECKING, Any

from dask_gateway_server.backends.db_base import JobStatus, Worker

from sciplat.gateway.backends.cluster_config import scheduler_lease, worker_lease
from sciplat.gateway.quota.ledger import Held

if TYPE_CHECKING:
    from sciplat.gateway.backends.backend import SiteBackend


async def make_agree(backend: "SiteBackend") -> None:
    """Close leases of what the database does not know, and stop what has no lease and gets none.

    A lease whose job could not be ended stays, and is charged, until the batch system says that the job is over.

    Parameters
    ----------
    backend : SiteBackend
    """
    parts = _parts(backend)
    over = [one for one in backend.ledger.open_leases() if _key(one) not in parts]
    there = await backend.still_there(over)
    for one in over:
        if _key(one) not in there:
            backend.ledger.ended(*_key(one))
        elif one.started is not None:
            backend.ledger.seen(one.lease.cluster, [one.lease.name], time.time())
    backend.unstopped.difference_update(map(_key, over))
    backend.unstopped.update(there)
    _grant_again(backend)


def _grant_again(backend: "SiteBackend") -> None:
    """Give leases to what has none, or stop it."""
    parts = _parts(backend)
    held = {_key(one) for one in backend.ledger.open_leases()}
    for key in parts.keys() - held:
        part = parts[key]
        if not part.is_active():
            continue
        worker = isinstance(part, Worker)
        lease = worker_lease(part) if worker else scheduler_lease(part)
        if backend.ledger.grant(lease, time.time()) is not None:
            change = backend.db.update_worker if worker else backend.db.update_cluster
            change(part, target=JobStatus.STOPPED)
        backend.queue.put(part)


def _parts(backend: "SiteBackend") -> dict[tuple[str, str], Any]:
    """Return the schedulers and workers that are not over, by cluster and worker as their leases are."""
    there = [cluster for cluster in backend.db.name_to_cluster.values() if cluster.status < JobStatus.STOPPED]
    workers = [worker for cluster in there for worker in cluster.workers.values() if worker.status < JobStatus.STOPPED]
    return {(one.name, ""): one for one in there} | {(one.cluster.name, one.name): one for one in workers}


def _key(held: Held) -> tuple[str, str]:
    return held.lease.cluster, held.lease.name

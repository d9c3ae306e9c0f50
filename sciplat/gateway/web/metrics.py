"""What Prometheus collects: sums over all users, never a user's or a cluster's name."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import prometheus_client
from aiohttp import web
from dask_gateway_server.backends.db_base import JobStatus
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sciplat.gateway.quota.limits import LIMITS

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_STATES = ("waiting", "running", "stopping")
_HELD = (("cores", "Cores", "cores"), ("memory_bytes", "Memory", "memory"), ("gpus", "GPUs", "gpus"))


class Metrics:
    """The gateway's metrics, apart from those of anything else in the process.

    Parameters
    ----------
    backend : SiteBackend
        Its database and ledger are read when the metrics are asked for.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, backend: Any) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = prometheus_client.Counter(
            "sciplat_gateway_requests", "Requests by route and answer", labels, registry=self._registry
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_State(backend))

    async def count(self, request: web.Request, response: web.StreamResponse) -> None:
        """Count a request; aiohttp calls it before each answer."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        method = request.method if request.method in _METHODS else "other"  # anybody may invent methods
        self._requests.labels(method, route, str(response.status)).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))


class _State:
    """Counts what there is at the moment of asking."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        clusters = [one for one in self._backend.db.name_to_cluster.values() if one.status < JobStatus.STOPPED]
        workers = [worker for one in clusters for worker in one.workers.values() if worker.status < JobStatus.STOPPED]
        yield _gauge("clusters", "Clusters", "state", Counter(_state(one) for one in clusters), _STATES)
        yield _gauge("workers", "Workers", "state", Counter(_state(one) for one in workers), _STATES)
        yield GaugeMetricFamily(
            "sciplat_gateway_users", "Users who have clusters", value=len({one.username for one in clusters})
        )
        yield from self._held()
        refused = CounterMetricFamily("sciplat_gateway_quota_refusals", "Asks that a quota refused", labels=["limit"])
        for limit in LIMITS:
            refused.add_metric([limit], self._backend.refused[limit])
        yield refused
        short = Counter(refusal.limit for refusal in self._backend.refusals.values())
        yield _gauge("clusters_short_of_quota", "Clusters that wait for room in a quota", "limit", short, LIMITS)

    def _held(self) -> Iterator[Metric]:
        """Give what the ledger holds for schedulers and workers: granted, and running for a part of it."""
        held = self._backend.ledger.open_leases()
        for name, what, key in _HELD:
            amounts: Counter[str] = Counter()
            for one in held:
                amounts["waiting" if one.started is None else "running"] += getattr(one.lease, key)
            yield _gauge(name, f"{what} that clusters hold", "state", amounts, ("waiting", "running"))


def _state(one: Any) -> str:
    if one.target > JobStatus.RUNNING:
        return "stopping"
    return "running" if one.status == JobStatus.RUNNING else "waiting"


def _gauge(name: str, what: str, label: str, amounts: Counter[str], values: tuple[str, ...]) -> Metric:
    family = GaugeMetricFamily(f"sciplat_gateway_{name}", what, labels=[label])
    for value in values:
        family.add_metric([value], amounts[value])
    return family

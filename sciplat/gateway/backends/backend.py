"""What every backend of the gateway has in common: quotas, reasons, worker ends, lifetimes, and the commands it runs.

Upstream's `DBBackendBase` keeps clusters and workers in a database and moves each towards its target. Here are the
few places of it where a site decides: before a cluster is made, before a worker is made, when one tells that it lives,
and when one has ended. Every worker passes `_check_cluster_scale`, whoever asked for it and however, so quotas are
applied there.
"""

import asyncio
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp.web import HTTPForbidden
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, DBBackendBase, JobStatus, Worker
from dask_gateway_server.traitlets import Type
from dask_gateway_server.utils import timestamp

from sciplat.errors import SciplatError, StorageError
from sciplat.gateway.backends.agree import make_agree
from sciplat.gateway.backends.churn import Churn
from sciplat.gateway.backends.cluster_config import (
    SiteClusterConfig,
    owner,
    scheduler_amount,
    scheduler_lease,
    staying,
    worker_amount,
    worker_lease,
)
from sciplat.gateway.backends.commands import common_environment, scheduler_command, worker_command
from sciplat.gateway.backends.heartbeat import Heartbeat, checked
from sciplat.gateway.backends.options import cluster_options
from sciplat.gateway.backends.watch import Watch
from sciplat.gateway.inside.guard import SCHEDULER_ENVIRONMENT, WORKER_ENVIRONMENT
from sciplat.gateway.quota.ledger import Held, Ledger
from sciplat.gateway.quota.limits import Refusal
from sciplat.gateway.quota.refusals import one_line, tell
from sciplat.gateway.units import format_duration

_MOST_FAILURES = 3  # workers in a row that do not start
_AT_A_TIME = 20  # workers made before others have their turn: each is written to the disk
_MUTE = 300.0  # seconds that a scheduler may run before it reports
_TAIL = 6  # lines of a log in a reason


class SiteBackend(DBBackendBase):  # type: ignore[misc]
    """Base of the gateway's backends; a batch system is a subclass with the abstract methods below.

    Attributes
    ----------
    site : Site
    ledger : Ledger
    audit : Audit
    beats : dict
        The last heartbeat of each running cluster.
    refusals : dict
        Why a cluster did not get all the workers that it asked for.
    refused : Counter
        How often each limit has refused somebody.
    unstopped : set
        Leases, by cluster and worker, whose jobs may run on although they have been stopped.
    """

    cluster_config_class = Type(SiteClusterConfig, klass="dask_gateway_server.backends.base.ClusterConfig", config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = self.parent.site
        self.audit = self.parent.audit
        self.ledger = Ledger(self.site.ledger_url, self.site.quotas.policy())
        self.beats: dict[str, Heartbeat] = {}
        self.refusals: dict[str, Refusal] = {}
        self.refused: Counter[str] = Counter()
        self.unstopped: set[tuple[str, str]] = set()
        self.churn = Churn()
        self._looked = timestamp()

    # what a batch system does

    @abstractmethod
    async def probe(self, config: SiteClusterConfig, username: str) -> None:
        """Raise PublicException if no such worker of this user can ever start, or the batch system does not answer."""

    @abstractmethod
    def start_scheduler(self, cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
        """Start a scheduler; yield what is needed to find it again, as soon as it is known."""

    @abstractmethod
    def start_worker(self, worker: Worker) -> AsyncIterator[dict[str, Any]]:
        """Start a worker; yield what is needed to find it again, as soon as it is known."""

    @abstractmethod
    async def reap(self, owned: set[str]) -> list[str]:
        """End the site's jobs or processes whose cluster is not in `owned`; return in words what was ended."""

    @abstractmethod
    async def read_logs(self, cluster: Cluster, names: list[str], lines: int) -> dict[str, str]:
        """Return the ends of workers' logs by name, also after the end; the scheduler's name is empty."""

    @abstractmethod
    async def why(self, cluster: Cluster) -> list[str]:
        """Return, in words, what each part of a cluster is waiting for."""

    @property
    def has_accounting(self) -> bool:
        """Whether the batch system keeps what ran, as far as is known."""
        return False

    async def accounted(self, held: list[Held]) -> dict[tuple[str, str], tuple[float, float]]:  # noqa: ARG002
        """Return when leases began and ended as the batch system tells, as far as it does."""
        return {}

    async def still_there(self, held: list[Held]) -> set[tuple[str, str]]:  # noqa: ARG002
        """Return which leases, by cluster and worker, have jobs that may run on."""
        return set()

    # a cluster is asked for

    async def get_cluster_options(self, user: Any) -> Any:
        """Return the options that a user has."""
        try:
            return cluster_options(self.site, user)
        except SciplatError as error:
            raise HTTPForbidden(reason=one_line(error)) from error

    async def process_cluster_options(self, user: Any, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the checked options and the configuration; errors are one line, as HTTP wants it."""
        try:
            options = await self.get_cluster_options(user)
            asked = options.parse_options(request)
            return asked, self.cluster_config_class(parent=self, **options.get_configuration(asked, user))
        except SciplatError as error:
            raise PublicException(one_line(error)) from error
        except (TypeError, ValueError) as error:
            raise PublicException(" ".join(str(error).split())) from error

    async def start_cluster(self, user: Any, cluster_options: dict[str, Any]) -> str:
        """Make a cluster, if the user's quotas and the machine allow it."""
        options, config = await self.process_cluster_options(user, cluster_options)
        refusal = self.ledger.refusal(user.name, tuple(config.owner_groups), scheduler_amount(config), time.time())
        if refusal is not None:
            self._refuse(refusal, user.name)
        await self.probe(config, user.name)
        cluster = self.db.create_cluster(user.name, options, config.to_dict())
        granted = False
        try:
            refusal = self.ledger.grant(scheduler_lease(cluster), time.time())
            granted = refusal is None
        finally:
            if not granted:
                over = {"status": JobStatus.STOPPED, "target": JobStatus.STOPPED}
                self.db.update_cluster(cluster, stop_time=timestamp(), **over)
        if refusal is not None:  # somebody else was quicker
            self._refuse(refusal, user.name)
        self.audit.write("cluster-created", user=user.name, cluster=cluster.name, profile=config.profile)
        self.queue.put(cluster)
        return str(cluster.name)

    def _refuse(self, refusal: Refusal, user: str, cluster: str | None = None) -> None:
        """Tell a user which quota stands in the way, as the error of what they ask for."""
        self.refused[refusal.limit] += 1
        self.audit.write("quota-refused", user=user, cluster=cluster, limit=refusal.limit)
        raise PublicException(tell(self, refusal, user))

    # workers are asked for

    async def forward_message_to_scheduler(self, cluster: Any, msg: dict[str, Any]) -> None:
        """Pass a wish for workers on, or refuse the ones that must be there at once but cannot."""
        row = self.db.get_cluster(cluster.name)
        least, most = msg.get("minimum"), msg.get("maximum")
        if least is not None and most is not None and least > most:
            raise PublicException(f"at least {least} workers are more than at most {most}")
        wanted = msg.get("count") if msg["op"] == "scale" else least
        more = (wanted or 0) - len(staying(row))
        if more > 0:
            refusal = self.ledger.refusal(*owner(row), worker_amount(row.config) * more, time.time())
            if refusal is not None:
                self._refuse(refusal, row.username, row.name)
        await super().forward_message_to_scheduler(cluster, msg)

    async def _check_cluster_scale(self, cluster: Cluster) -> None:
        """Make the workers that a cluster lacks, as many as quotas allow; what is left over is tried again later."""
        if cluster.worker_start_failure_count >= _MOST_FAILURES:
            last = cluster.state.get("last", "")
            await self.fail(cluster, f"{_MOST_FAILURES} workers in a row did not start: {last}")
            return
        self.refusals.pop(cluster.name, None)
        missing = cluster.count - len(staying(cluster))
        if missing <= 0:
            return
        amount, now = worker_amount(cluster.config), time.time()
        wait = self.churn.wait(cluster.name, now)
        if wait:
            self.queue.put_after(cluster, wait)
            return
        room = self.ledger.room(*owner(cluster), amount, missing, now)
        if room:
            self._make_workers(cluster, min(room, _AT_A_TIME), now)
        if room > _AT_A_TIME:
            self.queue.put(cluster)
        elif room < missing:
            refusal = self.ledger.refusal(*owner(cluster), amount, now)
            if refusal is not None:
                self.refusals[cluster.name] = refusal

    def _make_workers(self, cluster: Cluster, number: int, now: float) -> None:
        """Make workers, as many as are granted still."""
        workers = [self.db.create_worker(cluster) for _ in range(number)]
        granted = self.ledger.grant_first([worker_lease(worker) for worker in workers], now)
        over = {"status": JobStatus.STOPPED, "target": JobStatus.STOPPED}
        self.db.update_workers([(worker, over) for worker in workers[granted:]])
        for worker in workers[:granted]:
            self.queue.put(worker)

    async def reconcile_worker(self, worker: Worker) -> None:
        """Move a worker towards its target, after others have had their turn: a thousand may stand in the queue."""
        await asyncio.sleep(0)
        await super().reconcile_worker(worker)

    async def _check_cluster_proxied(self, cluster: Cluster) -> None:
        """Let the proxy carry what is for the scheduler; the dashboard's way is through the server, which asks who."""
        if not cluster.added_to_proxies:
            await self.proxy.add_route(kind="SNI", sni=cluster.name, target=cluster.scheduler_address)
            cluster.added_to_proxies = True

    def replace(self, worker: Worker, reason: str) -> None:
        """Let another worker take the place of one that was taken away; that is nobody's failure."""
        self.log.info("Worker %s is replaced: %s", worker.name, reason)
        self.db.update_worker(worker, target=JobStatus.FAILED, state={**worker.state, "replaced": reason})
        self.queue.put(worker)

    async def stop_cluster(self, cluster_name: str, failed: bool = False) -> None:  # noqa: FBT001, FBT002
        """Stop a cluster; one that was idle for so long that it is over keeps this as its reason."""
        cluster, beat = self.db.get_cluster(cluster_name), self.beats.get(cluster_name)
        idle = cluster.config.idle_timeout if cluster is not None else 0
        if idle and beat is not None and beat.quiet_since and time.time() - beat.quiet_since >= idle:
            reason = f"it had nothing to do for {format_duration(idle)}"
            self.db.update_cluster(cluster, state={**cluster.state, "reason": reason})
        await super().stop_cluster(cluster_name, failed)

    # something tells that it lives

    async def on_cluster_heartbeat(self, cluster_name: str, msg: dict[str, Any]) -> None:
        """Take note of what runs: it is charged, and workers whose end is near get a successor."""
        cluster = self.db.get_cluster(cluster_name)
        if cluster is None or cluster.target > JobStatus.RUNNING:
            raise PublicException("this cluster is over")
        beat = checked(msg, cluster, self.site)
        self.beats[cluster_name] = beat
        told = [cluster.workers[name] for name in beat.message["active_workers"]]
        stay = [(worker, {"close_expected": False}) for worker in told if worker.close_expected]
        self.db.update_workers(stay)  # they could not close, and now are wanted again
        self.churn.look(cluster, beat.message, time.time())
        await super().on_cluster_heartbeat(cluster_name, beat.message)
        self.ledger.seen(cluster_name, ["", *beat.running], time.time())
        if cluster.status == JobStatus.RUNNING and cluster.count > len(staying(cluster)):
            self.queue.put(cluster)

    async def _check_timeouts(self) -> None:
        """End clusters that are silent, unless this process itself stood still, as on a laptop that slept."""
        before, self._looked = self._looked, timestamp()
        if self._looked - before > 500 * self.cluster_heartbeat_timeout:
            for cluster in self.db.active_clusters():
                if cluster.status == JobStatus.RUNNING:
                    cluster.last_heartbeat = self._looked
        await super()._check_timeouts()

    # something starts, fails or ends

    async def do_start_cluster(self, cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
        """Start the scheduler, and keep what went wrong for its owner."""
        try:
            async for state in self.start_scheduler(cluster):
                self._submitted(cluster.name, "", state)
                yield state
        except Exception as error:
            self.db.update_cluster(cluster, state={**cluster.state, "reason": one_line(error)})
            raise

    async def do_start_worker(self, worker: Worker) -> AsyncIterator[dict[str, Any]]:
        """Start a worker, and keep what went wrong for its owner."""
        try:
            async for state in self.start_worker(worker):
                self._submitted(worker.cluster.name, worker.name, state)
                yield state
        except Exception as error:
            self.db.update_cluster(worker.cluster, state={**worker.cluster.state, "last": one_line(error)})
            raise

    def _submitted(self, cluster: str, worker: str, state: dict[str, Any]) -> None:
        if "job_id" in state:
            self._note(self.ledger.submitted, cluster, worker, str(state["job_id"]))

    async def fail_mute(self, cluster: Cluster, ran: float) -> None:
        """Stop a cluster whose scheduler has run for so long, in seconds, that it should have reported."""
        if ran > _MUTE:
            found = f"its scheduler has run for {format_duration(_MUTE)} and not reported to {self.api_url}"
            await self.fail(cluster, await self._with_log(found, cluster, ""))

    async def fail(self, cluster: Cluster, reason: str) -> None:
        """Stop a cluster for a reason that its owner is told."""
        self.db.update_cluster(cluster, state={**cluster.state, "reason": reason}, target=JobStatus.FAILED)
        self.queue.put(cluster)

    def end(self, cluster: Cluster, reason: str) -> None:
        """Stop a cluster that has not failed, for a reason that its owner is told."""
        self.db.update_cluster(cluster, state={**cluster.state, "reason": reason}, target=JobStatus.STOPPED)
        self.queue.put(cluster)

    async def _cluster_to_closing(self, cluster: Cluster) -> None:
        if cluster.target == JobStatus.FAILED and "reason" not in cluster.state:
            found = "the scheduler went away" if cluster.status == JobStatus.RUNNING else "the scheduler did not start"
            reason = await self._with_log(found, cluster, "")
            self.db.update_cluster(cluster, state={**cluster.state, "reason": reason})
        await super()._cluster_to_closing(cluster)

    async def _cluster_to_stopped(self, cluster: Cluster) -> None:
        await super()._cluster_to_stopped(cluster)
        if any(name == cluster.name for name, _ in self.unstopped):
            for worker in ("", *cluster.workers):
                self._release(cluster.name, worker)
        else:
            self._note(self.ledger.ended, cluster.name, None)
        self.churn.forget(cluster.name)
        self.beats.pop(cluster.name, None)
        self.refusals.pop(cluster.name, None)
        reason = cluster.state.get("reason", "asked for")
        outcome = "failed" if cluster.status == JobStatus.FAILED else "stopped"
        self.audit.write(f"cluster-{outcome}", user=cluster.username, cluster=cluster.name, reason=reason)

    async def _worker_to_stopped(self, worker: Worker) -> None:
        cluster = worker.cluster
        if (worker.status, worker.target) == (JobStatus.SUBMITTED, JobStatus.FAILED) and "replaced" not in worker.state:
            last = await self._with_log("the worker ended before it was there", cluster, worker.name)
            self.db.update_cluster(cluster, state={**cluster.state, "last": last})
        await super()._worker_to_stopped(worker)
        self._release(cluster.name, worker.name)

    def _release(self, cluster: str, worker: str) -> None:
        """End a lease, unless its job may run on: then it counts until `make_agree` finds that the job is over."""
        if (cluster, worker) not in self.unstopped:
            self._note(self.ledger.ended, cluster, worker)

    def _note(self, note: Callable[..., None], *what: Any) -> None:
        try:
            note(*what)
        except StorageError as error:  # what runs goes on; `make_agree` makes up for an end
            self.log.warning("Not in the ledger: %s: %s", what, one_line(error))

    async def _with_log(self, what: str, cluster: Cluster, worker: str) -> str:
        try:
            text = (await self.read_logs(cluster, [worker], _TAIL))[worker]
        except Exception as error:  # noqa: BLE001 (a reason without a log is better than none)
            text = f"no log: {error}"
        return what + (": " + " | ".join(text.split("\n")) if text.strip() else "")

    # the gateway begins and ends

    async def do_setup(self) -> None:
        """Make ledger and database agree, then watch lifetimes, accounting and what nobody owns."""
        with self.db.db.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # the disk is waited for once a change, not thrice
        await make_agree(self)
        self.watch = Watch(self)
        self.task_pool.spawn(self.watch.forever())

    async def do_cleanup(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    # commands and environments

    def get_scheduler_command(self, cluster: Cluster) -> list[str]:
        """Return the command of a scheduler."""
        return scheduler_command(self.site, cluster)

    def get_worker_command(self, cluster: Cluster, worker_name: str, scheduler_address: str | None = None) -> list[str]:
        """Return the command of a worker."""
        return worker_command(self.site, cluster, worker_name, scheduler_address or cluster.scheduler_address)

    def get_scheduler_env(self, cluster: Cluster) -> dict[str, str]:
        """Return the environment of a scheduler."""
        return {**super().get_scheduler_env(cluster), **SCHEDULER_ENVIRONMENT}

    def get_worker_env(self, cluster: Cluster) -> dict[str, str]:
        """Return the environment of a worker."""
        kernels = {"SCIPLAT_KERNEL_CACHE_SOURCE": cluster.config.kernels} if cluster.config.kernels else {}
        return {**super().get_worker_env(cluster), **WORKER_ENVIRONMENT, **kernels}

    def get_env(self, cluster: Cluster) -> dict[str, str]:
        """Return the environment of scheduler and workers."""
        return {**cluster.config.variables, **super().get_env(cluster), **common_environment(self.site)}

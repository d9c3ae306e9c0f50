"""Clusters of Slurm jobs: the gateway decides, and a small program run through sudo does it as the cluster's owner."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp

from sciplat.errors import GatewayError
from sciplat.gateway.backends.as_user import find_account, launch
from sciplat.gateway.backends.backend import SiteBackend
from sciplat.gateway.backends.job_script import (
    environment_text,
    job_script,
    scheduler_options,
    scheduler_partition,
    worker_options,
)
from sciplat.gateway.backends.slurm_queue import Ended, Job, Partition, Shape, SlurmQueue, SlurmSilent
from sciplat.gateway.backends.slurm_words import (
    choose_partition,
    describe_end,
    describe_job,
    find_misfit,
    find_overtime,
)
from sciplat.gateway.backends.watch import charge
from sciplat.gateway.quota.refusals import one_line

if TYPE_CHECKING:
    from sciplat.gateway.backends.cluster_config import SiteClusterConfig
    from sciplat.gateway.quota.ledger import Held

_LATER = 10.0  # seconds between two tries to submit what Slurm does not take now
_TOLD = 20  # parts of a cluster of which each is told what it waits for
_SHORT = 4  # characters of a worker's name that people see
_ASKED_OF_SLURM = ("qos", "account", "constraint", "reservation", "flags")  # what only Slurm itself can judge


class SlurmBackend(SiteBackend):
    """Backend whose schedulers and workers are jobs of a Slurm cluster, each under its owner's name."""

    supports_bulk_shutdown = True  # a cluster's jobs are cancelled together

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._slurm = self.site.slurm
        self.slurm_queue = SlurmQueue(str(self._slurm.commands))
        self._began = time.time()
        self._left: dict[tuple[str, str, str], str] | None = None  # jobs of the gateway before, once asked for
        self._asking = asyncio.Lock()
        self._refused: dict[str, tuple[float, str]] = {}  # clusters that get no more workers now: until when, and why

    # whether it can start

    async def probe(self, config: "SiteClusterConfig", username: str) -> None:
        """Raise PublicException if Slurm does not answer, or never would run such a scheduler or worker."""
        try:
            partitions, shapes = await self.slurm_queue.layout()
            of_workers = _existing(config.partition, partitions)
            of_scheduler = _existing(scheduler_partition(config), partitions)
            wrong = _misfit(config, of_workers, of_scheduler, shapes)
            if wrong:
                raise PublicException(wrong)
            asked = any(getattr(config, name) for name in _ASKED_OF_SLURM)
            if asked or of_workers.restricted:
                await self._test(username, worker_options(config, _worker_walltime(config, of_workers)))
            if of_scheduler != of_workers and (asked or of_scheduler.restricted):
                await self._test(username, scheduler_options(config, _scheduler_walltime(config, of_scheduler)))
        except GatewayError as error:
            raise PublicException(one_line(error)) from error

    async def _test(self, username: str, options: list[str]) -> None:
        """Let Slurm judge a job without submitting it."""
        nobody = {"cluster": "0" * 32, "kind": "scheduler", "script": "#!/bin/sh\n"}
        await self._launch(username, action="submit", test=True, arguments=options, **nobody)

    # starting

    async def start_scheduler(self, cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
        """Write the cluster's files and submit its scheduler."""
        partition = await self._partition(scheduler_partition(cluster.config))
        files = {
            "dask.crt": cluster.tls_cert.decode(),
            "dask.pem": cluster.tls_key.decode(),
            "scheduler.env": environment_text(self.get_scheduler_env(cluster)),
            "worker.env": environment_text(self.get_worker_env(cluster)),
        }
        script = job_script(
            self.get_scheduler_command(cluster), f"{self._folder(cluster)}/scheduler.env", setup=cluster.config.setup
        )
        options = scheduler_options(cluster.config, _scheduler_walltime(cluster.config, partition))
        job = await self._find_left(cluster, "scheduler") if self._is_older(cluster) else None
        try:
            job = job or await self._submit(cluster, "scheduler", options, script, files)
        except SlurmSilent:
            job = await self._find(cluster, "scheduler")
            if job is None:
                raise
        yield {"job_id": job}

    async def start_worker(self, worker: Worker) -> AsyncIterator[dict[str, Any]]:
        """Submit a worker, or say why Slurm does not take it now: it is silent, or has taken enough of its kind."""
        name, reason = worker.cluster.name, self._refused.get(worker.cluster.name, (0.0, ""))[1]
        if reason:  # this one asks for all that wait
            self._refused[name] = (time.monotonic() + _LATER, reason)
        try:
            state = {"job_id": await self._submit_worker(worker)}
            self._refused.pop(name, None)
        except GatewayError as error:
            taken = any("job_id" in other.state and other.is_active() for other in worker.cluster.workers.values())
            if not (taken or isinstance(error, SlurmSilent)):
                raise
            state = {"later": one_line(error)}
            self._refused[name] = (time.monotonic() + _LATER, state["later"])
        yield state

    async def reconcile_worker(self, worker: Worker) -> None:
        """Move a worker towards its target; one that Slurm does not take now is tried again, which is no failure.

        Of a cluster's workers one asks at a time: a thousand that all ask would be too much for Slurm.
        """
        wait = self._refused.get(worker.cluster.name, (0.0, ""))[0] - time.monotonic()
        if wait > 0 and (worker.status, worker.target) == (JobStatus.CREATED, JobStatus.RUNNING):
            self.queue.put_after(worker, wait)
            return
        await super().reconcile_worker(worker)
        if worker.status == JobStatus.SUBMITTED and worker.target == JobStatus.RUNNING and "later" in worker.state:
            self.db.update_worker(worker, status=JobStatus.CREATED)
            self.queue.put_after(worker, _LATER)

    async def _submit_worker(self, worker: Worker) -> str:
        cluster = worker.cluster
        walltime = _worker_walltime(cluster.config, await self._partition(cluster.config.partition))
        find = self._find if "later" in worker.state else self._find_left if self._is_older(worker) else None
        found = await find(cluster, worker.name) if find else None
        if found:
            return found
        script = job_script(
            self.get_worker_command(cluster, worker.name),
            f"{self._folder(cluster)}/worker.env",
            setup=cluster.config.setup,
            walltime=walltime,
        )
        return await self._submit(cluster, f"worker:{worker.name}", worker_options(cluster.config, walltime), script)

    async def _submit(
        self, cluster: Cluster, kind: str, options: list[str], script: str, files: dict[str, str] | None = None
    ) -> str:
        request = {"kind": kind, "arguments": options, "script": script, "files": files or {}}
        try:
            answer = await self._launch(cluster.username, action="submit", cluster=cluster.name, **request)
        except SlurmSilent:
            self.unstopped.add((cluster.name, kind.partition(":")[2]))  # Slurm may have taken it
            raise
        return str(answer["job"])

    def _is_older(self, part: Cluster | Worker) -> bool:
        """Return whether it was made before this process began, which may have ended while it was submitted."""
        return bool(part.start_time / 1000 < self._began)

    async def _find(self, cluster: Cluster, worker: str) -> str | None:
        """Return the job of which the gateway could not take note when it was submitted; comments can be copied."""
        return (await self._jobs_by_owner()).get((cluster.username, cluster.name, worker))

    async def _find_left(self, cluster: Cluster, worker: str) -> str | None:
        """Return the same of what was submitted before this process began: Slurm is asked once for all of it."""
        async with self._asking:
            if self._left is None:
                self._left = await self._jobs_by_owner()
        return self._left.get((cluster.username, cluster.name, worker))

    async def _jobs_by_owner(self) -> dict[tuple[str, str, str], str]:
        jobs = await self.slurm_queue.jobs()
        return {(job.user, job.cluster, job.worker): job.number for job in jobs if job.site == self.site.name}

    async def _partition(self, name: str) -> Partition:
        partitions, _ = await self.slurm_queue.layout()
        return _existing(name, partitions)

    # stopping

    async def do_stop_cluster(self, cluster: Cluster) -> None:
        """Remove a cluster's keys and cancel its jobs in one go; its logs stay."""
        workers = [worker for worker in cluster.workers.values() if worker.status < JobStatus.STOPPED]
        parts: dict[str, Any] = {"": cluster, **{worker.name: worker for worker in workers}}
        jobs = {(cluster.name, name): str(one.state["job_id"]) for name, one in parts.items() if "job_id" in one.state}
        self._refused.pop(cluster.name, None)
        self.unstopped.update(jobs)
        await self._clean(cluster.username, cluster.name, list(jobs.values()))
        self.unstopped.difference_update(jobs)

    async def do_stop_worker(self, worker: Worker) -> None:
        """Cancel a worker's job; if that fails the reaper will."""
        if "job_id" in worker.state:
            self.unstopped.add((worker.cluster.name, worker.name))
            await self._launch(worker.cluster.username, action="cancel", jobs=[str(worker.state["job_id"])])
            self.unstopped.discard((worker.cluster.name, worker.name))

    async def still_there(self, held: "list[Held]") -> set[tuple[str, str]]:
        """Return which leases have jobs that are not over; all of them while Slurm does not say."""
        if not held:
            return set()
        leases = {(one.lease.cluster, one.lease.name): one for one in held}
        try:
            jobs = [job for job in await self.slurm_queue.jobs() if job.alive and job.site == self.site.name]
        except SlurmSilent:
            return set(leases)
        numbers, owners = {job.number for job in jobs}, {(job.user, job.cluster, job.worker) for job in jobs}
        return {
            (cluster, name)
            for (cluster, name), one in leases.items()
            if one.job in numbers or (one.lease.user, cluster, name or "scheduler") in owners
        }

    async def reap(self, owned: set[str]) -> list[str]:
        """Cancel jobs of this site that no cluster or worker of the database stands for."""
        called, ended = timestamp(), []
        jobs = await self.slurm_queue.jobs()
        owned = owned | {one.name for one in self.db.name_to_cluster.values() if one.start_time >= called}
        for job in jobs:
            if job.site != self.site.name or not job.alive or job.state == "COMPLETING" or self._owns(job, owned):
                continue
            told = f"job {job.number} of {job.user}, cluster {job.cluster}"
            try:
                if job.cluster in owned:
                    await self._launch(job.user, action="cancel", jobs=[job.number])
                else:
                    await self._clean(job.user, job.cluster, [job.number])
            except GatewayError as error:
                self.log.warning("Cannot end %s: %s", told, one_line(error))
            else:
                ended.append(told)
        return ended

    def _owns(self, job: Job, owned: set[str]) -> bool:
        cluster = self.db.get_cluster(job.cluster) if job.cluster in owned else None
        if cluster is None or cluster.username != job.user:
            return False
        part = cluster if job.worker == "scheduler" else cluster.workers.get(job.worker)
        if part is None or part.status >= JobStatus.STOPPED:
            return False
        return bool(part.state.get("job_id", job.number) == job.number)  # a killed gateway may have submitted it twice

    async def _clean(self, user: str, cluster: str, jobs: list[str]) -> None:
        await self._launch(user, action="clean", cluster=cluster, jobs=jobs, keep=self.site.limits.logs)

    # looking

    async def do_check_clusters(self, clusters: list[Cluster]) -> list[bool]:
        """Return whether schedulers that have not reported yet still may."""
        jobs = await self._jobs_of(clusters)
        for cluster in clusters:
            job = jobs.get(str(cluster.state.get("job_id")))
            if job is not None and job.state == "RUNNING":
                await self.fail_mute(cluster, job.ran)
            if job is not None and not job.alive and job.excused:
                await self.fail(cluster, f"the scheduler's job {job.number} ended: {describe_end(job.state)}")
        return [job is not None and (job.alive or job.excused) for job in _in_order(clusters, jobs)]

    async def do_check_workers(self, workers: list[Worker]) -> list[bool]:
        """Return whether workers that have not joined yet still may; those that Slurm took away are replaced."""
        jobs = await self._jobs_of(workers)
        found = list(zip(workers, _in_order(workers, jobs), strict=True))
        charge(self.ledger, [worker for worker, job in found if job is not None and job.state == "RUNNING"])
        for worker, job in found:
            if job is not None and not job.alive and job.excused:
                self.replace(worker, f"job {job.number} ended: {describe_end(job.state)}")
        return [job is not None and (job.alive or job.excused) for _, job in found]

    async def _jobs_of(self, parts: Iterable[Cluster | Worker]) -> dict[str, Job]:
        """Return the jobs of schedulers or workers by number; the accounting knows those that the queue forgot."""
        numbers = [str(part.state["job_id"]) for part in parts if "job_id" in part.state]
        if not numbers:
            return {}
        jobs = {job.number: job for job in await self.slurm_queue.jobs()}
        forgotten = [number for number in numbers if number not in jobs]
        told = await self.slurm_queue.ended(forgotten) if forgotten else {}
        return jobs | {number: _past_job(number, ended) for number, ended in told.items()}

    async def why(self, cluster: Cluster) -> list[str]:
        """Return what each part of a cluster is waiting for."""
        waiting = {"scheduler": cluster} if cluster.status < JobStatus.RUNNING else {}
        waiting |= {
            f"worker {worker.name[:_SHORT]}": worker
            for worker in cluster.workers.values()
            if worker.status < JobStatus.RUNNING and worker.is_active()
        }
        if not waiting:
            return []
        try:
            jobs = await self.slurm_queue.everybodys_jobs()
        except SlurmSilent as silent:
            return [one_line(silent)]
        known = {job.number: job for job in jobs}
        lines = []
        for name, part in islice(waiting.items(), _TOLD):
            job = known.get(str(part.state.get("job_id")))
            lines.append(f"{name}: {describe_job(job, jobs) if job else self._unsubmitted(part, cluster)}")
        more = len(waiting) - len(lines)
        return lines + ([f"and {more} more workers"] if more else [])

    def _unsubmitted(self, part: Cluster | Worker, cluster: Cluster) -> str:
        """Return why there is no job."""
        if "job_id" in part.state:
            return "just submitted"
        _, refused = self._refused.get(cluster.name, (0.0, "about to be submitted"))
        return str(part.state.get("later", refused))

    async def read_logs(self, cluster: Cluster, names: list[str], lines: int) -> dict[str, str]:
        """Return the ends of logs, also after the end of the cluster; empty where there is none."""
        files = {name: f"worker-{name}.log" if name else "scheduler.log" for name in names}
        asked = {"files": list(files.values()), "lines": lines}
        answer = await self._launch(cluster.username, action="logs", cluster=cluster.name, **asked)
        return {name: str(answer["logs"].get(file, "")) for name, file in files.items()}

    @property
    def has_accounting(self) -> bool:
        """Whether there is an accounting, as far as is known."""
        return self.slurm_queue.has_accounting

    async def accounted(self, held: "list[Held]") -> dict[tuple[str, str], tuple[float, float]]:
        """Return when jobs began and ended, as Slurm's accounting tells."""
        leases = {one.job: (one.lease.cluster, one.lease.name) for one in held if one.job}
        told = await self.slurm_queue.ended(list(leases))
        return {leases[number]: (one.started, one.ended) for number, one in told.items() if number in leases}

    # as the user

    def get_tls_paths(self, cluster: Cluster) -> tuple[str, str]:
        """Return where certificate and key of a cluster lie."""
        folder = self._folder(cluster)
        return f"{folder}/dask.crt", f"{folder}/dask.pem"

    def _folder(self, cluster: Cluster) -> str:
        home = find_account(cluster.username).pw_dir
        return f"{self._slurm.staging.replace('{home}', home, 1)}/{cluster.name}"

    async def _launch(self, username: str, **request: Any) -> dict[str, Any]:
        """Let the launcher do something as a user, with the errors of `launch`."""
        request |= {"site": self.site.name, "staging": self._slurm.staging, "commands": self.slurm_queue.commands}
        return await launch(str(self._slurm.launcher), username, request)


def _existing(name: str, partitions: list[Partition]) -> Partition:
    partition = choose_partition(name, partitions)
    if partition is None:
        known = ", ".join(one.name for one in partitions)
        raise GatewayError(f"Slurm has no partition {name or 'by default'}; it has {known}")
    return partition


def _misfit(config: "SiteClusterConfig", of_workers: Partition, of_scheduler: Partition, shapes: list[Shape]) -> str:
    """Return what is wrong with the shapes and times of a cluster's jobs, or nothing."""
    for partition in (of_workers, of_scheduler):
        if not partition.up:
            return f"Slurm's partition {partition.name} is closed at present"
    gpus = {config.gpu_type: config.gpus} if config.gpus else {}
    worker = Shape(of_workers.name, config.worker_cores, config.worker_memory, gpus)
    scheduler = Shape(of_scheduler.name, config.scheduler_cores, config.scheduler_memory, {})
    return (
        find_misfit("worker", worker, shapes)
        or find_misfit("scheduler", scheduler, shapes)
        or find_overtime("worker", of_workers, config.walltime)
    )


def _worker_walltime(config: Any, partition: Partition) -> float | None:
    """Return the walltime of a worker, which must know its end even where only the partition sets one."""
    return config.walltime or partition.usual or partition.longest


def _scheduler_walltime(config: Any, partition: Partition) -> float | None:
    """Return the walltime of a scheduler, which must outlive its workers: as long as cluster and partition may last."""
    bounds = [bound for bound in (config.lifetime, partition.longest) if bound]
    if bounds:
        return float(min(bounds))
    return None if partition.usual is None else 0.0


def _in_order(parts: Iterable[Cluster | Worker], jobs: dict[str, Job]) -> list[Job | None]:
    return [jobs.get(str(part.state.get("job_id"))) for part in parts]


def _past_job(number: str, ended: Ended) -> Job:
    return Job(number, ended.state, "None", "", "", "", 0, ended.started, ended.ended - ended.started)

"""Clusters of Slurm jobs: the gateway decides, and a small program run through sudo does it as the cluster's owner."""

import asyncio
import json
import pwd
import time
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp

from sciplat.errors import GatewayError
from sciplat.gateway.backend import SiteBackend, one_line
from sciplat.gateway.job_script import environment_text, job_script, scheduler_options, worker_options
from sciplat.gateway.slurm_queue import Ended, Job, Partition, Shape, SlurmQueue, SlurmSilent, run
from sciplat.gateway.slurm_words import choose_partition, describe_end, describe_job, find_misfit, find_overtime
from sciplat.gateway.watch import charge

if TYPE_CHECKING:
    from sciplat.gateway.cluster_config import SiteClusterConfig
    from sciplat.gateway.ledger import Held

_LAUNCH_LIMIT = 20.0  # seconds for sudo and the launcher, which has limits of its own
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
        self.slurm_queue = SlurmQueue(str(self._slurm.commands or "/usr/bin"))
        self._began = time.time()
        self._refused: dict[str, tuple[float, str]] = {}  # clusters that get no more workers now: until when, and why

    # whether it can start

    async def probe(self, config: "SiteClusterConfig", username: str) -> None:
        """Raise PublicException if Slurm does not answer, or never would run such a scheduler or worker."""
        try:
            partitions, shapes = await self.slurm_queue.layout()
            partition = choose_partition(config.partition, partitions)
            if partition is None:
                known = ", ".join(one.name for one in partitions)
                raise PublicException(f"Slurm has no partition {config.partition or 'by default'}; it has {known}")
            wrong = _misfit(config, partition, shapes)
            if wrong:
                raise PublicException(wrong)
            if partition.restricted or any(getattr(config, name) for name in _ASKED_OF_SLURM):
                await self._test(username, worker_options(config, _worker_walltime(config, partition)))
        except GatewayError as error:
            raise PublicException(one_line(error)) from error

    async def _test(self, username: str, options: list[str]) -> None:
        """Let Slurm judge a job without submitting it."""
        nobody = {"cluster": "0" * 32, "kind": "scheduler", "script": "#!/bin/sh\n"}
        await self._launch(username, action="submit", test=True, arguments=options, **nobody)

    # starting

    async def start_scheduler(self, cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
        """Write the cluster's files and submit its scheduler."""
        partition = await self._partition(cluster)
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
        found = await self._find(cluster, "scheduler") if self._is_older(cluster) else None
        yield {"job_id": found or await self._submit(cluster, "scheduler", options, script, files)}

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
        walltime = _worker_walltime(cluster.config, await self._partition(cluster))
        if "later" in worker.state or self._is_older(worker):
            found = await self._find(cluster, worker.name)
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
        answer = await self._launch(cluster.username, action="submit", cluster=cluster.name, **request)
        return str(answer["job"])

    def _is_older(self, part: Cluster | Worker) -> bool:
        """Return whether it was made before this process began, which may have ended while it was submitted."""
        return bool(part.start_time / 1000 < self._began)

    async def _find(self, cluster: Cluster, worker: str) -> str | None:
        """Return the job of which the gateway could not take note when it was submitted; comments can be copied."""
        for job in await self.slurm_queue.jobs():
            whose = (job.user, job.site, job.cluster, job.worker)
            if whose == (cluster.username, self.site.name, cluster.name, worker):
                return job.number
        return None

    async def _partition(self, cluster: Cluster) -> Partition:
        partitions, _ = await self.slurm_queue.layout()
        partition = choose_partition(cluster.config.partition, partitions)
        if partition is None:
            raise GatewayError(f"Slurm has no partition {cluster.config.partition or 'by default'} any more")
        return partition

    # stopping

    async def do_stop_cluster(self, cluster: Cluster) -> None:
        """Remove a cluster's keys and cancel its jobs in one go; its logs stay."""
        workers = [worker for worker in cluster.workers.values() if worker.status < JobStatus.STOPPED]
        jobs = [str(one.state["job_id"]) for one in (cluster, *workers) if "job_id" in one.state]
        self._refused.pop(cluster.name, None)
        await self._clean(cluster.username, cluster.name, jobs)

    async def do_stop_worker(self, worker: Worker) -> None:
        """Cancel a worker's job; if that fails the reaper will."""
        if "job_id" in worker.state:
            await self._launch(worker.cluster.username, action="cancel", jobs=[str(worker.state["job_id"])])

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
        worker = cluster.workers.get(job.worker)
        return job.worker == "scheduler" or (worker is not None and worker.status < JobStatus.STOPPED)

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

    async def read_log(self, cluster: Cluster, worker_name: str, lines: int) -> str:
        """Return the end of a log, also after the end of the cluster."""
        name = f"worker-{worker_name}.log" if worker_name else "scheduler.log"
        answer = await self._launch(cluster.username, action="logs", cluster=cluster.name, files=[name], lines=lines)
        return str(answer["logs"].get(name, ""))

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
        home = _account(cluster.username).pw_dir
        return f"{self._slurm.staging.replace('{home}', home, 1)}/{cluster.name}"

    async def _launch(self, username: str, **request: Any) -> dict[str, Any]:
        """Let the launcher do something as a user.

        Raises
        ------
        GatewayError
            If it refuses, or Slurm does; SlurmSilent if Slurm does not answer.
        """
        user = (await asyncio.to_thread(_account, username)).pw_name
        request |= {"site": self.site.name, "staging": self._slurm.staging, "commands": self.slurm_queue.commands}
        command = ["/usr/bin/sudo", "-n", "-H", "-u", user, "--", str(self._slurm.launcher)]
        status, told, wrong = await run(command, limit=_LAUNCH_LIMIT, text=json.dumps(request))
        try:
            answer = json.loads(told)
        except ValueError:
            found = " ".join(wrong.split())[:300] or f"exit status {status}"
            hint = f"the rule for sudo in deploy/slurm: may the gateway run {self._slurm.launcher} as {user}?"
            raise GatewayError(f"nothing can be started as {user}", found=found, hint=hint) from None
        if answer["ok"]:
            return dict(answer)
        if answer["code"] == "silent":
            raise SlurmSilent("Slurm does not answer", found=answer["error"])
        who = "Slurm" if answer["code"] == "refused" else "the launcher"
        raise GatewayError(f"{who} refuses it", found=answer["error"])


def _account(username: str) -> pwd.struct_passwd:
    try:
        account = pwd.getpwnam(username)
    except KeyError:
        raise GatewayError(f"this machine has no user {username}") from None
    if account.pw_uid == 0 or account.pw_name.startswith(("-", "#")):  # sudo would take it for an option or a number
        raise GatewayError(f"no clusters for the user {username}")
    return account


def _misfit(config: "SiteClusterConfig", partition: Partition, shapes: list[Shape]) -> str:
    """Return what is wrong with the shapes and times of a cluster's jobs, or nothing."""
    if not partition.up:
        return f"Slurm's partition {partition.name} is closed at present"
    gpus = {config.gpu_type: config.gpus} if config.gpus else {}
    worker = Shape(partition.name, config.worker_cores, config.worker_memory, gpus)
    scheduler = Shape(partition.name, config.scheduler_cores, config.scheduler_memory, {})
    return (
        find_misfit("worker", worker, shapes)
        or find_misfit("scheduler", scheduler, shapes)
        or find_overtime("worker", partition, config.walltime)
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

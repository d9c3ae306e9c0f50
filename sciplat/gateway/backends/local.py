"""Clusters of local processes: of the gateway's own user (`local`), or of each cluster's Unix user (`local-multi`).

A cluster has a folder of the gateway's, `clusters/NAME` in the site's state: the cluster's key and certificate, which
only its user may read, `logs`, which only the gateway may, and `work`, the user's own, where the processes run. So
nothing that the gateway opens as root lies in a folder that a user can write, where a link could lead elsewhere.
"""

import asyncio
import os
import pwd
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker

from sciplat.errors import GatewayError, SiteError
from sciplat.gateway.backends.as_user import find_account
from sciplat.gateway.backends.backend import SiteBackend
from sciplat.gateway.backends.processes import (
    Process,
    end_processes,
    find_processes,
    is_running,
    read_environment,
    running_processes,
    start_process,
    ticks_now,
)
from sciplat.gateway.backends.watch import charge
from sciplat.gateway.private import PRIVATE, SHARED
from sciplat.gateway.quota.refusals import one_line
from sciplat.gateway.units import format_memory

if TYPE_CHECKING:
    from sciplat.gateway.backends.cluster_config import SiteClusterConfig

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_INHERITED = (  # by clusters of the gateway's own user; nothing else, since the rest may hold secrets
    "HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH",
    "LD_LIBRARY_PATH", "SSL_CERT_FILE",
)  # fmt: skip
_CLUSTER, _PART, _CERTIFICATE = "DASK_GATEWAY_CLUSTER_NAME", "SCIPLAT_PART", "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
_PATIENCE = 5.0  # seconds between asking a process to end and forcing it
_LOOK = 1.0  # seconds between two looks whether a worker's time is over
_LARGEST = 64 * 1024**2  # bytes of a log
_TAIL = 65_536  # bytes of a log that are read


class LocalBackend(SiteBackend):
    """Backend whose schedulers and workers are processes of this machine.

    They are not tied to the gateway: they go on when it ends, and are found again when it comes back.
    """

    supports_bulk_shutdown = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._multi = self.site.backend == "local-multi"
        self._clusters: Path = self.site.state / "clusters"

    async def do_setup(self) -> None:
        """See to the folders, then to whose time is over."""
        if self._multi:
            _check_reachable(self._clusters)
        await super().do_setup()
        self.task_pool.spawn(self._end_in_time())

    async def probe(self, config: "SiteClusterConfig", username: str) -> None:  # noqa: ARG002
        """Refuse workers and schedulers that are larger than this machine."""
        cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total
        for part in ("worker", "scheduler"):
            asked_cores, asked_memory = getattr(config, f"{part}_cores"), getattr(config, f"{part}_memory")
            if asked_cores > cores:
                raise PublicException(f"a {part} of {asked_cores} cores does not fit: this machine has {cores}")
            if asked_memory > memory:
                raise PublicException(
                    f"a {part} of {format_memory(asked_memory)} does not fit: this machine has {format_memory(memory)}"
                )

    # starting

    async def start_scheduler(self, cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
        """Make the cluster's folder and start its scheduler."""
        account = await asyncio.to_thread(self._account, cluster)
        await asyncio.to_thread(self._make_folder, cluster, account)
        command, environment = self.get_scheduler_command(cluster), self.get_scheduler_env(cluster)
        yield asdict(await self._start(cluster, "scheduler", account, command, environment))

    async def start_worker(self, worker: Worker) -> AsyncIterator[dict[str, Any]]:
        """Start a worker, and tell it when its time will be over."""
        cluster = worker.cluster
        account = await asyncio.to_thread(self._account, cluster)
        command, environment = self.get_worker_command(cluster, worker.name), self.get_worker_env(cluster)
        state: dict[str, Any] = {}
        if cluster.config.walltime:
            state["ends"] = time.time() + cluster.config.walltime
            environment["SCIPLAT_WORKER_ENDS"] = f"{state['ends']:.3f}"
        process = await self._start(cluster, f"worker-{worker.name}", account, command, environment)
        yield {**state, **asdict(process)}

    def _account(self, cluster: Cluster) -> pwd.struct_passwd | None:
        """Return the Unix user as whom a cluster runs, None for the gateway's own."""
        if not self._multi:
            return None
        try:
            return find_account(cluster.username)
        except GatewayError as error:
            raise PublicException(one_line(error)) from None

    async def _start(
        self,
        cluster: Cluster,
        part: str,
        account: pwd.struct_passwd | None,
        command: list[str],
        environment: dict[str, str],
    ) -> Process:
        """Start one process of a cluster; what a gateway that was killed had started in its place is ended."""
        mark = {_CLUSTER: cluster.name, _PART: part}
        log = self._log(cluster, part)
        if log.exists():
            await end_processes(lambda: find_processes(mark), patience=_PATIENCE)
        # What Dask spills is unpickled again: not in a folder of /tmp that another user may have made before.
        spill = {"DASK_TEMPORARY_DIRECTORY": str(log.parent.parent / "work")}
        everything = {**spill, **_own_environment(account, cluster.config.prefix), **environment, **mark}
        return await asyncio.to_thread(self._start_now, log, account, command, everything)

    def _start_now(
        self, log: Path, account: pwd.struct_passwd | None, command: list[str], environment: dict[str, str]
    ) -> Process:
        work = log.parent.parent / "work"
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "a") as file:
            try:
                return start_process(
                    command, environment=environment, folder=work, output=file.fileno(), account=account
                )
            except OSError as error:
                name = "the gateway's user" if account is None else account.pw_name
                reason = f"{name} cannot run {command[0]} or the interpreter it names: {error.strerror}"
                file.write(f"{reason}\n")
                raise PublicException(reason) from error

    # watching

    async def do_check_clusters(self, clusters: list[Cluster]) -> list[bool]:
        """Return which schedulers are running; one that has run for long and not reported is given up."""
        for cluster in clusters:
            await self.fail_mute(cluster, time.time() - cluster.start_time / 1000)
        return [_is_there(cluster.state) for cluster in clusters]

    async def do_check_workers(self, workers: list[Worker]) -> list[bool]:
        """Return which workers are running; that is charged."""
        there = [_is_there(worker.state) for worker in workers]
        charge(self.ledger, [worker for worker, runs in zip(workers, there, strict=True) if runs])
        return there

    async def why(self, cluster: Cluster) -> list[str]:
        """Return what has been started and is not there yet."""
        waiting = [("scheduler", cluster), *((f"worker {w.name[:8]}", w) for w in cluster.active_workers())]
        now = time.time()
        return [
            f"{name}: starting since {max(now - one.start_time / 1000, 0):.0f} s"
            for name, one in waiting
            if one.status < JobStatus.RUNNING and one.target == JobStatus.RUNNING
        ]

    async def read_logs(self, cluster: Cluster, names: list[str], lines: int) -> dict[str, str]:
        """Return the last lines of logs, empty where there is none."""
        found = dict.fromkeys(names, "")
        for name in names:
            if not name or name in cluster.workers:
                log = self._log(cluster, f"worker-{name}" if name else "scheduler")
                found[name] = await asyncio.to_thread(_read_tail, log, lines)
        return found

    # ending

    async def do_stop_worker(self, worker: Worker) -> None:
        """End a worker with all that it has started."""
        await self._end(worker.state, {_CLUSTER: worker.cluster.name, _PART: f"worker-{worker.name}"})

    async def do_stop_cluster(self, cluster: Cluster) -> None:
        """End a scheduler and all workers; only the logs stay."""
        await self._end(cluster.state, {_CLUSTER: cluster.name})
        await asyncio.to_thread(self._clear, cluster.name)

    async def _end(self, state: dict[str, Any], mark: dict[str, str]) -> None:
        leader = _process(state)
        for process in await end_processes(lambda: find_processes(mark, leader), patience=_PATIENCE):
            self.log.warning("Process %d does not end", process.pid)

    async def _end_in_time(self) -> None:
        """End workers that outlive their walltime, again and again; one look that fails does not end the others."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                self._replace_old(time.time())
            except Exception:
                self.log.exception("Error in looking at walltimes")

    def _replace_old(self, now: float) -> None:
        for cluster in list(self.db.active_clusters()):
            for worker in cluster.active_workers():
                if worker.state.get("ends", now) < now:
                    self.replace(worker, "its walltime is over")

    async def reap(self, owned: set[str]) -> list[str]:
        """End this gateway's processes, and clear its folders, whose cluster is not in `owned`."""
        called, called_ticks = time.time(), ticks_now()
        strangers = await asyncio.to_thread(self._find_strangers, owned, called_ticks)
        left = await end_processes(lambda: [one for one in strangers if is_running(one)], patience=_PATIENCE)
        await asyncio.to_thread(self._clear_strangers, owned, called)
        await asyncio.to_thread(self._cut_logs)
        return [
            f"process {process.pid} of cluster {name}" + (", which does not end" if process in left else "")
            for process, name in strangers.items()
        ]

    def _find_strangers(self, owned: set[str], before: int) -> dict[Process, str]:
        """Return processes of clusters that nobody owns; those younger than `owned` may be of a cluster not in it."""
        found = {}
        for process in running_processes():
            environment = read_environment(process) if process.started < before else {}
            name = environment.get(_CLUSTER, "")
            # Another gateway of this machine may have the same name, but not the same folder.
            ours = (self.site.name, str(self._clusters / name / "dask.crt"))
            if (environment.get("SCIPLAT_SITE"), environment.get(_CERTIFICATE)) == ours and name not in owned:
                found[process] = name
        return found

    # folders

    def get_tls_paths(self, cluster: Cluster) -> tuple[str, str]:
        """Return the files of a cluster's certificate and key."""
        folder = self._clusters / cluster.name
        return str(folder / "dask.crt"), str(folder / "dask.pem")

    def _log(self, cluster: Cluster, part: str) -> Path:
        return Path(self._clusters, cluster.name, "logs", f"{part}.log")

    def _make_folder(self, cluster: Cluster, account: pwd.struct_passwd | None) -> None:
        """Make a cluster's folder; what a gateway that was killed had made of it is kept or written again."""
        folder = self._clusters / cluster.name
        for path, mode in ((folder, SHARED), (folder / "logs", PRIVATE), (folder / "work", PRIVATE)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        owner = (-1, -1) if account is None else (account.pw_uid, account.pw_gid)
        os.chown(folder / "work", *owner)
        for path, content in zip(self.get_tls_paths(cluster), (cluster.tls_cert, cluster.tls_key), strict=True):
            Path(path).unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(content)
                os.fchown(file.fileno(), *owner)

    def _clear(self, name: str) -> None:
        """Remove all of a cluster's folder but its logs."""
        folder = self._clusters / name
        for key in ("dask.crt", "dask.pem"):
            (folder / key).unlink(missing_ok=True)
        self._remove(folder / "work")

    def _clear_strangers(self, owned: set[str], before: float) -> None:
        """Clear folders of clusters that nobody owns, and remove those whose logs are old enough."""
        for folder in self._clusters.iterdir():
            if folder.name in owned or folder.stat().st_mtime > before - 1:  # younger than `owned`, or nearly
                continue
            self._clear(folder.name)
            written = [path.stat().st_mtime for path in (folder, *(folder / "logs").glob("*"))]
            if max(written) + self.site.limits.logs < time.time():
                self._remove(folder)

    def _cut_logs(self) -> None:
        """Empty logs that have become large: users write them, but on the gateway's account and into its disk."""
        for log in self._clusters.glob("*/logs/*.log"):
            with suppress(FileNotFoundError):
                if log.stat().st_blocks * 512 > _LARGEST:
                    os.truncate(log, 0)

    def _remove(self, folder: Path) -> None:
        """Remove a folder whatever a user has put there; what cannot be removed must not stop the gateway."""
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except (OSError, RecursionError) as error:
            self.log.warning("Cannot remove %s: %s", folder, error)


def _process(state: dict[str, Any]) -> Process | None:
    return Process(state["pid"], state["started"]) if "pid" in state else None


def _is_there(state: dict[str, Any]) -> bool:
    process = _process(state)
    return process is not None and is_running(process)


def _own_environment(account: pwd.struct_passwd | None, prefix: str) -> dict[str, str]:
    """Return what a user's processes find besides what concerns Dask; their environment's programs come first."""
    if account is None:
        found = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    else:
        found = {
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "SHELL": account.pw_shell,
            "LANG": os.environ.get("LANG", "C.UTF-8"),
        }
    path = found.get("PATH", _SYSTEM_PATH)
    return {**found, "PATH": f"{prefix}/bin:{path}" if prefix else path}


def _check_reachable(folder: Path) -> None:
    """Refuse a state folder that users cannot pass through to their cluster's."""
    for path in (folder, *folder.resolve().parents):
        mode = path.stat().st_mode
        if not mode & 0o001:
            raise SiteError(
                f"the users of local-multi must be able to pass through {path}",
                found=f"mode {mode & 0o777:o}",
                hint="state: /var/lib/sciplat-gateway in the site file, or chmod o+x",
            )


def _read_tail(log: Path, lines: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            text = file.read(_TAIL).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""

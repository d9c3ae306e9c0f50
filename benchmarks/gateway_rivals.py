"""Two gateways on one machine, ours and plain dask-gateway, and programs of their users.

Both have the same environment, backend, sizes of workers, and periods: a heartbeat in 5 s, a look at what starts in
2 s, a thought about a cluster's size in 1 s. All else of plain dask-gateway is its default, or what makes it work.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from sciplat.gateway.server.embedded import own_name
from sciplat.gateway.server.supervisor import answers

USER_PROGRAM = Path(__file__).with_name("gateway_user.py")
_RULE = Path("/etc/sudoers.d/sciplat-bench")
_PATIENCE = 60.0  # seconds in which a gateway is there, and in which a cluster is gone
_LONGEST = 1800  # seconds of a user's program

# dask-scheduler and dask-worker, its own commands, are gone from distributed, and on Slurm it listens everywhere
_PLAIN = """
from dask_gateway_server.backends.{module} import {backend}

class Loopback({backend}):
    default_host = "127.0.0.1"

c.DaskGateway.backend_class = Loopback
c.DaskGateway.address = {api_address!r}
c.Proxy.address = {address!r}
c.SimpleAuthenticator.password = {password!r}
c.ClusterConfig.scheduler_cmd = [{dask!r}, "scheduler"]
c.ClusterConfig.worker_cmd = [{dask!r}, "worker", "--host", "127.0.0.1"]
c.ClusterConfig.worker_memory = c.ClusterConfig.scheduler_memory = "2 G"
c.ClusterConfig.environment = {variables!r}
c.ClusterConfig.adaptive_period = 1
c.DBBackendBase.cluster_heartbeat_period = 5
c.DBBackendBase.cluster_status_period = c.DBBackendBase.worker_status_period = 2
"""
_PLAIN_PLACES = {
    "local": "c.LocalBackend.clusters_directory = {staging!r}\n",
    "slurm": "c.JobQueueBackend.dask_gateway_jobqueue_launcher = {launcher!r}\n"
    "c.JobQueueClusterConfig.staging_directory = {staging!r}\n",
}


@dataclass(frozen=True)
class Host:
    """Where gateways and their users run.

    Parameters
    ----------
    backend : {"local", "slurm"}
    prefix : Path
        The virtual environment of all.
    service, user : str
        Unix users; as another one than this process's runs only what root starts.
    folder : Path
        For everything; `service` and `user` have folders of their own in it.
    own_cache : bool
        Whether compiled kernels are kept in this folder too, where nobody has compiled any yet.
    """

    backend: str
    prefix: Path
    service: str
    user: str
    folder: Path
    own_cache: bool

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        for name in ("service", "user"):
            path = self.folder / name
            path.mkdir(mode=0o755)
            shutil.chown(path, getattr(self, name))

    @property
    def cache(self) -> Path:
        """Where users' processes keep their compiled kernels, in notebooks and on workers."""
        return self.folder / "user" / "cache"

    @property
    def variables(self) -> dict[str, str]:
        """What notebooks and workers find in their environment."""
        return {"XDG_CACHE_HOME": str(self.cache)} if self.own_cache else {}

    def program(self, name: str) -> str:
        return str(self.prefix / "bin" / name)

    def launch(self, user: str, command: list[str], **streams: Any) -> subprocess.Popen[str]:
        """Start a command as a user, with little but these streams and variables."""
        entry = pwd.getpwnam(user)
        variables = {"PATH": f"{self.prefix}/bin:/usr/bin:/bin", "HOME": entry.pw_dir, "USER": user, "LANG": "C.UTF-8"}
        who: dict[str, Any] = {}
        if entry.pw_uid != os.geteuid():
            groups = os.getgrouplist(user, entry.pw_gid)
            who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
        variables |= streams.pop("variables", {})
        return subprocess.Popen(command, env=variables, cwd="/", text=True, **who, **streams)


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers, and what lets its user in."""

    host: Host
    address: str
    secret: str = field(repr=False)

    def run(self, what: str, *, threads: int = 2, **arguments: Any) -> Any:
        """Let the user's program do something, and return what it found once nothing of its cluster is left.

        Raises
        ------
        RuntimeError
            If it fails, with what it said.
        """
        variables = {
            "SCIPLAT_GATEWAY": f"http://{self.address}",
            "SCIPLAT_TOKEN": self.secret,
            "SCIPLAT_THREADS": str(threads),
            **self.host.variables,
        }
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [self.host.program("python"), "-c", USER_PROGRAM.read_text()]
        with self.host.launch(self.host.user, command, variables=variables, **pipes) as process:
            try:
                out, err = process.communicate(json.dumps({"do": what, **arguments}), timeout=_LONGEST)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"a user of the gateway at {self.address} failed:\n{err}")
        found = json.loads(out.splitlines()[-1])
        if "cluster" in found:
            _until(lambda: not _is_running(found["cluster"]), f"the cluster {found['cluster']} does not end")
        return found


@contextmanager
def plain_gateway(host: Host) -> Iterator[RunningGateway]:
    """Run dask-gateway as its documentation says, with what it needs to work here."""
    address, api_address = _free_addresses(2)
    folder, password = host.folder / "service" / "plain", secrets.token_hex()
    values = {
        "backend": "UnsafeLocalBackend" if host.backend == "local" else "SlurmBackend",
        "module": "local" if host.backend == "local" else "jobqueue.slurm",
        "address": address,
        "api_address": api_address,
        "password": password,
        "dask": host.program("dask"),
        "launcher": host.program("dask-gateway-jobqueue-launcher"),
        "staging": str(host.folder / "user" / "plain"),
        "variables": host.variables,
    }
    config = _private(host, folder, "config.py", (_PLAIN + _PLAIN_PLACES[host.backend]).format(**values))
    command = [host.program("python"), "-m", "dask_gateway_server", "-f", str(config)]
    log = folder / "log"
    with (
        log.open("w") as file,
        _sudo_rule(host, values["launcher"]),
        _ending(host.launch(host.service, command, stdout=file, stderr=file)) as process,
    ):
        _until(lambda: process.poll() is not None or answers(address, "/api/health"), "dask-gateway is not there")
        if process.poll() is not None:
            raise RuntimeError(f"dask-gateway did not start:\n{log.read_text()}")
        yield RunningGateway(host, address, password)


@contextmanager
def our_gateway(host: Host, **more: Any) -> Iterator[RunningGateway]:
    """Run `sciplat gateway start` with a site file that has only the defaults, where things lie, and `more`."""
    address, api_address = _free_addresses(2)
    folder = host.folder / "service" / "ours"
    profile = {"memory": "2 GiB", "scheduler_memory": "2 GiB", "variables": host.variables}
    told = {
        "name": f"bench-{os.getpid()}",
        "state": str(folder / "state"),
        "address": address,
        "api_address": api_address,
        "backend": host.backend,
        "on_stop": "stop",
        "profiles": {"default": profile},
        **({"slurm": {"staging": str(host.folder / "user" / "ours")}} if host.backend == "slurm" else {}),
        **more,
    }
    site = _private(host, folder, "site.yaml", yaml.safe_dump(told))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    create = [host.program("sciplat"), "token", "create", "bench", "--config", str(site), "--user", host.user]
    with host.launch(host.service, create, **pipes) as process:
        token = process.communicate()[0].strip()
    command = [host.program("sciplat"), "gateway", "start", "--config", str(site)]
    with _ending(host.launch(host.service, command, **pipes)) as process:
        first = process.stdout.readline() if process.stdout else ""
        if not first.startswith("gateway at"):
            raise RuntimeError(f"the gateway did not start:\n{first}{process.communicate()[0]}")
        yield RunningGateway(host, address, token)


def local_host(folder: Path, *, own_cache: bool) -> Host:
    """Return a host where all is this process's user's."""
    return Host("local", Path(sys.prefix), pwd.getpwuid(os.geteuid()).pw_name, own_name(), folder, own_cache)


def slurm_host(folder: Path, *, own_cache: bool) -> Host:
    """Return a host with the Slurm and the users that deploy/slurm/dev-cluster makes."""
    prefix = Path(os.environ.get("SCIPLAT_DEV_PREFIX", "/opt/sciplat-dev")) / "env"
    return Host("slurm", prefix, "sciplat-gw", "alice", folder, own_cache)


@contextmanager
def _sudo_rule(host: Host, launcher: str) -> Iterator[None]:
    """Let dask-gateway's service start jobs as the users of this Slurm, for as long as this lasts."""
    if host.backend != "slurm":
        yield
        return
    draft = _RULE.with_suffix(".new")  # sudo reads no file with a point in its name
    with _signals_raise():
        try:
            draft.touch(mode=0o440)
            draft.write_text(f"{host.service} ALL=(%daskusers,!root) NOPASSWD: {launcher}\n")
            subprocess.run(["visudo", "--check", "--quiet", "--file", str(draft)], check=True)
            draft.rename(_RULE)
            yield
        finally:
            draft.unlink(missing_ok=True)
            _RULE.unlink(missing_ok=True)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let a signal that would end this process at once end it in order."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a gateway with its clusters."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_PATIENCE)
        if process.stdout:
            process.stdout.close()


def _private(host: Host, folder: Path, name: str, text: str) -> Path:
    """Write a file that the gateway alone reads, in a new folder of its own."""
    folder.mkdir(mode=0o700)
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(text)
    for one in (folder, path):
        shutil.chown(one, host.service)
    return path


def _is_running(cluster: str) -> bool:
    """Return whether a cluster has processes on this machine, be they Slurm's."""
    environments = (process.info["environ"] or {} for process in psutil.process_iter(["environ"]))
    return any(one.get("DASK_GATEWAY_CLUSTER_NAME") == cluster for one in environments)


def _free_addresses(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    return addresses


def _until(condition: Any, otherwise: str) -> None:
    limit = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise RuntimeError(otherwise)
        time.sleep(0.1)

"""The Slurm backend without the gateway around it, on a real Slurm, with clusters whose programs are lines of shell."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from cryptography.fernet import Fernet
from dask_gateway_server.backends.db_base import DataManager, JobStatus
from dask_gateway_server.workqueue import WorkQueue

import sciplat.gateway.backends.launcher as launcher_module
from sciplat.gateway.backends.cluster_config import SiteClusterConfig
from sciplat.gateway.backends.slurm import SlurmBackend
from sciplat.gateway.private import make_folders
from sciplat.gateway.site.schema import Site
from sciplat.gateway.users.audit import Audit
from tests.gateway.local_scene import Parent

SLEEP = "exec sleep 120"


class SlurmScene:
    """One gateway's backend, its database, and the launcher of this checkout where every user can run it."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="sciplat-slurm-"))
        self.folder.chmod(0o755)
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        self.name = f"t{os.getpid()}-{time.monotonic_ns() % 10**9}"
        self.key = Fernet.generate_key().decode()
        self.commands = None
        make_folders(self.folder / "state")
        self.open()

    def open(self):
        """Make the backend, as when the gateway starts."""
        program = self.folder / "launcher.py"
        program.write_text(f"#!/usr/bin/python3 -I\n{Path(launcher_module.__file__).read_text()}")
        program.chmod(0o755)
        slurm = {"launcher": program, "commands": self.commands or "/usr/bin", "staging": "{home}/.sciplat-test"}
        self.site = Site(name=self.name, state=self.folder / "state", backend="slurm", slurm=slurm)
        self.run(self._open())

    async def _open(self):
        parent = Parent(site=self.site, audit=Audit(self.site.state / "audit.jsonl"))
        self.backend = SlurmBackend(parent=parent, api_url="http://127.0.0.1:9/api")
        self.backend.db = DataManager(f"sqlite:///{self.site.state / 'gateway.sqlite'}", encrypt_keys=[self.key])
        self.backend.queue = WorkQueue()

    def shut(self):
        """Leave jobs running, as when the gateway ends."""
        self.backend.ledger.close()
        self.backend.db.db.dispose()

    def close(self):
        """Cancel everything."""
        for job in self.jobs():
            subprocess.run(["scancel", job.number], check=True, timeout=10)
        for user in ("alice", "bob"):
            shutil.rmtree(Path(f"~{user}").expanduser() / ".sciplat-test", ignore_errors=True)
        self.shut()
        self._runner.close()
        shutil.rmtree(self.folder)

    def jobs(self):
        """Return this gateway's jobs that are alive."""
        jobs = self.run(self.backend.slurm_queue.jobs())
        return [job for job in jobs if job.site == self.name and job.alive and job.state != "COMPLETING"]

    def cluster(self, program=SLEEP, user="alice", *, workers="", **config):
        """Return a new cluster with its scheduler; what follows the programs is ignored."""
        size = {"worker_memory": "100M", "scheduler_memory": "100M", "partition": "debug"}
        command = ["/bin/sh", "-c"]
        commands = {"scheduler_cmd": [*command, program], "worker_cmd": [*command, workers or program]}
        made = SiteClusterConfig(**commands, **(size | config))
        return self.run(self._cluster(user, made.to_dict()))

    async def _cluster(self, user, config):
        cluster = self.backend.db.create_cluster(user, {}, config)
        await self.backend._cluster_to_submitted(cluster)
        return cluster

    def worker(self, cluster):
        """Return a new worker of a cluster, after one try to submit it."""
        worker = self.backend.db.create_worker(cluster)
        self.reconcile(worker)
        return worker

    def reconcile(self, worker):
        """Move a worker one step, as the gateway does."""
        self.run(self.backend.reconcile_worker(worker))

    def stop(self, cluster):
        """Stop a cluster as the gateway does."""
        self.backend.db.update_cluster(cluster, target=JobStatus.STOPPED)
        self.run(self.backend.do_stop_cluster(cluster))

    def log(self, cluster, worker="", lines=100):
        return self.run(self.backend.read_logs(cluster, [worker], lines))[worker]

    def config(self, **config):
        size = {"worker_memory": "100M", "scheduler_memory": "100M"}
        return SiteClusterConfig(**(size | config))

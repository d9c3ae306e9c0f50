"""A backend of local processes without the gateway around it, and clusters whose programs are a few lines of Python."""

import asyncio
import time

from cryptography.fernet import Fernet
from dask_gateway_server.backends.db_base import DataManager
from dask_gateway_server.workqueue import WorkQueue
from traitlets import Any
from traitlets.config import Application

from sciplat.gateway.backends.cluster_config import SiteClusterConfig
from sciplat.gateway.backends.local import LocalBackend
from sciplat.gateway.backends.processes import Process
from sciplat.gateway.private import make_folders
from sciplat.gateway.site.schema import Site
from sciplat.gateway.users.audit import Audit

SLEEP = "import time; time.sleep(60)"
KEY = Fernet.generate_key().decode()


class Parent(Application):
    """What a backend asks its application for."""

    site = Any()
    audit = Any()


class Scene:
    """One gateway's backend, its folder and its database, with a loop in which they live."""

    def __init__(self, state, **settings):
        self.site = Site(state=state, **settings)
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        make_folders(state)
        self.open()

    def open(self):
        """Make the backend, as when the gateway starts."""
        self.run(self._open())

    async def _open(self):
        parent = Parent(site=self.site, audit=Audit(self.site.state / "audit.jsonl"))
        self.backend = LocalBackend(parent=parent, api_url="http://127.0.0.1:9/api")
        self.backend.db = DataManager(f"sqlite:///{self.site.state / 'gateway.sqlite'}", encrypt_keys=[KEY])
        self.backend.queue = WorkQueue()

    def shut(self):
        """Leave clusters running, as when the gateway ends."""
        self.backend.ledger.close()
        self.backend.db.db.dispose()

    def close(self):
        """End everything."""
        for cluster in self.backend.db.name_to_cluster.values():
            self.run(self.backend.do_stop_cluster(cluster))
        self.shut()
        self._runner.close()

    def cluster(self, program=SLEEP, user="alice", python="/usr/bin/python3", **config):
        """Return a new cluster whose scheduler and workers run a program; what follows it is ignored."""
        command = [python, "-c", program]
        made = SiteClusterConfig(scheduler_cmd=command, worker_cmd=command, **config)
        return self.run(self._cluster(user, made.to_dict()))

    async def _cluster(self, user, config):
        return self.backend.db.create_cluster(user, {}, config)

    def started(self, *arguments, **config):
        """Return a new cluster with its scheduler."""
        cluster = self.cluster(*arguments, **config)
        self.run(self.start(cluster))
        return cluster

    async def start(self, cluster):
        """Start a scheduler as the gateway does."""
        async for state in self.backend.do_start_cluster(cluster):
            self.backend.db.update_cluster(cluster, state=state)

    def worker(self, cluster):
        """Return a new worker of a cluster, started."""
        worker = self.backend.db.create_worker(cluster)
        self.run(self.start_worker(worker))
        return worker

    async def start_worker(self, worker):
        """Start a worker as the gateway does."""
        async for state in self.backend.do_start_worker(worker):
            self.backend.db.update_worker(worker, state=state)

    def log(self, cluster, worker="", lines=100):
        return self.run(self.backend.read_logs(cluster, [worker], lines))[worker]

    def folder(self, cluster):
        return self.site.state / "clusters" / cluster.name


def process_of(one):
    """Return the process of a scheduler or a worker."""
    return Process(one.state["pid"], one.state["started"])


def until(condition, seconds=10.0):
    """Return what is true at last."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found

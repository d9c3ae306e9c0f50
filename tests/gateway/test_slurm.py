"""The Slurm backend as far as no Slurm is needed: when it does not answer, or answers late."""

import asyncio

import pytest
from dask_gateway_server.backends.db_base import DataManager, JobStatus
from dask_gateway_server.workqueue import WorkQueue

from sciplat.gateway.audit import Audit
from sciplat.gateway.cluster_config import SiteClusterConfig
from sciplat.gateway.private import make_folders
from sciplat.gateway.site import Site
from sciplat.gateway.slurm import SlurmBackend
from tests.gateway.identity_scene import asynchronous
from tests.gateway.local_scene import KEY, Parent
from tests.gateway.quiet_gateway import until

SILENT = "echo 'Unable to contact slurm controller' >&2; exit 1"

SQUEUE = """touch $(dirname $0)/asked
while [ ! -s {new} ]; do sleep 0.02; done
for last; do :; done
mark=${{last#--format=}}
echo "${{mark%%[%]*}}7|RUNNING|None|debug|alice|n1|1|1|0:01|sciplat:{site}:$(cat {new}):scheduler"
"""


@pytest.fixture
def backend(tmp_path):
    """A backend whose Slurm knows no job and nothing else."""
    for name, answer in (("squeue", "exit 0"), ("scontrol", SILENT), ("sinfo", SILENT)):
        write_command(tmp_path / name, answer)
    site = Site(state=tmp_path / "state", backend="slurm", slurm={"commands": tmp_path})
    make_folders(site.state)
    parent = Parent(site=site, audit=Audit(site.state / "audit.jsonl"))
    made = SlurmBackend(parent=parent, api_url="http://127.0.0.1:9/api")
    made.db = DataManager(f"sqlite:///{site.state / 'gateway.sqlite'}", encrypt_keys=[KEY])
    yield made
    made.ledger.close()
    made.db.db.dispose()


def write_command(path, answer):
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


def new_cluster(backend):
    return backend.db.create_cluster("alice", {}, SiteClusterConfig().to_dict())


@asynchronous
async def test_while_slurm_takes_no_workers_one_of_a_cluster_asks_for_all(backend):
    backend.queue = WorkQueue()
    cluster = new_cluster(backend)
    backend.db.update_cluster(cluster, status=JobStatus.RUNNING)
    workers = [backend.db.create_worker(cluster) for _ in range(22)]
    for asked in (1, 2):
        for worker in workers:
            await backend.reconcile_worker(worker)
        assert sum("later" in worker.state for worker in workers) == asked
        backend._refused[cluster.name] = (0.0, "Slurm does not answer")  # as ten seconds later
        workers.reverse()
    assert {worker.status for worker in workers} == {JobStatus.CREATED}
    assert cluster.worker_start_failure_count == 0
    lines = await backend.why(cluster)
    assert lines.pop() == "and 2 more workers"
    assert len(lines) == 20
    assert all("Slurm does not answer" in line for line in lines)


@asynchronous
async def test_a_cluster_made_while_the_reaper_asks_slurm_is_not_reaped(backend, tmp_path):
    new, cleaned = tmp_path / "new", []

    async def clean(user, cluster, jobs):
        cleaned.append(jobs)

    backend._clean = clean
    write_command(tmp_path / "squeue", SQUEUE.format(new=new, site=backend.site.name))
    reaping = asyncio.create_task(backend.reap(set()))
    await until((tmp_path / "asked").exists)
    cluster = new_cluster(backend)
    new.write_text(cluster.name)
    assert (await reaping, cleaned) == ([], [])
    assert len(await backend.reap(set())) == 1
    assert cleaned == [["7"]]

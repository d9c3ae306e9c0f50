"""The Slurm backend as far as no Slurm is needed: when it does not answer, or answers late."""

import asyncio

import pytest
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import DataManager, JobStatus
from dask_gateway_server.proxy import Proxy
from dask_gateway_server.workqueue import WorkQueue

from sciplat.errors import GatewayError
from sciplat.gateway.backends.agree import make_agree
from sciplat.gateway.backends.cluster_config import SiteClusterConfig, scheduler_lease, worker_lease
from sciplat.gateway.backends.slurm import SlurmBackend
from sciplat.gateway.backends.slurm_queue import SlurmSilent
from sciplat.gateway.private import make_folders
from sciplat.gateway.site.schema import Site
from sciplat.gateway.users.audit import Audit
from tests.gateway.identity_scene import asynchronous
from tests.gateway.local_scene import KEY, Parent
from tests.gateway.quiet_gateway import until

SILENT = "echo 'Unable to contact slurm controller' >&2; exit 1"

PARTITIONS = """cat <<END
PartitionName=low State=UP MaxTime=UNLIMITED
PartitionName=steady Default=YES State=UP MaxTime=UNLIMITED
PartitionName=shut State=DOWN MaxTime=UNLIMITED
END
"""

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
async def test_the_partitions_of_workers_and_scheduler_are_judged_each(backend, tmp_path):
    write_command(tmp_path / "scontrol", PARTITIONS)
    write_command(tmp_path / "sinfo", "echo 'low|8|16000|(null)'; echo 'steady|2|16000|(null)'")

    async def probe(**config):
        await backend.probe(SiteClusterConfig(**config), "alice")

    await probe(partition="low", scheduler_partition="steady", worker_cores=8)
    await probe(partition="low", scheduler_cores=8)
    with pytest.raises(PublicException, match="a scheduler of 8 cores"):
        await probe(partition="low", scheduler_partition="steady", scheduler_cores=8)
    with pytest.raises(PublicException, match="a worker of 8 cores"):
        await probe(scheduler_partition="low", worker_cores=8)
    with pytest.raises(PublicException, match="no partition nope; it has low, steady, shut"):
        await probe(partition="low", scheduler_partition="nope")
    with pytest.raises(PublicException, match="partition shut is closed"):
        await probe(partition="low", scheduler_partition="shut")


@asynchronous
async def test_many_logs_are_read_in_one_go(backend):
    requests = []

    async def launch(username, **request):
        requests.append((username, request["files"], request["lines"]))
        return {"logs": {"scheduler.log": "one", "worker-b.log": "two"}}

    backend._launch = launch
    found = await backend.read_logs(new_cluster(backend), ["", "a", "b"], 7)
    assert found == {"": "one", "a": "", "b": "two"}
    assert requests == [("alice", ["scheduler.log", "worker-a.log", "worker-b.log"], 7)]


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


class Launches:
    """What is asked of the launcher, which fails while there is an error."""

    def __init__(self):
        self.error, self.asked = None, []

    async def __call__(self, username, **request):
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return {"job": "7"}


def show_jobs(folder, backend, *jobs):
    """Let squeue know jobs: number, state, cluster, worker; it counts how often it is asked."""
    site = backend.site.name
    lines = "\n".join(
        f'echo "${{mark%%[%]*}}{number}|{state}|None|debug|alice|n1|1|1|0:01|sciplat:{site}:{cluster}:{part}"'
        for number, state, cluster, part in jobs
    )
    count = "echo >> $(dirname $0)/asked; for last; do :; done; mark=${last#--format=}"
    write_command(folder / "squeue", f"{count}\n{lines}")


def held(backend):
    return [one.lease.name for one in backend.ledger.open_leases()]


@asynchronous
async def test_a_lease_lasts_until_its_job_is_cancelled_or_known_to_be_over(backend, tmp_path):
    backend.queue, backend._launch = WorkQueue(), Launches()
    backend.proxy = Proxy(parent=backend)
    backend.proxy.routes = {}
    cluster = new_cluster(backend)
    backend.ledger.grant(scheduler_lease(cluster), 1.0)
    backend.db.update_cluster(cluster, status=JobStatus.RUNNING, state={"job_id": "7"})
    first, second = (backend.db.create_worker(cluster) for _ in range(2))
    for number, worker in (("8", first), ("9", second)):
        backend.ledger.grant(worker_lease(worker), 1.0)
        backend.ledger.submitted(cluster.name, worker.name, number)
        backend.db.update_worker(worker, status=JobStatus.RUNNING, target=JobStatus.STOPPED, state={"job_id": number})
    backend._launch.error = GatewayError("nothing can be started as alice")
    await backend._worker_to_stopped(first)
    backend._launch.error = None
    await backend._worker_to_stopped(second)
    assert held(backend) == ["", first.name]

    backend._launch.error = GatewayError("nothing can be started as alice")
    backend.db.update_cluster(cluster, status=JobStatus.CLOSING, target=JobStatus.STOPPED)
    await backend._cluster_to_stopped(cluster)
    show_jobs(
        tmp_path, backend, ("7", "RUNNING", cluster.name, "scheduler"), ("8", "RUNNING", cluster.name, first.name)
    )
    await make_agree(backend)
    assert held(backend) == ["", first.name]
    write_command(tmp_path / "squeue", SILENT)
    await make_agree(backend)
    assert held(backend) == ["", first.name]
    show_jobs(tmp_path, backend, ("7", "CANCELLED", cluster.name, "scheduler"))
    await make_agree(backend)
    assert (held(backend), backend.unstopped) == ([], set())


@asynchronous
async def test_after_a_restart_slurm_is_asked_once_for_what_was_submitted_before(backend, tmp_path):
    write_command(tmp_path / "scontrol", "echo PartitionName=debug Default=YES State=UP")
    write_command(tmp_path / "sinfo", "exit 0")
    backend._launch, backend._began = Launches(), float("inf")
    cluster = new_cluster(backend)
    workers = [backend.db.create_worker(cluster) for _ in range(30)]
    show_jobs(tmp_path, backend, ("8", "RUNNING", cluster.name, workers[3].name))
    jobs = await asyncio.gather(*(backend._submit_worker(worker) for worker in workers))
    assert jobs == ["7"] * 3 + ["8"] + ["7"] * 26
    assert len(backend._launch.asked) == 29
    assert (tmp_path / "asked").read_text() == "\n"


@asynchronous
async def test_a_scheduler_that_slurm_took_without_an_answer_is_found(backend, tmp_path):
    write_command(tmp_path / "scontrol", "echo PartitionName=debug Default=YES State=UP")
    write_command(tmp_path / "sinfo", "exit 0")
    backend._launch = Launches()
    backend._launch.error = SlurmSilent("Slurm does not answer")
    lost, taken = new_cluster(backend), new_cluster(backend)
    show_jobs(tmp_path, backend, ("8", "PENDING", taken.name, "scheduler"))
    with pytest.raises(SlurmSilent):
        [state async for state in backend.start_scheduler(lost)]
    assert [state async for state in backend.start_scheduler(taken)] == [{"job_id": "8"}]


@asynchronous
async def test_a_job_that_was_submitted_twice_is_reaped_once(backend, tmp_path):
    backend._launch = Launches()
    cluster = new_cluster(backend)
    backend.db.update_cluster(cluster, state={"job_id": "8"})
    show_jobs(tmp_path, backend, *((number, "RUNNING", cluster.name, "scheduler") for number in ("7", "8")))
    assert await backend.reap({cluster.name}) == [f"job 7 of alice, cluster {cluster.name}"]

"""Clusters of local processes: their folders, their environment, their end, and a gateway that comes back."""

import asyncio
import json
import os
import time

import pytest
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import JobStatus

from sciplat.errors import SiteError
from sciplat.gateway.backends import local
from sciplat.gateway.backends.cluster_config import SiteClusterConfig
from sciplat.gateway.backends.processes import find_processes, is_running
from sciplat.gateway.quota.ledger import Lease
from tests.gateway.local_scene import Scene, process_of, until

TELL = "import json, os; print(json.dumps([os.getcwd(), dict(os.environ)]), flush=True); import time; time.sleep(60)"
# a nanny: its worker is a process of its own, here even with a session of its own
NANNY = "import subprocess; subprocess.run(['/bin/sleep', '60'], start_new_session=True)"


@pytest.fixture
def scene(tmp_path, request):
    """A backend; its clusters end with the test."""
    scene = Scene(tmp_path / "state", **getattr(request, "param", {}))
    yield scene
    scene.close()


def test_a_cluster_has_a_folder_in_which_only_its_user_reads_the_key(scene):
    cluster = scene.started()
    folder = scene.folder(cluster)
    assert (folder / "dask.crt").read_bytes() == cluster.tls_cert
    assert (folder / "dask.pem").read_bytes() == cluster.tls_key
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"dask.crt": 0o600, "dask.pem": 0o600, "logs": 0o700, "work": 0o700}
    assert (folder / "logs" / "scheduler.log").stat().st_mode & 0o777 == 0o600


def test_processes_find_what_they_need_and_no_secret_of_the_gateway(scene, monkeypatch):
    monkeypatch.setenv("DASK_GATEWAY_ENCRYPT_KEYS", "secret")
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("PATH", "/opt/tools:/usr/bin")
    cluster = scene.started(TELL, prefix="/opt/env", variables={"SURVEY": "dr1"}, walltime=3600)
    worker = scene.worker(cluster)
    for name in ("", worker.name):
        work, found = json.loads(until(lambda name=name: scene.log(cluster, name)))
        assert work == str(scene.folder(cluster) / "work")
        assert "secret" not in found.values()
        expected = {
            "PATH": "/opt/env/bin:/opt/tools:/usr/bin",
            "HOME": os.environ["HOME"],
            "SURVEY": "dr1",
            "SCIPLAT_SITE": "sciplat",
            "DASK_TEMPORARY_DIRECTORY": work,
            "DASK_GATEWAY_CLUSTER_NAME": cluster.name,
            "DASK_GATEWAY_API_TOKEN": cluster.token,
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(scene.folder(cluster) / "dask.crt"),
        }
        assert expected.items() <= found.items()
        assert abs(float(found.get("SCIPLAT_WORKER_ENDS", time.time() + 3600)) - time.time() - 3600) < 20
        assert ("SCIPLAT_WORKER_ENDS" in found) == bool(name)


def test_after_the_end_nothing_is_left_but_logs(scene):
    cluster = scene.started(NANNY)
    worker = scene.worker(cluster)
    mark = {"DASK_GATEWAY_CLUSTER_NAME": cluster.name}
    until(lambda: len(find_processes(mark)) == 4)
    assert scene.run(scene.backend.do_check_clusters([cluster])) == [True]
    assert scene.run(scene.backend.do_check_workers([worker])) == [True]

    scene.run(scene.backend.do_stop_worker(worker))
    assert len(find_processes(mark)) == 2
    assert scene.run(scene.backend.do_check_workers([worker])) == [False]

    scene.run(scene.backend.do_stop_cluster(cluster))
    assert find_processes(mark) == []
    assert scene.run(scene.backend.do_check_clusters([cluster])) == [False]
    left = sorted(str(path.relative_to(scene.folder(cluster))) for path in scene.folder(cluster).rglob("*"))
    assert left == ["logs", "logs/scheduler.log", f"logs/worker-{worker.name}.log"]


def test_workers_are_charged_as_long_as_they_run_whatever_their_scheduler_tells(scene):
    cluster = scene.started()
    worker = scene.worker(cluster)
    backend = scene.backend
    assert backend.ledger.grant(Lease(cluster.name, worker.name, "alice", (), 1, 1, 0), now=1.0) is None
    began = time.time()
    scene.run(backend.do_check_workers([worker]))
    (held,) = backend.ledger.open_leases()
    assert began <= held.started == held.seen <= time.time()
    scene.run(backend.do_stop_worker(worker))
    scene.run(backend.do_check_workers([worker]))
    assert backend.ledger.open_leases() == [held]


def test_a_log_that_has_become_large_is_emptied_and_goes_on(scene, monkeypatch):
    monkeypatch.setattr(local, "_LARGEST", 100_000)
    cluster = scene.started("print('x' * 200_000, flush=True); import time; time.sleep(1); print('on', flush=True)")
    small = scene.started("print('small', flush=True)")
    log = scene.folder(cluster) / "logs" / "scheduler.log"
    until(lambda: log.stat().st_size > 200_000 and scene.log(small))
    scene.run(scene.backend.reap({cluster.name, small.name}))
    assert scene.log(small) == "small"
    assert until(lambda: scene.log(cluster)) == "on"


def test_a_gateway_that_comes_back_finds_and_ends_what_it_had_started(scene):
    cluster = scene.started()
    worker = scene.worker(cluster)
    scene.shut()
    scene.open()
    again = scene.backend.db.get_cluster(cluster.name)
    assert again is not cluster
    assert scene.run(scene.backend.do_check_workers(list(again.workers.values()))) == [True]
    scene.run(scene.backend.do_stop_cluster(again))
    assert not is_running(process_of(worker))
    assert not is_running(process_of(cluster))


def test_what_a_killed_gateway_had_started_without_a_record_is_replaced(scene):
    cluster = scene.started()
    worker = scene.worker(cluster)
    former = [process_of(cluster), process_of(worker)]
    scene.backend.db.update_cluster(cluster, state={})
    scene.backend.db.update_worker(worker, state={})
    scene.run(scene.start(cluster))
    scene.run(scene.start_worker(worker))
    assert not any(map(is_running, former))
    assert set(find_processes({"DASK_GATEWAY_CLUSTER_NAME": cluster.name})) == {process_of(cluster), process_of(worker)}
    assert (scene.folder(cluster) / "dask.pem").read_bytes() == cluster.tls_key


def test_a_worker_that_outlives_its_walltime_is_replaced(scene):
    short, long = scene.worker(scene.started(walltime=1)), scene.worker(scene.started(walltime=1000))
    for_ever = scene.worker(scene.started())

    async def outlive():
        watching = asyncio.create_task(scene.backend._end_in_time())
        assert await asyncio.wait_for(scene.backend.queue.get(), 10) is short
        watching.cancel()

    scene.run(outlive())
    assert [worker.target for worker in (short, long, for_ever)] == [JobStatus.FAILED, *[JobStatus.RUNNING] * 2]
    scene.run(scene.backend.do_stop_worker(short))
    assert [is_running(process_of(worker)) for worker in (short, long, for_ever)] == [False, True, True]


def test_processes_and_folders_of_clusters_that_nobody_owns_are_removed(scene, tmp_path):
    lost, owned = scene.started(NANNY), scene.started()
    other = Scene(tmp_path / "other")  # another gateway on this machine, by chance of the same name
    strange = other.started()
    until(lambda: len(find_processes({"DASK_GATEWAY_CLUSTER_NAME": lost.name})) == 2)
    os.utime(scene.folder(lost), (0, 0))
    try:
        told = scene.run(scene.backend.reap({owned.name}))
        assert is_running(process_of(strange))
    finally:
        other.close()
    assert len(told) == 2
    assert all(f"of cluster {lost.name}" in line for line in told)
    assert find_processes({"DASK_GATEWAY_CLUSTER_NAME": lost.name}) == []
    assert is_running(process_of(owned))
    assert {path.name for path in scene.folder(lost).iterdir()} == {"logs"}
    assert (scene.folder(owned) / "dask.pem").exists()
    assert scene.run(scene.backend.reap({owned.name})) == []


def test_a_cluster_that_is_younger_than_the_question_is_not_reaped(scene):
    cluster = scene.cluster()

    async def start_while_reaping():
        reaping = asyncio.create_task(scene.backend.reap(set()))
        await asyncio.sleep(0)  # the question is put, and then the cluster comes
        await scene.start(cluster)
        return await reaping

    assert scene.run(start_while_reaping()) == []
    assert is_running(process_of(cluster))
    assert (scene.folder(cluster) / "work").exists()


def test_logs_are_removed_when_they_are_old_enough(scene):
    cluster = scene.started()
    scene.run(scene.backend.do_stop_cluster(cluster))
    folder = scene.folder(cluster)
    for days, there in ((13, True), (15, False)):
        past = time.time() - days * 86400
        for path in (folder / "logs" / "scheduler.log", folder):
            os.utime(path, (past, past))
        assert scene.run(scene.backend.reap(set())) == []
        assert folder.exists() == there


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"worker_cores": 4096}, r"a worker of 4096 cores does not fit: this machine has \d+"),
        ({"worker_memory": 2**50}, r"a worker of 1024 TiB does not fit: this machine has"),
        ({"scheduler_memory": 2**50}, r"a scheduler of 1024 TiB does not fit"),
    ],
)
def test_what_is_larger_than_the_machine_is_refused(scene, config, message):
    with pytest.raises(PublicException, match=message):
        scene.run(scene.backend.probe(SiteClusterConfig(**config), "alice"))
    scene.run(scene.backend.probe(SiteClusterConfig(worker_memory=2**30, scheduler_memory=2**30), "alice"))


def test_a_program_that_is_not_there_is_told_to_the_owner_and_in_the_log(scene):
    cluster = scene.cluster(python="/no/such/env/bin/dask")
    with pytest.raises(PublicException, match="the gateway's user cannot run /no/such/env/bin/dask"):
        scene.run(scene.start(cluster))
    assert "cannot run /no/such/env/bin/dask" in cluster.state["reason"]
    assert "cannot run /no/such/env/bin/dask" in scene.log(cluster)


def test_the_end_of_a_log_is_read_and_nothing_but_logs(scene):
    cluster = scene.started("print('x' * 100_000); print('é last'); print('line')")
    until(lambda: not is_running(process_of(cluster)))
    assert scene.log(cluster, "", 2) == "é last\nline"
    assert len(scene.log(cluster)) < 66_000
    assert scene.log(cluster, "", 0) == ""
    (scene.folder(cluster) / "logs" / "worker-x.log").write_text("of no worker")
    for name in ("x", "../scheduler", "../../../gateway.sqlite", "/etc/passwd"):
        assert scene.log(cluster, name, 10) == ""


def test_why_tells_since_when_a_part_is_starting(scene):
    cluster = scene.cluster()
    assert scene.run(scene.backend.why(cluster)) == ["scheduler: starting since 0 s"]
    scene.backend.db.update_cluster(cluster, status=JobStatus.RUNNING, start_time=0)
    worker, gone = (scene.backend.db.create_worker(cluster) for _ in range(2))
    scene.backend.db.update_worker(gone, target=JobStatus.STOPPED)
    scene.backend.db.update_worker(worker, start_time=worker.start_time - 4000)
    assert scene.run(scene.backend.why(cluster)) == [f"worker {worker.name[:8]}: starting since 4 s"]


@pytest.mark.parametrize("scene", [{"backend": "local-multi"}], indirect=True)
@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody-here", "no user nobody-here"),
        ("root", "root is a system account"),
        ("daemon", "daemon is a system account"),
    ],
)
def test_a_user_who_may_have_no_processes_leaves_nothing_behind(scene, user, message):
    cluster = scene.cluster(user=user)
    with pytest.raises(PublicException, match=message):
        scene.run(scene.start(cluster))
    assert not scene.folder(cluster).exists()


@pytest.mark.parametrize("scene", [{"backend": "local-multi"}], indirect=True)
def test_a_state_folder_that_users_cannot_pass_through_is_refused(scene, tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(SiteError, match="must be able to pass through"):
        scene.run(scene.backend.do_setup())

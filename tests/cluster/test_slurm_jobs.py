"""Jobs of a real Slurm: submitted as their users, watched, explained, ended, and accounted for."""

import json
import pwd
import stat
import subprocess
import time
from pathlib import Path

import pytest
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import JobStatus

from sciplat.gateway.backends.slurm_queue import SlurmQueue
from sciplat.gateway.quota.ledger import Held, Lease
from tests.cluster.running_gateway import check_backend, until
from tests.cluster.slurm_scene import SLEEP, SlurmScene

TELL = (
    "/usr/bin/python3 -c 'import json, os; print(json.dumps([os.getuid(), os.getcwd(), dict(os.environ)]))' 1>&2; "
    "trap 'echo TERM came >&2; exit 0' TERM; while :; do sleep 0.1; done"
)


@pytest.fixture(scope="module")
def scene():
    check_backend("slurm")
    scene = SlurmScene()
    yield scene
    scene.close()


def state_of(scene, part):
    jobs = {job.number: job for job in scene.run(scene.backend.slurm_queue.jobs())}
    return jobs[part.state["job_id"]].state


def probe(scene, user="alice", **config):
    """Return why a cluster cannot start, or nothing."""
    try:
        scene.run(scene.backend.probe(scene.config(**config), user))
    except PublicException as error:
        return str(error)
    return ""


def test_a_cluster_lives_as_its_user_and_leaves_its_logs(scene):
    cluster = scene.cluster(TELL, variables={"GREETING": "it's, a=b\n$HOME"}, walltime=3600)
    worker = scene.worker(cluster)
    texts = [until(lambda name=name: scene.log(cluster, name), 20) for name in ("", worker.name)]
    (uid, folder, environment), (_, _, workers) = (json.loads(text.splitlines()[0]) for text in texts)
    alice = pwd.getpwnam("alice")
    assert uid == alice.pw_uid
    assert folder == f"{alice.pw_dir}/.sciplat-test/{cluster.name}"
    assert environment["GREETING"] == "it's, a=b\n$HOME"
    assert environment["HOME"] == alice.pw_dir
    assert environment["DASK_GATEWAY_API_TOKEN"] == cluster.token
    assert "SCIPLAT_WORKER_ENDS" not in environment
    assert 3500 < float(workers["SCIPLAT_WORKER_ENDS"]) - time.time() < 3600
    key = Path(workers["DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY"])
    assert key.read_bytes() == cluster.tls_key
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_uid) == (0o600, alice.pw_uid)
    shown = subprocess.run(
        ["scontrol", "show", "job", worker.state["job_id"]], capture_output=True, text=True, check=True
    )
    assert cluster.token not in shown.stdout
    assert "TimeLimit=01:00:00" in shown.stdout
    assert scene.run(scene.backend.do_check_workers([worker])) == [True]
    assert scene.run(scene.backend.do_check_clusters([cluster])) == [True]
    assert "RUNNING on n" in " ".join(scene.run(scene.backend.why(cluster)))

    scene.stop(cluster)
    until(lambda: not scene.jobs(), 20)
    assert not key.exists()
    for name in ("", worker.name):
        until(lambda name=name: scene.log(cluster, name).endswith("TERM came"), 10)


def test_a_worker_that_waits_is_explained_and_one_that_slurm_took_away_is_replaced(scene):
    low = scene.cluster("exit 0", workers=SLEEP, partition="preemptable", worker_cores=8, constraint="gpu")
    first = scene.worker(low)
    until(lambda: state_of(scene, first) == "RUNNING", 20)
    waiting = scene.worker(low)
    line = until(lambda: [line for line in scene.run(scene.backend.why(low)) if "full" in line], 20)[0]
    assert line.startswith(f"worker {waiting.name[:4]}: PENDING, partition preemptable full")

    high = scene.cluster("exit 0", workers=SLEEP, worker_cores=8, constraint="gpu")
    scene.worker(high)
    until(lambda: state_of(scene, first) == "PREEMPTED", 30)
    assert scene.run(scene.backend.do_check_workers([first])) == [True]
    assert first.target == JobStatus.FAILED  # and another takes its place
    assert low.worker_start_failure_count == 0
    for cluster in (low, high):
        scene.stop(cluster)


def test_a_scheduler_may_run_where_nothing_is_preempted_and_its_workers_elsewhere(scene):
    cluster = scene.cluster(partition="preemptable", scheduler_partition="debug")
    worker = scene.worker(cluster)
    jobs = {job.number: job.partition for job in scene.run(scene.backend.slurm_queue.jobs())}
    assert (jobs[cluster.state["job_id"]], jobs[worker.state["job_id"]]) == ("debug", "preemptable")
    scene.stop(cluster)


def test_a_worker_that_cannot_start_has_failed(scene):
    cluster = scene.cluster()
    worker = scene.worker(cluster)
    scene.run(scene.backend.do_stop_worker(worker))
    until(lambda: state_of(scene, worker) == "CANCELLED", 20)
    assert scene.run(scene.backend.do_check_workers([worker])) == [False]
    scene.stop(cluster)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"partition": "nope"}, "no partition nope; it has debug, physics"),
        ({"scheduler_partition": "nope"}, "no partition nope; it has debug, physics"),
        ({"worker_cores": 9}, "fits on no node of the partition debug: its nodes have at most 8 cores, 15.62 GiB"),
        ({"worker_memory": 17 * 1024**3}, "its nodes have at most 8 cores"),
        ({"scheduler_cores": 9}, "a scheduler of 9 cores"),
        ({"gpus": 3, "gpu_type": "h200"}, "2 h200 GPUs"),
        ({"gpus": 1, "partition": "physics"}, "0 GPUs"),
        ({"qos": "nope"}, "Invalid qos specification"),
        ({"account": "nope"}, "Invalid account"),
        ({"reservation": "nope"}, "reservation is invalid"),
        ({"constraint": "nope"}, "Invalid feature specification"),
        ({"flags": ["--licenses=nope"]}, "Invalid license specification"),
    ],
)
def test_what_never_could_start_is_refused_at_once(scene, config, words):
    before = time.monotonic()
    assert words in probe(scene, **config)
    assert time.monotonic() - before < 10


def test_a_partition_of_a_group_is_closed_to_others(scene):
    assert probe(scene, "alice", partition="physics") == ""
    assert "group not permitted" in probe(scene, "bob", partition="physics")
    assert "no user mallory" in probe(scene, "mallory", partition="physics")


def test_what_fits_is_not_refused(scene):
    assert probe(scene) == ""
    assert probe(scene, gpus=2, gpu_type="h200", account="physics", qos="scavenger", walltime=600) == ""


def test_slurm_that_is_down_is_one_clear_error_and_no_failure_of_workers(scene):
    cluster = scene.cluster()
    scene.commands = unreachable(scene.folder)
    scene.shut()
    scene.open()
    try:
        before = time.monotonic()
        assert "Slurm does not answer" in probe(scene)
        assert time.monotonic() - before < 10
        cluster = scene.backend.db.get_cluster(cluster.name)
        worker = scene.worker(cluster)
        assert (worker.status, worker.target) == (JobStatus.CREATED, JobStatus.RUNNING)
        assert cluster.worker_start_failure_count == 0
        assert "Slurm does not answer" in " ".join(scene.run(scene.backend.why(cluster)))
    finally:
        scene.commands = None
        scene.shut()
        scene.open()
    cluster = scene.backend.db.get_cluster(cluster.name)
    worker = cluster.workers[worker.name]
    scene.reconcile(worker)
    assert worker.status == JobStatus.SUBMITTED
    assert state_of(scene, worker) in {"PENDING", "RUNNING"}
    scene.stop(cluster)


def unreachable(folder):
    """Return a folder with Slurm's commands, whose controller is nowhere."""
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    told = Path("/etc/slurm/slurm.conf").read_text().splitlines()
    config = "\n".join("SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in told)
    (commands / "slurm.conf").write_text(config)
    (commands / "gres.conf").write_text(Path("/etc/slurm/gres.conf").read_text())
    for name in ("squeue", "sinfo", "scontrol", "sbatch", "scancel", "sacct"):
        program = f'#!/bin/sh\nSLURM_CONF={commands}/slurm.conf exec /usr/bin/{name} "$@"\n'
        (commands / name).write_text(program)
        (commands / name).chmod(0o755)
    return commands


def test_a_gateway_that_was_killed_finds_what_it_had_submitted(scene):
    cluster = scene.cluster()
    worker = scene.worker(cluster)
    jobs = {one.name: one.state["job_id"] for one in (cluster, worker)}
    scene.backend.db.update_worker(worker, status=JobStatus.CREATED, state={})
    scene.backend.db.update_cluster(cluster, status=JobStatus.CREATED, state={})
    scene.shut()
    time.sleep(0.01)
    scene.open()
    cluster = scene.backend.db.get_cluster(cluster.name)
    worker = cluster.workers[worker.name]
    scene.run(scene.backend._cluster_to_submitted(cluster))
    scene.reconcile(worker)
    assert {one.name: one.state["job_id"] for one in (cluster, worker)} == jobs
    assert len([job for job in scene.jobs() if job.cluster == cluster.name]) == 2
    scene.stop(cluster)


def test_the_reaper_ends_what_nobody_owns_and_nothing_else(scene):
    kept, lost = scene.cluster(), scene.cluster(user="bob")
    worker, over = scene.worker(kept), scene.worker(kept)
    scene.backend.db.update_worker(over, status=JobStatus.STOPPED, target=JobStatus.STOPPED)
    mine = sbatch(
        "--job-name=sciplat-worker",
        f"--comment=x\n{lost.state['job_id']}|RUNNING|None|debug|alice|n1|1|1|0:00|sciplat:{scene.name}:{lost.name}:scheduler",
    )
    ended = scene.run(scene.backend.reap({kept.name}))
    assert len(ended) == 2
    assert any(f"of bob, cluster {lost.name}" in words for words in ended)
    numbers = {kept.state["job_id"], worker.state["job_id"]}
    until(lambda: {job.number for job in scene.jobs()} == numbers, 20)
    assert scene.run(scene.backend.reap({kept.name})) == []
    alive = subprocess.run(["squeue", "-h", "-j", mine, "-o", "%T"], capture_output=True, text=True, check=True)
    assert alive.stdout.strip() in {"PENDING", "RUNNING"}
    subprocess.run(["scancel", mine], check=True)
    scene.stop(kept)


def sbatch(*options):
    """Submit a job of alice's own."""
    command = ["runuser", "-u", "alice", "--", "sbatch", "--parsable", "--output=/dev/null", *options]
    done = subprocess.run(command, input="#!/bin/sh\nsleep 60\n", capture_output=True, text=True, cwd="/", check=True)
    return done.stdout.strip()


def test_accounting_tells_what_ran(scene):
    cluster = scene.cluster("sleep 2")
    number = cluster.state["job_id"]
    lease = Lease(cluster.name, "", "alice", (), 1, 1, 0)
    held = Held(lease, granted=0.0, started=None, seen=None, ended=1.0, job=number, settled=False)
    told = until(lambda: scene.run(scene.backend.accounted([held])), 30)
    started, ended = told[cluster.name, ""]
    assert 1 <= ended - started <= 10
    assert abs(ended - time.time()) < 60
    scene.stop(cluster)


def test_the_accounting_knows_a_job_that_the_queue_forgot(scene):
    cluster = scene.cluster("exit 3")
    number = cluster.state["job_id"]
    forgetful = scene.folder / "forgetful"
    forgetful.mkdir()
    (forgetful / "squeue").symlink_to("/bin/true")
    (forgetful / "sacct").symlink_to("/usr/bin/sacct")
    queue, scene.backend.slurm_queue = scene.backend.slurm_queue, SlurmQueue(str(forgetful))
    try:
        job = until(lambda: scene.run(scene.backend._jobs_of([cluster])).get(number), 30)
        assert (job.state, job.alive, job.excused) == ("FAILED", False, False)
        assert scene.run(scene.backend.do_check_clusters([cluster])) == [False]
    finally:
        scene.backend.slurm_queue = queue
    scene.stop(cluster)


def test_another_user_reads_no_log(scene):
    cluster = scene.cluster("echo private >&2")
    until(lambda: scene.log(cluster), 20)
    cluster.username = "bob"
    assert scene.log(cluster) == ""
    cluster.username = "alice"
    scene.stop(cluster)

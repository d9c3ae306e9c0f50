"""A cluster of one's own, from asking for it to its end, on every backend: stock client, our client, and commands."""

import json
import os
import pwd
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cluster.conftest import OPERATOR
from tests.cluster.running_gateway import groups_of, until
from tests.sky_scene import WHOLE_SKY, sources, write_catalog

pytestmark = pytest.mark.usefixtures("stream")  # which runs beside all of them, until the last one looks at it

STOCK = """
from dask_gateway import BasicAuth, Gateway
with Gateway(os.environ["SCIPLAT_GATEWAY"], auth=BasicAuth("alice", password=os.environ["SCIPLAT_TOKEN"])) as stock:
    with stock.new_cluster(memory="600 MiB") as made, made.get_client() as client:
        made.scale(2)
        client.wait_for_workers(2, timeout=60)
        sums = [client.submit(sum, range(10)).result(60)]
        limits = {worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()}
        made.adapt(minimum=0, maximum=1)
        for _ in range(300):
            fewer = len(client.scheduler_info()["workers"])
            if fewer < 2:
                break
            time.sleep(0.1)
        sums.append(client.submit(sum, range(5)).result(60))
        listed = [one.name for one in stock.list_clusters()]
        name = made.name
    left = [one.name for one in stock.list_clusters()]
answer = {"name": name, "sums": sums, "limits": list(limits), "fewer": fewer, "listed": listed, "left": left}
"""

OURS = """
with sciplat.open_cluster(workers=(1, 2), memory="600 MiB") as two:
    two.client.wait_for_workers(1, timeout=60)
    least = two.workers
    who = two.client.submit(lambda: [os.getuid(), os.getgid(), sorted(os.getgroups()), os.getcwd()]).result(60)
    two.scale(2)
    two.client.wait_for_workers(2, timeout=60)
    most, logs = two.workers, sorted(two.logs(5))
    who_schedules = two.client.run_on_scheduler(lambda: [os.getuid(), os.getgid(), sorted(os.getgroups())])
    name = two.name
    two.scale(0)
answer = {"name": name, "least": least, "who": who, "most": most, "logs": logs}
answer["scheduler"] = who_schedules
"""

PLAN = """
import sciplat
stars = sciplat.open_catalog({stars!r})
def brighten(table):
    return table.append_column("twice", [[2 * number for number in table["source_id"].to_pylist()]])
schema = stars.schema.append(__import__("pyarrow").field("twice", "int64"))
plan = stars.map(brighten, schema=schema).crossmatch(sciplat.open_catalog({others!r}), radius="30 arcmin")
"""


def test_the_stock_client_starts_scales_adapts_computes_and_stops_a_cluster(gateway, alice):
    told = alice.run(STOCK, 90)
    assert told["sums"] == [45, 10]
    assert told["limits"] == [600 * 1024**2]
    assert told["fewer"] < 2
    assert told["name"] in told["listed"]
    assert told["name"] not in told["left"]
    until(lambda: gateway.cluster(told["name"])["status"] == "stopped", 20)
    until(lambda: told["name"] not in gateway.running(), 20)


def test_our_client_opens_a_cluster_whose_processes_are_the_users(gateway, alice):
    told = alice.run(OURS, 90)
    assert (told["least"], told["most"]) == (1, 2)
    assert (len(told["logs"]), told["logs"][-1]) == (3, "scheduler")
    entry = pwd.getpwnam("alice")
    who = [entry.pw_uid, entry.pw_gid, sorted(groups_of(entry))]
    if gateway.backend == "local":
        who = [os.getuid(), os.getgid(), sorted(os.getgroups())]
    assert told["scheduler"] == who
    assert told["who"][:3] == who
    if gateway.backend == "slurm":
        assert told["who"][3] == f"{entry.pw_dir}/.sciplat/clusters/{told['name']}"
    until(lambda: told["name"] not in gateway.running(), 20)
    status, text = gateway.sciplat("alice", "cluster", "logs", told["name"][:8])  # also after the end
    assert (status, text.count("--- ")) == (0, 3), text
    assert text.count("tls://") >= 3


def test_a_plan_writes_on_a_cluster_what_it_writes_on_local_threads(gateway, alice, opened):
    folder = gateway.folder / "data"
    folder.mkdir()
    for name, cells in (("stars", WHOLE_SKY), ("others", [child for cell in WHOLE_SKY for child in cell.children])):
        write_catalog(folder / name, sources(), cells)
    results = gateway.folder / "results"
    results.mkdir()
    if gateway.backend != "local":
        shutil.chown(results, "alice", "alice")
    plan = PLAN.format(stars=str(folder / "stars"), others=str(folder / "others"))
    tell = "import json; store = plan.write({!r}).store; answer = [store.manifest.digest, store.manifest.rows]\n"
    threads = gateway.start_python("alice", plan + tell.format(str(results / "threads")) + "print(json.dumps(answer))")
    count = "cluster.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)"
    alice.run(f"before = {count}")
    cluster = alice.run(plan + tell.format(str(results / "cluster")))
    assert alice.run(f"answer = {count} - before") > 0
    out, err = threads.communicate(timeout=60)
    assert threads.returncode == 0, err
    assert cluster == json.loads(out)
    assert cluster[1] == len(sources())


def test_the_first_task_does_not_wait_for_the_warm_up(gateway, alice, opened):
    ended = alice.run("answer = early.result(60)")  # it was there before the worker

    def warmed_up():
        logs = alice.run("answer = cluster.logs(100)").values()
        return re.search(r"(\S+ \S+),(\d+) .*Warm-up: [\d.]+ s", "".join(logs))

    found = until(warmed_up, 60)
    assert ended < time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + int(found[2]) / 1000


def test_commands_show_a_cluster_to_its_user_and_to_an_admin(gateway, opened):
    def tells(user, *arguments, token=None):
        status, text = gateway.sciplat(user, *arguments, token=token)
        assert status == 0, text
        return text

    line = rf"(?m)^{opened[:8]} +alice +running +1/1 +default +20.*\d$"
    assert re.search(line, tells("alice", "cluster", "list"))
    assert tells("alice", "cluster", "why", opened[:8]) == "nothing is waiting: the cluster is running\n"
    logs = tells("alice", "cluster", "logs", opened[:8], "--lines", "500")
    assert re.search(r"--- scheduler\n(.*\n)*.*Scheduler at.*tls://", logs)
    assert re.search(r"--- [0-9a-f]{32}\n(.*\n)*.*Registered to.*tls://", logs)
    quota = tells("alice", "quota")
    assert re.search(r"(?m)^user alice\n.*\n  clusters +no limit +\d+ +no limit$", quota)
    usage = tells("alice", "usage", "--by", "user,cluster", "--since", "1 d")
    assert re.search(rf"(?m)^alice +{opened[:8]} +\d+\.\d\d ", usage), usage
    assert "bob" not in usage
    token = gateway.token(OPERATOR, "read", "clusters", "admin")
    assert re.search(line, tells(OPERATOR, "cluster", "list", "--all", token=token))
    assert re.search(r"(?m)^alice +\d(.*\n)+bob +\d", tells(OPERATOR, "usage", token=token))
    status, text = gateway.sciplat("alice", "cluster", "list", "--all")
    assert (status, "Only an admin" in text) == (2, True), text


def test_an_admin_stops_a_cluster_and_its_user_is_told(gateway):
    made = gateway.ask("POST", "/api/v1/clusters/", "alice", body={"cluster_options": {}})
    name = json.loads(made.body)["name"]
    until(lambda: gateway.cluster(name)["status"] == "running", 30)
    token = gateway.token(OPERATOR, "read", "clusters", "admin")
    status, text = gateway.sciplat(OPERATOR, "cluster", "stop", name[:8], token=token)
    assert (status, text) == (0, f"stopped {name[:8]}\n")
    until(lambda: gateway.cluster(name)["status"] == "stopped", 20)
    until(lambda: name not in gateway.running(), 20)
    status, text = gateway.sciplat("alice", "cluster", "why", name[:8])
    assert (status, text) == (0, "stopped: stopped by an admin of the gateway\n")


@pytest.fixture(scope="module")
def other_environment(gateway):
    """Make the environment of the profile "other": all that the gateway's own has, but sciplat says it is 0.0.9."""
    own, other = Path(gateway.program).parents[1], gateway.folder / "other"
    subprocess.run([own / "bin" / "python", "-m", "venv", "--without-pip", other], check=True, cwd="/")
    [packages], [its_packages] = (where.glob("lib/python*/site-packages") for where in (own, other))
    (its_packages / "own.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
    told = its_packages / "sciplat-0.0.9.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: sciplat\nVersion: 0.0.9\n")
    program = (own / "bin" / "dask").read_text().replace(f"#!{own}/", f"#!{other}/")
    (other / "bin" / "dask").write_text(program)
    (other / "bin" / "dask").chmod(0o755)


def test_a_cluster_with_another_version_of_sciplat_is_refused(gateway, alice, other_environment):
    began = len(gateway.clusters())
    told = alice.error("sciplat.open_cluster(profile='other')", 60)
    assert told.startswith("EnvironmentMismatch: the packages of the cluster are not those of this process")
    assert f"sciplat: {version('sciplat')} here, 0.0.9 on the cluster" in told
    assert "dask" not in told
    until(lambda: len(gateway.clusters()) == began, 20)


@pytest.mark.parametrize("gateway", ["slurm"], indirect=True)
def test_a_preempted_worker_is_replaced_and_nothing_is_lost(gateway, alice):
    alice.run("weak = sciplat.open_cluster(workers=1, profile='preemptable')", 90)
    name = alice.run("answer = weak.name")
    until(lambda: gateway.cluster(name)["workers"]["running"] == 1, 30)
    alice.run("slow = [weak.client.submit(lambda n: time.sleep(0.5) or n, n, pure=False) for n in range(10)]")
    [taken] = worker_jobs(gateway, name)
    with preempted(taken):
        assert alice.run("answer = [one.result(60) for one in slow]", 90) == list(range(10))
    assert worker_jobs(gateway, name)[taken] == "PREEMPTED"
    assert gateway.cluster(name)["status"] == "running"
    assert "did not start" not in gateway.ask("GET", f"/api/sciplat/clusters/{name}/why", "alice").body.decode()
    alice.run("weak.close()")


def test_workers_at_the_end_of_their_walltime_are_replaced_and_nothing_is_lost(gateway, bob, stream):
    results = bob.run("thread.join(); answer = results", 90)
    assert bob.run("answer = wrong") == []
    assert [number for number, _ in results] == list(range(len(results)))
    first = results[0][1]
    log = gateway.ask("GET", f"/api/sciplat/clusters/{stream}/logs?worker={first}", "bob").body.decode()
    assert "The end of this worker's job is near: it takes no more tasks" in log
    assert gateway.cluster(stream, "bob")["status"] == "running"
    if gateway.backend == "slurm":
        [job] = worker_jobs(gateway, stream, first)
        until(lambda: worker_jobs(gateway, stream, first)[job] not in {"RUNNING", "COMPLETING"}, 20)
        assert worker_jobs(gateway, stream, first)[job] in {"COMPLETED", "CANCELLED"}  # it left in time: no TIMEOUT


def worker_jobs(gateway, cluster, worker=""):
    """Return the states of the jobs of a cluster's workers, by number."""
    asked = ["--all", "--noheader", "--states=all", "--name=sciplat-worker", "--format=%i %T %k"]
    tag, lines = f" sciplat:{gateway.name}:{cluster}:{worker}", slurm("squeue", *asked).splitlines()
    return dict(line.split()[:2] for line in lines if tag in line)


@contextmanager
def preempted(job):
    """Let a job of more right ask for more memory than is left on a job's node, by half of what the job has."""
    node = slurm("squeue", "--noheader", f"--jobs={job}", "--format=%N")
    told = dict(word.split("=", 1) for word in slurm("scontrol", "show", "node", node).split() if "=" in word)
    memory = int(told["RealMemory"]) - int(told["AllocMem"]) + 4096
    asked = ["--parsable", "--partition=debug", f"--nodelist={node}", f"--mem={memory}", "--output=/dev/null"]
    taker = slurm("runuser", "-u", "alice", "--", "sbatch", *asked, "--wrap=sleep 60")
    try:
        until(lambda: slurm("squeue", "--noheader", f"--jobs={taker}", "--format=%T") == "RUNNING", 20)
        yield
    finally:
        slurm("scancel", taker)


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd="/").stdout.strip()

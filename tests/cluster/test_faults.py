"""R6 and R7: the gateway's server, its proxy, a scheduler and workers are killed under work; nothing is lost or wrong.

The supervisor of `sciplat gateway start` starts server and proxy again. Each test prints its seed and a line of
figures.
"""

import http.client
import json
import random
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import pytest

import sciplat
from sciplat.sky.cell import Cell
from tests.cluster.running_gateway import RunningGateway, check_backend, until
from tests.sky_scene import sources, write_catalog

SEED = 20266
CELLS = [*(Cell(1, index) for index in range(32)), *(Cell(2, index) for index in range(128, 192))]

# Results that each take some time on a worker, until a file says that it is enough; what is lost raises.
STREAM = """
import json, pathlib, time
import sciplat
def work(number):
    time.sleep(0.4)
    return number
with sciplat.open_cluster(workers=2, memory="512 MiB") as cluster:
    cluster.client.wait_for_workers(2, timeout=60)
    print(json.dumps(cluster.name), flush=True)
    found = []
    while len(found) < 60 or not pathlib.Path({enough!r}).exists():
        numbers = range(len(found), len(found) + 4)
        futures = [cluster.client.submit(work, number, pure=False) for number in numbers]
        found += [future.result() for future in futures]
print(json.dumps(found))
"""

# A plan of 96 cells that takes some seconds; tried again after an error, on a new cluster, as its message says.
PLAN = """
import json, os, sys, time
import sciplat
from sciplat.errors import SciplatError
def slow(table):
    time.sleep({seconds})
    return table
catalog = sciplat.open_catalog({catalog!r})
plan = catalog.map(slow, schema=catalog.schema)
errors = []
while True:
    try:
        with sciplat.open_cluster(workers=2, memory="512 MiB") as cluster:
            print(json.dumps(cluster.name), flush=True)
            store = plan.write({result!r}).store
        break
    except SciplatError as error:
        errors.append([type(error).__name__, str(error), time.time()])
        assert len(errors) < 30, errors
print(json.dumps({{"digest": store.manifest.digest, "errors": errors}}))
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    write_catalog(folder / "catalog", sources(), CELLS)
    return str(folder / "catalog")


@pytest.fixture(scope="module")
def undisturbed(catalog, tmp_path_factory):
    """The digest of the plan's files on local threads."""
    plan = sciplat.open_catalog(catalog)
    return plan.map(same, schema=plan.schema).write(tmp_path_factory.mktemp("threads") / "out").store.manifest.digest


def same(table):
    return table


@pytest.fixture(scope="module")
def local():
    with RunningGateway("local", more="limits: {idle: 20 s}") as gateway:
        yield gateway


@contextmanager
def user_program(gateway, user, code):
    """Run a user's program; give it once it has opened its cluster, with the cluster's name."""
    process = gateway.start_python(user, code)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read() + gateway.logs()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def last_value(process, seconds=150):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def figures(what, **numbers):
    print(f"{what}: seed {SEED}, " + ", ".join(f"{name} {value}" for name, value in numbers.items()))


def kill(process):
    """SIGKILL a process, and return since when it is dead."""
    process.send_signal(signal.SIGKILL)
    return time.monotonic()


def listed(gateway, user, name):
    status, text = gateway.sciplat(user, "cluster", "list")
    return status == 0 and name[:8] in text


@pytest.mark.parametrize(("backend", "kills"), [("local", 10), ("slurm", 3)])
def test_a_killed_gateway_loses_no_result_and_lists_its_clusters_again(backend, kills):
    check_backend(backend)
    rng = random.Random(SEED)
    user = "alice" if backend == "slurm" else "root"
    with RunningGateway(backend, more="limits: {idle: 20 s}") as gateway:
        enough = gateway.folder / "enough"
        with user_program(gateway, user, STREAM.format(enough=str(enough))) as (process, name):
            recovery = []
            for _ in range(kills):
                time.sleep(rng.uniform(0.1, 0.6))
                began = kill(gateway.server())
                until(lambda: listed(gateway, user, name), 15)
                recovery.append(time.monotonic() - began)
            enough.touch()
            found = last_value(process)
        assert found == list(range(len(found)))
        until(lambda: not gateway.processes(), 60)
        figures(f"R6 {backend}", faults=kills, acknowledged=len(found), lost=0, worst_s=round(max(recovery), 1))


def test_a_plan_outlives_the_proxy(local, catalog, undisturbed, tmp_path):
    rng = random.Random(SEED)
    code = PLAN.format(catalog=catalog, result=str(tmp_path / "out"), seconds=0.12)
    with user_program(local, "root", code) as (process, name):
        recovery = []
        for _ in range(5):
            time.sleep(rng.uniform(0.3, 1.0))
            began = kill(local.proxy())
            until(lambda: listed(local, "root", name) or process.poll() is not None, 10)
            recovery.append(time.monotonic() - began)
        answer = last_value(process)
    assert answer["digest"] == undisturbed
    assert all(name in {"ClusterLost", "GatewayError", "TaskFailed"} for name, *_ in answer["errors"]), answer["errors"]
    figures("R7 proxy", faults=5, errors=len(answer["errors"]), wrong=0, worst_s=round(max(recovery), 1))


def test_a_plan_resumes_after_its_scheduler_was_killed(local, catalog, undisturbed, tmp_path):
    rng = random.Random(SEED)
    code = PLAN.format(catalog=catalog, result=str(tmp_path / "out"), seconds=0.12)
    killed = []
    process = local.start_python("root", code)
    try:
        for _ in range(5):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            name = json.loads(line)
            time.sleep(rng.uniform(0.5, 1.0))
            schedulers = [
                one
                for one in local.processes()
                if one.environ().get("DASK_GATEWAY_CLUSTER_NAME") == name and "scheduler" in one.cmdline()
            ]
            for one in schedulers:
                kill(one)
            killed.append(time.time())
        answer = last_value(process)
    finally:
        process.kill()
        process.communicate()
    assert answer["digest"] == undisturbed
    assert [name for name, *_ in answer["errors"]] == ["ClusterLost"] * 5, answer["errors"]
    delays = [told - when for (*_, told), when in zip(answer["errors"], killed, strict=True)]
    assert max(delays) < 10
    until(lambda: not local.processes(), 60)
    figures("R7 scheduler", faults=5, unclear_errors=0, wrong=0, worst_s=round(max(delays), 1))


def test_killed_workers_lose_nothing(local, catalog, undisturbed, tmp_path):
    rng = random.Random(SEED)
    code = PLAN.format(catalog=catalog, result=str(tmp_path / "out"), seconds=1.2)
    with user_program(local, "root", code) as (process, _):
        for _ in range(5):
            until(lambda: "2/2" in local.sciplat("root", "cluster", "list")[1], 60)
            workers = [one for one in local.processes() if "worker" in one.cmdline()]
            leader = min(workers, key=lambda one: one.create_time())
            for one in [*leader.children(recursive=True), leader]:
                kill(one)
            time.sleep(rng.uniform(1.5, 2.5))  # in which the scheduler notices
        answer = last_value(process)
    assert answer["digest"] == undisturbed
    assert answer["errors"] == []
    figures("R7 worker", faults=5, lost=0, wrong=0)


REQUESTERS, CLUSTERS, WORKERS = 100, 4, 6
SMALL = """
quotas: {default: {clusters: 4, workers: 6}}
profiles:
  default: {cores: 1, memory: 512 MiB, scheduler_memory: 256 MiB}
"""
HELD = "SELECT coalesce(sum(name = ''), 0), coalesce(sum(name != ''), 0) FROM leases WHERE ended IS NULL"


def held(gateway):
    """Return how many schedulers and workers have leases."""
    with closing(sqlite3.connect(f"file:{gateway.state}/ledger.sqlite?mode=ro", uri=True, timeout=10)) as ledger:
        return ledger.execute(HELD).fetchone()


def most_at_once(gateway, over):
    """Return the most schedulers and workers that had leases at any time until it is over."""
    most = (0, 0)
    while not over.wait(0.02):
        most = tuple(map(max, most, held(gateway)))
    return most


def ask_again(gateway, method, path, body=None):
    """Ask until the gateway answers, which is dead now and then."""
    for _ in range(100):
        with suppress(OSError, http.client.HTTPException):
            answer = gateway.ask(method, path, "root", body=body)
            if answer.status < 500:
                return answer
        time.sleep(0.2)
    raise AssertionError("no answer")


def test_a_hundred_who_ask_at_once_never_hold_more_than_a_quota_though_the_server_is_killed():
    rng = random.Random(SEED)
    with RunningGateway("local", profiles=SMALL) as gateway, ThreadPoolExecutor(REQUESTERS + 1) as pool:
        gateway.token("root")
        over = threading.Event()
        looking = pool.submit(most_at_once, gateway, over)
        try:
            asked = [pool.submit(ask_again, gateway, "POST", "/api/v1/clusters/", {}) for _ in range(REQUESTERS)]
            time.sleep(rng.uniform(0.1, 0.4))
            kill(gateway.server())
            answers = [one.result() for one in asked]
            known = json.loads(ask_again(gateway, "GET", "/api/sciplat/clusters").body)["clusters"]
            names = {one["name"] for one in known}
            paths = [f"/api/v1/clusters/{name}/scale" for name in names]
            until(lambda: {gateway.cluster(name, "root")["status"] for name in names} == {"running"}, 30)
            scaled = [pool.submit(ask_again, gateway, "POST", path, {"count": 2}) for path in paths]
            time.sleep(rng.uniform(0.0, 0.1))
            kill(gateway.server())
            scaled = [one.result() for one in scaled]
            until(lambda: held(gateway) == (CLUSTERS, WORKERS))
        finally:
            over.set()
        assert looking.result() == (CLUSTERS, WORKERS)
        assert len(names) == CLUSTERS
        assert {json.loads(answer.body)["name"] for answer in answers if answer.status == 201} <= names
        refused = [answer.body.decode() for answer in answers if answer.status != 201]
        assert len(refused) >= REQUESTERS - CLUSTERS
        assert all("uses 4 clusters of 4 clusters" in text for text in refused), set(refused)
        assert all("of 6 workers" in answer.body.decode() for answer in scaled if answer.status != 200), scaled
        for name in names:
            ask_again(gateway, "DELETE", f"/api/sciplat/clusters/{name}")
        until(lambda: held(gateway) == (0, 0) and not gateway.processes())
        figures("quota", requesters=REQUESTERS, refused=len(refused), kills=2)

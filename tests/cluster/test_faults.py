"""R6 and R7: the gateway's server, its proxy, a scheduler and workers are killed under work; nothing is lost or wrong.

The supervisor of `sciplat gateway start` starts server and proxy again. Each test prints its seed and a line of
figures.
"""

import json
import random
import signal
import time
from contextlib import contextmanager

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
    code = PLAN.format(catalog=catalog, result=str(tmp_path / "out"), seconds=0.4)
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

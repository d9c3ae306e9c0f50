"""Clusters end when nobody uses them, when they are too old, when their hours are spent, and when nobody owns them.

The gateways of all backends run side by side, and in each of them several clusters wait for their ends at once.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import running_gateways
from tests.cluster.running_gateway import BACKENDS, RunningGateway, check_backend, until

IDLE = 5.0  # seconds
MORE = """
limits: {idle: 5 s, lifetime: 25 s}
quotas: {users: {bob: {core_hours: 0.002}}}
"""
PROFILES = """
profiles:
  default: {cores: 1, memory: 512 MiB, scheduler_memory: 512 MiB}
"""
QUEUE = """
  queue: {cores: 8, memory: 512 MiB, scheduler_memory: 512 MiB, partition: gpu}
"""
READY = """
import time, sciplat, sciplat.gateway.client.cluster
from distributed import fire_and_forget
from dask_gateway import Gateway
"""
WORKING = """
{0} = sciplat.open_cluster(workers=1)
fire_and_forget({0}.client.submit(time.sleep, 60))
answer = {0}.name
"""
LEFT = """
left = sciplat.open_cluster(workers=1)
left.client.submit(sum, [1, 2]).result(60)
answer = left.name
"""


@pytest.fixture(scope="module")
def scenes(request):
    """Gateways with short lifetimes, and the clusters in each that will end."""
    with running_gateways(request, "scene", short_lived_gateway) as gateways:
        with ThreadPoolExecutor() as pool:
            clusters = list(pool.map(open_clusters, gateways.values()))
        yield dict(zip(gateways, zip(gateways.values(), clusters, strict=True), strict=True))


@pytest.fixture(params=BACKENDS)
def scene(request, scenes):
    check_backend(request.param)
    return scenes[request.param]


def short_lived_gateway(backend):
    profiles = PROFILES + QUEUE * (backend == "slurm")
    return RunningGateway(backend, more=MORE, profiles=profiles, on_stop="keep")


def open_clusters(gateway):
    """Return the names of the clusters whose ends are looked at, and bob's notebook."""
    notebooks = {user: gateway.notebook(user) for user in ("alice", "bob")}
    for notebook in notebooks.values():
        notebook.run(READY)
    clusters = {"old": notebooks["alice"].run(WORKING.format("old"), 90)}
    clusters["spent"] = notebooks["bob"].run(WORKING.format("spent"), 90)
    clusters["left"] = notebooks["alice"].run(LEFT, 90)
    notebooks["alice"].kill()
    clusters["idle"] = ask_for_cluster(gateway, 0)
    if gateway.backend == "slurm":
        clusters["queue"] = ask_for_cluster(gateway, 1, profile="queue")
        clusters["since"] = time.monotonic()
    return clusters | {"bob": notebooks["bob"]}


def ask_for_cluster(gateway, workers, **options):
    """Open a cluster of alice's for no program; return its name."""
    made = gateway.ask("POST", "/api/v1/clusters/", "alice", body={"cluster_options": options})
    name = json.loads(made.body)["name"]
    until(lambda: gateway.cluster(name)["status"] == "running", 30)
    assert gateway.ask("POST", f"/api/v1/clusters/{name}/scale", "alice", body={"count": workers}).status == 200
    return name


def ended(gateway, name, user="alice", seconds=40):
    """Wait until a cluster has ended, with all that it had; return why."""
    until(lambda: gateway.cluster(name, user)["status"] == "stopped", seconds, gateway.cluster(name, user))
    until(lambda: name not in gateway.running(), 20)
    return gateway.cluster(name, user)["reason"]


@pytest.mark.parametrize("scene", ["slurm"], indirect=True)
def test_a_cluster_whose_workers_queue_is_not_idle(scene):
    gateway, clusters = scene
    time.sleep(max(clusters["since"] + 2 * IDLE - time.monotonic(), 0))
    state = gateway.cluster(clusters["queue"])
    assert (state["status"], state["workers"]["waiting"]) == ("running", 1), state
    assert len(state["waiting"]) == 1
    assert "PENDING, partition gpu full" in state["waiting"][0]


@pytest.mark.parametrize("which", ["idle", "left"])
def test_a_cluster_that_nobody_uses_ends_whether_or_not_its_notebook_is_there(scene, which):
    gateway, clusters = scene
    assert ended(gateway, clusters[which]) == "it had nothing to do for 5 s"


def test_a_cluster_whose_owner_has_spent_the_core_hours_ends(scene):
    gateway, clusters = scene
    reason = ended(gateway, clusters["spent"], "bob")
    assert reason.startswith("quota: ")
    assert "core-hours" in reason
    told = clusters["bob"].error("sciplat.open_cluster(workers=1)")
    assert told.startswith("QuotaExceeded: ")
    assert "core-hours" in told


def test_a_cluster_that_works_ends_when_it_is_too_old(scene):
    gateway, clusters = scene
    assert ended(gateway, clusters["old"]) == "it has lived for 25 s, the longest this gateway allows"


def test_what_the_database_does_not_know_is_ended_and_not_charged_any_more(scene):
    gateway, _ = scene
    name = ask_for_cluster(gateway, 1)
    until(lambda: gateway.cluster(name)["workers"]["running"] == 1, 30)
    gateway.stop()
    assert name in gateway.running()
    for file in gateway.state.glob("gateway.sqlite*"):
        file.unlink()
    gateway.start()
    until(lambda: name not in gateway.running(), 40)
    audit = gateway.state / "audit.jsonl"
    until(lambda: any('"reaped"' in line and name in line for line in audit.read_text().splitlines()), 10)
    until(lambda: used(gateway, "alice", "clusters") == 0, 70)  # a lease lasts as long as its job


def used(gateway, user, limit):
    [account] = json.loads(gateway.ask("GET", "/api/sciplat/quota", user).body)["accounts"]
    return {one["limit"]: one["used"] for one in account["limits"]}[limit]

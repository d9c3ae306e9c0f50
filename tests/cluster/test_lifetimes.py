"""Clusters end when nobody uses them, when they are too old, when their hours are spent, and when nobody owns them.

The gateways of all backends run side by side, and in each of them several clusters wait for their ends at once.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.conftest import running_gateways
from tests.cluster.running_gateway import BACKENDS, RunningGateway, check_backend, until

IDLE = 4.0  # seconds
MORE = """
limits: {idle: 4 s, lifetime: 20 s}
quotas: {users: {bob: {core_hours: 0.002}}}
"""
PROFILES = """
profiles:
  default: {cores: 1, memory: 512 MiB, scheduler_memory: 512 MiB}
"""
QUEUE = """
  queue: {cores: 8, memory: 512 MiB, scheduler_memory: 512 MiB, partition: gpu}
"""
OPEN = """
import json, os, time, sciplat
cluster = sciplat.open_cluster(workers=1)
task = cluster.client.submit(time.sleep, {seconds})
answer = cluster.name
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
    users = {"old": "alice", "spent": "bob", "idle": "alice", "left": "alice"}
    notebooks = {name: gateway.notebook(user) for name, user in users.items()}
    seconds = {"old": 60, "spent": 60, "idle": 0, "left": 0}
    with ThreadPoolExecutor() as pool:
        names = pool.map(lambda name: notebooks[name].run(OPEN.format(seconds=seconds[name]), 90), users)
    clusters = dict(zip(users, names, strict=True))
    notebooks["left"].kill()
    if gateway.backend == "slurm":
        asked = {"cluster_options": {"profile": "queue"}}
        clusters["queue"] = json.loads(gateway.ask("POST", "/api/v1/clusters/", "alice", body=asked).body)["name"]
        until(lambda: gateway.cluster(clusters["queue"])["status"] == "running", 30)
        gateway.ask("POST", f"/api/v1/clusters/{clusters['queue']}/scale", "alice", body={"count": 1})
        clusters["since"] = time.monotonic()
    return clusters | {"bob": notebooks["spent"]}


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
    assert ended(gateway, clusters[which]) == "it had nothing to do for 4 s"


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
    assert ended(gateway, clusters["old"]) == "it has lived for 20 s, the longest this gateway allows"
    if gateway.backend == "slurm":
        assert ended(gateway, clusters["queue"]).startswith("it has lived for 20 s")


def test_what_the_database_does_not_know_is_ended_and_not_charged_any_more(scene):
    gateway, _ = scene
    name = gateway.notebook("alice").run(OPEN.format(seconds=60), 60)
    until(lambda: gateway.cluster(name)["workers"]["running"] == 1, 30)
    gateway.stop()
    assert name in gateway.running()
    for file in gateway.state.glob("gateway.sqlite*"):
        file.unlink()
    gateway.start()
    until(lambda: name not in gateway.running(), 40)
    reaped = [line for line in (gateway.state / "audit.jsonl").read_text().splitlines() if '"reaped"' in line]
    assert any(name in line for line in reaped)
    [account] = json.loads(gateway.ask("GET", "/api/sciplat/quota", "alice").body)["accounts"]
    assert {limit["limit"]: limit["used"] for limit in account["limits"]}["clusters"] == 0

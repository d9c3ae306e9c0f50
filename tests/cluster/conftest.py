"""What the tests of clusters share: a gateway for each backend, and its users' notebooks."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.running_gateway import (
    BACKENDS,
    SERVICE_USER,
    RunningGateway,
    check_backend,
    missing_for,
    until,
)

OPERATOR = SERVICE_USER  # an admin of the gateways of these tests
MORE = f"admins: {{users: [{OPERATOR}]}}"
PROFILES = """
profiles:
  default: {cores: 1, memory: 512 MiB, max_memory: 64 TiB, max_cores: 4096, scheduler_memory: 512 MiB}
  short: {memory: 512 MiB, scheduler_memory: 512 MiB, walltime: WALLTIME}
  other: {memory: 512 MiB, scheduler_memory: 512 MiB, environment: other}
"""
SLURM_PROFILES = """
  preemptable: {memory: 8 GiB, scheduler_memory: 512 MiB, partition: preemptable}
"""

# Tasks one after another, until a second worker has taken the place of the first.
STREAM = """
import json, os, threading, time
import sciplat
from distributed import get_worker
cluster = sciplat.open_cluster(workers=1, profile="short")
results, wrong = [], []
def work(number):
    time.sleep(0.1)
    return [number, get_worker().name]
def flow():
    try:
        while len({worker for _, worker in results[:-50]}) < 2:
            several = range(len(results), len(results) + 5)
            results.extend(cluster.client.gather([cluster.client.submit(work, one, pure=False) for one in several]))
        cluster.scale(0)
    except BaseException as error:
        wrong.append(repr(error))
thread = threading.Thread(target=flow)
thread.start()
answer = cluster.name
"""


@pytest.fixture(scope="package")
def gateways(request):
    """The gateways of all backends that tests were chosen for, by backend."""
    with running_gateways(request, "gateway", general_gateway) as found:
        yield found


@pytest.fixture(scope="package", params=BACKENDS)
def gateway(request, gateways):
    """A gateway of each backend; pytest runs all tests of one before those of the next."""
    check_backend(request.param)
    return gateways[request.param]


@pytest.fixture(scope="package")
def streams(gateways):
    """Bob's notebooks at all gateways, each with a cluster whose workers have a short walltime and work."""
    notebooks = {backend: gateway.notebook("bob") for backend, gateway in gateways.items()}
    with ThreadPoolExecutor() as pool:
        names = pool.map(lambda notebook: notebook.run(STREAM, 90), notebooks.values())
        return dict(zip(notebooks, zip(notebooks.values(), names, strict=True), strict=True))


@pytest.fixture(scope="package")
def bob(gateway, streams):
    """A notebook of bob's."""
    return streams[gateway.backend][0]


@pytest.fixture(scope="package")
def stream(gateway, streams):
    """The name of the cluster on which bob's tasks run, or have run."""
    return streams[gateway.backend][1]


@pytest.fixture(scope="package")
def alice(gateway):
    """A notebook of alice's."""
    notebook = gateway.notebook("alice")
    notebook.run("import json, os, time, sciplat")
    return notebook


@pytest.fixture(scope="package")
def opened(gateway, alice):
    """The name of a cluster with one worker, which alice has open as `cluster` in her notebook."""
    alice.run("cluster = sciplat.open_cluster(workers=1); early = cluster.client.submit(time.time, pure=False)")
    name = alice.run("answer = cluster.name")
    until(lambda: gateway.cluster(name)["workers"]["running"] == 1, 60)
    return name


def general_gateway(backend):
    profiles = PROFILES.replace("WALLTIME", "60 s" if backend == "slurm" else "40 s")
    return RunningGateway(backend, more=MORE, profiles=profiles + SLURM_PROFILES * (backend == "slurm"))


@contextmanager
def running_gateways(request, fixture, make):
    """Run the gateways that `make` makes of the backends for which tests with a fixture were chosen, side by side."""
    here = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    calls = [item.callspec for item in here if hasattr(item, "callspec")]
    chosen = {call.params[fixture] for call in calls if fixture in call.params}
    gateways = {backend: make(backend) for backend in BACKENDS if backend in chosen and not missing_for(backend)}
    with ThreadPoolExecutor() as pool:
        starts = [pool.submit(gateway.__enter__) for gateway in gateways.values()]
        try:
            yield {backend: start.result() for backend, start in zip(gateways, starts, strict=True)}
        finally:
            started = [start.result() for start in starts if start.exception() is None]
            list(pool.map(RunningGateway.__exit__, started))

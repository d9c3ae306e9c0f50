"""What the tests of clusters share: one gateway for each backend, and its users' notebooks."""

import pytest

from tests.cluster.running_gateway import BACKENDS, SERVICE_USER, RunningGateway, check_backend

OPERATOR = SERVICE_USER  # an admin of the gateways of these tests
MORE = f"admins: {{users: [{OPERATOR}]}}"
PROFILES = """
profiles:
  default: {cores: 1, memory: 512 MiB, max_memory: 64 TiB, max_cores: 4096, scheduler_memory: 512 MiB}
  short: {memory: 512 MiB, scheduler_memory: 512 MiB, walltime: WALLTIME}
  closed: {groups: [nobody-is-in-it]}
"""
SLURM_PROFILES = """
  preemptable: {memory: 512 MiB, scheduler_memory: 512 MiB, partition: preemptable}
"""


@pytest.fixture(scope="session", params=BACKENDS)
def gateway(request):
    """A gateway of each backend; pytest runs all tests of one before it starts the next."""
    backend = request.param
    check_backend(backend)
    profiles = PROFILES.replace("WALLTIME", "60 s" if backend == "slurm" else "20 s")
    with RunningGateway(backend, more=MORE, profiles=profiles + SLURM_PROFILES * (backend == "slurm")) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def alice(gateway):
    """A notebook of alice's."""
    notebook = gateway.notebook("alice")
    notebook.run("import json, os, time, sciplat; from sciplat.gateway.cluster import open_cluster; sciplat.open_cluster = open_cluster")
    return notebook


@pytest.fixture(scope="session")
def bob(gateway):
    """A notebook of bob's, who has no cluster."""
    return gateway.notebook("bob")


@pytest.fixture(scope="session")
def opened(alice):
    """The name of a cluster with one worker, which alice has open as `cluster` in her notebook."""
    alice.run("cluster = sciplat.open_cluster(workers=1); cluster.client.wait_for_workers(1, timeout=60)")
    return alice.run("answer = cluster.name")


# Tasks without end, on workers that have one.
STREAM = """
import json, os, threading, time
import sciplat
from distributed import get_worker
from sciplat.gateway.cluster import open_cluster; sciplat.open_cluster = open_cluster
cluster = sciplat.open_cluster(workers=1, profile="short")
results, wrong, enough = [], [], threading.Event()
def work(number):
    time.sleep(0.1)
    return [number, get_worker().name]
def flow():
    try:
        while not enough.is_set():
            several = range(len(results), len(results) + 5)
            results.extend(cluster.client.gather([cluster.client.submit(work, one, pure=False) for one in several]))
    except BaseException as error:
        wrong.append(repr(error))
thread = threading.Thread(target=flow)
thread.start()
answer = cluster.name
"""


@pytest.fixture(scope="session")
def stream(bob):
    """The name of a cluster of bob's whose workers have a short walltime, and on which tasks run all the time."""
    return bob.run(STREAM)

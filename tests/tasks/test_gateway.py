"""Plans on a real Dask Gateway of one user: its workers give what local threads give, and nothing stays behind."""

import functools
import gc
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

import sciplat
from tests.conftest import required
from tests.plan_scene import count_neighbours
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images

# a gateway's client that is closed is closed once more when it is collected, and then misses its event loop
pytestmark = pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <function Gateway\.__del__:pytest.PytestUnraisableExceptionWarning"
)
ROOT = Path(__file__).parents[2]
PASSWORD = "of this test alone"
# the gateway's own commands, dask-scheduler and dask-worker, are gone from distributed
CONFIG = """
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"  # of one user
c.DaskGateway.address = {api!r}
c.Proxy.address = {public!r}
c.SimpleAuthenticator.password = {password!r}
c.ClusterConfig.scheduler_cmd = [{python!r}, "-m", "dask", "scheduler"]
c.ClusterConfig.worker_cmd = [{python!r}, "-m", "dask", "worker", "--host", "127.0.0.1"]
c.ClusterConfig.worker_cores = 1
c.ClusterConfig.worker_memory = "2 G"
c.ClusterConfig.adaptive_period = 1
c.LocalBackend.clusters_directory = {clusters!r}
"""


@pytest.fixture(scope="module")
def dask_gateway():
    """Return the library of the gateway's users, or skip where there is no server."""
    if not required("gateway"):
        pytest.importorskip("dask_gateway_server", reason="a gateway: dask-gateway-server is not installed")
    import dask_gateway

    return dask_gateway


class Server:
    """A gateway server with its proxy; all that it starts works in its folder, and is known by that."""

    def __init__(self, folder):
        self.folder = folder
        api, self.address = free_addresses(2)
        values = {"api": api, "public": self.address, "password": PASSWORD, "python": sys.executable}
        (folder / "config.py").write_text(CONFIG.format(clusters=str(folder / "clusters"), **values))
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dask_gateway_server", "-f", "config.py"],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def answers(self):
        """Return whether the server answers through its proxy."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def processes(self):
        """Return the processes of the server: itself, its proxy, schedulers, nannies, workers."""
        found = psutil.process_iter(["cwd"])
        return [process for process in found if Path(process.info["cwd"] or "/").is_relative_to(self.folder)]

    def stop(self):
        """Ask the server to end, which ends its clusters."""
        self.process.terminate()
        self.process.wait(30)

    def kill(self):
        """Kill what a failed test has left."""
        for process in self.processes():
            process.kill()
        self.process.wait()


@pytest.fixture
def server(dask_gateway, tmp_path):
    (tmp_path / "gateway").mkdir()
    server = Server(tmp_path / "gateway")
    try:
        until(server.answers)
        yield server
    finally:
        server.kill()
        gc.collect()  # here, where the warning is known


@contextmanager
def new_cluster(dask_gateway, server):
    """Start a cluster as every user of a gateway does."""
    auth = dask_gateway.BasicAuth("astronomer", PASSWORD)
    with dask_gateway.Gateway(f"http://{server.address}", auth=auth) as gateway, gateway.new_cluster() as cluster:
        yield cluster


def runs(process):
    """Return whether the process has not ended, be it that nobody has asked yet how."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def free_addresses(count):
    """Return addresses on loopback at which nobody listens."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    return addresses


def listening(processes):
    """Return the addresses at which the processes wait for connections."""
    pids = {process.pid for process in processes}
    connections = psutil.net_connections("tcp")
    return {(*one.laddr,) for one in connections if one.pid in pids and one.status == psutil.CONN_LISTEN}


def taken(address):
    """Return whether somebody listens at the address."""
    with socket.socket() as one:
        return one.connect_ex(address) == 0


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- plans


def count(seen, table):
    """Count the neighbours of every row; leave the number of the process that did it."""
    (Path(seen) / str(os.getpid())).touch()
    return count_neighbours(table)


def pids(seen):
    return {int(path.name) for path in seen.iterdir()}


@pytest.fixture(scope="module")
def photometry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    images = sciplat.ingest_images(write_images(folder / "fits"), folder / "images")
    write_catalog(folder / "catalog", sources(), [child for cell in WHOLE_SKY for child in cell.children])
    return images.photometry(sciplat.open_catalog(folder / "catalog"), radii=["4 pix"], annulus=("8 pix", "12 pix"))


def counted(photometry, seen):
    """Return a plan with a function of the user's, which tells in the folder `seen` where it ran."""
    seen.mkdir()
    schema = photometry.schema.append(pa.field("neighbours", pa.int64()))
    return photometry.map(functools.partial(count, str(seen)), schema=schema, reach="2 deg")


@pytest.fixture(scope="module")
def by_threads(photometry, tmp_path_factory):
    """Return the digests of both plans on local threads."""
    folder = tmp_path_factory.mktemp("threads")
    return digest(photometry, folder / "photometry"), digest(counted(photometry, folder / "seen"), folder / "counted")


def digest(plan, url):
    return plan.write(url).store.manifest.digest


def test_two_workers_of_a_gateway_give_the_same_files_as_threads(
    dask_gateway, server, photometry, by_threads, tmp_path
):
    plan = counted(photometry, tmp_path / "seen")
    with new_cluster(dask_gateway, server) as cluster:
        cluster.scale(2)
        with cluster.get_client() as client:
            client.wait_for_workers(2, timeout=30)
            found = digest(photometry, tmp_path / "photometry"), digest(plan, tmp_path / "counted")
            assert found == by_threads
            assert pids(tmp_path / "seen") == set(client.run(os.getpid).values())


def test_a_plan_makes_the_first_worker_of_an_adaptive_cluster_come(
    dask_gateway, server, photometry, by_threads, tmp_path
):
    plan = counted(photometry, tmp_path / "seen")
    with new_cluster(dask_gateway, server) as cluster:
        cluster.adapt(minimum=0, maximum=2)
        with cluster.get_client() as client:
            assert client.nthreads() == {}
            assert digest(plan, tmp_path / "counted") == by_threads[1]
            ran = pids(tmp_path / "seen")
            assert ran
            assert os.getpid() not in ran


def test_a_gateway_leaves_neither_processes_nor_ports_nor_files(dask_gateway, server, photometry, by_threads, tmp_path):
    with new_cluster(dask_gateway, server) as cluster:
        cluster.scale(2)
        with cluster.get_client() as client:
            client.wait_for_workers(2, timeout=30)
            assert digest(photometry, tmp_path / "photometry") == by_threads[0]
            processes = server.processes()
            assert {process.pid for process in processes} > {server.process.pid, *client.run(os.getpid).values()}
            addresses = listening(processes)
            assert {host for host, _ in addresses} == {"127.0.0.1"}
            assert all(taken(address) for address in addresses)
    until(lambda: len(server.processes()) == 2)  # the server and its proxy: the user's cluster is over
    server.stop()
    until(lambda: not server.processes())  # the server does not wait for its proxy
    assert [process for process in processes if runs(process)] == []
    assert [address for address in addresses if taken(address)] == []
    assert list((server.folder / "clusters").iterdir()) == []
    assert "not recognized" not in server.log.read_text()  # the server only warns of names that it does not know

"""A JupyterHub with the gateway as its service, as deploy/jupyterhub sets them up, with TLS and on a real Slurm."""

import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import yaml

from tests.cluster.running_gateway import SERVICE_USER, RunningGateway, check_backend, until
from tests.cluster.running_hub import DEPLOY, RunningHub, ask, check_hub

PLAN = """
import json, os, tempfile
import pyarrow as pa
import sciplat

def place(table):
    job = pa.array([int(os.environ["SLURM_JOB_ID"])] * len(table), pa.int64())
    return table.append_column("job", job).append_column("user", pa.array([os.getuid()] * len(table), pa.int64()))

stars = pa.table({"ra": [10.0, 120.0, 240.0], "dec": [80.0, 0.0, -70.0], "mag": [17.0, 19.0, 21.0]})
with sciplat.open_cluster(workers=1) as cluster, tempfile.TemporaryDirectory() as folder:
    catalog = sciplat.ingest_catalog(stars, f"{folder}/stars")
    schema = catalog.schema.append(pa.field("job", pa.int64())).append(pa.field("user", pa.int64()))
    found = catalog.where("mag < 20").map(place, schema=schema).compute()
    print(json.dumps([cluster.name, found.select(["mag", "job", "user"]).to_pydict()]))
"""
STOCK = """
import os
from dask_gateway import Gateway

with Gateway() as gateway, gateway.new_cluster() as cluster:
    cluster.scale(1)
    with cluster.get_client() as client:
        print(json.dumps([gateway.list_clusters()[0].name, client.submit(os.getuid, pure=False).result(60)]))
"""
CLUSTER = """
cluster = sciplat.open_cluster(workers=1)
cluster.client.wait_for_workers(1, timeout=60)
print(json.dumps(cluster.name))
"""
REFUSED = """
import time
started = time.monotonic()
try:
    sciplat.open_cluster(workers=1)
except sciplat.errors.SciplatError as error:
    print(json.dumps([type(error).__name__, str(error), time.monotonic() - started]))
"""


@dataclass
class Scene:
    """A hub, its gateway, and what `sciplat gateway check` said of that."""

    hub: RunningHub
    gateway: RunningGateway
    checked: str

    def ask(self, token, method, path, body=None):
        """Ask the gateway through the hub's proxy with a hub's token; return status and content."""
        return ask(method, self.hub.service + path, f"jupyterhub {token}", body)

    def profiles(self, token):
        """Return the profiles that a token's user may take, or the status of a refusal."""
        status, found = self.ask(token, "GET", "/api/v1/options")
        if status != 200:
            return status
        (choice,) = (one for one in found["cluster_options"] if one["field"] == "profile")
        return choice["spec"]["options"]


@pytest.fixture(scope="module")
def scene():
    """A hub and a gateway from the files that deploy/jupyterhub shows, with other names, paths and ports."""
    check_backend("slurm")
    check_hub()
    if socket.gethostbyname(socket.gethostname()) != "127.0.0.1":
        pytest.skip("the host's own name is not that of its loopback, beyond which tests do not listen")
    gateway = RunningGateway("slurm")
    gateway.address = gateway.address.replace("127.0.0.1", socket.gethostname())  # no name of the loopback: TLS
    certificate = make_certificate(gateway.folder, socket.gethostname())
    trust = {"SSL_CERT_FILE": str(certificate), "NODE_EXTRA_CA_CERTS": str(certificate)}
    hub = RunningHub(f"https://{gateway.address}", **trust)
    gateway.site.write_text(site_file(gateway, hub, certificate))
    checked = gateway.operate("gateway", "check", "--config", str(gateway.site))
    with gateway, hub:
        yield Scene(hub, gateway, checked)


def make_certificate(folder, host):
    """Make a certificate that vouches for itself, and its key for the gateway; return the certificate's path."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    name = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command = ["openssl", "req", *kind, *name, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    shutil.chown(key, SERVICE_USER, SERVICE_USER)
    key.chmod(0o600)
    return cert


def site_file(gateway, hub, certificate):
    """Return the site file that deploy/jupyterhub shows, for this machine."""
    site = yaml.safe_load((DEPLOY / "site.yaml").read_text())
    site |= {"name": gateway.name, "address": gateway.address, "api_address": gateway.api_address}
    site |= {"state": str(gateway.state), "interface": "127.0.0.1", "heartbeat": "1 s", "on_stop": "stop"}
    site["tls"] = {"cert": str(certificate), "key": str(certificate.with_name("key.pem"))}
    site["authenticators"][0]["api_url"] = hub.api_url
    for profile in site["profiles"].values():  # the README's way for an authority of one's own
        profile["variables"] = {"SSL_CERT_FILE": str(certificate)}
    return yaml.safe_dump(site)


@pytest.fixture(scope="module")
def notebook(scene):
    """A kernel of alice's notebook server."""
    kernel = scene.hub.kernel("alice")
    kernel.run("import json, sciplat; print(json.dumps(None))")
    yield kernel
    kernel.close()


@pytest.fixture(scope="module")
def cluster(notebook):
    """The name of a cluster that alice has open in her notebook."""
    return notebook.run(CLUSTER)


def test_the_site_file_for_a_hub_is_good(scene):
    assert scene.checked == f"good: slurm, 2 profiles, at {scene.gateway.address}\n"


def test_a_notebook_opens_a_cluster_on_slurm_without_arguments_and_its_plans_run_there(scene, notebook):
    name, found = notebook.run(PLAN)
    assert sorted(found["mag"]) == [17.0, 19.0]
    assert set(found["user"]) == {pwd.getpwnam("alice").pw_uid}
    (job,) = set(found["job"])
    told = subprocess.run(["sacct", "-nXPo", "user,comment,jobname", "-j", str(job)], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("alice|"), (name, told)


def test_the_stock_client_needs_no_arguments_either(notebook):
    name, uid = notebook.run(STOCK)
    assert len(name) == 32
    assert uid == pwd.getpwnam("alice").pw_uid

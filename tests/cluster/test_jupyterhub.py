"""A JupyterHub with the gateway as its service, as deploy/jupyterhub sets them up, with TLS and on a real Slurm."""

import asyncio
import http.client
import pwd
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

import aiohttp
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

def place():
    return os.getuid(), os.environ["SLURM_JOB_PARTITION"]

with Gateway() as gateway, gateway.new_cluster(profile="large") as cluster:
    cluster.scale(1)
    with cluster.get_client() as client:
        print(json.dumps([len(gateway.list_clusters()), *client.submit(place, pure=False).result(60)]))
"""
CLUSTER = """
cluster = sciplat.open_cluster(workers=1)
cluster.client.wait_for_workers(1, timeout=60)
print(json.dumps(cluster.name))
"""
REFUSED = """
import os, time
os.environ["JUPYTERHUB_API_TOKEN"] = "A-TOKEN"  # which the gateway has not seen
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
    gateway = RunningGateway("slurm")
    gateway.address = gateway.address.replace("127.0.0.1", socket.gethostname())  # no name of the loopback: TLS
    certificate = make_certificate(gateway.folder, socket.gethostname())
    trust = {"SSL_CERT_FILE": str(certificate), "NODE_EXTRA_CA_CERTS": str(certificate)}
    hub = RunningHub(f"https://{gateway.address}", **trust)
    gateway.site.write_text(site_file(gateway, hub, certificate))
    with hub:
        hub.start_server("alice")  # while the gateway starts
        checked = gateway.operate("gateway", "check", "--config", str(gateway.site))
        with gateway:
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
    told = subprocess.run(["scontrol", "show", "job", str(job)], capture_output=True, text=True, check=True).stdout
    assert "UserId=alice(" in told
    assert f"Comment=sciplat:{scene.gateway.name}:{name}:" in told


def test_the_stock_client_needs_no_address_and_no_token_either(notebook):
    assert notebook.run(STOCK) == [1, pwd.getpwnam("alice").pw_uid, "physics"]  # the partition of a group's profile


def test_another_user_of_the_hub_learns_nothing_of_a_cluster_and_does_nothing_to_it(scene, notebook, cluster):
    token, _ = scene.hub.token("bob")
    assert scene.ask(token, "GET", "/api/v1/clusters/") == (200, {})
    assert scene.ask(token, "GET", "/api/sciplat/clusters?ended=1") == (200, {"clusters": []})
    ours, stock = "/api/sciplat/clusters", "/api/v1/clusters"
    for method, path, body in [
        ("GET", f"{ours}/NAME", None),
        ("GET", f"{ours}/NAME/why", None),
        ("GET", f"{ours}/NAME/logs", None),
        ("POST", f"{ours}/NAME/ticket", {}),
        ("DELETE", f"{ours}/NAME", None),
        ("GET", f"{stock}/NAME", None),
        ("POST", f"{stock}/NAME/scale", {"count": 0}),
        ("POST", f"{stock}/NAME/adapt", {"minimum": 0, "maximum": 0}),
        ("DELETE", f"{stock}/NAME", None),
    ]:
        status, found = scene.ask(token, method, path.replace("NAME", cluster), body)
        assert (status, found) == scene.ask(token, method, path.replace("NAME", "0" * 32), body), (method, path)
        assert (status, found) == (404, {"error": "There is no such cluster, or it is not yours"}), (method, path)
    assert notebook.run("print(json.dumps(cluster.client.submit(sum, [1, 2], pure=False).result(30)))") == 3


def test_a_token_of_the_hub_needs_the_scope_of_the_service(scene):
    narrow, _ = scene.hub.token("alice", scopes=["read:users!user"])
    status, found = scene.ask(narrow, "GET", "/api/v1/clusters/")
    assert status == 403
    assert "This token lacks the hub's scope access:services!service=sciplat-gateway" in found["error"]
    service = (scene.hub.state / "admin.token").read_text()
    for token in ("0" * 32, service):
        assert scene.ask(token, "GET", "/api/v1/clusters/")[0] == 401


def test_groups_of_the_hub_open_profiles_and_share_quotas(scene):
    (alice, _), (bob, _) = scene.hub.token("alice"), scene.hub.token("bob")
    assert (scene.profiles(alice), scene.profiles(bob)) == (["default", "large"], ["default"])
    status, found = scene.ask(bob, "POST", "/api/v1/clusters/", {"cluster_options": {"profile": "large"}})
    assert (status, "large" in found["error"]) == (422, True)
    for token, names in ((alice, {"alice": 32, "physics": 400}), (bob, {"bob": 32})):
        _, found = scene.ask(token, "GET", "/api/sciplat/quota")
        limits = {one["name"]: {limit["limit"]: limit["cap"] for limit in one["limits"]} for one in found["accounts"]}
        assert {name: caps["cores"] for name, caps in limits.items()} == names


def test_what_the_hub_takes_away_is_gone_within_5_seconds(scene):
    hub, users = scene.hub, {"users": ["alice"]}
    (token, number), (member, _), (deleted, _) = hub.token("alice"), hub.token("alice"), hub.token("bob")
    known = ["default", "large"]
    assert [scene.profiles(one) for one in (token, member, deleted)] == [known, known, ["default"]]
    hub.api("DELETE", f"/users/alice/tokens/{number}")
    hub.api("DELETE", "/groups/physics/users", users)
    hub.api("DELETE", "/users/bob")
    try:
        until(lambda: [scene.profiles(one) for one in (token, member, deleted)] == [401, ["default"], 401], 5)
    finally:
        hub.api("POST", "/groups/physics/users", users)
        hub.api("POST", "/users/bob")


def test_the_link_to_a_dashboard_opens_it_once_through_the_hub(scene, notebook, cluster):
    base = f"/services/sciplat-gateway/clusters/{cluster}"
    link = notebook.run("print(json.dumps(cluster.dashboard))")
    assert link.startswith(f"{scene.hub.url}{base}/login?ticket=")
    opened = visit(link)
    shown = opened.headers["Location"]
    assert opened.status == 303
    assert re.fullmatch(rf"{base}/~[\w-]+/status", shown)
    name, _, attributes = opened.headers["Set-Cookie"].partition(";")
    assert {"HttpOnly", f"Path={base}/", "SameSite=Lax", "Secure"} <= {one.strip() for one in attributes.split(";")}

    page = visit(scene.hub.url + shown, {"Cookie": name})
    assert (page.status, "bokeh" in page.text) == (200, True)
    assert asyncio.run(first_message(f"{scene.hub.url}{shown}/ws", {"Cookie": name}, page.text)) == "ACK"

    assert "sciplat-dashboard" not in str(visit(link).headers)
    assert visit(scene.hub.url + shown).status == 403
    again = visit(scene.hub.url + shown, {"Accept": "text/html"})
    assert (again.status, again.headers["Location"]) == (303, f"{base}/login")


def test_while_the_hub_is_silent_clusters_go_on_and_new_ones_are_refused_with_the_reason(scene, notebook, cluster):
    token, _ = scene.hub.token("alice")
    hub = scene.hub.process()
    hub.suspend()
    try:
        kind, text, seconds = notebook.run(REFUSED.replace("A-TOKEN", token))
        assert notebook.run("print(json.dumps(cluster.client.submit(sum, [1, 2], pure=False).result(30)))") == 3
        own = scene.gateway.token("alice")
        assert scene.ask(own, "GET", "/api/v1/clusters/")[1].keys() == {cluster}
    finally:
        hub.resume()
    assert kind == "GatewayAway"
    assert "The JupyterHub does not answer" in text
    assert seconds < 10
    until(lambda: notebook.run("print(json.dumps(len(cluster.why())))") == 0, 10)


@dataclass(frozen=True)
class Page:
    """What a browser gets."""

    status: int
    headers: Message
    text: str


def visit(url, headers=None):
    """Ask for a page as a browser does that follows no redirect."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}".rstrip("?"), headers=headers or {})
        reply = connection.getresponse()
        return Page(reply.status, reply.headers, reply.read().decode())
    finally:
        connection.close()


async def first_message(url, headers, page):
    """Open the websocket that a dashboard's page opens; return the type of its first message."""
    token = re.search(r'"token":"([^"]+)"', page)[1]
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(url, protocols=["bokeh", token], timeout=aiohttp.ClientWSTimeout(ws_close=5)) as socket,
    ):
        return (await socket.receive_json(timeout=10))["msgtype"]

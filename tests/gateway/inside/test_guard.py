"""What the HTTP ports of a cluster answer: a real scheduler and worker, as the gateway starts them."""

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from itertools import product
from urllib.parse import urlsplit

import psutil
import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from sciplat.gateway.inside.guard import PROOF_HEADER, SECRET_HEADER, dashboard_proof, dashboard_secret
from tests.gateway.bare_cluster import HOST, TOKEN, BareCluster

SECRET = {SECRET_HEADER: dashboard_secret(TOKEN)}
PATHS = (
    "/", "/status", "/status/ws", "/individual-task-stream", "/info/main/workers.html", "/info/logs.html", "/metrics",
    "/json/counts.json", "/health", "/statics/css/base.css", "/static/js/bokeh.min.js", "/sitemap.json",
    "/proxy/22/127.0.0.1/", "/api/v1/nothing", "//status", "/%2e%2e/status",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with BareCluster(tmp_path_factory.mktemp("guard")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def dashboard(cluster):
    return cluster.gateway.last()["dashboard_address"]


def get(url, headers=None, method="GET"):
    """Return status, headers and text of an answer."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers or {}, method=method), timeout=20
        ) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def open_socket(url, headers):
    """Return the headers with which a page's websocket begins, and its first message."""

    async def connect():
        protocols = ["bokeh", token_of(url)]
        async with ClientSession() as session, session.ws_connect(url, headers=headers, protocols=protocols) as opened:
            return opened._response.headers, await opened.receive_str()

    return asyncio.run(connect())


def token_of(url):
    """Return what a page gives to its script to open the page's websocket with."""
    _, _, page = get(url.replace("ws://", "http://").removesuffix("/ws"), SECRET)
    return re.search(r'"token":"([^"]+)"', page)[1]


@pytest.mark.parametrize("path", PATHS)
def test_without_the_secret_every_path_answers_403(dashboard, path):
    for secret, method in product((None, "", TOKEN, "\xff"), ("GET", "POST")):
        status, answered, text = get(dashboard + path, {SECRET_HEADER: secret} if secret is not None else {}, method)
        assert status == 403
        assert PROOF_HEADER not in answered
        assert "403" in text
        assert len(text) < 200


@pytest.mark.parametrize("path", ["/status", "/info/main/workers.html", "/metrics", "/json/counts.json", "/health",
                                  "/statics/css/base.css", "/static/js/bokeh.min.js"])  # fmt: skip
def test_with_the_secret_the_dashboard_answers_and_proves_itself(dashboard, path):
    status, answered, text = get(dashboard + path, SECRET)
    assert status == 200
    assert text
    assert answered[PROOF_HEADER] == dashboard_proof(TOKEN)


def test_errors_for_the_gateway_carry_the_proof_too(dashboard):
    status, answered, _ = get(dashboard + "/nothing", SECRET)
    assert status == 404
    assert answered[PROOF_HEADER] == dashboard_proof(TOKEN)


def test_a_websocket_opens_with_the_secret_alone(dashboard):
    url = dashboard.replace("http://", "ws://") + "/status/ws"
    headers, message = open_socket(url, SECRET)
    assert headers[PROOF_HEADER] == dashboard_proof(TOKEN)
    assert json.loads(message)["msgtype"] == "ACK"
    with pytest.raises(WSServerHandshakeError) as refused:
        open_socket(url, {})
    assert refused.value.status == 403
    assert PROOF_HEADER not in refused.value.headers


def test_requests_on_one_connection_are_judged_one_by_one(dashboard):
    host, port = urlsplit(dashboard).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answers:
        for secret, status in ((SECRET[SECRET_HEADER], b"200"), ("x", b"403")):
            request = f"GET /health HTTP/1.1\r\nHost: {host}\r\n{SECRET_HEADER}: {secret}\r\n\r\n"
            connection.sendall(request.encode())
            assert answers.readline().split()[1] == status
            length = 0
            while (line := answers.readline().strip()) != b"":
                length = int(line.split()[1]) if line.lower().startswith(b"content-length:") else length
            answers.read(length)


def test_the_secret_tells_neither_the_token_nor_the_proof():
    assert len({TOKEN, dashboard_secret(TOKEN), dashboard_proof(TOKEN), dashboard_secret("x")}) == 4


def test_no_port_of_a_cluster_answers_over_http_but_the_guarded_one_and_the_one_with_a_token(cluster, dashboard):
    cluster.ask(op="scale", count=1)
    cluster.start_worker("w")
    with cluster.client() as client:
        client.wait_for_workers(1, timeout=30)
    answers = {}
    for process in cluster.processes.values():
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            for place in one.net_connections("tcp"):
                if place.status == psutil.CONN_LISTEN:
                    assert place.laddr.ip == HOST
                    answers[place.laddr.port] = plain_answer(place.laddr.port)
    api = urlsplit(cluster.gateway.last()["api_address"]).port
    assert answers.pop(urlsplit(dashboard).port) == 403
    assert answers.pop(api) == 404  # what it has to say needs the token
    assert get(f"http://{HOST}:{api}/api/comm", {"Authorization": "token x"}, "POST")[0] == 403
    assert len(answers) >= 3  # the scheduler, the nanny and the worker, which speak TLS
    assert set(answers.values()) == {None}


def plain_answer(port):
    """Return the status that a port answers over HTTP, None if it does not speak that."""
    try:
        return get(f"http://{HOST}:{port}/sitemap.json")[0]
    except OSError:
        return None

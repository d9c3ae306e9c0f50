"""What is alice's is nobody else's: bob knows the names of all that she has, and gets nothing of it."""

import json
import secrets
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("stream")  # bob's own cluster: he has keys, a dashboard and a cookie
MULTI = pytest.mark.parametrize("gateway", ["local-multi", "slurm"], indirect=True)

ROUTES = [
    ("GET", "/api/v1/clusters/{}"),
    ("GET", "/api/v1/clusters/{}?wait"),
    ("DELETE", "/api/v1/clusters/{}"),
    ("POST", "/api/v1/clusters/{}/scale"),
    ("POST", "/api/v1/clusters/{}/adapt"),
    ("POST", "/api/v1/clusters/{}/heartbeat"),
    ("GET", "/api/sciplat/clusters/{}"),
    ("DELETE", "/api/sciplat/clusters/{}"),
    ("GET", "/api/sciplat/clusters/{}/why"),
    ("GET", "/api/sciplat/clusters/{}/logs"),
    ("GET", "/api/sciplat/clusters/{}/logs?worker=scheduler"),
    ("POST", "/api/sciplat/clusters/{}/ticket"),
    ("GET", "/clusters/{}/status"),
    ("GET", "/clusters/{}/info/main/workers.html"),
]

# What bob can do with a port: plain HTTP, TLS as a stranger, and TLS with the keys of a cluster of his own.
PROBE = """
import http.client, json, os, socket, ssl, tempfile
PATHS = ["/", "/status", "/metrics", "/info/main/workers.html", "/json/counts.json", "/health", "/api/comm"]
def tls(keys):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if keys:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in keys.items():
                with open(f"{folder}/{name}", "w") as file:
                    file.write(text)
            context.load_cert_chain(f"{folder}/cert", f"{folder}/key")
    return context
def speak(port, context, server="x"):
    # Dask's first words; what comes back is bytes, or the reason why nothing does.
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            with context.wrap_socket(plain, server_hostname=server) as sock:
                sock.sendall(b"\\x01" + b"\\x00" * 63)
                return sock.recv(4096).decode("latin1")
    except (OSError, ssl.SSLError) as error:
        return "no: " + type(error).__name__
def browse(port):
    found = {}
    for path in PATHS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            found[path] = [reply.status, reply.read(10000).decode("latin1")]
        except (OSError, http.client.HTTPException) as error:
            found[path] = [0, ""]
        finally:
            connection.close()
    return found
"""

# Opens everything that is named, as whoever runs it.
OPEN = """
import os
def opens(path):
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
    except OSError:
        return False
    return True
answer = [path for path in {paths!r} if opens(path)]
"""


def test_a_cluster_of_another_user_answers_as_one_that_is_not_there(gateway, opened, bob):
    absent = secrets.token_hex(16)
    for method, route in ROUTES:
        answers = []
        for name in (opened, absent):
            told = gateway.ask(method, route.format(name), "bob", body={"count": 0, "minimum": 0, "maximum": 0})
            headers = {key: value for key, value in told.headers.items() if key != "Date"}
            answers.append((told.status, told.body.replace(name.encode(), b"NAME"), headers))
        assert answers[0] == answers[1], route
        assert answers[0][0] in {401, 403, 404}, (route, answers[0])
    assert gateway.cluster(opened)["workers"] == {"asked": 1, "running": 1, "waiting": 0}


def test_lists_quotas_and_reports_name_nothing_of_another_user(gateway, opened, stream):
    assert [one["name"] for one in gateway.clusters("bob")] == [stream]
    stock = json.loads(gateway.ask("GET", "/api/v1/clusters/", "bob").body)
    assert list(stock) == [stream]
    for path in ("quota", "usage?by=user,cluster", "tokens", "clusters?ended=1"):
        told = gateway.ask("GET", f"/api/sciplat/{path}", "bob")
        assert told.status == 200
        assert b"alice" not in told.body
        assert opened.encode() not in told.body
    assert gateway.ask("GET", "/api/sciplat/clusters?all=1", "bob").status == 403
    assert gateway.ask("GET", "/metrics", "bob").status == 403
    assert b"alice" not in gateway.ask("GET", "/health").body


def test_a_dashboard_opens_for_its_owner_alone(gateway, opened, stream):
    pages, cookies = {}, {}
    for user, name in (("alice", opened), ("bob", stream)):
        ticket = json.loads(gateway.ask("POST", f"/api/sciplat/clusters/{name}/ticket", user).body)["url"]
        entered = gateway.ask("GET", ticket)
        assert entered.status == 303
        pages[user] = entered.headers["Location"].removesuffix("status") + "info/main/workers.html"
        cookies[user] = {"Cookie": entered.headers["Set-Cookie"].partition(";")[0]}
        assert "older than a minute" in gateway.ask("GET", ticket).body.decode()  # a ticket opens once
        shown = gateway.ask("GET", pages[user], headers=cookies[user])
        assert (shown.status, b"tls://" in shown.body) == (200, True)
    absent = pages["alice"].replace(opened, secrets.token_hex(16))
    for headers in ({}, cookies["bob"]):
        told = gateway.ask("GET", pages["alice"], headers=headers)
        assert (told.status, b"tls://" in told.body) == (403, False)
        assert told.body == gateway.ask("GET", absent, headers=headers).body


def test_no_port_of_a_cluster_tells_a_stranger_anything(gateway, opened, bob):
    ports = {port for process in gateway.processes(opened) for port in listening(process)}
    assert len(ports) >= 3  # scheduler, its dashboard, worker
    bob.run(PROBE)
    bob.run("mine = cluster._cluster.security; keys = {'cert': mine.tls_cert, 'key': mine.tls_key}")
    for port in sorted(ports):
        told = bob.run(f"answer = browse({port})")
        assert {status for status, _ in told.values()} <= {0, 403, 404, 405}, (port, told)
        assert not any("tls://" in text or "dask_" in text for _, text in told.values()), told
        if any(status for status, _ in told.values()):
            continue  # it speaks HTTP, not TLS
        for keys in ("None", "keys"):
            told = bob.run(f"answer = speak({port}, tls({keys}))")
            assert told == "" or told.startswith("no: "), (port, keys, told)


def test_the_proxy_leads_nobody_to_a_scheduler_without_its_keys(gateway, opened, bob, stream):
    bob.run(PROBE)
    bob.run("mine = cluster._cluster.security; keys = {'cert': mine.tls_cert, 'key': mine.tls_key}")
    port = int(gateway.address.rpartition(":")[2])
    own = bob.run(f"answer = speak({port}, tls(keys), 'daskgateway-{stream}')")
    assert own
    assert not own.startswith("no: ")
    for keys in ("None", "keys"):
        told = bob.run(f"answer = speak({port}, tls({keys}), 'daskgateway-{opened}')")
        assert told == "" or told.startswith("no: ")
    bob.run("from dask_gateway import BasicAuth, Gateway; login = BasicAuth('bob', os.environ['SCIPLAT_TOKEN'])")
    bob.run("stock = Gateway(os.environ['SCIPLAT_GATEWAY'], auth=login)")
    assert "There is no such cluster, or it is not yours" in bob.error(f"stock.connect({opened!r})")


@MULTI
def test_files_of_a_cluster_are_closed_to_others(gateway, opened, alice, bob, stream):
    places = [gateway.state]
    if gateway.backend == "slurm":
        places.append(Path("~alice/.sciplat").expanduser())
    paths = [str(path) for place in places for path in (place, *place.rglob("*")) if stream not in str(path)]
    assert [path for path in alice.run(OPEN.format(paths=paths)) if path.endswith(f"{opened}/dask.pem")]
    assert bob.run(OPEN.format(paths=paths)) == []


@MULTI
def test_nobody_sees_the_environment_or_a_secret_of_anothers_processes(gateway, opened, bob):
    processes = gateway.processes(opened)
    environments = [f"/proc/{process.pid}/environ" for process in processes]
    assert bob.run(OPEN.format(paths=environments)) == []
    hidden = {process.environ()["DASK_GATEWAY_API_TOKEN"] for process in processes}
    hidden |= {gateway.token("alice"), (gateway.state / "secrets" / "proxy.token").read_text().strip()}
    bob.run("import subprocess; show = lambda *told: subprocess.run(told, capture_output=True, text=True).stdout")
    seen = bob.run("answer = show('ps', '-ww', '-eo', 'args')")
    assert "/bin/dask worker" in seen
    if gateway.backend == "slurm":
        seen += bob.run("answer = show('squeue', '--all', '--Format=All') + show('scontrol', '-dd', 'show', 'job')")
        assert opened in seen
        assert len(gateway.jobs(opened)) == 2
        for job in gateway.jobs(opened):
            assert bob.run(f"answer = show('scontrol', 'write', 'batch_script', {job!r}, '-')") == ""
    assert [secret for secret in hidden if secret in seen] == []


def listening(process):
    return {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}

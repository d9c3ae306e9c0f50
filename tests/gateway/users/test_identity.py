"""Who is let in with a token, what they may do, and that an absent and a forbidden cluster look alike."""

import asyncio
import base64
import json
import os
import pwd
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dask_gateway import BasicAuth, Gateway

from sciplat.errors import SiteError
from sciplat.gateway.site.schema import Admins, Groups, Site
from sciplat.gateway.users.failed_logins import FailedLogins
from sciplat.gateway.users.groups import GroupFile, unix_groups
from sciplat.gateway.users.identity import find_cluster
from sciplat.gateway.users.tokens import SCOPES, Tokens
from tests.gateway.identity_scene import ABSENT, ALICES, BOBS, asynchronous, serve

LIST = "/api/v1/clusters/"


def make_token(state: Path, user: str, *scopes: str, **more: Any) -> str:
    more = {"now": time.time(), **more}
    return Tokens(state / "tokens.json").create(user, "test", scopes=scopes or ("read", "clusters"), **more)[1]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@asynchronous
async def test_a_token_says_who_one_is_in_every_way_of_sending_it(tmp_path):
    token = make_token(tmp_path, "alice")
    async with serve(Site(state=tmp_path)) as gateway:
        for header in (f"Bearer {token}", f"bearer  {token}", basic("alice", token), f"jupyterhub {token}"):
            status, me = await gateway.ask("GET", "/me", header)
            assert (status, me["name"], me["scopes"]) == (200, "alice", ["clusters", "read"])
            assert me["via"] == f"token {token.split('_')[1]}"
            assert (me["groups"], me["admin"]) == ([], False)
            assert "Set-Cookie" not in gateway.headers


@asynchronous
async def test_the_stock_client_works_with_a_token_as_its_password(tmp_path):
    async with serve(Site(state=tmp_path)) as gateway:
        auth = BasicAuth("alice", make_token(tmp_path, "alice"))
        async with Gateway(gateway.url, proxy_address=gateway.url, auth=auth, asynchronous=True) as client:
            assert [report.name for report in await client.list_clusters()] == [ALICES]
            await client.stop_cluster(ALICES)
            for name in (BOBS, ABSENT):
                with pytest.raises(ValueError, match="There is no such cluster, or it is not yours"):
                    await client.stop_cluster(name)
        assert gateway.backend.stopped == [ALICES]


@asynchronous
async def test_absent_and_forbidden_clusters_look_alike(tmp_path):
    token = f"Bearer {make_token(tmp_path, 'alice', *SCOPES)}"
    admin = Admins(users=("alice",))
    async with serve(Site(state=tmp_path, admins=admin)) as gateway:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/scale"), ("POST", "/adapt")):
            answers = []
            for name in (BOBS, ABSENT, "..%2f", "x" * 500):
                status, content = await gateway.ask(method, f"/api/v1/clusters/{name}{path}", token)
                headers = {key: value for key, value in gateway.headers.items() if key != "Date"}
                answers.append((status, content, headers))
            assert answers[0][0] == 404
            assert answers == [answers[0]] * 4
        assert gateway.backend.stopped == []
        assert (await gateway.ask("GET", f"/api/v1/clusters/{ALICES}?wait", token))[0] == 200


@asynchronous
async def test_an_admin_may_find_a_cluster_of_another_where_that_is_asked_for(tmp_path):
    async with serve(Site(state=tmp_path, admins=Admins(users=("alice",)))) as gateway:
        found = {}
        for scopes in (("read", "admin"), ("read",)):
            request = SimpleNamespace(remote="192.0.2.1", headers={})
            user = await gateway.authenticator.identify(request, f"Bearer {make_token(tmp_path, 'alice', *scopes)}")
            for admins in (True, False):
                try:
                    found[scopes, admins] = (await find_cluster(gateway.backend, BOBS, user, admins=admins)).name
                except Exception as error:  # noqa: BLE001
                    found[scopes, admins] = error.status
    assert found == {
        (("read", "admin"), True): BOBS,
        (("read", "admin"), False): 404,
        (("read",), True): 404,
        (("read",), False): 404,
    }


@asynchronous
async def test_the_reason_for_a_refusal_is_told(tmp_path):
    tokens = Tokens(tmp_path / "tokens.json")
    expired = make_token(tmp_path, "alice", lifetime=60, now=time.time() - 90)
    revoked = make_token(tmp_path, "alice")
    async with serve(Site(state=tmp_path)) as gateway:
        assert (await gateway.ask("GET", LIST, f"Bearer {revoked}"))[0] == 200
        tokens.revoke(revoked.split("_")[1], now=time.time())
        wrong = {
            None: "A token is needed; make a token with: sciplat token create",
            f"Bearer {expired}": "expired on",
            f"Bearer {revoked}": "was revoked on",
            f"Bearer {expired[:-3]}AAA": "not known here",
            basic("bob", make_token(tmp_path, "alice")): "not that of the user",
            basic("alice", ""): "has no token",
            "Bearer 0123456789abcdef": "not known here",
        }
        for header, reason in wrong.items():
            status, content = await gateway.ask("GET", LIST, header)
            assert status == 401
            assert reason in content["error"]
            assert gateway.headers["WWW-Authenticate"] == "Bearer"


MALFORMED = [
    b"", b"Bearer", b"Basic", b"Basic !!!", b"Basic YWxpY2U=", b"Basic AA==", b"Basic /w==", b"Bearer a b", b"X y",
    b"Bearer \xff\xfe", b"Basic \xc3\xa9", b"token", b"token x", b"Bearer " + b"x" * 8000, b"Basic " + b"QUFB" * 2000,
]  # fmt: skip


@asynchronous
async def test_malformed_headers_are_refused_and_break_nothing(tmp_path):
    async with serve(Site(state=tmp_path)) as gateway:
        for method, path in (("GET", LIST), ("DELETE", f"{LIST}{ALICES}"), ("POST", f"{LIST}{ALICES}/heartbeat")):
            for number, header in enumerate([*MALFORMED, b"Bearer \0", b"Bearer " + b"x" * 10_000]):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                source = b"10.0.%d.%d" % (len(path), number)
                lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", b"Content-Length: 0"]
                lines += [b"X-Forwarded-For: " + source, b"Authorization: " + header, b"", b""]
                writer.write(b"\r\n".join(lines))
                status = int((await reader.read()).split(b" ", 2)[1])
                writer.close()
                # what the HTTP parser refuses by itself is a bad request
                assert status == (401 if number < len(MALFORMED) else 400), header[:30]
        assert gateway.backend.stopped == []


@asynchronous
async def test_a_scheduler_may_still_end_itself_and_tell_that_it_lives(tmp_path):
    async with serve(Site(state=tmp_path)) as gateway:
        assert (await gateway.ask("DELETE", f"{LIST}{ALICES}", "token secret-of-alice"))[0] == 204
        assert (await gateway.ask("POST", f"{LIST}{ALICES}/heartbeat", "token secret-of-alice"))[0] == 200
        assert (await gateway.ask("POST", f"{LIST}{BOBS}/heartbeat", "token secret-of-alice"))[0] == 401
        assert gateway.backend.stopped == [ALICES]


@asynchronous
async def test_a_token_is_good_for_its_scopes_only(tmp_path):
    requests = {"read": ("GET", LIST), "clusters": ("DELETE", f"{LIST}{ALICES}"), "metrics": ("GET", "/metrics")}
    requests["tokens"] = ("POST", "/api/sciplat/tokens")
    async with serve(Site(state=tmp_path)) as gateway:
        for held in (*SCOPES, "read clusters"):
            header = f"Bearer {make_token(tmp_path, 'alice', *held.split())}"
            for needed, (method, path) in requests.items():
                status, content = await gateway.ask(method, path, header)
                assert status in ({200, 204} if needed in held.split() else {403})
                assert status != 403 or f"scope '{needed}'" in content["error"]


@asynchronous
async def test_admins_are_named_by_user_or_group_and_need_a_token_that_says_so(tmp_path):
    groups = tmp_path / "groups.yaml"
    groups.write_text(yaml.safe_dump({"operators": ["bob"], "physics": ["alice", "bob"]}))
    admins = Admins(users=("alice",), groups=("operators",))
    site = Site(state=tmp_path, admins=admins, groups=Groups(source="file", file=groups))
    async with serve(site) as gateway:
        found = {}
        for user in ("alice", "bob", "carol"):
            for scopes in (("read",), ("read", "admin")):
                _, me = await gateway.ask("GET", "/me", f"Bearer {make_token(tmp_path, user, *scopes)}")
                found[user, scopes[-1]] = me["admin"], "admin" in me["scopes"], me["groups"]
        assert found == {
            ("alice", "read"): (False, False, ["physics"]),
            ("alice", "admin"): (True, True, ["physics"]),
            ("bob", "read"): (False, False, ["operators", "physics"]),
            ("bob", "admin"): (True, True, ["operators", "physics"]),
            ("carol", "read"): (False, False, []),
            ("carol", "admin"): (False, False, []),
        }
        header = f"Bearer {make_token(tmp_path, 'alice', 'admin')}"
        assert (await gateway.ask("GET", "/metrics", header))[0] == 200


def test_a_group_file_is_read_again_when_it_has_changed(tmp_path, caplog):
    path = tmp_path / "groups.yaml"
    path.write_text("physics: [alice]\n")
    groups = GroupFile(path)
    assert groups.groups_of("alice") == ("physics",)
    path.write_text("physics: [bob]\nmaths: [alice, bob]\n")
    assert (groups.groups_of("alice"), groups.groups_of("bob")) == (("maths",), ("maths", "physics"))
    path.write_text("physics: bob\n")
    assert groups.groups_of("alice") == ("maths",)
    assert groups.groups_of("alice") == ("maths",)
    assert caplog.text.count("Groups stay as they were") == 1
    path.unlink()
    assert groups.groups_of("alice") == ("maths",)
    path.write_text("")
    assert groups.groups_of("alice") == ()


@pytest.mark.parametrize(
    "content", ["[alice]", "physics: alice", "physics: [1]", "1: [alice]", "physics: [", "\x00", "a: {}"]
)
def test_a_group_file_that_makes_no_sense_is_refused_at_the_start(tmp_path, content):
    path = tmp_path / "groups.yaml"
    path.write_text(content)
    with pytest.raises(SiteError, match="group file"):
        GroupFile(path)


def test_a_group_file_that_is_missing_is_refused_at_the_start(tmp_path):
    with pytest.raises(SiteError, match="cannot be read"):
        GroupFile(tmp_path / "groups.yaml")


def test_unix_groups_are_those_of_the_system():
    for name in (pwd.getpwuid(os.getuid()).pw_name, "nobody"):
        said = subprocess.run(["/usr/bin/id", "-Gn", name], capture_output=True, text=True, check=True)
        assert unix_groups(name) == tuple(sorted(said.stdout.split()))
    assert unix_groups("no-such-user") == ()


@asynchronous
@pytest.mark.parametrize("backend", ["slurm", "local-multi"])
async def test_where_workers_run_as_the_user_there_must_be_one_and_not_root(tmp_path, backend):
    site = Site(state=tmp_path, backend=backend, groups=Groups(source="unix"))
    async with serve(site) as gateway:
        status, me = await gateway.ask("GET", "/me", f"Bearer {make_token(tmp_path, 'nobody')}")
        assert (status, me["groups"]) == (200, list(unix_groups("nobody")))
        for user, reason in (("no-such-user", "has no Unix account"), ("root", "is the superuser")):
            status, content = await gateway.ask("POST", LIST, f"Bearer {make_token(tmp_path, user)}")
            assert status == 403
            assert f"{user} {reason}" in content["error"]
        for user in ("daemon", "nobody"):  # a service may be an operator's, but has no clusters
            service = f"Bearer {make_token(tmp_path, user)}"
            assert (await gateway.ask("GET", LIST, service))[0] == 200
            status, content = await gateway.ask("POST", LIST, service)
            assert status == 403
            assert f"{user} is a system account" in content["error"]
        header = f"Bearer {make_token(tmp_path, 'prometheus', 'metrics')}"
        assert (await gateway.ask("GET", "/metrics", header))[0] == 200


@asynchronous
async def test_who_fails_too_often_waits_and_shuts_nobody_else_out(tmp_path):
    fresh = f"Bearer {make_token(tmp_path, 'alice')}"
    async with serve(Site(state=tmp_path)) as gateway:
        for number in range(25):  # requests without a token are no attempts
            assert (await gateway.ask("GET", "/me"))[0] == 401
            status, content = await gateway.ask("GET", "/me", f"Bearer guess-{number}")
            assert status == (401 if number < 20 else 429)
        assert "Too many failed logins" in content["error"]
        assert 0 < int(gateway.headers["Retry-After"]) <= 60
        assert (await gateway.ask("GET", "/me", fresh))[0] == 200  # behind a hub all users have one address
        assert (await gateway.ask("GET", "/me", "Bearer guess", X_Forwarded_For="127.0.0.1, 192.0.2.9"))[0] == 401
        events = [line["event"] for line in gateway.audited()]
        assert events == ["request"] * 19 + ["logins-blocked", "request", "request"]


def test_failures_are_counted_in_windows_of_a_minute_and_in_bounded_memory():
    logins = FailedLogins()
    assert [logins.failed("a", now=100.0 + number) for number in range(3)] == [(1, 60.0), (2, 59.0), (3, 58.0)]
    assert logins.failed("b", now=103.0) == (1, 60.0)
    assert logins.failed("a", now=160.0) == (1, 60.0)
    for number in range(30_000):
        logins.failed(f"s{number}", now=161.0)
    assert len(logins._failures) == 10_000


@asynchronous
async def test_the_audit_log_names_who_changed_what_and_who_was_refused(tmp_path):
    token = make_token(tmp_path, "alice")
    async with serve(Site(state=tmp_path)) as gateway:
        await gateway.ask("GET", LIST, f"Bearer {token}")
        await gateway.ask("DELETE", f"{LIST}{ALICES}", f"Bearer {token}", X_Forwarded_For="10.1.1.1, 192.0.2.9")
        await gateway.ask("GET", f"{LIST}{BOBS}", f"Bearer {token}", X_Forwarded_For="nonsense")
        await gateway.ask("GET", LIST)
        await gateway.ask("POST", LIST, "Bearer wrong")
        await gateway.ask("POST", LIST, f"Bearer {make_token(tmp_path, 'bob', 'read')}")
        await gateway.ask("POST", f"{LIST}{ALICES}/heartbeat", "token secret-of-bob")
        lines = gateway.audited()
        assert token not in gateway.authenticator.audit.path.read_text()
    keys = ("event", "user", "method", "route", "cluster", "source", "status")
    assert [tuple(line.get(key) for key in keys) for line in lines] == [
        ("request", "alice", "DELETE", f"{LIST}{{cluster_name}}", ALICES, "192.0.2.9", 204),
        ("request", "alice", "GET", f"{LIST}{{cluster_name}}", BOBS, "127.0.0.1", 404),
        ("request", None, "POST", LIST, None, "127.0.0.1", 401),
        ("request", "bob", "POST", LIST, None, "127.0.0.1", 403),
        ("request", None, "POST", f"{LIST}{{cluster_name}}/heartbeat", ALICES, "127.0.0.1", 401),
    ]
    assert [line["outcome"] for line in lines][:2] == ["ok", "There is no such cluster, or it is not yours"]
    assert "not known here" in lines[2]["outcome"]


@asynchronous
async def test_a_token_file_that_cannot_be_read_lets_nobody_in_and_says_so(tmp_path, caplog):
    token = make_token(tmp_path, "alice")
    (tmp_path / "tokens.json").write_text(json.dumps({"version": 9}))
    async with serve(Site(state=tmp_path)) as gateway:
        status, content = await gateway.ask("GET", "/me", f"Bearer {token}")
    assert status == 500
    assert "operator" in content["error"]
    assert "version 9" in caplog.text

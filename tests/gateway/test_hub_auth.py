"""Tokens of a JupyterHub: whom its answers let in, how soon a revocation holds, and a hub that fails."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from dask_gateway import Gateway, JupyterHubAuth

from sciplat.errors import TokenRefused
from sciplat.gateway.site.schema import Admins, Groups, JupyterHub, Site, TokenFile
from sciplat.gateway.users import hub as hub_module
from sciplat.gateway.users.hub import Hub
from sciplat.gateway.users.tokens import Tokens
from tests.gateway.identity_scene import ALICES, BOBS, asynchronous, listen, serve

ACCESS = "access:services!service=gateway"


def model(name: str, **more: Any) -> dict[str, Any]:
    """Return what JupyterHub 5 and 6 answer at /user to a token that can name its owner and use our service."""
    return {
        "kind": "user", "name": name, "admin": False, "groups": [], "token_id": "a1", "session_id": None,
        "scopes": [ACCESS, f"read:users:name!user={name}"], **more,
    }  # fmt: skip


class Peer:
    """A hub as far as we ask it: /hub/api/user, 403 for a token it does not know."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.body: str | None = None
        self.users = {
            "alices": model("alice", groups=["physics"]),
            "bobs": model("bob"),
            "admins": model("carol", admin=True),
            "everything": model("dora", scopes=["access:services"]),
            "narrow": model("alice", scopes=["read:users:name!user=alice", "access:services!service=other"]),
            "service": {"kind": "service", "name": "gateway", "admin": True, "scopes": ["access:services"]},
        }

    async def user(self, request: web.Request) -> web.Response:
        """Answer as the hub does."""
        token = request.headers["Authorization"].removeprefix("token ")
        self.asked.append(token)
        if self.body is not None or self.status != 200:
            headers = {"Location": "/elsewhere"} if self.status == 302 else {}
            return web.Response(
                text=self.body or "{}", status=self.status, content_type="application/json", headers=headers
            )
        if token not in self.users:
            return web.json_response({"status": 403, "message": "Forbidden"}, status=403)
        return web.json_response(self.users[token])


@contextlib.asynccontextmanager
async def run_hub() -> AsyncIterator[tuple[Peer, str]]:
    peer, app = Peer(), web.Application()
    app.router.add_get("/hub/api/user", peer.user)
    app.router.add_get("/elsewhere", peer.user)
    async with listen(app) as port:
        yield peer, f"http://127.0.0.1:{port}/hub/api"


def make_site(state: Path, *urls: str, **more: Any) -> Site:
    hubs = tuple(JupyterHub(api_url=url, service="gateway") for url in urls)
    return Site(state=state, authenticators=(TokenFile(), *hubs), **more)


@asynchronous
async def test_the_stock_client_works_with_a_hubs_token(tmp_path):
    async with run_hub() as (_, url), serve(make_site(tmp_path, url)) as gateway:
        auth = JupyterHubAuth(api_token="alices")
        async with Gateway(gateway.url, proxy_address=gateway.url, auth=auth, asynchronous=True) as client:
            assert [report.name for report in await client.list_clusters()] == [ALICES]
            with pytest.raises(ValueError, match="There is no such cluster, or it is not yours"):
                await client.stop_cluster(BOBS)


@asynchronous
async def test_the_hub_says_who_its_users_are(tmp_path):
    site_token = Tokens(tmp_path / "tokens.json").create("alice", "laptop", now=time.time())[1]
    async with run_hub() as (peer, url), serve(make_site(tmp_path, url, admins=Admins(groups=("physics",)))) as gateway:
        found = {}
        for token in ("alices", "bobs", "admins", "everything"):
            status, me = await gateway.ask("GET", "/me", f"jupyterhub {token}")
            assert (status, me["via"]) == (200, "hub")
            found[token] = me["name"], me["groups"], me["admin"], "admin" in me["scopes"]
        assert found == {
            "alices": ("alice", ["physics"], True, True),  # an admin of the site
            "bobs": ("bob", [], False, False),
            "admins": ("carol", [], True, True),  # one of the hub
            "everything": ("dora", [], False, False),
        }
        _, me = await gateway.ask("GET", "/me", f"Bearer {site_token}")
        assert (me["name"], me["groups"], me["admin"]) == ("alice", [], False)
        assert site_token not in peer.asked
        everything = ("read", "clusters", "admin")
        keep = Tokens(tmp_path / "tokens.json")
        made = keep.create("alice", "made", scopes=everything, groups=("physics",), now=time.time())
        _, me = await gateway.ask("GET", "/me", f"Bearer {made[1]}")
        assert (me["groups"], me["admin"]) == (["physics"], False)  # for quotas; she may have left it since


@asynchronous
async def test_groups_come_from_where_the_site_says(tmp_path):
    (tmp_path / "groups.yaml").write_text("survey: [alice]\n")
    groups = Groups(source="file", file=tmp_path / "groups.yaml")
    async with run_hub() as (_, url), serve(make_site(tmp_path, url, groups=groups)) as gateway:
        _, me = await gateway.ask("GET", "/me", "Bearer alices")
        assert me["groups"] == ["survey"]


@asynchronous
async def test_who_is_not_let_in_learns_why(tmp_path):
    async with run_hub() as (peer, url), serve(make_site(tmp_path, url)) as gateway:
        peer.users |= {name: model(name) for name in ("Alice", "a:b", "../x", "a@b.org", "-rf")}
        wrong = {
            "unknown": (401, "does not know this token"),
            "service": (401, "a service's, not a user's"),
            "narrow": (403, "lacks the hub's scope access:services!service=gateway"),
            "Alice": (403, "users with such a name"),
            **dict.fromkeys(("a:b", "../x", "a@b.org", "-rf"), (403, "users with such a name")),
        }
        for token, (expected, reason) in wrong.items():
            status, content = await gateway.ask("POST", "/api/v1/clusters/", f"jupyterhub {token}")
            assert (status, reason in content["error"]) == (expected, True)
        status, content = await gateway.ask("GET", "/me", "Basic Ym9iOmFsaWNlcw==")  # bob with alice's token
        assert (status, "not that of the user" in content["error"]) == (401, True)


@asynchronous
async def test_a_hubs_answer_is_kept_for_three_seconds_at_most(monkeypatch):
    async with run_hub() as (peer, url):
        hub = Hub(url, "gateway")
        clock = [1000.0]
        monkeypatch.setattr(hub_module.time, "monotonic", lambda: clock[0])
        assert (await hub.identify("alices")).name == "alice"
        del peer.users["alices"]
        clock[0] += 2.9
        assert (await hub.identify("alices")).name == "alice"
        assert peer.asked == ["alices"]
        clock[0] += 0.2
        with pytest.raises(TokenRefused, match="or it has been revoked"):
            await hub.identify("alices")
        for _ in range(2):  # that is not kept
            with pytest.raises(TokenRefused):
                await hub.identify("bobss")
        assert peer.asked == ["alices", "alices", "bobss", "bobss"]
        assert "alices" not in repr(vars(hub))
        clock[0] += 10
        await hub.identify("bobs")
        assert len(hub._answers) == 1
        await hub.close()


@asynchronous
async def test_a_hub_that_gives_no_sense_is_a_bad_gateway_and_nobodys_failed_login(tmp_path):
    broken: list[tuple[int, str | None]] = [
        (500, None), (429, None), (302, None), (204, None), (200, "<html>"), (200, "[]"), (200, '"alice"'),
        (200, '{"kind": "user"}'), (200, '{"kind": "user", "name": 7}'),
    ]  # fmt: skip
    async with run_hub() as (peer, url), serve(make_site(tmp_path, url)) as gateway:
        for peer.status, peer.body in broken * 3:
            status, content = await gateway.ask("GET", "/me", "jupyterhub alices")
            assert (status, "JupyterHub" in content["error"]) == (502, True)
        peer.status, peer.body = 200, None
        assert (await gateway.ask("GET", "/me", "jupyterhub alices"))[0] == 200
        assert len(peer.asked) == len(broken) * 3 + 1  # a redirect was not followed


@asynchronous
async def test_without_its_hub_a_gateway_says_so_and_still_takes_its_own_tokens(tmp_path):
    token = Tokens(tmp_path / "tokens.json").create("alice", "laptop", now=time.time())[1]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with serve(make_site(tmp_path, f"http://127.0.0.1:{unused.getsockname()[1]}")) as gateway:
            status, content = await gateway.ask("GET", "/me", "jupyterhub alices")
            assert (status, content["error"]) == (502, "The JupyterHub does not answer (ClientConnectorError)")
            assert (await gateway.ask("GET", "/me", f"Bearer {token}"))[0] == 200


@asynchronous
async def test_a_hub_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "_PATIENCE", 0.2)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the gateway closes the connection
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, serve(make_site(tmp_path, url)) as gateway:
        status, content = await gateway.ask("GET", "/me", "jupyterhub alices")
        assert (status, "does not answer" in content["error"]) == (502, True)


@asynchronous
async def test_of_two_hubs_the_one_that_knows_a_token_counts(tmp_path):
    async with (
        run_hub() as (first, url),
        run_hub() as (second, other),
        serve(make_site(tmp_path, url, other)) as gateway,
    ):
        del first.users["bobs"]
        for token, name in (("alices", "alice"), ("bobs", "bob")):
            _, me = await gateway.ask("GET", "/me", f"Bearer {token}")
            assert me["name"] == name
        assert (first.asked, second.asked) == (["alices", "bobs"], ["bobs"])
        first.status = 503  # it may have known this one
        assert (await gateway.ask("GET", "/me", "Bearer nobodys"))[0] == 502

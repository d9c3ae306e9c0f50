"""Dashboards: who gets in and how, what passes through, and that nothing else than the owner's scheduler is shown."""

import asyncio
import json
import re
import time

import aiohttp
import pytest
from tornado.web import Application

from sciplat.gateway.inside.guard import SECRET_HEADER
from sciplat.gateway.web import dashboard, forward
from tests.gateway.dashboard_scene import LARGE, PAGES, Scene, cookie_of, scene, start_scheduler
from tests.gateway.identity_scene import asynchronous
from tests.gateway.quiet_gateway import HOST, quiet_gateway, until

HTML = {"Accept": "text/html"}


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@asynchronous
async def test_without_a_login_there_is_nothing_to_see_and_no_way_to_tell_what_exists(state):
    async with scene(state) as at:
        absent = f"/clusters/{'c' * 32}"
        for path in ("", "/", "/status", "/~aaaaaaaaaaaaaaaa/status", "/ws"):
            page = await at.get(at.base + path, **HTML)
            assert (page.status, page.headers["Location"]) == (303, f"{at.base}/login")
            bare = [await at.get(base + path) for base in (at.base, absent)]
            assert [one.status for one in bare] == [403, 403]
            assert bare[0].read_text == bare[1].read_text
        pages = [(await at.get(f"{base}/login")) for base in (at.base, absent)]
        texts = [re.sub(r"[0-9a-f]{8}\b|value=\S+", "", page.read_text) for page in pages]
        assert [page.status for page in pages] == [200, 200]
        assert texts[0] == texts[1]
        assert (await at.get("/clusters/not-a-name/status")).status == 404


@asynchronous
async def test_a_ticket_opens_the_dashboard_once(state):
    async with scene(state) as at:
        path = await at.ticket()
        reply = await at.get(path)
        assert reply.status == 303
        root = reply.headers["Location"].removesuffix("/status")
        page = await at.get(f"{root}/status?a=b%20c", cookie_of(reply))
        assert page.status == 200
        assert json.loads(page.read_text)["path"] == "/status?a=b%20c"
        again = await at.get(path)
        assert again.status == 200
        assert "has been used" in again.read_text
        assert "sciplat-dashboard" not in again.headers["Set-Cookie"]


@asynchronous
async def test_a_ticket_is_for_one_cluster_and_one_minute(state, monkeypatch):
    monkeypatch.setattr(dashboard, "_TICKET", 0.2)
    async with scene(state) as at:
        other = await at.gateway.cluster("alice")
        path = await at.ticket()
        assert (await at.get(path.replace(at.cluster.name, other.name))).status == 200  # the form
        await asyncio.sleep(0.25)
        assert "has been used, or is older" in (await at.get(path)).read_text
        assert (await at.get(f"{at.base}/login?ticket=")).status == 200
        assert (await at.get(f"{at.base}/login?ticket=%00%ff%f0")).status == 200


@pytest.mark.parametrize("origin", ["cross-site", "none"])
def test_a_link_from_another_site_or_a_message_is_followed_only_when_its_owner_says_so(state, origin):
    follow(state, origin)


@asynchronous
async def follow(state, origin):
    async with scene(state) as at:
        path = await at.ticket()
        page = await at.get(path, Sec_Fetch_Site=origin)
        assert page.status == 200
        assert "alice" in page.read_text
        field = re.search(r'name="form" value="([^"]+)"', page.read_text)[1]
        data = {"form": field, "ticket": path.partition("ticket=")[2]}
        for cookie, status in (("sciplat-login=x", 403), (cookie_of(page), 303)):
            headers = {"Cookie": cookie}
            url = f"{at.gateway.url}{at.base}/login"
            async with at.session.post(url, data=data, headers=headers, allow_redirects=False) as reply:
                assert reply.status == status


@asynchronous
async def test_the_form_lets_the_owner_in_and_nobody_else(state):
    async with scene(state) as at:
        token = at.gateway.token
        entered = await at.log_in(token("alice"))
        assert entered.status == 303
        root = entered.headers["Location"].removesuffix("/status")
        assert (await at.get(f"{root}/status", cookie_of(entered))).status == 200
        absent = await at.log_in(token("bob"), path=f"/clusters/{'c' * 32}/login")
        for user in ("bob", "admin"):
            refused = await at.log_in(token(user))
            assert refused.status == absent.status == 404
            assert "no such cluster, or it is not yours" in refused.read_text
        assert (await at.log_in(token("alice", "read"))).status == 403
        assert (await at.log_in("nonsense")).status == 401
        assert (await at.log_in(f"sciplat_{'a' * 10}_{'b' * 43}")).status == 401
        outcomes = [line["outcome"] for line in at.gateway.audited("dashboard-login")]
        assert outcomes[0] == "ok"
        assert "ok" not in outcomes[1:]
        assert len(outcomes) == 7


@asynchronous
async def test_a_form_of_another_page_is_not_taken(state):
    async with scene(state) as at:
        for form in ("", "forged"):
            reply = await at.log_in(at.gateway.token("alice"), form=form)
            assert reply.status == 403
            assert "sciplat-dashboard" not in reply.headers["Set-Cookie"]
        async with at.session.post(f"{at.gateway.url}{at.base}/login", data=b"\xff\x00") as reply:
            assert reply.status == 403


@asynchronous
async def test_pages_of_ours_run_no_scripts_and_are_not_kept(state):
    async with scene(state) as at:
        page = await at.get(f"{at.base}/login")
        assert "script" not in page.read_text
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'self'" in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        cookie = page.headers["Set-Cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", f"Path={at.base}/login"))


@asynchronous
async def test_the_cookie_is_for_this_cluster_below_the_prefix_and_with_tls_for_tls_alone(state, tmp_path):
    files = {name: tmp_path / name for name in ("cert", "key")}
    async with scene(state, prefix="/services/gateway", tls=files) as at:
        reply = await at.get(await at.ticket())
        cookie, base = reply.headers["Set-Cookie"], f"/services/gateway{at.base}"
        assert all(part in cookie for part in ("HttpOnly", "SameSite=Lax", "Secure", f"Path={base}/;"))
        assert reply.headers["Location"].startswith(f"{base}/~")
        other = await at.gateway.cluster("alice")
        assert (await at.get(f"/clusters/{other.name}/status", cookie_of(reply))).status == 403


@asynchronous
async def test_the_address_has_a_mark_that_only_pages_of_the_session_know(state):
    async with scene(state) as at:
        cookie, root = await at.enter()
        for path in ("/statics/a.css?b=c", "/~aaaaaaaaaaaaaaaa/statics/a.css?b=c"):
            reply = await at.get(at.base + path, cookie)
            assert (reply.status, reply.headers["Location"]) == (303, f"{root}/statics/a.css?b=c")
        for path in ("", "/"):
            assert (await at.get(at.base + path, cookie)).headers["Location"] == f"{root}/status"
        hostile = await at.get(f"{at.base}/a%0d%0aSet-Cookie:b//evil.example", cookie)
        assert hostile.status in {303, 404}
        assert hostile.headers.get("Location", root).startswith(root)
        assert "Set-Cookie" not in hostile.headers
        refused = await at.get(f"{at.base}/ws", cookie, Upgrade="websocket", Connection="Upgrade")
        assert refused.status == 303  # which no browser follows for a websocket


@asynchronous
async def test_the_dashboard_gets_what_it_needs_and_none_of_the_users_secrets(state):
    async with scene(state) as at:
        cookie, root = await at.enter()
        page = await at.get(
            f"{root}/status",
            cookie,
            Cookie="jupyterhub-session-id=secret",
            Authorization=f"Bearer {at.gateway.token('alice')}",
            X_Sciplat_Dashboard="forged",
            X_Forwarded_For="192.0.2.1",
            Accept_Language="de",
            Origin="http://elsewhere.example",
        )
        got = json.loads(page.read_text)["headers"]
        assert set(got) <= {
            "Host", "Accept", "Accept-Encoding", "Accept-Language", "User-Agent", SECRET_HEADER
        }  # fmt: skip
        assert (got["Host"], got["Accept-Language"]) == (f"{HOST}:{at.port}", "de")
        assert got[SECRET_HEADER] != "forged"


@asynchronous
async def test_the_browser_gets_pages_and_no_cookies(state):
    async with scene(state) as at:
        cookie, root = await at.enter()
        page = await at.get(f"{root}/status", cookie)
        assert "Set-Cookie" not in page.headers
        assert not [name for name in page.headers if name.lower().startswith("x-sciplat")]
        assert page.headers["Content-Security-Policy"] == "frame-ancestors 'self'"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        moved = await at.get(f"{root}/old", cookie)
        assert (moved.status, moved.headers["Location"]) == (301, f"{root}/status")
        head = await at.get(f"{root}/large", cookie, method="HEAD")
        assert head.status == 405  # as the dashboard says
        async with at.session.get(f"{at.gateway.url}{root}/large", headers={"Cookie": cookie}) as reply:
            assert await reply.read() == LARGE
            tag = reply.headers["ETag"]
        assert (await at.get(f"{root}/large", cookie, If_None_Match=tag)).status == 304
        assert (await at.get(f"{root}/status", cookie, method="POST")).status == 405


@asynchronous
async def test_a_websocket_goes_both_ways(state):
    async with scene(state) as at:
        cookie, root = await at.enter()
        async with at.websocket(root, cookie) as socket:
            assert socket.protocol == "bokeh"
            hello = await socket.receive_json(timeout=5)
            assert hello["offered"] == ["bokeh", "a-token"]
            assert not {"Cookie", "Origin", "Authorization"} & set(hello["headers"])
            await socket.send_str("text")
            assert await socket.receive_str(timeout=5) == "text"
            await socket.send_bytes(LARGE)
            assert await socket.receive_bytes(timeout=5) == LARGE
            await socket.send_str("bye")
            assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE


@asynchronous
async def test_a_user_has_a_bounded_number_of_websockets_and_gets_another_when_one_has_ended(state, monkeypatch):
    monkeypatch.setattr(forward, "_MOST_SOCKETS", 2)
    async with scene(state) as at:
        cookie, root = await at.enter()
        async with at.websocket(root, cookie):
            async with at.websocket(root, cookie):
                with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
                    await at.websocket(root, cookie)
            await asyncio.sleep(0.2)
            async with at.websocket(root, cookie) as socket:
                assert (await socket.receive_json(timeout=5))["headers"]


@asynchronous
async def test_what_took_over_the_port_of_a_dashboard_is_not_shown(state):
    async with scene(state, router=Application(PAGES)) as at:  # answers everything, but has no proof
        cookie, root = await at.enter()
        page = await at.get(f"{root}/status", cookie)
        assert page.status == 502
        assert "headers" not in page.read_text
        with pytest.raises(aiohttp.WSServerHandshakeError, match="502"):
            await at.websocket(root, cookie)


@asynchronous
async def test_a_dashboard_that_is_gone_or_not_there_yet_is_said_to_be(state):
    async with scene(state) as at:
        cookie, root = await at.enter()
        at.gateway.backend.db.update_cluster(at.cluster, dashboard_address=f"http://{HOST}:1")
        page = await at.get(f"{root}/status", cookie)
        assert page.status == 502
        assert "does not answer" in page.read_text
        at.gateway.backend.db.update_cluster(at.cluster, dashboard_address="")
        assert (await at.get(f"{root}/status", cookie)).status == 503


@pytest.mark.parametrize("end", ["token", "cluster"])
def test_a_session_ends_with_its_token_and_with_its_cluster(state, monkeypatch, end):
    monkeypatch.setattr(dashboard, "_CHECK", 0.1)

    @asynchronous
    async def use():
        async with scene(state) as at:
            cookie, root = await at.enter()
            spare = await at.ticket()
            async with at.websocket(root, cookie) as socket:
                await socket.receive_json(timeout=5)
                await asyncio.sleep(0.3)
                await socket.send_str("still there")
                assert await socket.receive_str(timeout=5) == "still there"
                if end == "token":
                    (token,) = at.gateway.tokens.list("alice")
                    at.gateway.tokens.revoke(token.id, now=time.time())
                else:
                    await at.gateway.backend.stop_cluster(at.cluster.name)
                assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
            assert (await at.get(f"{root}/status", cookie)).status == 403
            assert (await at.get(spare)).status == 403

    use()


@asynchronous
async def test_a_gateway_that_stops_does_not_wait_for_open_dashboards(state):
    async with scene(state) as at:
        cookie, root = await at.enter()
        socket = await at.websocket(root, cookie)
        await socket.receive_json(timeout=5)
        listening = asyncio.create_task(socket.receive(timeout=30))
        began = time.monotonic()
    assert (await listening).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}
    assert time.monotonic() - began < 10  # aiohttp would wait a minute


@asynchronous
async def test_a_real_schedulers_dashboard_is_behind_the_login(state, tmp_path):
    async with quiet_gateway(state) as gateway:
        cluster = await gateway.cluster("alice")
        process = start_scheduler(tmp_path, gateway, cluster)
        try:
            await until(lambda: cluster.dashboard_address, 30)
            at = Scene(gateway, cluster, int(cluster.dashboard_address.rpartition(":")[2]))
            for path in ("/status", "/statics/css/base.css", "/metrics", "/json/identity.json"):
                async with at.session.get(at.dashboard + path) as direct:
                    assert direct.status == 403, path
            cookie, root = await at.enter()
            page = await at.get(f"{root}/status", cookie)
            assert "Dask Diagnostic UI" in page.read_text or "Dask: Status" in page.read_text
            assert (await at.get(f"{root}/statics/css/base.css", cookie)).status == 200
            token = re.search(r'"token":"([^"]+)"', page.read_text)[1]
            url = f"{at.gateway.url}{root}/status/ws"
            async with at.session.ws_connect(url, protocols=["bokeh", token], headers={"Cookie": cookie}) as socket:
                assert socket.protocol == "bokeh"
                assert "ACK" in await socket.receive_str(timeout=10)
        finally:
            process.terminate()
            process.wait(10)

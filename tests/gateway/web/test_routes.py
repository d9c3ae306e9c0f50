"""The JSON API besides dask-gateway's own: what owners, others and admins get of it."""

import asyncio
import json
import time
from datetime import UTC, datetime

import pytest

from sciplat.gateway.quota.ledger import Lease
from tests.gateway.identity_scene import asynchronous
from tests.gateway.quiet_gateway import HOST, quiet_gateway, until

PATH = "/api/sciplat/clusters"
ABSENT = "c" * 32


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def groups(tmp_path):
    file = tmp_path / "groups.yaml"
    file.write_text("physics: [alice, bob]\n")
    return {"source": "file", "file": file}


async def running(gateway, user, workers=0, **options):
    """Return a cluster that runs, with workers that were asked for and have started."""
    cluster = await gateway.cluster(user, **options)
    await gateway.beat(cluster, workers)
    if workers:
        await until(lambda: len(cluster.workers) == workers)
        await gateway.beat(cluster, workers, cluster.workers)
    await until(lambda: cluster.status.name == "RUNNING")
    return cluster


@asynchronous
async def test_a_user_sees_their_own_clusters_and_an_admin_everybodys(state):
    async with quiet_gateway(state) as gateway:
        first, second = await gateway.cluster("alice"), await gateway.cluster("alice")
        bobs = await gateway.cluster("bob")
        assert [one["name"] for one in (await gateway.get(PATH, "alice"))["clusters"]] == [first.name, second.name]
        assert [one["name"] for one in (await gateway.get(PATH, "bob"))["clusters"]] == [bobs.name]
        assert (await gateway.get(PATH, "admin"))["clusters"] == []
        everybodys = (await gateway.get(f"{PATH}?all=1", "admin"))["clusters"]
        assert [one["user"] for one in everybodys] == ["alice", "alice", "bob"]
        status, error = await gateway.ask("GET", f"{PATH}?all=1", "bob")
        assert status == 403
        assert "admin" in error["error"]


@asynchronous
async def test_anothers_cluster_is_like_none(state):
    async with quiet_gateway(state) as gateway:
        cluster = await gateway.cluster("alice")
        for method, part in (("GET", ""), ("DELETE", ""), ("GET", "/why"), ("GET", "/logs"), ("GET", "/logs?lines=0"),
                             ("POST", "/ticket")):  # fmt: skip
            forbidden = await gateway.ask(method, f"{PATH}/{cluster.name}{part}", "bob")
            assert forbidden == await gateway.ask(method, f"{PATH}/{ABSENT}{part}", "bob")
            assert forbidden[0] == 404
            assert (await gateway.ask(method, f"{PATH}/{cluster.name}{part}"))[0] == 401
        assert cluster.is_active()


@asynchronous
async def test_an_admin_sees_and_stops_a_cluster_but_does_not_enter_it(state):
    async with quiet_gateway(state) as gateway:
        cluster = await running(gateway, "alice")
        gateway.backend.logs[""] = ["hello"]
        for part in ("", "/why", "/logs"):
            status, found = await gateway.ask("GET", f"{PATH}/{cluster.name}{part}", "admin")
            assert status == 200
            assert cluster.token not in json.dumps(found)
            assert "BEGIN" not in json.dumps(found)
        assert (await gateway.ask("POST", f"{PATH}/{cluster.name}/ticket", "admin"))[0] == 404
        assert (await gateway.ask("GET", f"/api/v1/clusters/{cluster.name}", "admin"))[0] == 404  # it has the keys
        assert (await gateway.ask("DELETE", f"{PATH}/{cluster.name}", "admin"))[0] == 204
        await until(lambda: cluster.status.name == "STOPPED")
        (seen,) = (await gateway.get(f"{PATH}?ended=1", "alice"))["clusters"]
        assert seen["reason"] == "stopped by an admin of the gateway"


@asynchronous
async def test_a_cluster_is_described_in_words_from_its_start_to_its_end(state):
    async with quiet_gateway(state, limits={"lifetime": "2 h"}) as gateway:
        cluster = await gateway.cluster("alice", cores=3, memory="6 GiB")
        path = f"{PATH}/{cluster.name}"
        await until(lambda: cluster.status.name == "SUBMITTED")
        queueing = await gateway.get(path, "alice")
        assert queueing["status"] == "queueing"
        assert (queueing["cores"], queueing["memory"], queueing["profile"]) == (3, 6 * 1024**3, "default")
        started, ends = (datetime.fromisoformat(queueing[key]) for key in ("started", "ends"))
        assert (ends - started).total_seconds() == 7200
        assert abs((datetime.now(UTC) - started).total_seconds()) < 60
        assert queueing["versions"] == {}
        await gateway.beat(cluster, 3, versions={"dask": "2026.8.0"})
        await until(lambda: len(cluster.workers) == 3)
        await gateway.beat(cluster, 3, list(cluster.workers)[:1], versions={"dask": "2026.8.0"})
        runs = await gateway.get(path, "alice")
        assert (runs["status"], runs["ended"], runs["reason"]) == ("running", None, "")
        assert runs["workers"] == {"asked": 3, "running": 1, "waiting": 2}
        assert runs["versions"] == {"dask": "2026.8.0"}
        assert await gateway.ask("DELETE", path, "alice") == (204, None)
        await until(lambda: cluster.stop_time)
        assert (await gateway.get(PATH, "alice"))["clusters"] == []
        (over,) = (await gateway.get(f"{PATH}?ended=1", "alice"))["clusters"]
        assert over["status"] == "stopped"
        assert datetime.fromisoformat(over["ended"]) >= started
        assert over["workers"] == {"asked": 0, "running": 0, "waiting": 0}
        assert over["ends"] is None
        assert (await gateway.ask("DELETE", path, "alice"))[0] == 204  # once more


@asynchronous
async def test_clusters_that_ended_long_ago_are_not_listed(state):
    async with quiet_gateway(state) as gateway:
        cluster = await gateway.cluster("alice")
        await gateway.ask("DELETE", f"{PATH}/{cluster.name}", "alice")
        await until(lambda: cluster.stop_time)
        assert len((await gateway.get(f"{PATH}?ended=1", "alice"))["clusters"]) == 1
        cluster.stop_time -= 25 * 3600 * 1000
        assert (await gateway.get(f"{PATH}?ended=1", "alice"))["clusters"] == []


@asynchronous
async def test_why_tells_what_the_batch_system_the_quota_and_the_last_worker_say(state):
    async with quiet_gateway(state, quotas={"default": {"workers": 1}}) as gateway:
        cluster = await running(gateway, "alice", 1)
        why = f"{PATH}/{cluster.name}/why"
        assert await gateway.get(why, "alice") == {"lines": []}
        gateway.backend.waits = ["scheduler: PENDING, partition debug full, 3 jobs ahead"]
        await gateway.beat(cluster, 3, cluster.workers)
        await until(lambda: cluster.name in gateway.backend.refusals)
        gateway.backend.db.update_cluster(cluster, state={**cluster.state, "last": "no such partition"})
        lines = (await gateway.get(why, "alice"))["lines"]
        assert lines[0] == gateway.backend.waits[0]
        assert lines[1].startswith("quota: user alice uses 1 worker of 1 worker")
        assert cluster.name[:8] in lines[1]
        assert lines[2] == "the last worker that did not start: no such partition"
        assert (await gateway.get(f"{PATH}/{cluster.name}", "alice"))["waiting"] == lines
        gateway.backend.waits = OSError("squeue:\ndoes not answer")
        lines = (await gateway.get(why, "alice"))["lines"]
        assert lines[0] == "what it waits for is not known: squeue: does not answer"
        await gateway.backend.fail(cluster, "it has lived for 2 h")
        await until(lambda: cluster.stop_time)
        assert await gateway.get(why, "alice") == {"lines": ["failed: it has lived for 2 h"]}


@asynchronous
async def test_a_groups_quota_shows_its_use_and_nothing_of_its_other_members(state, groups):
    async with quiet_gateway(state, groups=groups, quotas={"groups": {"physics": {"workers": 3}}}) as gateway:
        bobs = await running(gateway, "bob", 2)
        alices = await running(gateway, "alice", 1)
        await gateway.beat(alices, 2, alices.workers)
        await until(lambda: alices.name in gateway.backend.refusals)
        waiting = await gateway.get(f"{PATH}/{alices.name}", "alice")
        quota = await gateway.get("/api/sciplat/quota", "alice")
        text = json.dumps([waiting, quota])
        assert "bob" not in text
        assert bobs.name[:8] not in text
        assert "group physics uses 3 workers of 3 workers" in waiting["waiting"][-1]
        assert alices.name[:8] in waiting["waiting"][-1]
        assert [account["name"] for account in quota["accounts"]] == ["alice", "physics"]
        workers = {limit["limit"]: limit for limit in quota["accounts"][1]["limits"]}["workers"]
        assert (workers["cap"], workers["used"], workers["left"]) == (3, 3, 0)
        assert workers["holders"] == [{"cluster": alices.name, "amount": 1}]


@asynchronous
async def test_quota_tells_what_one_may_have_has_and_has_left(state):
    limits = {"clusters": 2, "memory": "64 GiB", "core_hours": 10.0, "period": "week"}
    async with quiet_gateway(state, quotas={"users": {"alice": limits}}) as gateway:
        cluster = await running(gateway, "alice")
        (account,) = (await gateway.get("/api/sciplat/quota", "alice"))["accounts"]
        found = {limit["limit"]: limit for limit in account["limits"]}
        assert (account["kind"], account["name"], account["period"]) == ("user", "alice", "week")
        assert (found["clusters"]["cap"], found["clusters"]["used"], found["clusters"]["left"]) == (2, 1, 1)
        assert found["clusters"]["holders"] == [{"cluster": cluster.name, "amount": 1}]
        assert found["memory"]["left"] == 62 * 1024**3
        assert found["workers"] == {
            "limit": "workers", "cap": None, "used": 0, "left": None, "resets": None, "holders": [],
        }  # fmt: skip
        resets = datetime.fromisoformat(found["core_hours"]["resets"])
        assert resets > datetime.now(UTC)
        assert resets.isoweekday() == 1
        (other,) = (await gateway.get("/api/sciplat/quota", "bob"))["accounts"]
        assert all(limit["cap"] is None and not limit["used"] for limit in other["limits"])


@asynchronous
async def test_logs_are_those_of_scheduler_and_workers_or_of_one(state):
    async with quiet_gateway(state) as gateway:
        cluster = await running(gateway, "alice", 2)
        first, second = cluster.workers
        gateway.backend.logs = {name: [f"{number}" for number in range(9)] for name in ("", first, second)}
        path = f"{PATH}/{cluster.name}/logs"
        logs = (await gateway.get(f"{path}?lines=2", "alice"))["logs"]
        assert logs == {"scheduler": "7\n8", first: "7\n8", second: "7\n8"}
        one = await gateway.get(f"{path}?worker={first[:12]}&lines=1", "alice")
        assert one == {"logs": {first: "8"}}
        assert list((await gateway.get(f"{path}?worker=scheduler", "alice"))["logs"]) == ["scheduler"]
        gateway.backend.logs[""] = ["x" * 3 * 1024**2]
        assert len((await gateway.get(f"{path}?worker=scheduler", "alice"))["logs"]["scheduler"]) == 1024**2


@asynchronous
async def test_a_query_that_makes_no_sense_is_refused(state):
    async with quiet_gateway(state) as gateway:
        cluster = await gateway.cluster("alice")
        logs = f"/{cluster.name}/logs"
        wrong = ("lines=0", "lines=5001", "lines=1e3", "lines=-1", "lines=%D9%A3", "worker=../../passwd", "worker=zz")
        for query in ("?all=yes", "?all=1&ended=2", *(f"{logs}?{one}" for one in wrong)):
            status, found = await gateway.ask("GET", PATH + query, "alice")
            assert status == 422, query
            assert found["error"]


@asynchronous
async def test_a_body_that_upstream_cannot_read_is_the_users_mistake(state):
    async with quiet_gateway(state) as gateway:
        cluster = await gateway.cluster("alice")
        assert (await gateway.ask("POST", "/api/v1/clusters/", "alice"))[0] == 400
        assert (await gateway.ask("POST", "/api/v1/clusters/", "alice", [1]))[0] == 400
        path = f"/api/v1/clusters/{cluster.name}/adapt"
        for bounds in ({"minimum": "a"}, {"maximum": [1]}, {"minimum": -1}, {"maximum": True}, {"minimum": 1.5}):
            status, found = await gateway.ask("POST", path, "alice", bounds)
            assert (status, "number of workers" in found["error"]) == (422, True), bounds


@asynchronous
async def test_usage_is_ones_own_and_an_admins_is_everybodys(state, groups):
    async with quiet_gateway(state, groups=groups) as gateway:
        ledger, now = gateway.backend.ledger, time.time()
        for user, cluster in (("alice", "a" * 32), ("bob", "b" * 32)):
            ledger.grant(Lease(cluster, "", user, ("physics",), 2, 1024**3, 0), now - 7200)
            ledger.seen(cluster, [""], now - 7200)
            ledger.ended(cluster, "", now - 3600)
        path = "/api/sciplat/usage"
        (row,) = (await gateway.get(f"{path}?since=1d", "alice"))["rows"]
        assert row["user"] == "alice"
        assert row["core_hours"] == pytest.approx(2)
        (row,) = (await gateway.get(f"{path}?by=group&since=1d", "alice"))["rows"]
        assert (row["group"], row["core_hours"]) == ("physics", pytest.approx(2))
        rows = (await gateway.get(f"{path}?by=user,group,cluster&since=1d", "admin"))["rows"]
        assert [(row["user"], row["group"], row["cluster"]) for row in rows] == [
            ("alice", "physics", "a" * 32),
            ("bob", "physics", "b" * 32),
        ]
        assert (await gateway.get(f"{path}?since=50min", "admin"))["rows"] == []
        for query in ("by=users", "by=user,user", "by=", "since=7", "since=400d", "since=-1d"):
            assert (await gateway.ask("GET", f"{path}?{query}", "alice"))[0] == 422, query


@asynchronous
async def test_a_user_makes_lists_and_revokes_their_own_tokens(state):
    async with quiet_gateway(state) as gateway:
        path = "/api/sciplat/tokens"
        status, made = await gateway.ask("POST", path, "alice", {"name": "laptop", "lifetime": 3600})
        assert status == 200
        assert (made["name"], made["user"], made["scopes"]) == ("laptop", "alice", ["read", "clusters"])
        assert (await gateway.ask("GET", PATH, token=made["token"]))[0] == 200
        listed = {one["id"]: one for one in (await gateway.get(path, "alice"))["tokens"]}
        assert listed[made["id"]]["state"].startswith("until 20")
        assert made["token"] not in json.dumps(listed)
        assert made["id"] not in json.dumps(await gateway.get(path, "bob"))
        assert (await gateway.ask("DELETE", f"{path}/{made['id']}", "bob"))[0] == 404
        assert await gateway.ask("DELETE", f"{path}/{made['id']}", "alice") == (204, None)
        assert (await gateway.ask("GET", PATH, token=made["token"]))[0] == 401
        listed = {one["id"]: one for one in (await gateway.get(path, "alice"))["tokens"]}
        assert listed[made["id"]]["state"].startswith("revoked 20")
        assert [line["token"] for line in gateway.audited("token-revoked")] == [made["id"]]


@asynchronous
async def test_a_token_that_is_made_with_another_is_no_way_round_the_groups_quotas(state):
    async with quiet_gateway(state, quotas={"groups": {"physics": {"clusters": 1}}}) as gateway:
        scopes = ("read", "clusters", "tokens")
        hubs = gateway.tokens.create("alice", "hub", scopes=scopes, groups=("physics",), now=time.time())[1]
        made = (await gateway.ask("POST", "/api/sciplat/tokens", token=hubs, body={"name": "made"}))[1]["token"]
        assert (await gateway.ask("POST", "/api/v1/clusters/", token=hubs, body={}))[0] == 201
        status, found = await gateway.ask("POST", "/api/v1/clusters/", token=made, body={})
        assert (status, "group physics" in found["error"]) == (422, True)


@asynchronous
async def test_a_token_cannot_make_one_that_opens_more(state):
    async with quiet_gateway(state) as gateway:
        path, small = "/api/sciplat/tokens", gateway.token("alice", "read", "tokens")
        good = {"name": "x", "scopes": ["read"], "lifetime": 60}
        assert (await gateway.ask("POST", path, body=good, token=small))[0] == 200
        for wrong in ({"scopes": ["clusters"]}, {"scopes": ["read", "admin"]}, {"scopes": "read"}, {"scopes": [1]},
                      {"scopes": []}, {"lifetime": None}, {"lifetime": 1e9}, {"lifetime": True}, {"lifetime": "1 d"},
                      {"lifetime": -1}, {"name": None}, {"name": "\n"}):  # fmt: skip
            assert (await gateway.ask("POST", path, body={**good, **wrong}, token=small))[0] == 422, wrong
        assert (await gateway.ask("POST", path, body=[1], token=small))[0] == 422
        assert (await gateway.ask("POST", path, token=small))[0] == 422
        beyond = {**good, "scopes": ["admin"]}
        assert (await gateway.ask("POST", path, "alice", beyond))[0] == 422  # the scope alone makes no admin
        assert (await gateway.ask("POST", path, "admin", beyond))[0] == 200
        assert (await gateway.ask("POST", path, body=good, token=gateway.token("alice", "read", "clusters")))[0] == 403


@pytest.mark.parametrize("path", ["/health", "/api/sciplat/health"])
def test_health_tells_anybody_what_works(state, path):
    @asynchronous
    async def ask():
        proxy = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
        port = proxy.sockets[0].getsockname()[1]
        async with quiet_gateway(state, address=f"{HOST}:{port}") as gateway:
            status, well = await gateway.ask("GET", path)
            assert (status, well["status"]) == (200, "pass")
            assert set(well["checks"].values()) == {"pass"}
            proxy.close()
            await proxy.wait_closed()
            status, warned = await gateway.ask("GET", path)
            assert (status, warned["status"], warned["checks"]["proxy"]) == (200, "warn", "warn")
            ledger = state / "ledger.sqlite"
            gateway.backend.ledger.close()
            for file in state.glob("ledger.sqlite*"):
                file.unlink()
            ledger.mkdir()
            status, failed = await gateway.ask("GET", path)
            assert (status, failed["status"], failed["checks"]["ledger"]) == (503, "fail", "fail")

    ask()

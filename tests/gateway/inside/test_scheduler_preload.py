"""What a scheduler tells the gateway: workers, ends, idleness; real schedulers, workers and HTTP."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from dask_gateway.scheduler_preload import GatewayClient
from distributed import Client, Scheduler, Worker

from sciplat.gateway.inside import scheduler_preload
from sciplat.gateway.inside.scheduler_preload import Bell, SiteSchedulerService
from sciplat.gateway.inside.versions import installed_versions
from tests.gateway.bare_cluster import HOST, NAME, TOKEN, BareCluster, Gateway, until

IDLE = 0.6  # seconds


@pytest.fixture
def gateway():
    gateway = Gateway()
    yield gateway
    gateway.close()


@asynccontextmanager
async def scheduling(gateway, **options):
    """A scheduler in this process, its part of the gateway, and a client."""
    async with Scheduler(host=HOST, port=0, dashboard=False, dashboard_address=f"{HOST}:0") as scheduler:
        options = {"heartbeat_period": 0.1, "adaptive_period": 0.05, **options}
        service = SiteSchedulerService(scheduler, gateway=GatewayClient(NAME, TOKEN, gateway.url), **options)
        service.listen((HOST, 0))
        async with Client(scheduler.address, asynchronous=True, set_as_default=False) as client:
            yield scheduler, service, client
        service.stop()


def worker(scheduler, name, **metrics):
    """Return a worker in this process that tells when it leaves and ends."""
    told = {key: lambda _, value=value: value for key, value in metrics.items()}
    return Worker(
        scheduler.address,
        name=name,
        nthreads=1,
        metrics=told,
        dashboard=False,
        dashboard_address=f"{HOST}:0",
        host=HOST,
    )


async def become(condition, seconds=10.0):
    """Wait until something is true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (what becomes true is dask's)
            await asyncio.sleep(0.01)


async def hold(path):
    """Run until a file appears; a task on a worker's event loop."""
    while not path.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def test_a_heartbeat_tells_versions_ends_and_addresses(gateway):
    async def scenario():
        async with scheduling(gateway) as (scheduler, service, _):
            service.count = 2
            async with worker(scheduler, "a", ends=2e9, leaves=1.9e9), worker(scheduler, "b"):
                await become(lambda: gateway.heartbeats and len(gateway.last()["active_workers"]) == 2)
                return gateway.last(), scheduler.address

    beat, address = asyncio.run(scenario())
    assert beat["scheduler_address"] == address
    assert beat["versions"] == installed_versions()
    assert beat["ends"] == {"a": 2e9}
    assert beat["active_workers"] == ["a", "b"]
    assert beat["closing_workers"] == beat["closed_workers"] == []


def test_a_worker_whose_end_comes_near_is_told_as_closing_while_it_still_works(gateway, tmp_path):
    async def scenario():
        async with scheduling(gateway, heartbeat_period=60) as (scheduler, service, client):
            service.count = 1
            leaves = time.time() + 0.5
            async with worker(scheduler, "a", ends=leaves + 10, leaves=leaves):
                running = client.submit(hold, tmp_path / "done")
                await become(lambda: gateway.heartbeats and gateway.last()["closing_workers"] == ["a"])
                assert time.time() >= leaves
                assert not running.done()
                assert gateway.last()["active_workers"] == []
                assert gateway.last()["count"] == 1
                (tmp_path / "done").touch()
                await running

    asyncio.run(scenario())


def test_a_worker_that_left_unannounced_is_told_as_closing_before_it_is_told_as_closed(gateway):
    async def scenario():
        async with scheduling(gateway) as (scheduler, service, _):
            service.count = 1
            await become(lambda: gateway.heartbeats)
            service.heartbeat_task.cancel()
            async with worker(scheduler, "a", leaves=0.0):
                pass
            await service.heartbeat()
            await service.heartbeat()
            await service.heartbeat()

    asyncio.run(scenario())
    told = [(beat["closing_workers"], beat["closed_workers"]) for beat in gateway.heartbeats[-3:]]
    assert told == [(["a"], ["a"]), ([], ["a"]), ([], [])]


def test_a_worker_that_fails_is_told_as_closed_at_once(gateway):
    async def scenario():
        async with scheduling(gateway, heartbeat_period=60) as (scheduler, service, _):
            service.count = 1
            async with worker(scheduler, "a"):
                await become(lambda: gateway.heartbeats and gateway.last()["active_workers"])
            await become(lambda: gateway.last()["closed_workers"] == ["a"])
            assert gateway.last()["closing_workers"] == []

    asyncio.run(scenario())


def test_of_too_many_workers_an_idle_one_closes_and_the_leaving_one_does_not_count(gateway, tmp_path):
    async def scenario():
        async with scheduling(gateway) as (scheduler, service, client):
            await service.scale(2)
            async with worker(scheduler, "leaving", leaves=0.0), worker(scheduler, "a"), worker(scheduler, "b"):
                running = client.submit(hold, tmp_path / "done", workers=["a"])
                await become(lambda: scheduler.workers_to_close(n=3) and running.status == "pending")
                await become(lambda: any(ws.processing for ws in scheduler.workers.values()))
                await service.scale(1)
                await become(lambda: gateway.last()["closing_workers"] == ["b", "leaving"])
                assert gateway.last()["active_workers"] == ["a"]
                await become(lambda: {ws.name for ws in scheduler.workers.values()} == {"leaving", "a"})
                (tmp_path / "done").touch()
                await running
        closing = next(i for i, beat in enumerate(gateway.heartbeats) if "b" in beat["closing_workers"])
        assert all("b" not in beat["closed_workers"] for beat in gateway.heartbeats[: closing + 1])

    asyncio.run(scenario())


def test_adaptive_clusters_give_a_busy_leaving_worker_one_successor_and_an_idle_one_none(gateway, tmp_path):
    async def scenario():
        async with scheduling(gateway) as (scheduler, service, client):
            await service.adapt(minimum=0, maximum=5)
            running = client.submit(hold, tmp_path / "done")
            await become(lambda: service.count == 1)  # the work asks for one
            leaves = time.time() + 0.6
            async with worker(scheduler, "a", leaves=leaves):
                await become(lambda: gateway.last()["closing_workers"] == ["a"])
                async with worker(scheduler, "successor"):
                    await become(lambda: gateway.last()["active_workers"] == ["successor"])
                    await asyncio.sleep(0.5)  # ten looks
                    since = [beat["count"] for beat in gateway.heartbeats if beat["closing_workers"] == ["a"]]
                    assert set(since) == {1}
                    (tmp_path / "done").touch()
                    await running
                    del running
                    await become(lambda: service.count == 0)

    asyncio.run(scenario())


def test_adaptive_limits_hold_for_workers_that_stay(gateway, tmp_path):
    async def scenario():
        async with scheduling(gateway) as (scheduler, service, client):
            await service.adapt(minimum=1, maximum=2)
            await become(lambda: service.count == 1)
            running = client.map(hold, [tmp_path / f"done-{k}" for k in range(40)], pure=False)
            await become(lambda: service.count == 2)
            async with worker(scheduler, "a", leaves=0.0), worker(scheduler, "b"), worker(scheduler, "c"):
                await become(lambda: gateway.last()["active_workers"] == ["b", "c"])
                await asyncio.sleep(0.3)
                assert service.count == 2
            await client.cancel(running)
            await become(lambda: service.count == 1)

    asyncio.run(scenario())


def test_heartbeats_go_on_while_a_worker_cannot_hand_on_what_it_holds(gateway):
    async def scenario():
        async with scheduling(gateway) as (scheduler, service, client):
            await service.scale(1)
            async with worker(scheduler, "a"):
                kept = client.submit(sum, [1, 2])
                await kept
                await service.scale(0)
                await become(lambda: gateway.last()["closing_workers"] == ["a"])
                heard = len(gateway.heartbeats)
                await become(lambda: len(gateway.heartbeats) > heard + 3)
                assert await kept == 3  # nobody could take it, so it has stayed
                del kept
                await become(lambda: not scheduler.workers)

    asyncio.run(scenario())


def test_a_cluster_is_not_idle_while_workers_queue_or_tasks_run_and_stops_after_the_last_one(tmp_path):
    with BareCluster(tmp_path, "--dg-idle-timeout", str(IDLE)) as cluster:
        gateway = cluster.gateway
        cluster.ask(op="scale", count=1)
        queued = len(gateway.heartbeats)
        time.sleep(2 * IDLE)
        assert gateway.heartbeats[-1]["quiet_since"] < time.time() - IDLE  # no task has come: only the queue counts
        assert len(gateway.heartbeats) > queued + 1
        assert not gateway.stopped
        cluster.start_worker("a")
        with cluster.client() as client:
            client.submit(time.sleep, 2 * IDLE).result()
        done = time.time()
        assert not gateway.stopped
        until(lambda: gateway.stopped)
        assert gateway.stopped[0] >= done + IDLE - 0.5  # dask notices the end of a task up to 0.25 s late, not early


def test_a_cluster_that_nobody_asks_for_workers_is_idle_and_asks_again_when_the_gateway_does_not_hear(gateway):
    async def scenario():
        async with scheduling(gateway, idle_timeout=0.3) as (_, service, _):
            heard, service.gateway.token = service.gateway.token, "another"
            await become(lambda: service.idle_since() is not None and time.time() - service.idle_since() > 0.6)
            assert not gateway.stopped
            service.gateway.token = heard
            await become(lambda: gateway.stopped)

    asyncio.run(scenario())


def test_a_cluster_that_the_gateway_does_not_know_any_more_ends_with_its_workers(gateway, monkeypatch):
    monkeypatch.setitem(scheduler_preload._PATIENCE, 409, 0.6)

    async def scenario():
        async with scheduling(gateway) as (scheduler, service, client), worker(scheduler, "a") as only:
            service.count = 1
            await become(lambda: gateway.heartbeats and gateway.last()["active_workers"] == ["a"])
            gateway.denial = 404  # as a proxy that has just begun
            await asyncio.sleep(1.5)
            gateway.denial, heard = None, len(gateway.heartbeats)
            await become(lambda: len(gateway.heartbeats) > heard)
            await client.close()
            gateway.denial, denied = 409, time.monotonic()
            async with asyncio.timeout(10):
                await scheduler.finished()
                await only.finished()
            assert time.monotonic() - denied > 0.6

    asyncio.run(scenario())


def test_a_bell_keeps_a_ring_that_came_while_nobody_waited():
    async def scenario():
        bell = Bell()
        await bell.interrupt()
        async with asyncio.timeout(1):
            await bell.wait(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bell.wait(60)  # rung once, it wakes once
        await bell.wait(0.01)

    asyncio.run(scenario())


def test_a_scheduler_that_cannot_be_guarded_ends_instead_of_answering_everybody(tmp_path):
    cluster = BareCluster(tmp_path, DASK_GATEWAY_API_TOKEN="")
    try:
        assert cluster.processes["scheduler"].wait(timeout=15) == 1
        assert "DASK_GATEWAY_API_TOKEN" in cluster.log("scheduler")
    finally:
        cluster.close()

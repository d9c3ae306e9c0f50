"""What the backend makes of wishes, heartbeats and mishaps, whatever runs the clusters."""

import asyncio
import sqlite3

from dask_gateway_server.backends.db_base import JobStatus

from sciplat.gateway.backends.agree import make_agree
from tests.gateway.identity_scene import asynchronous
from tests.gateway.quiet_gateway import quiet_gateway, until

OVER = {"status": JobStatus.STOPPED, "target": JobStatus.STOPPED}


async def running(gateway, workers=0):
    """Return a cluster of alice's that runs, with workers that run."""
    cluster = await gateway.cluster("alice")
    await until(lambda: cluster.status == JobStatus.SUBMITTED)
    await gateway.beat(cluster, workers)
    await until(lambda: len(submitted(cluster)) == workers)
    await gateway.beat(cluster, workers, active=cluster.workers)
    return cluster


def submitted(cluster):
    return [worker for worker in cluster.workers.values() if worker.status >= JobStatus.SUBMITTED]


def held(gateway):
    """Return the open leases, by cluster and worker."""
    return {(one.lease.cluster, one.lease.name) for one in gateway.backend.ledger.open_leases()}


@asynchronous
async def test_many_workers_are_made_a_few_at_a_time_and_others_have_their_turn(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster = await running(gateway)
        seen = set()
        await gateway.beat(cluster, 60)
        while len(submitted(cluster)) < 60:
            seen.add(len(cluster.workers))
            await asyncio.sleep(0)
        assert seen - {0, 60}
        assert len(cluster.workers) == 60
        assert len(held(gateway)) == 61


@asynchronous
async def test_a_cluster_is_heard_while_one_of_its_workers_is_being_stopped(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster = await running(gateway, 2)
        first, second = cluster.workers
        stopping, go_on = asyncio.Event(), asyncio.Event()

        async def stop_slowly(worker):
            stopping.set()
            await go_on.wait()

        gateway.backend.do_stop_worker = stop_slowly
        await gateway.beat(cluster, 1, active=[second], closed_workers=[first])
        await stopping.wait()
        await gateway.beat(cluster, 1, active=[second])
        assert (cluster.name, first) in held(gateway)
        go_on.set()
        await until(lambda: cluster.workers[first].status >= JobStatus.STOPPED)
        assert (cluster.name, first) not in held(gateway)


@asynchronous
async def test_a_worker_that_could_not_close_and_is_wanted_again_keeps_its_place(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster = await running(gateway, 1)
        [only] = cluster.workers
        await gateway.beat(cluster, 0, closing_workers=[only])
        await gateway.beat(cluster, 1, active=[only])
        await gateway.backend.reconcile_cluster(cluster)
        assert list(cluster.workers) == [only]


@asynchronous
async def test_bounds_the_wrong_way_round_are_refused(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster = await running(gateway)
        path = f"/api/v1/clusters/{cluster.name}/adapt"
        status, answer = await gateway.ask("POST", path, "alice", {"minimum": 5, "maximum": 3})
        assert (status, answer) == (409, {"error": "at least 5 workers are more than at most 3"})


@asynchronous
async def test_a_silent_cluster_ends_unless_it_was_the_gateway_that_stood_still(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster, backend = await running(gateway), gateway.backend
        hour = 3_600_000
        cluster.last_heartbeat -= hour
        backend._looked -= hour  # as when a laptop has slept
        await backend._check_timeouts()
        assert cluster.target == JobStatus.RUNNING
        cluster.last_heartbeat -= hour
        await backend._check_timeouts()
        assert cluster.target == JobStatus.FAILED


@asynchronous
async def test_a_scheduler_that_runs_and_does_not_report_is_given_up_with_the_reason(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster, backend = await gateway.cluster("alice"), gateway.backend
        backend.logs[""] = ["Failed to send heartbeat"]
        await until(lambda: cluster.status == JobStatus.SUBMITTED)
        await backend.fail_mute(cluster, 20.0)
        assert cluster.target == JobStatus.RUNNING
        await backend.fail_mute(cluster, 301.0)
        await until(lambda: cluster.status == JobStatus.FAILED)
        assert cluster.state["reason"] == (
            f"its scheduler has run for 5 min and not reported to {backend.api_url}: Failed to send heartbeat"
        )


@asynchronous
async def test_ledger_and_database_come_to_agree_again(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster, backend = await running(gateway, 2), gateway.backend
        first, second = cluster.workers.values()
        backend.ledger.ended(cluster.name, first.name)
        backend.db.update_worker(second, **OVER)
        forgotten = backend.db.create_worker(cluster)  # as by a gateway that was killed before the grant
        leaving = backend.db.create_worker(cluster)
        backend.db.update_worker(leaving, status=JobStatus.RUNNING)
        await make_agree(backend)
        backend.db.update_worker(leaving, target=JobStatus.STOPPED)
        await make_agree(backend)
        parts = {"", first.name, forgotten.name, leaving.name}
        assert held(gateway) == {(cluster.name, part) for part in parts}
        await until(lambda: forgotten.status == JobStatus.SUBMITTED)


@asynchronous
async def test_a_ledger_that_fails_is_told_and_leaves_nothing_behind(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster, state = await running(gateway, 1), gateway.site.state
        with sqlite3.connect(state / "ledger.sqlite") as ledger:
            ledger.execute("ALTER TABLE leases RENAME TO away")
        status, answer = await gateway.ask("POST", "/api/v1/clusters/", "alice", {"cluster_options": {}})
        assert (status, answer) == (
            503,
            {"error": "the ledger does not answer: no such table: leases (try: is its database up?)"},
        )
        await gateway.ask("DELETE", f"/api/sciplat/clusters/{cluster.name}", "alice")
        await until(lambda: cluster.status == JobStatus.STOPPED)
        with sqlite3.connect(state / "ledger.sqlite") as ledger:
            ledger.execute("ALTER TABLE away RENAME TO leases")
        assert len(held(gateway)) == 2
        await make_agree(gateway.backend)
        assert held(gateway) == set()
        assert gateway.backend.db.list_clusters() == []

"""Clusters whose workers end as soon as they are there: new ones come ever later."""

import pytest

from sciplat.gateway.backends.churn import Churn
from tests.gateway.backends.test_backend import running
from tests.gateway.identity_scene import asynchronous
from tests.gateway.quiet_gateway import quiet_gateway, until


def beat(count, active=(), closing=(), closed=()):
    names = {"active_workers": active, "closing_workers": closing, "closed_workers": closed}
    return {"count": count, **{key: [one.name for one in workers] for key, workers in names.items()}}


@pytest.fixture
def make(tmp_path):
    """Run a test with a new worker maker and what is told of it."""

    def run(test):
        @asynchronous
        async def scene():
            async with quiet_gateway(tmp_path / "state") as gateway:
                cluster = await running(gateway)
                test(cluster, lambda: gateway.backend.db.create_worker(cluster))

        scene()

    return run


def end(cluster, worker, churn, joined, left, *, count=1, told="closed"):
    """Let a worker join and leave, and return for how long its cluster waits then."""
    churn.look(cluster, beat(count, active=[worker]), joined)
    churn.look(cluster, beat(count, **{told: [worker]}), left)
    cluster.workers.pop(worker.name)
    return churn.wait(cluster.name, left)


@pytest.mark.parametrize("told", ["closed", "closing"])
def test_who_ends_within_seconds_is_replaced_ever_later_until_one_lives(make, told):
    def test(cluster, worker):
        churn, now, waits = Churn(), 1000.0, []
        for _ in range(8):
            waits.append(end(cluster, worker(), churn, now, now + 2, told=told))
            now += 2 + waits[-1]
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        assert end(cluster, worker(), churn, now, now + 11) == 0
        assert end(cluster, worker(), churn, now + 12, now + 13) == 1
        assert end(cluster, worker(), churn, now + 900, now + 901) == 1  # long ago

    make(test)


def test_ends_together_count_once_and_who_is_not_wanted_not_at_all(make):
    def test(cluster, worker):
        churn, several = Churn(), [worker() for _ in range(5)]
        churn.look(cluster, beat(5, active=several), 1000.0)
        churn.look(cluster, beat(2, active=several[:2], closing=several[2:]), 1001.0)
        assert churn.wait(cluster.name, 1001.0) == 0
        churn.look(cluster, beat(5, closed=several), 1001.0)
        assert churn.wait(cluster.name, 1001.0) == 1
        churn.forget(cluster.name)
        assert churn.wait(cluster.name, 1001.0) == 0

    make(test)


@asynchronous
async def test_a_cluster_that_churns_gets_its_next_worker_after_the_wait(tmp_path):
    async with quiet_gateway(tmp_path / "state") as gateway:
        cluster = await running(gateway, 1)
        [first] = cluster.workers
        await gateway.beat(cluster, 1, closed_workers=[first])
        assert gateway.backend.churn.wait(cluster.name, 0.0) > 0
        await gateway.backend.reconcile_cluster(cluster)
        assert list(cluster.workers) == [first]
        await until(lambda: len(cluster.workers) == 2)

"""How a worker begins and ends: real workers of a real scheduler, and the walltime of a batch job that is short."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import dask
import pytest
from distributed import Client, Scheduler, Worker
from distributed.core import Status

from sciplat.gateway.inside.worker_preload import Lifetime, _copy_cache, _leave
from sciplat.ingest.images import ingest_images
from sciplat.sky.cell import Cell
from tests import sky_scene
from tests.gateway.bare_cluster import HOST, BareCluster, until
from tests.gateway.bare_tasks import finish, is_warming_up, last_for_ever_once, name_and_time


@pytest.mark.parametrize(
    ("walltime", "notice", "grace"),
    [(12, 10, 3), (60, 15, 3), (240, 60, 12), (7200, 120, 20), (604800, 120, 20)],
)
def test_notice_and_grace_follow_the_walltime_within_limits(walltime, notice, grace):
    lifetime = Lifetime(1000.0, 1000.0 + walltime)
    assert lifetime.ends - lifetime.leaves == notice
    assert lifetime.ends - lifetime.last == grace


def count_suspicious(dask_scheduler):
    """Return how often tasks were suspected of having ended their worker; runs on the scheduler."""
    return sum(prefix.suspicious for prefix in dask_scheduler.task_prefixes.values())


def test_workers_leave_before_their_jobs_end_and_a_stream_of_tasks_loses_nothing(tmp_path):
    begun = time.time()
    with BareCluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as cluster:
        cluster.ask(op="scale", count=2)
        now = time.time()
        start = max(4.0, 8 * (now - begun))  # seconds that a worker may take to start: as the scheduler did, and more
        ends = {"a": now + start + 10, "b": now + start + 11}  # they leave 10 s before, and go at the latest 3 s before
        for name, end in ends.items():
            cluster.start_worker(name, ends=end)
        with cluster.client() as client:
            client.wait_for_workers(2, timeout=20)
            assert time.time() < min(ends.values()) - 10.5, "the machine is too slow for this test"
            stream = client.map(name_and_time, range(300), folder=str(tmp_path), pure=False)
            pinned = {"allow_other_workers": True, "priority": 10, "pure": False}
            finishing = client.submit(finish, ends["a"] - 9.0 - time.time(), workers=["a"], **pinned)
            endless = client.submit(last_for_ever_once, str(tmp_path), workers=["b"], **pinned)
            until(lambda: cluster.gateway.last()["closing_workers"] == ["a"])
            assert time.time() < ends["a"] - 3
            cluster.start_worker("c")  # as the gateway does when it hears that
            assert finishing.result(timeout=20)[0] == "a"  # what could end in time has
            assert cluster.processes["a"].wait(timeout=20) == 0
            assert time.time() < ends["a"]
            assert endless.result(timeout=30) == "c"  # what could not is done elsewhere, before the batch system acts
            assert ends["b"] - 3.5 < time.time() < ends["b"]
            assert (tmp_path / "begun").read_text() == "b"
            done = client.gather(stream)
            assert len(done) == 300
            assert {name for name, _ in done} == {"a", "b", "c"}
            assert (tmp_path / "runs").stat().st_size <= 300 + 2  # results were handed on, not made again
            assert all(begun < ends[name] - 8 for name, begun in done if name in ends)
            assert client.run_on_scheduler(count_suspicious) == 0
            told = [beat for beat in cluster.gateway.heartbeats if "b" in beat["closing_workers"]]
            assert told
            assert all("b" not in beat["active_workers"] for beat in told)
            assert "No private folder" in cluster.log("c")  # so that nothing was compiled beforehand
            assert told[0]["ends"]["b"] == pytest.approx(ends["b"], abs=0.01)


@asynccontextmanager
async def leaving(*, after, last):
    """A scheduler, its client, and a worker that begins to leave, and goes at last, after some seconds."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        scheduler = Scheduler(host=HOST, port=0, dashboard=False, dashboard_address=f"{HOST}:0")
    async with scheduler, Client(scheduler.address, asynchronous=True, set_as_default=False) as client:
        worker = await in_process(scheduler, "a")
        lifetime = Lifetime(0.0, 0.0)
        lifetime.leaves, lifetime.last = time.time() + after, time.time() + last
        task = asyncio.ensure_future(_leave(worker, lifetime))
        yield scheduler, client, worker
        await task
        await worker.close()


async def in_process(scheduler, name):
    """Start a worker in this process."""
    return await Worker(
        scheduler.address, name=name, nthreads=1, host=HOST, dashboard=False, dashboard_address=f"{HOST}:0"
    )


def test_the_last_worker_keeps_its_results_until_another_one_takes_them():
    async def scenario():
        async with leaving(after=0.3, last=15) as (scheduler, client, worker):
            kept = client.submit(name_and_time, 0)
            assert (await kept)[0] == "a"
            await asyncio.sleep(1.5)  # it has tried to go
            assert worker.status == Status.closing_gracefully
            assert set(scheduler.workers) == {worker.address}
            successor = await in_process(scheduler, "b")
            async with asyncio.timeout(10):
                await worker.finished()
            assert (await kept)[0] == "a"  # it was not run again
            await successor.close()

    asyncio.run(scenario())


def test_a_worker_that_cannot_finish_goes_in_time_and_its_task_waits_for_another_one_unsuspected():
    async def scenario():
        async with leaving(after=0.3, last=1.5) as (scheduler, client, worker):
            endless = client.submit(asyncio.sleep, 600)
            async with asyncio.timeout(8):
                await worker.finished()
            assert count_suspicious(scheduler) == 0
            assert [ts.key for ts in (*scheduler.unrunnable, *scheduler.queued)] == [endless.key]

    asyncio.run(scenario())


def test_a_worker_that_the_scheduler_closes_first_just_goes():
    async def scenario():
        async with leaving(after=0.6, last=30) as (scheduler, _, worker):
            await scheduler.retire_workers(workers=[worker.address], close_workers=True)
            async with asyncio.timeout(5):
                await worker.finished()

    asyncio.run(scenario())


def test_the_first_task_runs_before_the_warm_up_has_ended_and_the_cache_is_private(tmp_path):
    top = tmp_path / "kernels"
    with BareCluster(tmp_path) as cluster:
        cluster.ask(op="scale", count=1)
        cluster.start_worker("a", SCIPLAT_KERNEL_CACHE=str(top))  # with nothing in it the warm-up takes many seconds
        with cluster.client() as client:
            assert client.submit(is_warming_up, 0).result(timeout=30)
            until(lambda: top.exists() and list(top.glob("*/*/*.nbi")))
            modes = {path.stat().st_mode & 0o777 for path in (top, *top.glob("*"))}
            assert modes == {0o700}


PLANS = """
import sys
import sciplat
from sciplat.gateway.inside.worker_preload import warm_up

def compiled():
    modules = {name: module for name, module in sys.modules.items() if name.startswith("sciplat.kernels.")}
    kernels = {(name, key): kernel for name, module in modules.items() for key, kernel in vars(module).items()}
    return {(*key, str(one)) for key, kernel in kernels.items() for one in getattr(kernel, "signatures", ())}

warm_up()
before = compiled()
catalog, images = sciplat.open_catalog(sys.argv[1]), sciplat.open_images(sys.argv[2])
found = images.photometry(catalog, radii=["2 arcsec", "5 pix"], annulus=("6 pix", "9 pix")).compute()
matched = catalog.crossmatch(catalog, radius="1 arcsec").compute()
print(len(before) > 0, len(found) > 0, len(matched) > 0, sorted(compiled() - before))
"""


def test_the_warm_up_compiles_all_that_photometry_and_crossmatches_need(tmp_path):
    table = sky_scene.sources(5)
    sky_scene.write_catalog(tmp_path / "catalog", table, [Cell(0, k) for k in range(12)])
    images = ingest_images(sky_scene.write_images(tmp_path / "fits"), tmp_path / "images")
    assert len(images)
    command = [sys.executable, "-c", PLANS, str(tmp_path / "catalog"), str(tmp_path / "images")]
    said = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"NUMBA_NUM_THREADS": "1"}
    )
    assert said.stdout.splitlines()[-1:] == ["True True True []"], said.stderr


@pytest.fixture
def compiled(tmp_path):
    """A site's copy of compiled kernels, and the empty folder of a user that it is for."""
    site, cache = tmp_path / "site", tmp_path / "user" / "0123" / "kernels_abc"
    source = site / "0123" / "kernels_abc"
    source.mkdir(parents=True)
    cache.mkdir(parents=True)
    for name in ("wcs.tan.nbi", "wcs.tan.1.nbc"):
        (source / name).write_bytes(name.encode())
    (source / "notes").touch()
    for path in (site, source.parent, source, *source.iterdir()):
        path.chmod(path.stat().st_mode & ~0o022)
    return site, source, cache


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_compiled_kernels_of_the_site_are_copied_into_the_private_folder(compiled):
    site, _, cache = compiled
    _copy_cache(site, cache)
    assert names(cache) == ["wcs.tan.1.nbc", "wcs.tan.nbi"]
    assert (cache / "wcs.tan.nbi").read_bytes() == b"wcs.tan.nbi"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert names(cache.parent) == ["kernels_abc"]


def test_kernels_that_others_could_have_written_are_not_taken(compiled):
    site, source, cache = compiled
    for path in (site, source, source / "wcs.tan.nbi"):
        mode = path.stat().st_mode
        for open_to in (0o020, 0o002):
            path.chmod(mode | open_to)
            _copy_cache(site, cache)
            assert names(cache) == []
        path.chmod(mode)
    (source / "wcs.tan.nbi").rename(site / "elsewhere")
    (source / "wcs.tan.nbi").symlink_to(site / "elsewhere")
    _copy_cache(site, cache)
    assert names(cache) == []


def test_a_folder_that_holds_kernels_already_is_left_as_it_is(compiled):
    site, _, cache = compiled
    (cache / "wcs.tan.2.nbc").touch()
    _copy_cache(site, cache)
    assert names(cache) == ["wcs.tan.2.nbc"]
    assert names(cache.parent) == ["kernels_abc"]


def test_a_site_without_kernels_for_this_environment_changes_nothing(compiled):
    site, _, cache = compiled
    _copy_cache(site.parent / "nowhere", cache)
    assert names(cache) == []

"""The tasks of a match: what they read and tell, on threads and on a cluster, and after their process was killed."""

import multiprocessing
import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster

import sciplat
from sciplat.io.staging import staging_areas
from sciplat.io.storage import LocalStorage
from sciplat.sky.cell import Cell
from sciplat.tasks.task import without_tally
from tests.lazy.plan_process import content, left_over
from tests.match_scene import fixed_scene, left_table, publish, right_table
from tests.sky_scene import WHOLE_SKY

SEED = 20265
SMALL = [Cell(1, index) for index in range(48)]
ERRORS = {name: {"column": f"e_{name}", "unit": "arcsec"} for name in ("ra", "dec")}
PLANS = {
    "nearest": {"radius": "1 arcsec", "how": "left"},
    "mutual": {"radius": "1 deg", "find": "mutual", "how": "outer"},
    "all": {"radius": "20 arcmin", "find": "all", "how": "right"},
    "anti": {"radius": "1 arcsec", "how": "anti"},
    "probability": {"n_sigma": 5, "probability": True, "neighbours": 2, "how": "outer"},
}


def with_errors(table, smallest):
    """Return a table with two columns of errors, arcsec."""
    sizes = smallest * (1 + np.arange(table.num_rows) % 7 / 3)
    for name in ("e_ra", "e_dec"):
        table = table.append_column(name, pa.array(sizes))
    return table


def plan_of(name, folder):
    left, right = (sciplat.open_catalog(folder / side) for side in ("left", "right"))
    return left.crossmatch(right, **PLANS[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two catalogs of a scene, one of small cells."""
    made, scene = tmp_path_factory.mktemp("stores"), fixed_scene()
    publish(made / "left", with_errors(left_table(scene.left), 0.1), SMALL, id="source_id", errors=ERRORS)
    publish(made / "right", with_errors(right_table(scene.right), 0.2), WHOLE_SKY, errors=ERRORS)
    return made


@pytest.fixture(scope="module")
def local(folder, tmp_path_factory):
    """Return a function that gives the result of a plan on threads, written once."""
    stores, written = tmp_path_factory.mktemp("threads"), {}

    def result(name):
        if name not in written:
            written[name] = plan_of(name, folder).write(stores / name)
        return written[name]

    return result


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0") as made,
        Client(made) as client,
    ):
        yield client


def tallies(plan):
    """Return what the tasks of all cells tell of their left rows."""
    return [without_tally(plan.node.task(cell).run())[1]["completeness"] for cell in plan.cells]


@pytest.mark.parametrize("name", PLANS)
def test_tasks_tell_of_all_left_rows_once(folder, local, name):
    plan = plan_of(name, folder)
    told, report = tallies(plan), local(name).report["completeness"]
    sums = {key: sum(each[key] for each in told) for key in told[0]}
    assert sums["matched"] + sums["unmatched"] + sums["out_of_coverage"] == sums["rows"]
    assert report["rows"] == len(sciplat.open_catalog(folder / "left"))
    assert (report["matched"], report["unmatched"]) == (sums["matched"], sums["unmatched"])
    rows = local(name).compute()
    if name != "anti":
        pairs = rows.filter(pa.array([each is not None for each in rows["separation"].to_pylist()]))
        assert report["matched"] == len(set(pairs["source_id"].to_pylist())) > 20
    else:
        assert report["unmatched"] + report["out_of_coverage"] == rows.num_rows > 0


def test_what_a_task_gives_has_the_plan_s_schema_and_travels(folder):
    plan = plan_of("probability", folder)
    for cell in plan.cells[::3]:
        task = plan.node.task(cell)
        table, _ = without_tally(task.run())
        assert table.schema.equals(plan.schema, check_metadata=True)
        assert pickle.loads(pickle.dumps(task)).run().equals(task.run())
        assert task.cell == cell


@pytest.mark.parametrize(("how", "reads"), [("inner", False), ("left", False), ("anti", False), ("outer", True)])
def test_right_rows_are_not_read_where_no_left_row_needs_them(folder, tmp_path, how, reads):
    """The filter leaves no left row, and the files of the right catalog are gone."""
    right = sciplat.open_catalog(folder / "right").write(tmp_path / "right")
    left = sciplat.open_catalog(folder / "left").where("mag < 0")
    plan = left.crossmatch(right, radius="1 arcsec", how=how)
    cell = next(cell for cell in plan.cells if plan.node.task(cell).right)
    task = plan.node.task(cell)
    for file in (tmp_path / "right").rglob("Npix=*.parquet"):
        file.unlink()
    if reads:
        with pytest.raises(sciplat.errors.StoreCorrupt):
            task.run()
    else:
        assert without_tally(task.run())[0].num_rows == 0


@pytest.mark.parametrize("name", PLANS)
def test_workers_give_the_bits_that_threads_give(folder, local, cluster, tmp_path, name):
    remote = plan_of(name, folder).write(tmp_path / "store")
    assert content(tmp_path / "store") == content(Path(local(name).store.storage.url))
    assert remote.report["completeness"] == local(name).report["completeness"]
    rows = plan_of(name, folder).compute()
    assert rows.equals(local(name).compute())
    assert rows.schema.equals(local(name).compute().schema)


def write(name, folder, url):
    os.environ["SCIPLAT_THREADS"] = "2"
    plan_of(name, folder).write(url)


def records(url):
    return sum(1 for _ in url.glob(".staging/*/done-*"))


def test_after_a_kill_the_same_call_makes_the_same_store_and_the_same_report(folder, local, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "sciplat.kernels.crossmatch", "cdshealpix.nested"])
    rng, resumed = np.random.default_rng(SEED), 0
    for fault, name in enumerate(("mutual", "probability")):
        url = tmp_path / name
        process = context.Process(target=partial(write, name, folder, url))
        process.start()
        enough, end = int(rng.integers(1, 12)), time.monotonic() + 60
        while process.is_alive() and records(url) < enough:
            assert time.monotonic() < end
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        where = f"seed {SEED}, fault {fault} after {enough} records"
        assert process.exitcode == -signal.SIGKILL, where
        kept = sum(len(area.done().cells) for area in staging_areas(LocalStorage(url)))
        store = plan_of(name, folder).write(url)
        assert content(url) == content(Path(local(name).store.storage.url)), where
        assert left_over(url) == [], where
        assert store.report["completeness"] == local(name).report["completeness"], where
        assert store.report["cells_of_this_run"] == local(name).report["cells"] - kept, where
        resumed += kept
    assert resumed > 0
    print(f"seed {SEED}: 2 SIGKILL of a match, {resumed} cells kept, 0 lost, 0 wrong")

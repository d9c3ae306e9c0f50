"""Schedulers, workers and functions that fail under a plan on a Dask cluster: nothing is lost, errors are clear."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import sciplat
from sciplat.errors import ArgumentError, ClusterLost, IncompleteResult, StepError, TaskFailed
from sciplat.io.publish import version_numbers
from sciplat.io.staging import staging_areas
from sciplat.io.storage import LocalStorage
from sciplat.io.verify import verify_files
from sciplat.sky.cell import Cell, healpix_29
from sciplat.tasks import workers
from tests.sky_scene import write_catalog

SEED = 20262
ROOT = Path(__file__).parents[2]
CELLS = [*(Cell(1, index) for index in range(32)), *(Cell(2, index) for index in range(128, 192))]
BAD = CELLS[40]
LOOPBACK = ["--host", "127.0.0.1", "--no-dashboard"]


# --- functions of plans; they travel by name


def slow(table):
    time.sleep(0.03)
    return table


def is_bad(table):
    return BAD.start <= table["_healpix_29"][0].as_py() < BAD.stop


def die(mended, table):
    if is_bad(table) and not Path(mended).exists():
        os._exit(7)
    return table


def refuse(mended, table):
    if is_bad(table) and not Path(mended).exists():
        raise ValueError("no dark frame for this night")
    return table


def other_columns(mended, table):
    spoiled = is_bad(table) and not Path(mended).exists()
    return table.append_column("extra", table["source_id"]) if spoiled else table


def disconnect(count, times, table):
    """Fail on the bad cell until it has been tried more than `times` times."""
    if is_bad(table):
        tried = Path(count).read_text().count("x") if Path(count).exists() else 0
        with Path(count).open("a") as file:
            file.write("x")
        if tried < int(times):
            raise ConnectionError("the archive does not answer")
    return table


def long(started, table):
    if is_bad(table):
        Path(started).touch()
        time.sleep(2)
    return table


# --- clusters


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Return a catalog of 96 cells."""
    from pyarrow import array, table

    rng = np.random.default_rng(SEED)
    ra, dec = rng.uniform(0, 360, 2000), np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    index = healpix_29(ra, dec)
    rows = table({"_healpix_29": index, "source_id": np.arange(2000), "ra": ra, "dec": dec})
    folder = tmp_path_factory.mktemp("catalog") / "store"
    write_catalog(folder, rows.take(array(np.argsort(index))), CELLS)
    return sciplat.open_catalog(folder)


@pytest.fixture(scope="module")
def few(catalog):
    """Return the part of the catalog around the bad cell."""
    return catalog.within(sciplat.Moc(CELLS[38:44]))


def mapped(catalog, function, *arguments):
    step = functools.partial(function, *map(str, arguments)) if arguments else function
    return catalog.map(step, schema=catalog.schema)


@pytest.fixture(scope="module")
def nannies():
    """Return the client of a cluster of two workers whose processes nannies start again."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        yield client


class Site:
    """A scheduler and workers as processes of their own, as a batch system starts them."""

    def __init__(self, folder, **settings):
        self.file = folder / "scheduler.json"
        names = {f"DASK_DISTRIBUTED__{name}": str(value) for name, value in settings.items()}
        self.environment = os.environ | names | {"PYTHONPATH": str(ROOT)}
        self.processes = []
        self.scheduler = self._start("scheduler", *LOOPBACK, "--port", "0", "--scheduler-file", self.file)
        until(self.file.exists)
        self.address = json.loads(self.file.read_text())["address"]

    def worker(self, *options):
        return self._start("worker", self.address, *LOOPBACK, "--nthreads", "1", "--memory-limit", "1GiB", *options)

    def _start(self, *arguments):
        command = [sys.executable, "-m", "dask", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.file.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            kill(process)


def kill(process):
    """Kill a process with all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def site(folder, **settings):
    folder.mkdir()
    here = Site(folder, **settings)
    try:
        yield here
    finally:
        here.close()


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def done_at(url):
    return sum(len(area.done().cells) for area in staging_areas(LocalStorage(url)))


def check(store, expected):
    """Compare a store with the undisturbed one, and see that nothing lies beside it."""
    assert store.store.manifest.digest == expected.store.manifest.digest
    assert verify_files(store.store.storage, store.store.manifest) == []
    assert not (Path(store.store.storage.url) / ".staging").exists()


@pytest.fixture(scope="module")
def undisturbed(catalog, tmp_path_factory):
    """Return the result of every plan here, as none changes a row of a table that it does not refuse."""
    return catalog.select(*catalog.columns).write(tmp_path_factory.mktemp("undisturbed") / "store")


# --- schedulers


def test_a_lost_scheduler_is_named_at_once_and_the_plan_goes_on_elsewhere(tmp_path, catalog, undisturbed):
    plan, url, slowest, kept = mapped(catalog, slow), tmp_path / "store", 0.0, []
    for number, share in enumerate(sorted(np.random.default_rng(SEED).uniform(0, 0.7, 5))):
        with site(tmp_path / str(number)) as here:
            here.worker("--no-nanny")
            client = Client(here.address)
            until(client.nthreads)
            before = done_at(url)
            struck = threading.Event()

            def strike(here=here, share=share, struck=struck):
                until(lambda: done_at(url) >= share * len(CELLS))
                kill(here.scheduler)
                struck.at = time.monotonic()
                struck.set()

            killer = threading.Thread(target=strike)
            killer.start()
            with pytest.raises(ClusterLost, match=here.address.replace(".", r"\.")):
                plan.write(url)
            killer.join()
            slowest = max(slowest, time.monotonic() - struck.at)
            assert slowest < 10
            kept.append(done_at(url))
            assert kept[-1] >= before
            with suppress(TimeoutError):  # it still looks for the scheduler
                client.close(timeout=1)
    store = plan.write(url)
    check(store, undisturbed)
    assert store.report["cells_of_this_run"] == len(CELLS) - kept[-1]
    print(
        f"seed {SEED}: 5 SIGKILL of the scheduler, {kept[-1]} cells kept, 0 lost, 0 wrong, worst error {slowest:.2f} s"
    )


def test_a_plan_waits_for_the_first_worker(tmp_path, few):
    with site(tmp_path / "site") as here, Client(here.address):
        late = threading.Timer(2, here.worker, ["--no-nanny"])
        late.start()
        assert len(few.write(tmp_path / "store")) == len(few.compute())
        late.join()


def test_a_walltime_is_no_fault_of_the_task(tmp_path, few, monkeypatch):
    monkeypatch.setattr(workers, "_NANNY_RETURNS", 2.0)
    started, deaths = tmp_path / "started", 5
    with site(tmp_path / "site", SCHEDULER__ALLOWED_FAILURES=1) as here, Client(here.address):

        def batch_system():
            for _ in range(deaths):
                worker = here.worker()
                until(started.exists, 60)
                started.unlink()
                kill(worker)
            here.worker()

        jobs = threading.Thread(target=batch_system)
        jobs.start()
        store = mapped(few, long, started).write(tmp_path / "store", on_error="quarantine")
        jobs.join()
    assert store.report["quarantined"] == []
    assert store.report["retried"] == 0
    assert store.compute().equals(few.compute())
    print(f"{deaths} walltimes of one task, 0 lost, 0 quarantined")


# --- workers


def test_killed_workers_lose_nothing(tmp_path, catalog, nannies, undisturbed):
    url, faults = tmp_path / "store", 3

    def strike():
        for number in range(faults):
            until(lambda number=number: done_at(url) >= (number + 1) * 20 or version_numbers(LocalStorage(url)))
            pids = list(nannies.run(os.getpid).values())
            os.kill(pids[number % len(pids)], signal.SIGKILL)

    killer = threading.Thread(target=strike)
    killer.start()
    store = mapped(catalog, slow).write(url)
    killer.join()
    check(store, undisturbed)
    print(f"{faults} SIGKILL of a worker process, 0 lost, 0 wrong")


def test_a_task_that_ends_its_worker_is_set_aside(tmp_path, catalog, nannies, undisturbed):
    url, mended = tmp_path / "store", tmp_path / "mended"
    plan = mapped(catalog, die, mended)
    with pytest.warns(IncompleteResult, match=f"1 cells are missing, the first is {BAD}"):
        store = plan.write(url, on_error="quarantine")
    assert [cell for cell, _ in store.report["quarantined"]] == [str(BAD)]
    assert "ended its worker process" in store.report["quarantined"][0][1]
    assert store.report["cells"] == len(CELLS) - 1
    with pytest.raises(TaskFailed, match=f"cell {BAD} ended its worker process"):
        plan.write(url)
    mended.touch()
    whole = plan.write(url)
    assert whole.report["cells_of_this_run"] == 1
    assert whole.report["quarantined"] == []
    check(whole, undisturbed)


# --- functions


def test_a_function_that_cannot_travel_is_refused_before_anything_runs(few):
    lock = threading.Lock()

    def step(table):
        with lock:
            return table

    with pytest.raises(ArgumentError, match="lock"):
        few.map(step, schema=few.schema)


@pytest.mark.parametrize("function", [refuse, other_columns])
def test_a_cell_that_fails_is_named_and_set_aside(tmp_path, catalog, nannies, undisturbed, function):
    url, mended = tmp_path / "store", tmp_path / "mended"
    plan = mapped(catalog, function, mended)
    cause = {"refuse": "ValueError: no dark frame for this night", "other_columns": "not promised: extra"}
    with pytest.raises(StepError, match=f"{function.__name__}.* on cell {BAD}") as caught:
        plan.write(url)
    assert cause[function.__name__] in caught.value.found
    assert ("no dark frame" in caught.value.traceback) == (function is refuse)
    with pytest.warns(IncompleteResult, match=f"1 cells are missing, the first is {BAD}"):
        store = plan.write(url, on_error="quarantine")
    assert [cell for cell, _ in store.report["quarantined"]] == [str(BAD)]
    assert cause[function.__name__] in store.report["quarantined"][0][1]
    assert store.report["cells"] == len(CELLS) - 1
    mended.touch()
    whole = plan.write(url)
    assert (whole.version, whole.report["cells_of_this_run"], whole.report["quarantined"]) == (2, 1, [])
    check(whole, undisturbed)


def test_errors_that_may_pass_are_tried_three_times(tmp_path, few, nannies):
    store = mapped(few, disconnect, tmp_path / "twice", 2).write(tmp_path / "store")
    assert (tmp_path / "twice").read_text() == "xxx"
    assert store.report["retried"] == 2
    with pytest.raises(StepError, match=f"cell {BAD}") as caught:
        mapped(few, disconnect, tmp_path / "for ever", 9).write(tmp_path / "other")
    assert (tmp_path / "for ever").read_text() == "xxx"
    assert "ConnectionError: the archive does not answer" in caught.value.found

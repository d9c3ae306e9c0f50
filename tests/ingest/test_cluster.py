"""SIGKILL of workers of a Dask cluster during both passes of an ingest: the store is the one of undisturbed threads."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

import sciplat
from sciplat.io.publish import version_numbers
from sciplat.io.staging import staging_areas
from sciplat.io.storage import LocalStorage
from sciplat.tasks import workers
from tests.lazy.plan_process import content, left_over

SEED = 20266
FILES, ROWS = 40, 500
INGESTS, STRIKES = 2, 4


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Write many small files: a part of the input each."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(FILES):
        rng = np.random.default_rng(number)
        dec = np.degrees(np.arcsin(rng.uniform(-1, 1, ROWS)))
        table = pa.table({"id": np.arange(ROWS) + ROWS * number, "ra": rng.uniform(0, 360, ROWS), "dec": dec})
        pq.write_table(table, folder / f"{number:02d}.parquet")
    return folder


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    """Return what local threads make; no client is open yet."""
    assert workers.open_client() is None
    url = tmp_path_factory.mktemp("undisturbed") / "store"
    sciplat.ingest_catalog(sources, url, rows_per_cell=250)
    return content(url)


@pytest.fixture(scope="module")
def nannies(undisturbed):
    """Return the client of a cluster of two workers whose processes nannies start again."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 20}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        yield client


class Watcher(threading.Thread):
    """Kills workers when so much of either pass is done, and keeps all records that come."""

    def __init__(self, url, moments, pids):
        super().__init__()
        self.url, self.moments, self.pids = Path(url), moments, pids
        self.struck, self.records, self.over = [], {}, threading.Event()

    def run(self):
        waiting = list(self.moments)
        while not self.over.wait(0.005):
            self.look()
            while waiting and self.progress() >= waiting[0]:
                pid = self.pids()[len(waiting) % 2]
                os.kill(pid, signal.SIGKILL)
                self.struck.append((waiting.pop(0), set(self.records)))

    def look(self):
        for path in self.url.glob(".staging/*/*-*.json"):
            if path.name not in self.records:
                try:
                    self.records[path.name] = json.loads(path.read_text())
                except FileNotFoundError:  # it is over
                    return

    def progress(self):
        """Return the share of the parts that are sorted, and 1 + the share of the cells that are done."""
        cells = sum(len(record["cells"]) for name, record in self.records.items() if name.startswith("done-"))
        sorted_parts = sum(name.startswith("sorted-") for name in self.records)
        return 1 + cells / 80 if cells else sorted_parts / FILES

    def repeated(self):
        """Return how many records tell of cells that an earlier one tells of too."""
        seen, times = set(), 0
        for name, record in self.records.items():
            if name.startswith("done-"):
                cells = {tuple(cell[:2]) for cell in record["cells"]}
                times += not seen.isdisjoint(cells)
                seen |= cells
        return times


def test_killed_workers_change_nothing(tmp_path, sources, nannies, undisturbed):
    rng, began, faults, repeated = np.random.default_rng(SEED), time.perf_counter(), 0, 0
    for number in range(INGESTS):
        url = tmp_path / str(number)
        moments = sorted([*rng.uniform(0, 0.9, STRIKES // 2), *rng.uniform(1, 1.8, STRIKES // 2)])
        watcher = Watcher(url, moments, lambda: pids_of(nannies))
        watcher.start()
        try:
            catalog = sciplat.ingest_catalog(sources, url, rows_per_cell=250)
        finally:
            watcher.over.set()
            watcher.join()
        where = f"seed {SEED}, ingest {number}, struck at {watcher.struck and [at for at, _ in watcher.struck]}"
        assert content(url) == undisturbed, where
        assert left_over(url) == [], where
        assert version_numbers(LocalStorage(url)) == [1], where
        assert not staging_areas(LocalStorage(url))
        assert catalog.report["cells_of_this_run"] == catalog.report["cells"], where
        repeated += watcher.repeated()
        faults += len(watcher.struck)
        parts = [name for name in watcher.records if name.startswith("sorted-")]
        assert len(parts) <= FILES
    assert faults > INGESTS * STRIKES / 2
    # Dask does again what a worker had done when it died before its answers had been fetched
    assert repeated <= 3 * faults
    print(
        f"seed {SEED}: {faults} SIGKILL of a worker in {INGESTS} ingests, 0 lost, 0 wrong, "
        f"{repeated} bundles done twice, {time.perf_counter() - began:.1f} s"
    )


def pids_of(client):
    """Return the processes of the workers; there are always two in the end."""
    while True:
        found = client.run(os.getpid, on_error="ignore")
        pids = [pid for pid in found.values() if isinstance(pid, int)]
        if len(pids) == 2:
            return pids
        time.sleep(0.05)

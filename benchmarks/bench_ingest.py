"""Tables into a catalog: against hats-import on the same files, and at fixed memory for growing inputs.

    python -m benchmarks.bench_ingest [--small] [--out results.json]

The input is 8 Parquet files of Gaia-like rows in no order. The rows of both catalogs are compared before the figures
are given. hats-import has two workers of its own, started before its clock; we have two threads. The second part
ingests 4, 16 and 64 million rows in 2 GiB, each in a process of its own, and notes that process's largest memory and
the space that it takes beside the store.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import sciplat
from benchmarks.rivals import command_line, machine, versions

FILES = 8
THREADS = 2
MEMORY = "2GiB"
_CHILD = """
import sys
from benchmarks.bench_ingest import ingest_and_report
ingest_and_report(*sys.argv[1:])
"""


def run(*, small: bool) -> dict[str, Any]:
    """Ingest with both, compare, and grow; return the figures."""
    os.environ["SCIPLAT_THREADS"] = str(THREADS)
    rows = 40_000 if small else 4_000_000
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as name:
        folder = Path(name)
        files = write_input(folder / "input", rows)
        rival = rival_seconds(folder, files)
        ours = min(our_seconds(folder, files, number) for number in range(1 if small else 3))
        check_same(folder)
        growth = [grown(folder, rows * factor) for factor in ((1, 4) if small else (1, 4, 16))]
    return {
        "versions": versions("sciplat", "hats-import", "hats", "pyarrow", "numpy", "cdshealpix", "dask"),
        "machine": machine(),
        "rows": rows,
        "threads": THREADS,
        "sciplat_s": round(ours, 3),
        "hats_import_s": round(rival, 3),
        "ratio": round(rival / ours, 1),
        "memory": MEMORY,
        "growth": growth,
    }


def write_input(folder: Path, rows: int) -> Path:
    """Write rows in no order, in files as large as those of the smallest input."""
    folder.mkdir()
    count = max(FILES, FILES * rows // 4_000_000)
    for number in range(count):
        pq.write_table(stars(rows // count, number), folder / f"{number:04}.parquet")
    return folder


def stars(count: int, number: int) -> pa.Table:
    """Return Gaia-like rows all over the sky."""
    rng = np.random.default_rng(number)
    columns = {
        "source_id": np.arange(count) + number * count,
        "ra": rng.uniform(0, 360, count),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, count))),
    }
    columns |= {name: rng.gamma(2, 0.1, count) for name in ("ra_error", "dec_error")}
    columns |= {name: rng.normal(0, 5, count) for name in ("parallax", "pmra", "pmdec")}
    columns |= {name: rng.normal(18, 2, count).astype(np.float32) for name in ("g_mag", "bp_mag", "rp_mag")}
    return pa.table(columns)


def our_seconds(folder: Path, files: Path, number: int) -> float:
    """Return the seconds of our ingest."""
    start = time.perf_counter()
    sciplat.ingest_catalog(files, folder / f"ours-{number}", rows_per_cell=1_000_000)
    return time.perf_counter() - start


def rival_seconds(folder: Path, files: Path) -> float:
    """Return the seconds of hats-import's."""
    from distributed import Client, LocalCluster
    from hats_import.catalog.arguments import ImportArguments
    from hats_import.pipeline import pipeline_with_client

    arguments = ImportArguments(
        output_path=folder,
        output_artifact_name="rival",
        input_path=files,
        file_reader="parquet",
        pixel_threshold=1_000_000,
        progress_bar=False,
        tmp_dir=folder,
    )
    with (
        LocalCluster(n_workers=THREADS, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.submit(int, 1).result()
        start = time.perf_counter()
        pipeline_with_client(arguments, client)
        return time.perf_counter() - start


def check_same(folder: Path) -> None:
    """Compare the rows of both catalogs, whatever their cells."""
    ours, theirs = (sciplat.open_catalog(folder / name).compute() for name in ("ours-0", "rival"))
    ours, theirs = (table.take(pc.sort_indices(table["source_id"])) for table in (ours, theirs))
    for column in ours.schema.names:
        assert ours[column].equals(theirs[column].cast(ours[column].type)), f"{column} differs: no figure is given"


def grown(folder: Path, rows: int) -> dict[str, Any]:
    """Ingest so many rows at fixed memory in a process of its own; return what it took."""
    files = write_input(folder / f"input-{rows}", rows)
    url = folder / f"grown-{rows}"
    size = sum(path.stat().st_size for path in files.iterdir())
    watch = _Watch(url / ".staging")
    with watch:
        command = [sys.executable, "-c", _CHILD, str(files), str(url), MEMORY]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(sciplat.open_catalog(url)) == rows // len(list(files.iterdir())) * len(list(files.iterdir()))
    for path in (files, url):
        subprocess.run(["rm", "-rf", str(path)], check=True)
    return {"rows": rows, "input_bytes": size, **json.loads(told), "beside_the_store": round(watch.most / size, 2)}


def ingest_and_report(files: str, url: str, memory: str) -> None:
    """Ingest in this process and print what it took."""
    start = time.perf_counter()
    catalog = sciplat.ingest_catalog(files, url, rows_per_cell=1_000_000, memory=memory)
    seconds = time.perf_counter() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = 1024 * int(status["VmHWM"].split()[0])
    print(json.dumps({"seconds": round(seconds, 2), "peak_bytes": peak, "spilled": catalog.report["spilled"]}))


class _Watch:
    """Notes the largest size of the sorted pieces in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._end, self.most = folder, threading.Event(), 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.1):
            size = 0
            for path in self._folder.glob("*/*-sorted.parquet"):
                try:
                    size += path.stat().st_size
                except FileNotFoundError:  # just removed
                    continue
            self.most = max(self.most, size)


if __name__ == "__main__":
    command_line(run, __doc__)

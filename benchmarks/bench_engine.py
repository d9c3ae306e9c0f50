"""What the engine itself costs: a plan of a million tasks that do nothing, on a LocalCluster and on local threads.

    python -m benchmarks.bench_engine [--small] [--out results.json]

The plan takes the whole way of any other: it is quoted, handed out in bundles, recorded cell by cell, and published
(one task in 10,000 gives a row, so that there is something to publish). The rival is Dask itself, which gets every
task by `client.map`; with few tasks, because it would take half an hour for all.
"""

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.rivals import command_line, machine, versions
from sciplat.lazy.catalog import Catalog
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.tasks.quote import Cost

ORDER = 9
EVERY = 10_000
SCHEMA = pa.schema([("_healpix_29", pa.int64()), ("ra", pa.float64()), ("dec", pa.float64())])
EMPTY = SCHEMA.empty_table()


@dataclass(frozen=True)
class Nothing:
    """A task that does nothing, or next to it."""

    cell: Cell

    def run(self) -> pa.Table:
        """Return no row, or one."""
        if self.cell.index % EVERY:
            return EMPTY
        return pa.table([[self.cell.start], [0.0], [0.0]], schema=SCHEMA)


@dataclass(frozen=True)
class Cells(Sequence[Cell]):
    """The first cells of the sky, made when they are asked for."""

    count: int

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, place: int) -> Cell: ...
    @overload
    def __getitem__(self, place: slice) -> list[Cell]: ...
    def __getitem__(self, place: int | slice) -> Cell | list[Cell]:
        if isinstance(place, slice):
            return [Cell(ORDER, index) for index in range(*place.indices(self.count))]
        if not 0 <= place < self.count:
            raise IndexError(place)
        return Cell(ORDER, place)


@dataclass(frozen=True)
class Idle:
    """The node of a plan that does nothing."""

    count: int
    schema: pa.Schema = SCHEMA

    @property
    def properties(self) -> dict[str, Any]:
        about = {"position": ["ra", "dec"], "id": None, "kind": "sources", "frame": "icrs", "epoch": None}
        return about | {"rows_per_cell": 1000}

    @property
    def cells(self) -> Cells:
        return Cells(self.count)

    def task(self, cell: Cell, cover: Coverage | None = None) -> Nothing:
        return Nothing(cell)

    def cost(self, cell: Cell) -> Cost:
        return Cost()

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        return np.zeros(len(ranges))

    def describe(self) -> dict[str, Any]:
        return {"op": "idle", "count": self.count}


class Peak:
    """Watches how far processes grow."""

    def __init__(self, **pids: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._before = {name: process.memory_info().rss for name, process in self._processes.items()}
        self.grown = dict.fromkeys(pids, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for name, process in self._processes.items():
                growth = process.memory_info().rss - self._before[name]
                self.grown[name] = max(self.grown[name], growth)


def scheduler() -> tuple[Any, Any]:
    """Start a scheduler in a process of its own, with two workers, and return a client and what ends them."""
    from distributed import Client
    from distributed.deploy.subprocess import SubprocessCluster

    cluster = SubprocessCluster(n_workers=2, worker_kwargs={"nthreads": 1}, scheduler_kwargs={"dashboard": False})
    return Client(cluster), cluster


def run(*, small: bool) -> dict[str, Any]:
    """Run the plans and return the figures."""
    count, few = (3000, 500) if small else (1_000_000, 20_000)
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as name:
        folder = Path(name)
        _write(2000, folder / "warm")
        threads = _write(count, folder / "threads")
        client, cluster = scheduler()
        with cluster, client:
            _write(2000, folder / "warm-cluster")
            pid = client.run_on_scheduler(os.getpid)
            with Peak(client=os.getpid(), scheduler=pid) as peak:
                ours = _write(count, folder / "cluster")
            start = time.perf_counter()
            client.gather(client.map(_nothing, range(few), pure=False))
            dask = time.perf_counter() - start
    return {
        "versions": versions("sciplat", "dask", "distributed", "pyarrow"),
        "machine": machine(),
        "tasks": count,
        "threads_us_per_task": round(1e6 * threads / count, 1),
        "cluster_us_per_task": round(1e6 * ours / count, 1),
        "dask_map_us_per_task": round(1e6 * dask / few, 1),
        "ratio_to_dask_map": round(dask / few * count / ours, 1),
        "client_grew_mb": round(peak.grown["client"] / 1e6, 1),
        "scheduler_grew_mb": round(peak.grown["scheduler"] / 1e6, 1),
    }


def _nothing(number: int) -> int:
    return number


def _write(count: int, place: Path) -> float:
    start = time.perf_counter()
    made = Catalog(Idle(count)).write(place)
    elapsed = time.perf_counter() - start
    assert len(made) == -(-count // EVERY)
    return elapsed


if __name__ == "__main__":
    command_line(run, __doc__)

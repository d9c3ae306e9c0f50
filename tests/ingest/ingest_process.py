"""Ingests of catalogs in processes of their own, to be killed, and when to strike."""

import multiprocessing
import os
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.io.staging import staging_areas
from sciplat.io.storage import LocalStorage

# what an ingest imports: without it most faults would hit the imports
PRELOAD = {
    "sciplat.cli.main", "sciplat.ingest.catalog", "sciplat.ingest.images", "zarr.codecs", "zarr.storage",
    "cdshealpix.skymap", "cdshealpix.nested", "mocpy", "astropy.table", "astropy.units", "pyarrow.parquet",
    "rich.live",
}  # fmt: skip
SMALLEST = "378 MB"  # with which one thread can do anything


def run_command(arguments, environment):
    """Run the command line in a process of its own."""
    os.environ.update(environment)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        from sciplat.cli.main import main

        main(arguments)


def starter():
    """Return a function that starts a command in a process that has everything imported, and no thread yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(PRELOAD))

    def begin(arguments, **environment):
        texts = [str(argument) for argument in arguments]
        process = context.Process(target=run_command, args=(texts, {"SCIPLAT_THREADS": "1"} | environment))
        process.start()
        return process

    return begin


def finish(process, fault=None, after=0.0):
    """Send the signal `fault` after so many seconds, or when `after()` is true; return exit code and seconds it ran."""
    began = time.perf_counter()
    if fault is not None:
        if callable(after):
            while process.is_alive() and not after():
                time.sleep(0.0005)
        else:
            process.join(after)
        if process.is_alive():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, fault)
    process.join(60)
    assert not process.is_alive()
    return process.exitcode, time.perf_counter() - began


def write_source(path, seed, rows=6500, first=0, cap=-1.0):
    """Write a table that is small on the disk and larger in memory than may be held of `SMALLEST`."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, rows), np.degrees(np.arcsin(rng.uniform(cap, 1, rows)))
    note = pa.array(["x" * 2000]).take(pa.array(np.zeros(rows, dtype=int)))
    table = pa.table({"id": np.arange(first, first + rows), "ra": ra, "dec": dec, "note": note})
    pq.write_table(table, path, row_group_size=500)
    return path


# states of a store that is made of spilled pieces; {n} is the number of the version
STATES = ["{s}/*/log-*", "{s}/*/*-sorted.parquet", "{s}/*/sorted-*", "{s}/*/*-[0-9]*.parquet", "{s}/*/done-*", "v{n}-*"]
STATES += ["v{n}-*/*/*/*/Npix=*", "v{n}-*/skymap.fits", "versions/.{n}.json*", "versions/{n}.json", "cleared"]


def traces(url):
    """Return the logs of runs that have not cleared up."""
    return [writer for area in staging_areas(LocalStorage(url)) for writer in area.writers]

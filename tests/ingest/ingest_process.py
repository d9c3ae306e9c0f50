"""Ingests of catalogs in processes of their own, to be killed, and when to strike."""

import multiprocessing
import os
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.io.staging import STAGING, staging_areas
from sciplat.io.storage import LocalStorage

# what an ingest imports: without it most faults would hit the imports
PRELOAD = {
    "sciplat.cli.main", "sciplat.ingest.catalog", "sciplat.ingest.images", "zarr.codecs", "zarr.storage",
    "cdshealpix.skymap", "cdshealpix.nested", "mocpy", "astropy.table", "astropy.units", "pyarrow.parquet",
    "rich.live",
}  # fmt: skip
SMALLEST = "404 MB"  # with which two threads can do anything


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
        process = context.Process(target=run_command, args=(texts, {"SCIPLAT_THREADS": "2"} | environment))
        process.start()
        return process

    return begin

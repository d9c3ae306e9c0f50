"""SIGKILL and Ctrl-C at seeded moments of an ingest: no store or a whole one, and the same command succeeds again."""

import multiprocessing
import os
import signal
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat.errors import StoreNotFound
from sciplat.io.catalog_store import open_catalog_store
from sciplat.io.image_store import TABLE
from sciplat.io.storage import LocalStorage
from sciplat.io.verify import verify_files
from tests.sky_scene import write_images

SEED = 20260
FAULTS = 10
# what an ingest imports: without it most faults would hit the imports
PRELOAD = {
    "sciplat.cli.main", "sciplat.ingest.catalog", "sciplat.ingest.images", "zarr.codecs", "zarr.storage",
    "cdshealpix.skymap", "cdshealpix.nested", "mocpy", "astropy.table", "astropy.units", "pyarrow.parquet",
}  # fmt: skip


def run_command(arguments):
    """Run the command line in a process of its own."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        from sciplat.cli.main import main

        main(arguments)


@pytest.fixture(scope="module")
def start():
    """Return a function that starts a command in a process that has everything imported, and no thread yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(PRELOAD))

    def begin(arguments):
        process = context.Process(target=run_command, args=([str(argument) for argument in arguments],))
        process.start()
        return process

    finish(begin(["--help"]))  # the first one waits for the imports
    return begin


def finish(process, fault=None, after=0.0):
    """Send the signal `fault` when `after` seconds have passed; return the exit code and the seconds it ran."""
    began = time.perf_counter()
    if fault is not None:
        process.join(after)
        if process.is_alive():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, fault)
    process.join(60)
    assert not process.is_alive()
    return process.exitcode, time.perf_counter() - began


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Return the command lines of both ingests, without the URL at their end."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(SEED)
    z, ra = rng.uniform(-1, 1, 20_000), rng.uniform(0, 360, 20_000)
    pq.write_table(pa.table({"id": np.arange(20_000), "ra": ra, "dec": np.degrees(np.arcsin(z))}), folder / "t.parquet")
    images = write_images(folder / "fits")
    return {
        "catalog": ["ingest", "catalog", "--rows-per-cell", 1500, folder / "t.parquet"],
        "images": ["ingest", "images", images / "north.fits", images / "seam.fits"],
    }


def table_storage(kind, url):
    return LocalStorage(url / TABLE if kind == "images" else url)


def content(kind, url):
    """Return what the store says: the digest of the rows, or all pixels."""
    if kind == "catalog":
        return open_catalog_store(LocalStorage(url)).manifest.digest
    images = sciplat.open_images(url)
    found = {}
    for row in images.rows.to_pylist():
        dataset = images.to_xarray(row["group"]).isel(image=row["index"])
        found[row["image_id"]] = [dataset[plane].to_numpy().tobytes() for plane in ("science", "variance", "mask")]
    return found


def is_visible(kind, url):
    """Return whether there is a store; one that there is, is whole."""
    try:
        store = open_catalog_store(table_storage(kind, url))
    except StoreNotFound:
        return False
    assert verify_files(store.storage, store.manifest) == []
    return True


@pytest.fixture(scope="module", params=["catalog", "images"])
def undisturbed(request, start, commands, tmp_path_factory):
    """Return the kind, what its undisturbed ingest holds, and how long that took."""
    url = tmp_path_factory.mktemp("undisturbed") / "store"
    code, seconds = finish(start([*commands[request.param], url]))
    assert code == 0
    return request.param, content(request.param, url), seconds


def test_after_a_kill_the_same_command_makes_the_same_store(tmp_path, start, commands, undisturbed):
    kind, expected, seconds = undisturbed
    moments = np.random.default_rng(SEED).uniform(0, seconds, FAULTS)
    visible = 0
    for number, moment in enumerate(moments):
        url = tmp_path / str(number)
        finish(start([*commands[kind], url]), signal.SIGKILL, moment)
        if is_visible(kind, url):
            visible += 1
        else:
            code, _ = finish(start([*commands[kind], url]))
            assert code == 0, f"seed {SEED}, fault {number} after {moment:.4f} s: {sorted(url.rglob('*'))[:5]}"
            assert is_visible(kind, url)
        assert content(kind, url) == expected
    print(f"seed {SEED}: {FAULTS} SIGKILL of ingest {kind}, {visible} after it was published, 0 lost, 0 wrong")


def test_interrupted_it_leaves_nothing(tmp_path, start, commands, undisturbed):
    kind, expected, seconds = undisturbed
    moments = np.random.default_rng(SEED + 1).uniform(0.05 * seconds, seconds, FAULTS // 2)
    whole = 0
    for number, moment in enumerate(moments):
        url = tmp_path / str(number)
        code, _ = finish(start([*commands[kind], url]), signal.SIGINT, moment)
        if is_visible(kind, url):
            whole += 1
            assert content(kind, url) == expected
        else:
            assert code == 1
            assert not url.exists(), f"seed {SEED + 1}, fault {number} after {moment:.4f} s: {sorted(url.rglob('*'))}"
    print(f"seed {SEED + 1}: {FAULTS // 2} Ctrl-C in ingest {kind}, {whole} after it was published, 0 left-overs")

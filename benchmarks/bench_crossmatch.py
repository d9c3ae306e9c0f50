"""Cross-matches within 1 arcsec all over the sky: against lsdb, STILTS, scipy, astropy, and reading and writing alone.

    python -m benchmarks.bench_crossmatch [--small] [--large] [--out results.json]

Three quarters of the left rows have a counterpart, 0.3 arcsec away in each coordinate; the other right rows are
elsewhere. scipy says which pairs there are, and no clock starts for anybody who finds others. lsdb has two workers, and
a margin, made before its clock starts; we have two threads. Both open their catalogs on the clock, those that
hats-import made and ours, and run by turns in processes of their own: the shortest of four times counts, and the
largest memory of the first run, of all processes together. STILTS goes from FITS files to a FITS file, once. The floor
reads the inputs' files and writes the result's, with fsync and sha256, in plain pyarrow on as many threads.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import sciplat
from benchmarks.rivals import (
    best_of,
    command_line,
    import_by_hats,
    in_own_process,
    machine,
    margin_by_hats,
    peak_bytes,
    timed_program,
    tree_pairs,
    unit_vectors,
    versions,
    workers_of_lsdb,
)
from sciplat.sky.cell import healpix_29
from sciplat.steps.pairs import Points, nearest_pairs

WORKERS = 2
RADIUS = 1.0  # arcsec
MARGIN = 5.0  # arcsec, of lsdb's right catalog
MEMORY = "2GiB"  # for inputs of all sizes
CHUNK = 1_000_000  # rows made at once
INVOLVED = ("sciplat", "lsdb", "hats", "hats-import", "scipy", "astropy", "pyarrow", "numpy", "numba", "dask")
Array = NDArray[Any]


def run(*, small: bool, large: bool = False) -> dict[str, Any]:
    """Make the catalogs, match them in all ways, and return the figures."""
    os.environ["SCIPLAT_THREADS"] = str(WORKERS)
    rows, repeats = (40_000, 1) if small else (4_000_000, 2)
    makers, processes = (["sciplat"], 0) if small else (["hats-import", "sciplat"], WORKERS)
    run_one = _caller(processes)
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as folder:
        pairs = run_one(prepared, folder, rows, makers, processes)
        catalogs = {maker: against_lsdb(folder, maker, repeats, processes) for maker in makers}
        floor = run_one(floor_figures, folder, 2 * repeats)
        stilts = run_one(stilts_figures, folder)
    sizes = [rows] if small else [rows // 4, rows, 4 * rows, *([16 * rows] if large else [])]
    return {
        "versions": versions(*INVOLVED) | {"stilts": stilts.pop("version", "not installed")},
        "machine": machine(),
        "threads": WORKERS,
        "rows": rows,
        "pairs": pairs,
        "catalogs": catalogs,
        "floor": floor,
        "stilts": stilts,
        "kernel": run_one(kernel_figures, rows // 2, 2 * repeats),
        "pile-up": run_one(pile_figures, rows // 20, 2 * repeats),
        "memory": MEMORY,
        "growth": [grown(size) for size in sizes],
    }


def _caller(processes: int) -> Callable[..., Any]:
    """Return what calls a function in a process of its own, or here: the small case is to be quick."""
    return in_own_process if processes else lambda function, *arguments: function(*arguments)


def sky(count: int, number: int) -> tuple[pa.Table, pa.Table, int]:
    """Return left rows, right rows, and how many of the first have their counterpart within the radius."""
    rng = np.random.default_rng(number)
    ra, dec = _anywhere(rng, count)
    seen = np.flatnonzero(rng.uniform(size=count) < 0.75)
    east, north = rng.normal(0, 0.3 / 3600, (2, len(seen)))
    near = (ra[seen] + east / np.cos(np.radians(dec[seen]))) % 360, np.clip(dec[seen] + north, -90, 90)
    there = [np.concatenate(both) for both in zip(near, _anywhere(rng, count - len(seen)), strict=True)]
    made = int(np.count_nonzero(np.hypot(east, north) <= 0.999 * RADIUS / 3600))
    return _table(rng, ra, dec, number), _table(rng, *there, number), made


def _anywhere(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    return rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))


def _table(rng: np.random.Generator, ra: Array, dec: Array, number: int) -> pa.Table:
    floats = {f"column_{k}": rng.normal(size=len(ra)).astype(np.float32) for k in range(5)}
    return pa.table({"id": np.arange(len(ra)) + number * CHUNK, "ra": ra, "dec": dec} | floats)


def write_input(name: str, rows: int) -> int:
    """Write both sides, a file for each million rows; return how many pairs there are at least."""
    folder, made = Path(name) / "input", 0
    for side in ("left", "right"):
        (folder / side).mkdir(parents=True)
    for number, first in enumerate(range(0, rows, CHUNK)):
        left, right, pairs = sky(min(CHUNK, rows - first), number)
        for side, table in (("left", left), ("right", right)):
            pq.write_table(table, folder / side / f"{number:03}.parquet")
        made += pairs
    return made


def prepared(name: str, rows: int, makers: list[str], processes: int) -> int:
    """Write the input, its pairs, catalogs of it and their margins; return how many pairs there are."""
    folder = Path(name)
    write_input(name, rows)
    left, right = (_rows(folder / "input" / side) for side in ("left", "right"))
    i, j = tree_pairs(*(unit_vectors(side["ra"], side["dec"]) for side in (left, right)), RADIUS)
    pairs = np.stack([left["id"].to_numpy()[i], right["id"].to_numpy()[j]], axis=1)
    np.save(folder / "pairs.npy", pairs[np.argsort(pairs[:, 0])])
    for side in ("left", "right"):
        sciplat.ingest_catalog(folder / "input" / side, folder / "sciplat" / side)
    with workers_of_lsdb(processes) as client:
        for side in ("left", "right") if "hats-import" in makers else ():
            import_by_hats(client, folder / "input" / side, folder / "hats-import" / side)
        for maker in makers:
            margin_by_hats(client, _hats(name, maker, "right"), folder / maker / "margin", MARGIN)
    return len(pairs)


def _hats(folder: str, maker: str, side: str) -> Path:
    """Return the folder of a HATS catalog; of our collections that of the version."""
    path = Path(folder) / maker / side
    return next(path.glob("v1-*"), path)


def _rows(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.iterdir()))


def against_lsdb(folder: str, maker: str, repeats: int, processes: int) -> dict[str, Any]:
    """Return what both take to compute a match, and to write it; by turns, as the machine has busy moments."""
    call, figures = _caller(processes), {}
    for what in ("compute", "write"):
        tries: dict[str, list[dict[str, Any]]] = {"sciplat": [], "lsdb": []}
        for _ in range(repeats):
            tries["sciplat"].append(call(our_figures, folder, maker, what, repeats))
            tries["lsdb"].append(call(lsdb_figures, folder, maker, what, repeats, processes))
        ours, theirs = (min(tried, key=lambda one: one["seconds"]) for tried in tries.values())
        ratios = {name: round(theirs[name] / ours[name], 1) for name in ("seconds", "peak_bytes")}
        figures[what] = {"sciplat": ours, "lsdb": theirs, "ratio": ratios}
    return figures


def our_figures(folder: str, maker: str, what: str, repeats: int) -> dict[str, Any]:
    """Return our seconds, those of opening among them, and memory."""
    ends = {"compute": lambda plan: plan.compute(), "write": lambda plan: plan.write(_new(folder))}
    return _clocked(lambda: _our_match(f"{folder}/{maker}"), ends[what], folder, repeats, peak_bytes)


def _our_match(folder: str) -> sciplat.Catalog:
    left, right = (sciplat.open_catalog(f"{folder}/{side}") for side in ("left", "right"))
    return left.crossmatch(right, radius=f"{RADIUS} arcsec")


def lsdb_figures(folder: str, maker: str, what: str, repeats: int, processes: int) -> dict[str, Any]:
    """Return lsdb's seconds, those of opening among them, and memory."""
    import lsdb

    left, right, margin = (_hats(folder, maker, side) for side in ("left", "right", "margin"))

    def opened() -> Any:
        return lsdb.open_catalog(left, columns="all").crossmatch(
            lsdb.open_catalog(right, columns="all", margin_cache=margin),
            radius_arcsec=RADIUS,
            n_neighbors=1,
            require_right_margin=True,
            suffixes=("", "_other"),
            suffix_method="overlapping_columns",
            log_changes=False,
        )

    ends = {
        "compute": lambda plan: plan.compute(),
        "write": lambda plan: plan.write_catalog(_new(folder), catalog_name="pairs"),
    }
    with workers_of_lsdb(processes) as client:
        return _clocked(
            opened, ends[what], folder, repeats, lambda: peak_bytes() + sum(client.run(peak_bytes).values())
        )


def _new(folder: str) -> Path:
    """Return where a result is to be written; the one before it goes."""
    url = Path(folder) / "written"
    shutil.rmtree(url, ignore_errors=True)
    return url


def _clocked(
    opened: Callable[[], Any], end: Callable[[Any], Any], folder: str, repeats: int, peak: Callable[[], int]
) -> dict[str, Any]:
    result = end(opened())
    largest = peak()
    written = Path(folder) / "written"
    if written.exists():
        names = ["id", "id_other"]
        result = pa.concat_tables(pq.read_table(file, columns=names) for file in written.rglob("Npix=*.parquet"))
    check(np.asarray(result["id"]), np.asarray(result["id_other"]), folder)
    del result
    times = []
    for _ in range(repeats):
        shutil.rmtree(written, ignore_errors=True)
        start = time.perf_counter()
        plan = opened()
        between = time.perf_counter()
        end(plan)
        times.append((time.perf_counter() - start, between - start))
    seconds, opening = min(times)
    return {"seconds": round(seconds, 3), "opening_s": round(opening, 3), "peak_bytes": largest}


def check(left: Array, right: Array, folder: str) -> None:
    """Compare pairs of identities with scipy's."""
    pairs = np.stack([left, right], axis=1)[np.argsort(left)]
    assert np.array_equal(pairs, np.load(f"{folder}/pairs.npy")), f"{len(pairs)} other pairs: no clock starts"


def floor_figures(folder: str, repeats: int) -> dict[str, Any]:
    """Return what reading both inputs and writing the result takes, and by turns our match from store to store."""
    _our_match(f"{folder}/sciplat").write(_new(folder))
    inputs, results = (
        sorted(Path(folder).glob(f"{urls}/v1-*/dataset/**/Npix=*.parquet")) for urls in ("sciplat/*", "written")
    )
    size = sum(file.stat().st_size for file in results)
    copies = {Path(folder) / f"{file.name}.copy": _read(file) for file in results}

    def floor() -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(_read, inputs))
            list(pool.map(_save, copies.values(), copies))

    ways = {"sciplat": lambda: _our_match(f"{folder}/sciplat").write(_new(folder)), "floor": floor}
    seconds = best_of(ways, repeats)
    copied = sum(copy.stat().st_size for copy in copies)
    assert abs(copied / size - 1) < 0.1, f"{copied} bytes instead of {size}: no figure is given"
    return {
        "seconds": round(seconds["floor"], 3),
        "sciplat_s": round(seconds["sciplat"], 3),
        "ratio": round(seconds["sciplat"] / seconds["floor"], 2),
        "bytes": [sum(file.stat().st_size for file in inputs), size],
    }


def _read(file: Path) -> pa.Table:
    return pq.ParquetFile(file).read(use_threads=False)


def _save(table: pa.Table, file: Path) -> None:
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    sink = pa.BufferOutputStream()
    encoding = {"use_dictionary": False, "use_byte_stream_split": floats, "write_page_checksum": True}
    pq.write_table(table, sink, compression="zstd", compression_level=1, **encoding)
    data = sink.getvalue()
    hashlib.sha256(data).hexdigest()
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def stilts_figures(folder: str) -> dict[str, Any]:
    """Return what STILTS takes from files to a file; nothing where it is not installed."""
    from astropy.table import Table

    command = shutil.which("stilts")
    if command is None:
        return {}
    told = subprocess.run([command, "-version"], check=True, capture_output=True, text=True).stdout
    files = {f"in{k}": f"{folder}/{side}.fits" for k, side in ((1, "left"), (2, "right"))}
    for side, file in zip(("left", "right"), files.values(), strict=True):
        rows = _rows(Path(folder) / "input" / side)
        Table({name: rows[name].to_numpy() for name in rows.schema.names}).write(file)
    about = {"values1": "ra dec", "values2": "ra dec", "params": RADIUS, "find": "best1", "progress": "none"}
    given = [f"{name}={value}" for name, value in {**files, "out": f"{folder}/pairs.fits", **about}.items()]
    # this process is large by now, and what it starts begins as large
    seconds, peak = in_own_process(timed_program, [command, "tmatch2", *given])
    pairs = Table.read(f"{folder}/pairs.fits")
    check(np.asarray(pairs["id_1"]), np.asarray(pairs["id_2"]), folder)
    version = next(line.split()[-1] for line in told.splitlines() if "STILTS version" in line)
    return {"seconds": round(seconds, 2), "peak_bytes": peak, "version": version}


def kernel_figures(rows: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of finding nearest neighbours among sorted rows in memory, on one core."""
    from astropy.coordinates import SkyCoord, match_coordinates_sky

    left, right = (_points(table) for table in sky(rows, 0)[:2])
    vectors = [unit_vectors(points.ra, points.dec) for points in (left, right)]
    coordinates = [SkyCoord(points.ra, points.dec, unit="deg") for points in (left, right)]

    def by_us() -> tuple[Array, Array]:
        pairs = nearest_pairs(left, right, RADIUS / 3600)
        return pairs.left, pairs.right

    def by_astropy() -> tuple[Array, Array]:
        place, distance, _ = match_coordinates_sky(*coordinates, storekdtree=False)
        near = np.flatnonzero(distance.arcsec <= RADIUS)
        return near, place[near]

    ways = {
        "sciplat": by_us,
        "scipy": lambda: tree_pairs(*vectors, RADIUS),
        "scipy, quick build": lambda: tree_pairs(*vectors, RADIUS, balanced_tree=False, compact_nodes=False),
        "astropy": by_astropy,
    }
    expected = tree_pairs(*vectors, RADIUS)
    for name, way in ways.items():
        assert all(map(np.array_equal, way(), expected)), f"{name} finds other pairs: no clock starts"
    seconds = best_of(ways, repeats)
    ratio = {name: round(seconds[name] / seconds["sciplat"], 1) for name in ways if name != "sciplat"}
    return {"rows": rows, "seconds": {name: round(s, 3) for name, s in seconds.items()}, "ratio": ratio}


def pile_figures(rows: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of the kernel and of a whole match for rows piled up, and for as many spread out."""
    spread_out = _anywhere(np.random.default_rng(0), rows)
    heaps = {"all over the sky": (*spread_out, 0.1), "within 10 mas": (30, 41, 0.01), "on one point": (30, 41, 0)}
    return {"rows": rows, **{name: _piled(rows, *heap, repeats) for name, heap in heaps.items()}}


def _piled(rows: int, ra: Array | float, dec: Array | float, spread: float, repeats: int) -> dict[str, float]:
    """Return the seconds where both sides are scattered around the same places by so many arcsec."""
    tables = [_scattered(rows, ra, dec, spread, number) for number in (1, 2)]
    left, right = (_points(table) for table in tables)
    pairs = nearest_pairs(left, right, RADIUS / 3600)
    if spread == 0:  # scipy's tree takes minutes; all are as far from all, and the first one is taken
        assert len(pairs) == rows
        assert not pairs.right.any()
    else:
        expected = tree_pairs(*(unit_vectors(side.ra, side.dec) for side in (left, right)), RADIUS)
        assert all(map(np.array_equal, (pairs.left, pairs.right), expected)), "other pairs: no clock starts"
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as folder:
        one, other = (sciplat.ingest_catalog(table, f"{folder}/{k}") for k, table in enumerate(tables))
        ways = {
            "kernel_s": lambda: nearest_pairs(left, right, RADIUS / 3600),
            "compute_s": lambda: one.crossmatch(other, radius=f"{RADIUS} arcsec").compute(),
        }
        assert ways["compute_s"]().num_rows == len(pairs)
        return {way: round(seconds, 4) for way, seconds in best_of(ways, repeats).items()}


def _scattered(rows: int, ra: Array | float, dec: Array | float, spread: float, number: int) -> pa.Table:
    rng = np.random.default_rng(number)
    east, north = rng.normal(0, 1, (2, rows)) * spread / 3600
    return _table(rng, (ra + east / np.cos(np.radians(dec))) % 360, np.clip(dec + north, -90, 90), 0)


def _points(table: pa.Table) -> Points:
    ra, dec = (table[name].to_numpy() for name in ("ra", "dec"))
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    return Points(index[order], ra[order], dec[order], np.arange(len(order)))


def grown(rows: int) -> dict[str, Any]:
    """Return what it takes to match so many rows at fixed memory."""
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as folder:
        made = write_input(folder, rows)
        for side in ("left", "right"):
            sciplat.ingest_catalog(f"{folder}/input/{side}", f"{folder}/{side}")
        figures: dict[str, Any] = in_own_process(growth_figures, folder)
    # some of the others are near each other by chance
    assert made <= figures["pairs"] <= 1.002 * made, f"{figures['pairs']} pairs of {made}: no figure is given"
    return {"rows": rows, "us_per_row": round(1e6 * figures["seconds"] / rows, 3), **figures}


def growth_figures(folder: str) -> dict[str, Any]:
    """Return the seconds of matching and writing in this process, and its memory."""
    os.environ["SCIPLAT_MEMORY"] = MEMORY
    _our_match(folder).head(1)  # loads the libraries and the kernels, whatever the size
    start = time.perf_counter()
    result = _our_match(folder).write(f"{folder}/written")
    return {"seconds": round(time.perf_counter() - start, 2), "peak_bytes": peak_bytes(), "pairs": len(result)}


if __name__ == "__main__":
    command_line(run, __doc__, {"large": "match 64 million rows too"})

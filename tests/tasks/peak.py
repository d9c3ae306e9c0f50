"""Measures in a process of its own by how much one task of a plan makes a warm worker grow.

python -m tests.tasks.peak CASE WARM FOLDER runs a small task of the case on the inputs in WARM, as a worker does that
has worked before, then the one that is measured on those in FOLDER.
"""

import json
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cdshealpix.nested
import numpy as np
import pyarrow as pa

import sciplat
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.staging import Staging
from sciplat.io.storage import LocalStorage
from sciplat.sky.cell import Cell, healpix_29
from sciplat.tasks.quote import write_cost
from sciplat.tasks.write import WriteBundle

CELL = Cell(3, 300)
_DEEP = (CELL.index << 16) + 0b0011001100110011  # in the inner third of its ancestors: x and y are 0.0101... in binary
RA, DEC = (float(a[0].deg) for a in cdshealpix.nested.healpix_to_lonlat(np.array([_DEEP], np.uint64), CELL.order + 8))
PROPERTIES = {"kind": "sources", "position": ["ra", "dec"], "id": "source_id", "frame": "icrs", "epoch": None}
ARCSEC = 1 / 3600  # degrees, of a pixel
ERRORS = {name: {"column": f"e_{name}", "unit": "arcsec"} for name in ("ra", "dec")}


def write_catalog(url, table, **properties):
    """Publish rows that lie in the cell as a catalog of one file."""
    writer = CatalogWriter.begin(LocalStorage(Path(url)), PROPERTIES | properties | {"rows_per_cell": 10**9})
    return writer.publish(table.schema, [writer.cells.write(CELL, table, 10**9)])


def positions(rows, half=0.5, seed=6):
    """Return rows within `half` degrees of the place, with their identity."""
    rng = np.random.default_rng(seed)
    ra, dec = RA + rng.uniform(-half, half, rows), DEC + rng.uniform(-half, half, rows)
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    columns = {"_healpix_29": index[order], "source_id": np.arange(rows), "ra": ra[order], "dec": dec[order]}
    return pa.table(columns)


def numbers(rows, half=0.5, seed=6):
    """Return rows of 104 bytes."""
    rng, table = np.random.default_rng(1), positions(rows, half, seed)
    for name in "abcdefghi":
        table = table.append_column(name, pa.array(rng.normal(20, 1, rows)))
    return table


def texts(rows):
    """Return rows with texts of 7 and of 0 to 1000 letters, 200 on average."""
    rng = np.random.default_rng(2)
    letters = rng.integers(97, 123, rows * 200, dtype=np.uint8)
    ends = np.sort(rng.integers(0, len(letters), rows - 1))
    offsets = np.concatenate([[0], ends, [len(letters)]]).astype(np.int32)
    comments = pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters))
    names = pa.array(np.char.add("s", np.arange(rows).astype(str)))
    return positions(rows).append_column("name", names).append_column("comment", comments)


def light_curves(rows):
    """Return rows with lists of 0 to 60 epochs."""
    rng = np.random.default_rng(3)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 61, rows))]).astype(np.int32)
    values = [pa.array(rng.normal(20, 1, offsets[-1]).astype(kind)) for kind in ("f8", "f8", "f4")]
    structs = pa.StructArray.from_arrays(values, names=["mjd", "mag", "err"])
    return positions(rows).append_column("light_curve", pa.ListArray.from_arrays(pa.array(offsets), structs))


def epochs(per_source, rows):
    """Return rows of which `per_source` share a source."""
    rng = np.random.default_rng(4)
    table = numbers(rows // per_source).take(pa.array(np.repeat(np.arange(rows // per_source), per_source)))
    bands = pa.array(["g", "r", "i"]).take(pa.array(rng.integers(0, 3, table.num_rows)))
    return table.append_column("band", bands)


def catalog_of(make):
    """Return a writer of a catalog of some size."""
    return lambda folder, size: write_catalog(folder / "catalog", make(size))


def write_scene(folder, *, size, count, rows, half, planes):
    """Write images of size x size pixels around the place, and sources within `half` degrees."""
    from astropy.io import fits

    (folder / "fits").mkdir(parents=True)
    science = np.random.default_rng(5).normal(100, 5, (size, size)).astype(np.float32)
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": RA, "CRVAL2": DEC, "RADESYS": "ICRS"}
    header |= {"CRPIX1": size / 2, "CRPIX2": size / 2, "CD1_1": -ARCSEC, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": ARCSEC}
    header |= {"FILTER": "g", "EXPTIME": 30.0, "TIMESYS": "TAI", "MAGZERO": 27.0, "GAIN": 2.0}
    values = {"VAR": science / 4, "MASK": (science > 112).astype(np.int16)}
    for number in range(count):
        cards = fits.Header(header | {"MJD-AVG": 60000.0 + number})
        parts = [fits.PrimaryHDU(), fits.ImageHDU(science, cards, name="SCI")]
        parts += [fits.ImageHDU(values[plane], name=plane) for plane in planes]
        fits.HDUList(parts).writeto(folder / "fits" / f"image{number}.fits")
    sciplat.ingest_images(folder / "fits", folder / "images")
    write_catalog(folder / "catalog", positions(rows, half))


def large_image(folder, size, planes=("VAR", "MASK")):
    """Write two images of one place, and sources on nine tenths of them."""
    write_scene(folder, size=size, count=2, rows=1000, half=0.45 * size * ARCSEC, planes=planes)


def many_rows(folder, rows):
    """Write small images that all hold all sources."""
    write_scene(folder, size=300, count=4, rows=rows, half=0.03, planes=("VAR", "MASK"))


def two_catalogs(folder, rows, half=0.5):
    """Write two catalogs of one part of the sky, with errors."""
    for seed, name in enumerate(("catalog", "other")):
        table = numbers(rows, half, seed)
        for error in ("e_ra", "e_dec"):
            table = table.append_column(error, pa.array(np.full(rows, 1.0)))
        write_catalog(folder / name, table, errors=ERRORS)


def opened(folder):
    """Return the catalog."""
    return sciplat.open_catalog(folder / "catalog")


def matched(**arguments):
    """Return a function that matches both catalogs."""
    return lambda folder: opened(folder).crossmatch(sciplat.open_catalog(folder / "other"), **arguments)


def matched_many(folder):
    """Return the groups of both catalogs."""
    return sciplat.crossmatch_many([opened(folder), sciplat.open_catalog(folder / "other")], radius="1 arcsec")


def within(folder):
    """Return the northern half of the catalog."""
    return opened(folder).within(sciplat.Box((f"{RA - 1} deg", f"{RA + 1} deg"), (f"{DEC} deg", f"{DEC + 1} deg")))


def doubled(table):
    """Return the rows with one column more."""
    return table.append_column("twice", pa.array(table["a"].to_numpy() * 2))


def mapped(folder, **options):
    """Return the catalog with a function called on it."""
    catalog = opened(folder)
    return catalog.map(doubled, schema=catalog.schema.append(pa.field("twice", pa.float64())), **options)


def photometry(folder):
    """Return the measurements of all sources."""
    images = sciplat.open_images(folder / "images")
    return images.photometry(opened(folder), radii=["4 pix", "8 pix"], annulus=("10 pix", "15 pix"))


INPUTS = {
    "numbers": catalog_of(numbers),
    "texts": catalog_of(texts),
    "lists": catalog_of(light_curves),
    "hundreds": catalog_of(partial(epochs, 100)),
    "pairs": catalog_of(partial(epochs, 2)),
    "two": two_catalogs,
    "dense": partial(two_catalogs, half=0.1),
    "large": large_image,
    "plain": partial(large_image, planes=()),
    "small": many_rows,
}


@dataclass(frozen=True)
class Case:
    """A plan on some inputs, with their size, and that of the task before; `depth` orders below the catalog's cell."""

    inputs: str
    size: int
    plan: Callable[[Path], sciplat.Catalog]
    warm: int = 10_000
    depth: int = 0


CASES = {
    "scan": Case("numbers", 3_000_000, opened),
    "scan a part": Case("numbers", 3_000_000, opened, depth=3),
    "scan texts": Case("texts", 600_000, opened),
    "scan lists": Case("lists", 400_000, opened),
    "select columns": Case("numbers", 3_000_000, lambda folder: opened(folder).select("a", "b")),
    "select a text": Case("texts", 600_000, lambda folder: opened(folder).select("comment")),
    "within": Case("numbers", 3_000_000, within),
    "where": Case("numbers", 3_000_000, lambda folder: opened(folder).where("a < 22.3 and b > 15")),
    "with columns": Case("numbers", 3_000_000, lambda folder: opened(folder).with_columns(x="a - b", y="sqrt(a * b)")),
    "concat": Case("numbers", 2_000_000, lambda folder: opened(folder).concat(opened(folder).select("a"))),
    "join": Case("numbers", 1_500_000, lambda folder: opened(folder).join(opened(folder), on="source_id")),
    "nest hundreds": Case("hundreds", 2_000_000, lambda folder: opened(folder).nest("source_id")),
    "nest pairs": Case("pairs", 1_000_000, lambda folder: opened(folder).nest("source_id")),
    "crossmatch": Case("two", 300_000, matched(radius="3 arcsec")),
    "crossmatch, outer mutual": Case("two", 300_000, matched(radius="5 arcsec", find="mutual", how="outer")),
    "crossmatch, neighbours": Case("two", 300_000, matched(radius="30 arcsec", neighbours=3)),
    "crossmatch, probability": Case("two", 300_000, matched(n_sigma=5, probability=True)),
    "crossmatch, all": Case("dense", 10_000, matched(radius="30 arcsec", find="all"), warm=1000),
    "groups": Case("numbers", 900_000, lambda folder: opened(folder).groups(radius="1 arcsec")),
    "crossmatch many": Case("two", 300_000, matched_many),
    "photometry, large images": Case("large", 4096, photometry, warm=1024),
    "photometry, gain only": Case("plain", 4096, photometry, warm=1024),
    "photometry, many rows": Case("small", 150_000, photometry, warm=1000),
    "map": Case("numbers", 3_000_000, mapped),
    "map with reach": Case("numbers", 3_000_000, lambda folder: mapped(folder, reach="1 arcmin")),
    "map apart": Case("numbers", 3_000_000, lambda folder: mapped(folder, timeout=60)),
}


def measure(case, folder):
    """Run one task as a bundle of a written plan does; return what was projected for it, and what it took."""
    node = case.plan(folder).node
    cell = _heaviest(node, node.cells)
    for _ in range(case.depth):
        cell = _heaviest(node, cell.children)
    need, task = write_cost(node.cost(cell)), node.task(cell)
    bundle = WriteBundle(Staging(LocalStorage(folder / "result"), "0" * 16), 10**9, "measuring")
    before, child_before = _status("VmRSS"), _largest_child()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    with ThreadPoolExecutor(1) as thread:
        (outcome,) = thread.submit(bundle, [task]).result().outcomes
    if outcome.error is not None:
        raise outcome.error
    # a function apart: by how much its process became larger than the one of the small task
    grown = _status("VmHWM") - before + _largest_child() - child_before
    return {"projected": need.memory, "grown": grown, "rows": outcome.result, "expected": need.rows}


def _heaviest(node, cells):
    return max(cells, key=lambda cell: node.cost(cell).memory)


def _status(name):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def _largest_child():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


if __name__ == "__main__":
    measure(CASES[sys.argv[1]], Path(sys.argv[2]))
    print(json.dumps(measure(CASES[sys.argv[1]], Path(sys.argv[3]))))

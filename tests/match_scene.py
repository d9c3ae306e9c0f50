"""Two catalogs of a drawn scene as tables and stores, and what their cross-match must be."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import sciplat
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.storage import LocalStorage
from tests.sky_scene import WHOLE_SKY
from tests.strategies import PLACES, Scene, Side, moved, side_of

OWN = ["_healpix_29", "ra", "dec"]
LEFT = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("source_id", pa.int64()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        pa.field("mag", pa.float64(), nullable=False, metadata={"unit": "mag"}),
    ]
)
RIGHT = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("star", pa.int32()),
        pa.field("dec", pa.float64()),
        pa.field("ra", pa.float64()),
        pa.field("mag", pa.float32(), nullable=False, metadata={"unit": "mag"}),
        pa.field("bands", pa.list_(pa.string())),
    ]
)
NAMES = [*OWN, "source_id", "mag", "star", "dec_other", "ra_other", "mag_other", "bands"]


def left_table(side: Side) -> pa.Table:
    """Return the rows of the left catalog: numbered along the sky."""
    rows = np.arange(len(side.index))
    return pa.table([side.index, rows, side.ra, side.dec, 18 + rows % 7 / 2], schema=LEFT)


def right_table(side: Side) -> pa.Table:
    """Return the rows of the right catalog: numbered backwards, some without a number."""
    rows = np.arange(len(side.index))
    star = pa.array(1000 - rows, pa.int32(), mask=rows % 5 == 3)
    bands = pa.array([["g", "r", "i"][: row % 4] for row in rows], RIGHT.field("bands").type)
    mag = (17 + rows % 11 / 3).astype(np.float32)
    return pa.table([side.index, star, side.dec, side.ra, mag, bands], schema=RIGHT)


def publish(url, table, cells=WHOLE_SKY, **properties):
    """Write a catalog with the given cells, which tile the sky, and open it."""
    about = {"position": ["ra", "dec"], "id": None, "kind": "sources", "frame": "icrs", "epoch": None}
    writer = CatalogWriter.begin(LocalStorage(url), about | {"rows_per_cell": 10**6} | properties)
    index = table["_healpix_29"].to_numpy()
    bounds = [(cell, *np.searchsorted(index, [cell.start, cell.stop])) for cell in cells]
    reports = [writer.cells.write(cell, table.slice(a, b - a), 10**6) for cell, a, b in bounds if b > a]
    writer.publish(table.schema, reports)
    return sciplat.open_catalog(url)


def publish_scene(folder, scene: Scene, mine=WHOLE_SKY, its=WHOLE_SKY):
    """Write both catalogs of a scene, each with its own cells, and open them."""
    left = publish(folder / "left", left_table(scene.left), mine, id="source_id")
    return left, publish(folder / "right", right_table(scene.right), its)


def matched_rows(left: pa.Table, right: pa.Table, pairs, how="inner", suffix="_other") -> pa.Table:
    """Return the rows of a cross-match, but for the separation, given its pairs of row numbers."""
    mine, its = (pa.array([pair[side] for pair in pairs], pa.int64()) for side in (0, 1))
    first, second = left.take(mine), right.take(its)
    if how == "anti":
        return first
    columns = {name: pc.coalesce(first[name], second[name]) for name in OWN}
    columns |= {name: first[name] for name in left.schema.names if name not in OWN}
    for name in right.schema.names[1:]:
        columns[f"{name}{suffix}" if name in columns else name] = second[name]
    return pa.table(columns)


def pair_separations(scene: Scene, pairs) -> list[float | None]:
    """Return the separations in arcsec, None where there is no pair."""
    separation = scene.separation
    return [None if None in pair else float(separation[pair] * 3600) for pair in pairs]


def check_numbers(column, expected, **tolerance):
    """Compare a column with numbers, None where it is null."""
    found = column.to_pylist()
    assert [value is None for value in found] == [value is None for value in expected]
    assert [value or 0 for value in found] == pytest.approx([value or 0 for value in expected], **tolerance)


def fixed_scene() -> Scene:
    """Return 250 and 400 rows at all awkward places, many within an arcsecond of each other, some at one place."""
    rng = np.random.default_rng(12)
    around = np.array(PLACES)[rng.integers(0, len(PLACES), 250)]
    left = moved(rng, around, 3.0)
    left[240:] = left[:10]  # twice at one place
    near = moved(rng, left[rng.integers(0, 200, 300)], 0.4 / 3600)
    far = moved(rng, np.array(PLACES)[rng.integers(0, len(PLACES), 90)], 3.0)
    return Scene(side_of(left), side_of(np.concatenate([near, far, left[235:245]])), 1 / 3600)

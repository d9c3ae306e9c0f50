"""Plans for tests: stars where the sphere is awkward, and functions that a fresh process can import."""

import numpy as np
import pyarrow as pa

from sciplat.sky.cell import healpix_29
from sciplat.sky.frame import unit_vectors

REACH = 2.0  # degrees
SCHEMA = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("source_id", pa.int64()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        pa.field("mag", pa.float64(), metadata={"unit": "mag"}),
    ]
)
COUNTED = SCHEMA.append(pa.field("neighbours", pa.int64()))


def stars(per_place=60):
    """Return stars at both poles, around RA = 0, and anywhere, in the order of the sky."""
    rng = np.random.default_rng(7)
    ra = [rng.uniform(0, 360, 2 * per_place), rng.normal(0, 2, per_place) % 360, rng.uniform(0, 360, per_place)]
    polar = 90 - np.abs(rng.normal(0, 2, per_place))
    dec = [polar, -polar, rng.normal(0, 2, per_place), np.degrees(np.arcsin(rng.uniform(-1, 1, per_place)))]
    ra = np.append(np.concatenate(ra), [0.0, 0.0, 0.0, 0.0])
    dec = np.append(np.concatenate(dec), [90.0, -90.0, 0.0, 0.0])
    columns = [healpix_29(ra, dec), np.arange(len(ra)), ra, dec, rng.normal(20, 1, len(ra))]
    return pa.table(columns, schema=SCHEMA).sort_by("_healpix_29")


def write_stars(path, cells, table=None, **properties):
    """Publish the stars with the given cells, which tile the sky."""
    from tests.sky_scene import write_catalog  # a process that runs a function need not wait for astropy

    return write_catalog(path, stars() if table is None else table, cells, **properties)


def brighten(table):
    """Return the rows one magnitude brighter: each follows from itself."""
    place = table.schema.get_field_index("mag")
    return table.set_column(place, SCHEMA.field("mag"), pa.array(table["mag"].to_numpy() - 1))


def keep_bright(table):
    """Return some of the rows, perhaps none."""
    return table.filter(pa.array(table["mag"].to_numpy() < 19))


def count_neighbours(table):
    """Return the rows with the number of rows within the reach, by brute force."""
    vectors = unit_vectors(table["ra"].to_numpy(), table["dec"].to_numpy())
    chords = ((vectors[:, np.newaxis] - vectors) ** 2).sum(axis=-1)
    near = chords <= (2 * np.sin(np.radians(REACH) / 2)) ** 2
    return table.append_column("neighbours", pa.array(near.sum(axis=1), pa.int64()))


def sum_neighbours(table):
    """Return the rows with the sum of their neighbours' numbers of neighbours."""
    vectors = unit_vectors(table["ra"].to_numpy(), table["dec"].to_numpy())
    near = ((vectors[:, np.newaxis] - vectors) ** 2).sum(axis=-1) <= (2 * np.sin(np.radians(REACH) / 2)) ** 2
    total = (near * table["neighbours"].to_numpy()).sum(axis=1)
    return table.set_column(table.schema.get_field_index("neighbours"), "neighbours", pa.array(total, pa.int64()))

"""Cells that the next version takes over: their files, their part of the maps, and whom they conflict with."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.errors import ConflictError
from sciplat.io.kept import Kept
from sciplat.io.storage import LocalStorage
from sciplat.sky.coverage import Coverage


@pytest.fixture
def catalog(tmp_path):
    """Return a catalog with cells coarser and finer than a pixel of the sky map."""
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 300), rng.uniform(-90, 90, 300)
    near = 77 + rng.uniform(-1e-3, 1e-3, (2, 300))
    table = pa.table({"id": np.arange(600), "ra": np.append(ra, near[0]), "dec": np.append(dec, near[1] - 65)})
    return sciplat.ingest_catalog(table, tmp_path / "store", rows_per_cell=50)


def test_all_that_is_kept_is_known_again(catalog):
    store = catalog.store
    reports = Kept(store, Coverage.from_cells([])).link("v2-test")
    assert max(entry.cell.order for entry in store.entries) > 8
    counts = np.zeros_like(store.sky_map)
    for report, entry in zip(reports, store.entries, strict=True):
        np.add.at(counts, report.map_pixels, report.map_counts)
        assert report.map_counts.sum() == entry.file.rows
        assert report.knots[-1, 1] == entry.file.rows
        (file,) = report.files
        assert file.sha256 == entry.file.sha256
        assert (Path(store.storage.url) / file.path).samefile(Path(store.storage.url) / entry.file.path)
    np.testing.assert_array_equal(counts, store.sky_map)


def test_only_cells_outside_are_kept(catalog):
    store = catalog.store
    child = store.entries[3].cell.children[0]  # a part of a cell replaces it
    reports = Kept(store, Coverage.from_cells([child])).link("v2-test")
    assert len(reports) == len(store.entries) - 1
    assert len(list(Path(store.storage.url).glob("v2-test/**/*.parquet"))) == len(reports)


def test_writers_of_other_cells_go_on_and_those_of_the_same_do_not(catalog):
    store, url = catalog.store, catalog.store.storage.url
    row = catalog.compute().slice(0, 1).select(["id", "ra", "dec"])
    newest = sciplat.ingest_catalog(row, url, mode="append").store.manifest
    place = catalog.compute()["_healpix_29"][0].as_py()
    (changed,) = [cell for cell in catalog.cells if cell.start <= place < cell.stop]
    others = [cell for cell in catalog.cells if cell != changed]
    Kept(store, Coverage.from_cells(others)).check_apart(newest, "mine")
    with pytest.raises(ConflictError, match=f"cell {changed}") as refused:
        Kept(store, Coverage.from_cells([changed])).check_apart(newest, "mine")
    assert newest.write_id in refused.value.found
    assert "mine" in refused.value.found
    assert isinstance(store.storage, LocalStorage)

"""What others do to a store while rows are added to it, and what was left there before."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat.errors import ConflictError, PlanChanged, TaskTooLarge
from sciplat.ingest import merge
from sciplat.io.staging import STAGING, Staging
from sciplat.sky.cell import healpix_29
from tests.ingest.test_append import LIMIT, append, near, rows


@pytest.fixture
def url(tmp_path):
    """Return the URL of a catalog of one part of the sky."""
    sciplat.ingest_catalog(near(30, 10, 500), tmp_path / "store", rows_per_cell=LIMIT, epoch="J2000.0")
    return tmp_path / "store"


def meanwhile(monkeypatch, action):
    """Let something happen once, when an ingest has sorted its rows and chosen its cells."""
    write = merge.write_catalog

    def acted(*arguments):
        monkeypatch.setattr(merge, "write_catalog", write)
        action()
        return write(*arguments)

    monkeypatch.setattr(merge, "write_catalog", acted)


def test_rows_are_not_added_to_what_means_something_else_now(tmp_path, url, monkeypatch):
    other = sciplat.ingest_catalog(near(30, 10, 500), tmp_path / "other", rows_per_cell=LIMIT, epoch="J2016.0")
    meanwhile(monkeypatch, lambda: other.write(url, replace=True))
    with pytest.raises(ConflictError, match="two writers changed what is said of the rows"):
        append(url, near(200, -40, 50))
    assert sciplat.open_catalog(url).properties["epoch"] == "J2016.0"
    assert not (url / STAGING).exists()


def test_citations_of_both_writers_are_kept(url, monkeypatch):
    meanwhile(monkeypatch, lambda: append(url, near(100, 50, 20), citation="A (2024)"))
    catalog = append(url, near(200, -40, 50), citation="B (2025)")
    assert catalog.version == 3
    assert len(catalog) == 570
    assert catalog.properties["citations"] == ["A (2024)", "B (2025)"]


def test_an_append_of_the_rows_of_a_killed_create_is_an_append(tmp_path, monkeypatch):
    remove = Staging.remove
    with monkeypatch.context() as killed:
        killed.setattr(Staging, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sciplat.ingest_catalog(rows(50), tmp_path / "store")
    assert Staging.remove is remove
    assert len(append(tmp_path / "store", rows(50))) == 100


def test_the_same_create_after_a_kill_that_came_after_its_version_ends_well(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(Staging, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sciplat.ingest_catalog(rows(50), tmp_path / "store")
    catalog = sciplat.ingest_catalog(rows(50), tmp_path / "store")
    assert (len(catalog), catalog.versions) == (50, [1])
    assert not (tmp_path / "store" / STAGING).exists()


def test_a_twin_that_publishes_between_the_passes_is_no_damage(tmp_path, monkeypatch):
    pq.write_table(rows(500), tmp_path / "rows.parquet")
    call = {"rows_per_cell": LIMIT}
    split = merge.split_counted

    def published(*arguments):
        monkeypatch.setattr(merge, "split_counted", split)
        sciplat.ingest_catalog(tmp_path / "rows.parquet", tmp_path / "store", **call)
        raise OSError("what was sorted is gone")

    monkeypatch.setattr(merge, "split_counted", published)
    catalog = sciplat.ingest_catalog(tmp_path / "rows.parquet", tmp_path / "store", **call)
    assert (len(catalog), catalog.versions) == (500, [1])


def test_what_was_sorted_for_another_input_is_in_the_way_until_it_is_dropped(tmp_path, monkeypatch):
    pq.write_table(rows(300_000), tmp_path / "rows.parquet")
    monkeypatch.setattr("sciplat.tasks.budget._HELD", 0.0)  # so that pieces go to the disk
    with monkeypatch.context() as killed:
        killed.setattr(merge, "split_counted", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sciplat.ingest_catalog(tmp_path / "rows.parquet", tmp_path / "store")
    with pytest.raises(PlanChanged, match="not the one that was begun"):
        sciplat.ingest_catalog(rows(50), tmp_path / "store")
    assert len(sciplat.ingest_catalog(rows(50), tmp_path / "store", restart=True)) == 50
    assert not (tmp_path / "store" / STAGING).exists()


def test_a_cell_that_is_too_large_keeps_what_was_sorted(tmp_path, monkeypatch):
    """With more memory the same call goes on."""
    pq.write_table(rows(50_000), tmp_path / "rows.parquet")
    monkeypatch.setattr("sciplat.tasks.budget._HELD", 0.0)
    with monkeypatch.context() as small:
        small.setattr("sciplat.tasks.budget.Budget.share", lambda *_: 10)
        with pytest.raises(TaskTooLarge):
            sciplat.ingest_catalog(tmp_path / "rows.parquet", tmp_path / "store")
    assert list((tmp_path / "store").glob(f"{STAGING}/*/sorted-*.json"))
    assert len(sciplat.ingest_catalog(tmp_path / "rows.parquet", tmp_path / "store")) == 50_000


def test_rows_are_placed_where_the_store_has_them(tmp_path):
    """A wider float is rounded before its place is found; one that is too large is refused."""
    narrow = pa.schema([("ra", pa.float32()), ("dec", pa.float32()), ("x", pa.float32())])
    first = rows(100).select(["ra", "dec"]).append_column("x", pa.array(np.arange(100.0)))
    sciplat.ingest_catalog(first.cast(narrow), tmp_path / "store")
    added = append(tmp_path / "store", first)
    found = added.compute()
    assert (found["_healpix_29"].to_numpy() == healpix_29(found["ra"].to_numpy(), found["dec"].to_numpy())).all()
    large = first.set_column(2, "x", pa.array(np.full(100, 1e300)))
    with pytest.raises(sciplat.errors.InputError, match="a value of 'x' in table 1 in memory does not fit"):
        append(tmp_path / "store", large)


def test_the_store_s_own_frame_cannot_be_contradicted_by_the_default(tmp_path):
    sciplat.ingest_catalog(rows(20), tmp_path / "store", frame="galactic", rows_per_cell=10)
    for said in ({"frame": "icrs"}, {"rows_per_cell": 1_000_000}):
        with pytest.raises(sciplat.errors.ArgumentError, match="is not what"):
            append(tmp_path / "store", rows(5), **said)
    assert len(append(tmp_path / "store", rows(5))) == 25

"""Opening what is no catalog, or no such version of one: one true sentence, with a remedy."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat.errors import ArgumentError, SciplatError, StepError, StoreNotFound
from tests.plan_scene import SCHEMA, write_stars
from tests.sky_scene import WHOLE_SKY


@pytest.fixture
def url(tmp_path):
    write_stars(tmp_path / "stars", WHOLE_SKY)
    return tmp_path / "stars"


@pytest.mark.parametrize("version", [1.0, True, "1", [1]], ids=repr)
def test_a_version_is_a_whole_number(url, version):
    with pytest.raises(ArgumentError, match="is no whole number"):
        sciplat.open_catalog(url, version=version)
    assert sciplat.open_catalog(url, version=np.int64(1)).version == 1


@pytest.mark.parametrize("columns", ["mag", 5], ids=repr)
def test_columns_are_a_list(url, columns):
    with pytest.raises(ArgumentError, match="columns is a list of names"):
        sciplat.open_catalog(url, columns=columns)


def test_a_region_is_a_region(url):
    with pytest.raises(ArgumentError, match="a region of the sky"):
        sciplat.open_catalog(url, region="x")


def refused(place, found, hint):
    with pytest.raises(StoreNotFound) as caught:
        sciplat.open_catalog(place)
    assert str(caught.value).startswith(f"there is no store at {place}\n")
    assert found in caught.value.found
    assert hint in caught.value.hint


def test_what_stands_there_instead_is_said(tmp_path):
    table = pa.table({"ra": [1.0], "dec": [2.0]})
    refused(tmp_path / "nowhere", "nothing at that path", "check the path")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "an empty folder", "check the path")
    (tmp_path / "tables").mkdir()
    pq.write_table(table, tmp_path / "tables" / "t.parquet")
    refused(tmp_path / "tables", "a folder of Parquet files", "ingest_catalog(url, new_url)")
    refused(tmp_path / "tables" / "t.parquet", "a file", "ingest_catalog(url, new_url)")
    refused(tmp_path / "tables" / "t.parquet" / "x", "nothing at that path", "check the path")
    refused(tmp_path, "a folder with empty, tables", "check the path")
    refused(f"memory://{tmp_path.name}/nowhere", "", "check the path")


def fail(table):
    raise ValueError("on purpose")


def test_an_unfinished_write_is_told_from_an_empty_folder(url, tmp_path):
    with pytest.raises(StepError):
        sciplat.open_catalog(url).map(fail, schema=SCHEMA).write(tmp_path / "out")
    refused(tmp_path / "out", "what an unfinished write has left", "it goes on")


def test_a_name_that_the_system_refuses_is_one_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    catalog = write_stars(tmp_path / "stars", WHOLE_SKY)
    for place, word in ((tmp_path / ("n" * 300), "too long"), (tmp_path / "loop", "symbolic links")):
        with pytest.raises(SciplatError, match=f"is no place for a store\n.*{word}"):
            sciplat.open_catalog(place)
        with pytest.raises(SciplatError, match=f"is no place for a store\n.*{word}"):
            sciplat.open_catalog(catalog.storage.url).write(place)

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import ArgumentError
from sciplat.lazy.rebuild import rebuild, rerun
from sciplat.steps.sample import sample
from tests.plan_scene import SCHEMA, stars, write_stars
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions

CONE = sciplat.Cone("0 deg", "90 deg", "3 deg")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    url = tmp_path_factory.mktemp("stars") / "stars"
    write_stars(url, WHOLE_SKY)
    return sciplat.open_catalog(url)


@settings(max_examples=10)
@given(partitions(), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 2**64 - 1))
def test_the_same_rows_are_kept_for_every_partitioning(tmp_path_factory, cells, fraction, seed):
    url = tmp_path_factory.mktemp("partition") / "stars"
    write_stars(url, cells)
    rows = sciplat.open_catalog(url).sample(fraction, seed=seed).compute()
    assert rows.equals(sample(stars(), "source_id", ("ra", "dec"), fraction, seed))


def test_columns_and_regions_do_not_matter(catalog):
    kept = catalog.sample(0.4).compute()
    assert catalog.select("mag").sample(0.4).select("mag").compute()["mag"].equals(kept["mag"])
    inside = kept.filter(pa.array(CONE.contains(kept["ra"].to_numpy(), kept["dec"].to_numpy())))
    assert 0 < inside.num_rows < kept.num_rows
    assert catalog.within(CONE).sample(0.4).compute().equals(inside)
    assert catalog.sample(0.4).within(CONE).compute().equals(inside)


def test_rows_without_a_name_are_told_apart_by_their_position(catalog):
    nameless = pa.schema([field for field in SCHEMA if field.name != "source_id"])
    plan = catalog.map(lambda table: table.drop_columns("source_id"), schema=nameless).sample(0.4)
    assert plan.compute().equals(sample(stars(), None, ("ra", "dec"), 0.4, 0).drop_columns("source_id"))


def test_a_sample_is_quoted_as_a_part_of_what_is_read(catalog):
    whole, part = catalog.explain(), catalog.sample(0.25).explain()
    assert (part.reads, part.requests, part.cells) == (whole.reads, whole.requests, whole.cells)
    assert part.rows == pytest.approx(whole.rows / 4, abs=1)
    assert part.writes == pytest.approx(whole.writes / 4, rel=0.01)
    assert part.memory <= whole.memory


def test_a_written_sample_is_found_again_and_repeated(catalog, tmp_path):
    plan = catalog.sample(np.float32(0.5), seed=np.int64(3))
    store = plan.write(tmp_path / "sample")
    assert store.compute().equals(plan.compute())
    again = rebuild(json.loads(json.dumps(plan.node.describe())))
    assert again.node.describe() == plan.node.describe()
    assert again.write(tmp_path / "sample").store.manifest.write_id == store.store.manifest.write_id
    other, same = rerun(str(tmp_path / "sample"), str(tmp_path / "other"))
    assert same
    assert other.compute().equals(store.compute())
    with pytest.raises(sciplat.errors.StoreExists, match="seed of sample: 3, now 4"):
        catalog.sample(0.5, seed=4).write(tmp_path / "sample")


@pytest.mark.parametrize("fraction", [0, -0.1, 1.001, float("nan"), "half", True, None])
def test_fractions_that_make_no_sense_are_refused(catalog, fraction):
    with pytest.raises(ArgumentError, match="fraction"):
        catalog.sample(fraction)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "x", True, None])
def test_seeds_that_make_no_sense_are_refused(catalog, seed):
    with pytest.raises(ArgumentError, match="seed"):
        catalog.sample(0.5, seed=seed)

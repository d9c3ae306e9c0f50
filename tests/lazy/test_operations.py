"""What operations refuse before anything is planned."""

import re

import pytest

import sciplat
from sciplat.errors import ArgumentError
from sciplat.lazy.catalog import Catalog
from tests.plan_scene import write_stars
from tests.sky_scene import WHOLE_SKY


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return Catalog.of_store(write_stars(tmp_path_factory.mktemp("stars") / "s", WHOLE_SKY))


@pytest.mark.parametrize("region", ["x", None, 5, sciplat.Cone], ids=repr)
def test_what_is_no_region_is_refused(catalog, region):
    with pytest.raises(ArgumentError, match=r"a Cone, Box, Polygon or Moc\n.*" + re.escape(repr(region))):
        catalog.within(region)


@pytest.mark.parametrize(("columns", "name"), [(5, "curve"), ("mag", "curve"), (["mag"], 5)])
def test_what_is_nested_are_columns_under_a_name(catalog, columns, name):
    with pytest.raises(ArgumentError, match="nest takes a list of columns"):
        catalog.nest("source_id", columns, name=name)


@pytest.mark.parametrize("suffix", [None, 5, b"_2"], ids=repr)
def test_a_suffix_of_a_join_is_a_text(catalog, suffix):
    with pytest.raises(ArgumentError, match="the suffix is no text"):
        catalog.join(catalog, on="source_id", suffix=suffix)

"""What users say of a catalog, and whether rows fit one that is there."""

import pyarrow as pa
import pytest

from sciplat.errors import ArgumentError
from sciplat.ingest.properties import Said, added_properties
from tests.plan_scene import SCHEMA, stars, write_stars
from tests.sky_scene import WHOLE_SKY


@pytest.mark.parametrize("citation", [5, ["Somebody 2020"], b"Somebody"], ids=repr)
def test_a_citation_is_a_text(citation):
    with pytest.raises(ArgumentError, match="the citation is no text"):
        Said(citation=citation)
    assert Said(citation="Somebody 2020").citation == "Somebody 2020"


def in_unit(unit):
    """Return the columns of the stars, without their index, with a velocity in some unit."""
    columns = [field for field in SCHEMA if field.name != "_healpix_29"]
    return pa.schema([*columns, pa.field("rv", pa.float64(), metadata={"unit": unit})])


def test_a_unit_may_be_written_in_another_way_but_not_be_another(tmp_path):
    table = stars()
    table = table.append_column(in_unit("km/s").field("rv"), pa.array([1.0] * len(table)))
    parent = write_stars(tmp_path / "stars", WHOLE_SKY, table)
    known = parent.manifest.properties
    known.setdefault("citations", [])
    for unit in ("km/s", "km s-1", "km.s**-1"):
        assert added_properties(in_unit(unit), Said(), parent)["position"] == ["ra", "dec"]
    with pytest.raises(ArgumentError, match=r"'rv' has another unit than the store's\n.*m/s, km/s"):
        added_properties(in_unit("m/s"), Said(), parent)

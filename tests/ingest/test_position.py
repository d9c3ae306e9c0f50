"""Which columns hold the position."""

import pyarrow as pa
import pytest

from sciplat.errors import ArgumentError
from sciplat.ingest.position import position_columns


def test_one_column_is_not_both_coordinates():
    schema = pa.schema([("ra", pa.float64()), ("dec", pa.float64())])
    assert position_columns(schema, "ra", None, "icrs") == ("ra", "dec")
    for ra, dec in (("ra", "ra"), (None, "ra"), ("dec", None)):
        with pytest.raises(ArgumentError, match="is taken for ra and for dec"):
            position_columns(schema, ra, dec, "icrs")

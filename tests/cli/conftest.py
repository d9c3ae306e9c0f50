"""What the tests of several commands look at."""

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.sky.motion import Errors, Motion

MEASURED = pa.schema(
    [
        pa.field("source_id", pa.int64(), metadata={"ucd": "meta.id;meta.main"}),
        pa.field("ra", pa.float64(), metadata={"unit": "deg", "description": "Right ascension"}),
        pa.field("dec", pa.float64(), metadata={"unit": "deg"}),
        pa.field("pmra", pa.float64(), metadata={"unit": "mas/yr", "description": "times cos(dec), " * 9}),
        pa.field("pmdec", pa.float64(), metadata={"unit": "mas/yr"}),
        pa.field("e_ra", pa.float64(), metadata={"unit": "mas"}),
        pa.field("e_dec", pa.float64()),
        pa.field("name", pa.string()),
        pa.field("is_star", pa.bool_()),
    ]
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A catalog with motions and errors, texts and missing values."""
    rng, n, url = np.random.default_rng(2), 300, tmp_path_factory.mktemp("measured") / "stars"
    numbers = [rng.uniform(0, 360, n), rng.uniform(-90, 90, n), *rng.normal(size=(4, n))]
    names = pa.array([None if i % 4 == 0 else f"HD {i}" for i in range(n)])
    stars = pa.array([None if i % 3 == 0 else i % 2 == 0 for i in range(n)])
    table = pa.table([np.arange(n), *numbers, names, stars], schema=MEASURED)
    sciplat.ingest_catalog(
        table, url, rows_per_cell=50, epoch="J2016.0", citation="Somebody 2020",
        motion=Motion("pmra", "pmdec"), errors=Errors("e_ra", "e_dec"),
    )  # fmt: skip
    return url

"""Files that change between the first look at them and the last."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources
from tests.ingest.test_sources import CHUNK, TEXT, arrow, cut, write


@pytest.mark.parametrize("kind", ["csv", "parquet", "fits", "vot", "arrow"])
def test_a_file_that_changes_while_it_is_read(tmp_path, kind):
    rows = {"id": np.arange(5000), "ra": np.arange(5000) / 8}
    first = Table(rows)
    second = Table(rows | {"ra": np.arange(5000) / 4 + 0.125})
    for name, table in ((f"x.{kind}", first), (f"y.{kind}", second)):
        if kind == "csv":
            table.write(tmp_path / name, format="ascii.csv")
        elif kind in ("parquet", "arrow"):
            plain = pa.table({key: np.asarray(table[key]) for key in table.colnames})
            pq.write_table(plain, tmp_path / name, row_group_size=1000) if kind == "parquet" else arrow(
                tmp_path / name, pa.ipc.new_file, plain.slice(0, 100)
            )
        else:
            table.write(tmp_path / name, format={"vot": "votable"}.get(kind))
    part = open_sources(tmp_path / f"x.{kind}", chunk=1 << 20).parts[0]
    reading = part.read()
    next(reading)
    with (tmp_path / f"x.{kind}").open("r+b") as file:  # in place, as a slow copy does
        file.write((tmp_path / f"y.{kind}").read_bytes())
    os.utime(tmp_path / f"x.{kind}", ns=(1, 1))
    with pytest.raises(InputError, match=f"x.{kind} changed while it was read"):
        list(reading)


def test_text_that_ends_before_its_part_does_is_an_error(tmp_path):
    path = write(tmp_path / "x.csv", TEXT)
    (part,) = open_sources(path, chunk=CHUNK).parts
    state = path.stat()
    cut(path, TEXT.index(b"3,30"))
    with pytest.raises(EOFError):  # the slice alone, which does not know the file's size
        list(part.rows.read(part.schema, CHUNK))
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))
    with pytest.raises(InputError, match=r"x\.csv changed while it was read"):
        list(part.read())

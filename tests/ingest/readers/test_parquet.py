"""Parquet and Arrow files in parts: row groups and batches of any size, types that are made plain."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources

N = 5000
RNG = np.random.default_rng(4)
TABLE = pa.table(
    {
        "id": np.arange(N),
        "x": pa.array(RNG.normal(size=N), mask=np.arange(N) % 5 == 0),
        "band": pa.array(["g", "r", "a name that repeats " * 4, None] * (N // 4)).dictionary_encode(),
        "curve": pa.array([[float(k)] * (k % 4) for k in range(N)]),
        "pair": pa.array([{"a": k, "b": str(k)} for k in range(N)]),
    }
)


def write_parquet(path, table, size):
    pq.write_table(table, path, row_group_size=size)


def write_file(path, table, size, **options):
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table.unify_dictionaries(), max_chunksize=size)


def write_packed(path, table, size):
    write_file(path, table, size, compression="zstd")


def write_stream(path, table, size):
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=size)


WRITERS = {"parquet": write_parquet, "arrow": write_file, "feather": write_packed, "ipc": write_stream}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("size", [100, N])
@pytest.mark.parametrize("chunk", [1, 20_000, 1 << 24])
def test_parts_hold_all_rows_in_order_whatever_the_groups(tmp_path, kind, size, chunk):
    rows = TABLE.slice(0, 200) if chunk == 1 else TABLE
    WRITERS[kind](tmp_path / f"x.{kind}", rows, size)
    found = open_sources(tmp_path / f"x.{kind}", chunk=chunk)
    tables = [(part.first, list(pickle.loads(pickle.dumps(part)).read())) for part in found.parts]
    assert all(table.nbytes <= chunk or table.num_rows == 1 for _, each in tables for table in each)
    assert [first for first, _ in tables] == [each[0]["id"][0].as_py() for _, each in tables]
    assert pa.concat_tables(table for _, each in tables for table in each).to_pydict() == rows.to_pydict()
    assert found.schema.field("band").type == pa.string()
    assert found.schema.field("curve").type == pa.list_(pa.float64())
    if size == 100 and kind != "ipc" and chunk == 20_000:
        assert len(found.parts) > 10
        assert all(part.size <= 2 * chunk for part in found.parts)


def test_a_dictionary_that_is_small_in_the_file_is_not_small_in_memory(tmp_path):
    words = pa.table({"word": pa.array(["x" * 1000] * 20_000).dictionary_encode()})
    pq.write_table(words, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 10_000
    (part,) = open_sources(tmp_path / "x.parquet", chunk=100_000).parts
    assert part.size == pytest.approx(20_000_000, rel=0.1)
    before = pa.total_allocated_bytes()
    for table in part.read():
        assert table.nbytes <= 100_000
        assert pa.total_allocated_bytes() - before < 1_000_000
    sizes = [table.num_rows for table in part.read()]
    assert sum(sizes) == 20_000


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_without_rows_keeps_its_schema(tmp_path, kind):
    WRITERS[kind](tmp_path / f"x.{kind}", TABLE.slice(0, 0), 10)
    found = open_sources(tmp_path / f"x.{kind}", chunk=100)
    assert found.parts == ()
    assert found.schema.names == TABLE.schema.names


def test_a_damaged_page_names_its_file(tmp_path):
    pq.write_table(TABLE.select(["x"]), tmp_path / "x.parquet", write_page_checksum=True, compression="zstd")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[2000:6000] = bytes(4000)
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.parquet cannot be read"):
        [list(part.read()) for part in open_sources(tmp_path / "x.parquet", chunk=1 << 20).parts]


def test_offsets_beyond_the_values_are_found(tmp_path):
    write_stream(tmp_path / "x.ipc", pa.table({"t": ["a"] * 99}), 99)
    content = (tmp_path / "x.ipc").read_bytes()
    offset = (50).to_bytes(4, "little") + (51).to_bytes(4, "little")
    assert content.count(offset) == 1
    (tmp_path / "x.ipc").write_bytes(content.replace(offset, (9999999).to_bytes(4, "little") + offset[4:]))
    (part,) = open_sources(tmp_path / "x.ipc", chunk=1 << 20).parts
    with pytest.raises(InputError, match=r"x\.ipc cannot be read"):
        list(part.read())

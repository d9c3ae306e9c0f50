"""Sorted pieces beside the store: written, recorded, found again, and not where anything is missing or changed."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciplat.errors import StoreCorrupt
from sciplat.io.spill import SortedPart, Spill
from sciplat.io.staging import Staging
from sciplat.io.storage import open_storage

TABLE = pa.table({"_healpix_29": np.arange(40_000), "x": np.random.default_rng(1).normal(size=40_000)})


@pytest.fixture(params=["local", "memory"])
def spill(request, tmp_path):
    url = tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}"
    return Spill(Staging(open_storage(url), "b" * 64))


def test_what_is_committed_is_done(spill):
    entry = spill.write(TABLE)
    assert spill.done(["one", "two"]) == {}
    part = SortedPart("one", 3, ((entry, (0, 40_000)),))
    spill.commit(part)
    spill.commit(SortedPart("two", 5, ()))
    assert spill.done(["one", "two", "three"]) == {"one": part, "two": SortedPart("two", 5, ())}
    assert spill.done(["two"]).keys() == {"two"}
    assert (entry.rows, entry.memory, entry.footer > 0) == (40_000, TABLE.nbytes, True)


def test_many_parts_come_in_the_order_of_their_names(spill):
    names = [f"part-{number}" for number in range(40)]
    for name in reversed(names):
        spill.commit(SortedPart(name, len(name), ()))
    assert list(spill.done(names)) == names


def test_a_part_whose_pieces_are_gone_is_to_be_done_again(spill):
    entry = spill.write(TABLE)
    spill.commit(SortedPart("one", 0, ((entry, (0, 40_000)),)))
    spill.staging.storage.remove(entry.path)
    assert spill.done(["one"]) == {}


@pytest.mark.parametrize("rows", [100, 20_000, 40_000])
def test_a_part_of_a_piece_can_be_read_alone(tmp_path, rows):
    spill = Spill(Staging(open_storage(tmp_path), "b" * 64))
    file = pq.ParquetFile(Path(tmp_path) / spill.write(TABLE.slice(0, rows)).path)
    assert file.read().equals(TABLE.slice(0, rows))
    assert file.metadata.num_row_groups == {100: 1, 20_000: 16, 40_000: 16}[rows]


@pytest.mark.parametrize(
    "change",
    [{"skipped": 1}, {"key": "two"}, {"pieces": [[{"path": "../x", "size": 1, "sha256": ""}, [0, 1]]]}, {"more": 1}],
    ids=str,
)
def test_a_record_that_no_ingest_has_written_is_refused(spill, change):
    spill.commit(SortedPart("one", 0, ()))
    path = f"{spill.staging.folder}/sorted-one.json"
    outer = json.loads(spill.staging.storage.read(path))
    outer["part"] |= change
    spill.staging.storage.write(path, json.dumps(outer).encode())
    with pytest.raises(StoreCorrupt, match=r"sorted-one\.json") as refused:
        spill.done(["one"])
    assert "remove the file" in refused.value.hint

"""The first pass of an ingest: parts are sorted in memory or beside the store, and both give the same rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from sciplat.errors import InputError, PositionError
from sciplat.io.spill import Spill
from sciplat.io.staging import Staging
from sciplat.io.storage import LocalStorage
from sciplat.sky.cell import Cell, cell_ranges, healpix_29
from sciplat.tasks.merge import MergeTask
from sciplat.tasks.sort import (
    Allowance,
    HeldPiece,
    SortParts,
    StoredPiece,
    count_rows,
    parts_name,
    parts_together,
    sort_parts,
)

SCHEMA = pa.schema([("id", pa.int64()), ("ra", pa.float64()), ("dec", pa.float64())])
SKY = [Cell(0, base) for base in range(12)]


@dataclass(frozen=True)
class Rows:
    """A part of an input, in memory."""

    tables: tuple
    key: str
    first: int = 0
    source: str = "somewhere"
    size: int = 1000

    def read(self):
        if not self.tables:
            raise AssertionError("it was read")
        yield from self.tables


def table(n, seed, ids=0):
    rng = np.random.default_rng(seed)
    ra, dec = rng.choice([10.0, 200.0, 300.0], n), rng.choice([-60.0, 0.0, 60.0], n)
    return pa.table([np.arange(ids, ids + n), ra, dec], schema=SCHEMA)


PARTS = [Rows((table(50, 1), table(30, 2, 50)), "a"), Rows((table(20, 3, 80),), "b")]


def sort(tmp_path, held=None, **options):
    spill = Spill(Staging(LocalStorage(tmp_path / "store"), "c" * 64))
    allowance = None if held is None else Allowance(held)
    return SortParts(spill, SCHEMA, ("ra", "dec"), options.get("skip_bad", False), options.get("chunk", 1), allowance)


def merged(found):
    schema = SCHEMA.insert(0, pa.field("_healpix_29", pa.int64()))
    return pa.concat_tables([MergeTask(cell, found.pieces, schema).run() for cell in SKY])


def expected():
    whole = pa.concat_tables([each for part in PARTS for each in part.tables])
    index = healpix_29(whole["ra"].to_numpy(), whole["dec"].to_numpy())
    order = pa.array(np.argsort(index, kind="stable"))  # ties keep the order of the input
    return whole.take(order)


@pytest.mark.parametrize("held", [None, 0, 2000, 10**6])
def test_pieces_hold_all_rows_wherever_they_lie(tmp_path, held):
    found = sort_parts(PARTS, sort(tmp_path, held))
    kinds = {None: {StoredPiece}, 0: {StoredPiece}, 2000: {HeldPiece, StoredPiece}, 10**6: {HeldPiece}}[held]
    assert {type(piece) for piece in found.pieces} == kinds
    assert (found.rows, found.skipped, found.spilled > 0) == (100, 0, StoredPiece in kinds)
    assert merged(found).select(SCHEMA.names).equals(expected())


def test_counts_are_those_of_the_rows(tmp_path):
    index = merged(found := sort_parts(PARTS, sort(tmp_path, 2000)))["_healpix_29"].to_numpy()
    for order in (0, 3, 10):
        cells = [Cell(order, number) for number in np.unique(index >> 2 * (29 - order)).tolist()]
        rows = [int(np.count_nonzero((index >= cell.start) & (index < cell.stop))) for cell in cells]
        assert count_rows(found.pieces, cell_ranges(cells)).tolist() == rows


def test_what_is_sorted_is_not_read_again(tmp_path):
    first = sort_parts(PARTS[:1], sort(tmp_path))
    again = sort_parts([Rows((), "a"), PARTS[1]], sort(tmp_path))
    assert again.pieces[: len(first.pieces)] == first.pieces
    assert merged(again).select(SCHEMA.names).equals(expected())
    assert parts_name(PARTS[:1]) != parts_name(PARTS[1:])


def test_rows_without_position_are_named_or_left_out(tmp_path):
    bad = table(10, 4).set_column(1, "ra", pa.array([1.0, None, *[2.0] * 8]))
    with pytest.raises(PositionError, match="somewhere") as refused:
        sort_parts([Rows((bad,), "bad", first=1000)], sort(tmp_path))
    assert "row 1,001" in refused.value.found
    found = sort_parts([Rows((bad,), "bad")], sort(tmp_path, skip_bad=True))
    assert (found.rows, found.skipped) == (9, 1)


def test_values_that_do_not_fit_are_named(tmp_path):
    wrong = table(3, 5).set_column(0, "id", pa.array([1.5, 2.0, 3.0]))
    with pytest.raises(InputError, match="somewhere"):
        sort_parts([Rows((wrong,), "wrong")], sort(tmp_path))


def test_an_allowance_is_used_up():
    allowance = Allowance(100)
    assert [allowance.take(size) for size in (60, 50, 40, 1)] == [True, False, True, False]


def test_small_parts_are_sorted_together_and_large_ones_alone():
    sizes = [3, 3, 3, 20, 4, 6, 1]
    parts = [Rows((), str(number), size=size) for number, size in enumerate(sizes)]
    groups = parts_together(parts, 10)
    assert [[part.size for part in group] for group in groups] == [[3, 3, 3], [20], [4, 6], [1]]
    assert [part for group in groups for part in group] == parts
    assert parts_together([], 10) == []


def test_pieces_are_as_large_as_may_be(tmp_path):
    """A reader that yields little at a time does not make many files."""
    little = [Rows(tuple(table(10, seed) for seed in range(20)), str(part), size=4800) for part in range(3)]
    found = sort_parts(little, sort(tmp_path, chunk=10_000))
    assert [piece.rows for piece in found.pieces] == [400, 200]
    assert sort_parts(little, sort(tmp_path, chunk=10_000)).pieces == found.pieces
    smaller = sort_parts(little, sort(tmp_path, chunk=1000))  # less memory: what was sorted is of no use
    assert smaller.rows == 600
    assert len(list((tmp_path / "store").rglob("*-sorted.parquet"))) == len(smaller.pieces)

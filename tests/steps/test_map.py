import functools
import pickle

import numpy as np
import pyarrow as pa
import pytest

from sciplat.errors import ColumnError, StepError
from sciplat.sky.cell import Cell
from sciplat.steps.map import apply_step, step_name

CELL = Cell(5, 1284)
SCHEMA = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("flux", pa.float64(), metadata={"unit": "nJy"}),
        pa.field("name", pa.string()),
    ],
    metadata={"made": "by us"},
)


def rows(offsets=(0, 1, 2), **columns):
    """Return a table with rows so far behind the start of the cell."""
    given = {
        "_healpix_29": pa.array([CELL.start + offset for offset in offsets], pa.int64()),
        "flux": pa.array(np.arange(len(offsets)), pa.float64()),
        "name": pa.array([str(offset) for offset in offsets], pa.string()),
    }
    return pa.table(given | columns)


def apply(step, table=None, *, surrounded=False, schema=SCHEMA):
    return apply_step(step, rows() if table is None else table, schema, CELL, surrounded=surrounded)


def refused(result, *, surrounded=False, schema=SCHEMA):
    """Return the error of a function that gives `result`."""
    with pytest.raises(StepError) as caught:
        apply(lambda _: result, surrounded=surrounded, schema=schema)
    assert "on cell 5/1284" in caught.value.what
    assert "test_map:refused.<locals>.<lambda>" in caught.value.what
    assert caught.value.hint
    return caught.value


def divide(table):
    return deeper(table.num_rows)


def deeper(count):
    return count / 0


class Scaled:
    def __call__(self, table):
        return table

    def bound(self, table):
        return table


def test_the_function_gets_the_table_and_its_result_comes_back_in_the_schema():
    table = rows()
    seen = []
    result = apply(lambda given: seen.append(given) or given.select(["name", "_healpix_29", "flux"]), table)
    assert seen[0] is table
    assert result.schema.equals(SCHEMA, check_metadata=True)
    assert result.equals(table.cast(SCHEMA))


def test_rows_are_sorted_by_position_and_stay_in_order_within_one():
    result = apply(lambda _: rows([7, 0, 7, 3, 7]))
    assert result["flux"].to_pylist() == [1, 3, 0, 2, 4]


def test_a_record_batch_and_no_rows_at_all_will_do():
    assert apply(lambda _: rows().to_batches()[0]).num_rows == 3
    assert apply(lambda _: rows([])).schema.equals(SCHEMA, check_metadata=True)
    assert apply(lambda _: rows([]), surrounded=True).num_rows == 0


@pytest.mark.parametrize(
    ("values", "promised"),
    [
        (pa.array([1, 2, 3], pa.int32()), pa.int64()),
        (pa.array([1, 2, 3], pa.uint8()), pa.int16()),
        (pa.array([1, 2, 3], pa.int64()), pa.float64()),
        (pa.array([1, 2, 3], pa.float32()), pa.float64()),
        (pa.nulls(3), pa.string()),
        (pa.nulls(3), pa.list_(pa.struct([("mjd", pa.float64())]))),
        (pa.array([[], [], []]), pa.list_(pa.struct([("mjd", pa.float64())]))),
        (pa.array([[1], [2, 3], None], pa.list_(pa.int32())), pa.large_list(pa.float64())),
        (pa.array(["g", "r", "g"], pa.large_string()), pa.string()),
        (pa.array(["g", "r", "g"]).dictionary_encode(), pa.string()),
    ],
)
def test_narrower_types_are_widened_and_keep_their_values(values, promised):
    schema = SCHEMA.append(pa.field("more", promised))
    result = apply(lambda _: rows(more=values), schema=schema)
    assert result["more"].type == promised
    assert result["more"].to_pylist() == values.to_pylist()


@pytest.mark.parametrize(
    ("values", "promised"),
    [
        (pa.array([1, 2, 3], pa.int64()), pa.int32()),
        (pa.array([1, 2, 3], pa.int8()), pa.uint8()),
        (pa.array([1, 2, 3], pa.float64()), pa.float32()),
        (pa.array([1, 2, 3], pa.float64()), pa.int64()),
        (pa.array([1, 2, 2**53 + 1], pa.int64()), pa.float64()),
        (pa.array(["1", "2", "3"]), pa.int64()),
        (pa.array([1, 2, 3]), pa.string()),
        (pa.array([True, False, True]), pa.int64()),
        (pa.array([[1.0], [2.0], None]), pa.list_(pa.float32())),
    ],
)
def test_types_that_could_lose_something_are_refused_whatever_the_values(values, promised):
    schema = SCHEMA.append(pa.field("more", promised))
    error = refused(rows(more=values), schema=schema)
    assert error.found.startswith(f"more is {values.type} instead of {promised}")


def test_nulls_where_the_schema_allows_none_are_refused():
    schema = SCHEMA.set(1, pa.field("flux", pa.float64(), nullable=False))
    error = refused(rows(flux=pa.array([1.0, None, None])), schema=schema)
    assert error.found == "flux is null in 2 rows, and may not be"


def test_missing_surplus_and_repeated_columns_are_named():
    assert refused(rows().drop_columns(["name"])).found == "missing: name"
    assert refused(rows(x=[1, 2, 3], y=[1, 2, 3])).found == "not promised: x, y"
    twice = rows().append_column("flux", pa.array([1.0, 2.0, 3.0]))
    assert refused(twice).found == "more than once: flux"
    both = refused(rows(x=[1, 2, 3]).drop_columns(["_healpix_29", "flux"]))
    assert both.found == "missing: _healpix_29, flux; not promised: x"


@pytest.mark.parametrize(
    ("result", "found"),
    [(None, "None"), ([1], "builtins.list"), (np.zeros(3), "numpy.ndarray"), (rows().to_pandas(), "DataFrame")],
)
def test_what_is_no_arrow_table_is_refused(result, found):
    error = refused(result)
    assert "gave no table" in error.what
    assert found in error.found


def test_rows_outside_the_cell_are_refused_where_nothing_surrounds_it():
    size = CELL.stop - CELL.start
    assert apply(lambda _: rows([0, size - 1])).num_rows == 2
    assert refused(rows([-1, 0, size])).found == "2 of 3 rows lie outside the cell"


def test_rows_of_the_surroundings_are_left_out():
    size = CELL.stop - CELL.start
    result = apply(lambda table: table, rows([-1, size - 1, size, 0]), surrounded=True)
    assert result["name"].to_pylist() == ["0", str(size - 1)]
    assert result.schema.equals(SCHEMA, check_metadata=True)


@pytest.mark.parametrize("surrounded", [True, False])
def test_rows_without_a_position_are_refused(surrounded):
    position = pa.array([CELL.start, None, CELL.start], pa.int64())
    error = refused(rows(_healpix_29=position), surrounded=surrounded)
    assert error.found == "1 of 3 rows where _healpix_29 is null"


def test_an_exception_is_told_with_the_traceback_of_the_function():
    with pytest.raises(StepError) as caught:
        apply(divide)
    error = caught.value
    assert error.what == "tests.steps.test_map:divide on cell 5/1284 raised an error"
    assert error.found == "ZeroDivisionError: division by zero"
    lines = error.traceback.splitlines()
    assert "in divide" in lines[1]
    assert "in deeper" in error.traceback
    assert "in apply_step" not in error.traceback
    assert isinstance(error.__cause__, ZeroDivisionError)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.traceback) == (str(error), error.traceback)


def test_a_function_that_takes_no_table_is_an_error_of_the_function():
    with pytest.raises(StepError) as caught:
        apply(lambda: None)
    assert "takes 0 positional arguments but 1 was given" in caught.value.found


def test_long_and_broken_messages_of_exceptions_stay_short():
    class Mute(BaseException):
        def __str__(self):
            raise ValueError("no words")

    def wordy(_):
        raise KeyError("a\nb " * 100_000)

    def mute(_):
        raise Mute

    with pytest.raises(StepError) as caught:
        apply(wordy)
    assert len(caught.value.found) < 400
    assert "\n" not in caught.value.found
    assert len(caught.value.traceback) <= 100_000
    with pytest.raises(StepError, match="Mute: "):
        apply(mute)


def test_the_end_of_the_program_is_an_error_of_the_function_and_ctrl_c_is_none():
    def leave(_):
        raise SystemExit(3)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(StepError) as caught:
        apply(leave)
    assert caught.value.found == "SystemExit: 3"
    with pytest.raises(KeyboardInterrupt):
        apply(interrupt)


def test_our_own_errors_are_the_function_s_too():
    """Otherwise a usage error in one cell would end a plan that sets failing cells aside."""

    def fail(_):
        raise ColumnError("there is no column x")

    with pytest.raises(StepError, match="on cell") as caught:
        apply(fail)
    assert caught.value.found == "ColumnError: there is no column x"
    assert caught.value.kind == "fatal"


def test_every_kind_of_callable_has_a_name():
    assert step_name(divide) == "tests.steps.test_map:divide"
    assert step_name(Scaled()) == "tests.steps.test_map:Scaled"
    assert step_name(Scaled().bound) == "tests.steps.test_map:Scaled.bound"
    assert step_name(functools.partial(functools.partial(divide), 1)) == "tests.steps.test_map:divide"
    assert step_name(len) == "builtins:len"
    assert step_name(lambda table: table).endswith("<locals>.<lambda>")

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import ArgumentError, ColumnError
from sciplat.lazy.fingerprint import fingerprint
from sciplat.lazy.node import Scan
from sciplat.lazy.rebuild import rebuild, rerun
from sciplat.lazy.sample import Sample
from sciplat.sky.cell import healpix_29
from sciplat.steps.evaluate import evaluate
from sciplat.steps.parse import parse_expression
from tests.plan_scene import stars
from tests.sky_scene import WHOLE_SKY, write_catalog

CONE = sciplat.Cone("0 deg", "90 deg", "4 deg")
NAMED = ["_healpix_29", "source_id", "ra", "dec"]


def rows():
    """Return stars with nulls, NaN and texts."""
    table = stars()
    n = table.num_rows
    rng = np.random.default_rng(3)
    mag = np.where(rng.uniform(size=n) < 0.1, np.nan, table["mag"].to_numpy())
    table = table.set_column(4, "mag", pa.array(mag, mask=rng.uniform(size=n) < 0.1))
    table = table.append_column("bp", pa.array(mag + rng.normal(0, 1, n), pa.float32()))
    table = table.append_column("n", pa.array(rng.integers(-3, 4, n), mask=rng.uniform(size=n) < 0.2))
    return table.append_column("name", pa.array([f"s{i % 7}" if i % 5 else None for i in range(n)]))


@pytest.fixture(scope="module")
def table():
    return rows()


@pytest.fixture(scope="module")
def catalog(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("where")
    write_catalog(folder / "stars", table, [cell for base in WHOLE_SKY for cell in base.children])
    return sciplat.open_catalog(folder / "stars")


def kept(table, text):
    return table.filter(evaluate(parse_expression(text), table))


def same(one, other):
    """Compare tables; NaN equals NaN."""
    return one.schema.equals(other.schema, check_metadata=True) and repr(one.to_pydict()) == repr(other.to_pydict())


def scans(node):
    """Return the scans of a plan."""
    return [node] if isinstance(node, Scan) else scans(node.inner)


CONDITIONS = ["mag < 20", "mag < 20 and bp > 19.5", "not mag < 20", "n in (1, 2, null) or name is null", "name = 's3'"]
CONDITIONS += ["mag between 19 and 20 and dec > 0", "bp - mag > 0.5", "n % 2 = 0 and source_id > 50"]
CONDITIONS += ["mag <> mag", "n < -3"]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_where_keeps_the_rows_for_which_it_is_true(catalog, table, condition):
    expected = kept(table, condition)
    assert same(catalog.where(condition).compute(), expected)
    assert catalog.where(condition).schema.equals(catalog.schema, check_metadata=True)
    inside = expected.filter(pa.array(CONE.contains(expected["ra"].to_numpy(), expected["dec"].to_numpy())))
    assert same(catalog.where(condition).within(CONE).compute(), inside)
    assert same(catalog.within(CONE).where(condition).compute(), inside)
    assert same(catalog.where(condition).select("n").compute(), expected.select([*NAMED, "n"]))


def test_the_answer_does_not_depend_on_the_cells(table, catalog, tmp_path):
    write_catalog(tmp_path / "whole", table, WHOLE_SKY)
    other = sciplat.open_catalog(tmp_path / "whole")
    for condition in CONDITIONS:
        assert same(other.where(condition).compute(), catalog.where(condition).compute())
    computed = [each.with_columns(c="bp - mag", mag="mag + 1").where("c > 0") for each in (catalog, other)]
    assert computed[0].compute().equals(computed[1].compute())


def test_rows_are_kept_where_all_conditions_hold(catalog, table):
    both = catalog.where("mag < 20").where("n > 0")
    assert same(both.compute(), kept(table, "mag < 20 and n > 0"))
    (scan,) = scans(both.node)
    assert dict(scan.bounds) == {"mag": (None, 20), "n": (0, None)}
    (scan,) = scans(both.where("mag > 18 and n > -1").node)
    assert dict(scan.bounds) == {"mag": (18, 20), "n": (0, None)}


def test_columns_are_added_and_replaced(catalog, table):
    added = {"bright": "mag < 20", "one": "1", "label": "coalesce(name, '?')"}
    plan = catalog.with_columns(colour="bp - mag", mag="round(mag)", **added)
    result = plan.compute()
    assert plan.columns == [*table.column_names, "colour", "bright", "one", "label"]
    assert result.schema.equals(plan.schema, check_metadata=True)
    assert [str(field.type) for field in plan.schema][-4:] == ["double", "bool", "int64", "string"]
    assert plan.schema.field("mag").metadata is None
    for name, text in {"mag": "round(mag)", "colour": "bp - mag"}.items():
        assert repr(result[name].to_pylist()) == repr(evaluate(parse_expression(text), table).to_pylist())
    assert result["bright"].equals(evaluate(parse_expression("mag < 20"), table))  # the mag of before
    assert set(result["one"].to_pylist()) == {1}
    assert same(result.select(table.column_names).drop_columns("mag"), table.drop_columns("mag"))


def test_computed_columns_are_columns(catalog, table):
    plan = catalog.with_columns(colour="bp - mag").where("colour > 0 and mag < 20").select("colour")
    expected = kept(table, "bp - mag > 0 and mag < 20")
    assert plan.columns == [*NAMED, "colour"]
    assert same(plan.compute().drop_columns("colour"), expected.select(NAMED))
    assert plan.with_columns(twice="2 * colour").compute()["twice"].to_pylist() == [
        2 * value for value in plan.compute()["colour"].to_pylist()
    ]


def test_what_does_not_fit_is_refused_when_the_plan_is_made(catalog):
    with pytest.raises(ColumnError, match=r"(?s)no column 'Mag'.*mag: names are case-sensitive"):
        catalog.where("Mag < 20")
    with pytest.raises(ColumnError, match="no column 'bp'"):
        catalog.select("mag").where("bp < 20")
    with pytest.raises(ColumnError, match="no column 'colour'"):
        catalog.with_columns(colour="bp - mag", twice="colour * 2")
    with pytest.raises(ArgumentError, match=r"(?s)name < 3.*name is text"):
        catalog.where("name < 3")
    with pytest.raises(ArgumentError, match=r"(?s)name > 3"):
        catalog.where("name > 'a' and name > 3")
    with pytest.raises(ArgumentError, match=r"(?s)true or false.*mag \+ 1 is double"):
        catalog.where("mag + 1")
    with pytest.raises(ArgumentError, match="true or false"):
        catalog.where("null")
    with pytest.raises(ArgumentError, match="no type"):
        catalog.with_columns(x="null")
    for name in NAMED:
        with pytest.raises(ArgumentError, match=f"{name} places or names"):
            catalog.with_columns(**{name: "0"})


def test_an_overflow_is_the_user_s_error(catalog):
    with pytest.raises(ArgumentError, match=r"_healpix_29 \* _healpix_29 cannot be computed"):
        catalog.where("_healpix_29 * _healpix_29 > 0").compute()


def plans(catalog):
    lazy = catalog.where("mag < 20 and name in ('s1', 'it''s')")
    computed = catalog.with_columns(colour="bp - mag", mag="mag + 1", unused="n % 2").within(CONE)
    return {
        "where": lazy,
        "where within": lazy.within(CONE),
        "where select": lazy.select("mag"),
        "where select fewer": catalog.where("mag < 20 and n < 1e3").select("name"),
        "select select": catalog.where("bp > 2").within(CONE).where("n > 0").select("name", "mag").select("mag"),
        "select where": catalog.select("n", "mag").where("mag < 21").select("n"),
        "with_columns": computed,
        "with_columns select": computed.where("colour < 1 and n > 0").select("mag", "colour"),
        "with_columns dropped": computed.select("n", "bp"),
        "with_columns replaced": computed.where("mag < 30").select("dec", "mag"),
        "nest": catalog.where("mag < 20").nest("name", ["mag"]).where("name > 's2'").select("light_curve"),
    }


def test_every_plan_comes_back_from_its_record(catalog):
    for name, plan in plans(catalog).items():
        record = plan.node.describe()
        again = rebuild(json.loads(json.dumps(record)))
        assert again.node.describe() == record, name
        assert fingerprint(again.node.describe()) == fingerprint(record)
        assert again.schema.equals(plan.schema, check_metadata=True)
        assert [scan.columns for scan in scans(again.node)] == [scan.columns for scan in scans(plan.node)], name
        assert [scan.bounds for scan in scans(again.node)] == [scan.bounds for scan in scans(plan.node)], name
        assert same(again.compute(), plan.compute()), name


def test_how_a_condition_is_written_does_not_change_the_plan_but_numbers_do(catalog):
    marks = [fingerprint(catalog.where(text).node.describe()) for text in ("mag<20", "(mag < 20)", "mag < 20.0")]
    assert marks[0] == marks[1] != marks[2]


def test_written_results_are_found_again_and_can_be_repeated(catalog, tmp_path):
    plan = plans(catalog)["with_columns select"]
    first = plan.write(tmp_path / "result")
    assert same(first.compute(), plan.compute())
    again = plans(catalog)["with_columns select"].write(tmp_path / "result")
    assert again.versions == [1]
    repeated, equal = rerun(str(tmp_path / "result"))
    assert (repeated.version, equal) == (2, True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a catalog of one cell with several row groups, along which `mag` and `name` grow."""
    n, rng = 200_000, np.random.default_rng(5)
    ra, dec = rng.uniform(40, 50, n), rng.uniform(-5, 5, n)
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    mag = pa.array(np.linspace(10, 20, n), mask=rng.uniform(size=n) < 0.01)
    columns = {"_healpix_29": index[order], "source_id": np.arange(n), "ra": ra[order], "dec": dec[order], "mag": mag}
    columns["name"] = pa.array(np.char.add("s", np.char.zfill(np.arange(n).astype(str), 6)))
    columns["k"] = pa.array(np.arange(n) // 50_000, pa.int16())
    table = pa.table(columns)
    folder = tmp_path_factory.mktemp("large")
    write_catalog(folder / "large", table, WHOLE_SKY, rows_per_cell=10**6)
    return sciplat.open_catalog(folder / "large"), table


def rows_read(plan):
    """Return how many rows the scans of a plan give."""
    (scan,) = scans(plan.node)
    return sum(scan.task(cell).run().num_rows for cell in plan.cells)


@pytest.mark.parametrize("condition", ["mag < 12", "name >= 's190000'", "k = 0 and mag > 11", "mag in (12.5, null)"])
def test_row_groups_without_a_row_inside_are_not_read(large, condition):
    catalog, table = large
    plan = catalog.where(condition)
    assert same(plan.compute(), kept(table, condition))
    assert 0 < rows_read(plan) < table.num_rows
    outer = catalog.with_columns(half="mag / 2").where(f"{condition} and half > 0").select("half")
    assert rows_read(outer) == rows_read(plan)
    assert outer.compute().num_rows == kept(table, f"{condition} and mag > 0").num_rows


def test_what_is_computed_anew_tells_nothing_of_the_file(large):
    catalog, table = large
    plan = catalog.with_columns(mag="30 - mag").where("mag < 12")
    assert rows_read(plan) == table.num_rows
    assert plan.compute().num_rows == kept(table, "30 - mag < 12").num_rows
    assert rows_read(catalog.where("mag < 12 or k = 3")) == table.num_rows


EDGES = st.sampled_from([9.9, 10, 10.0, 12.5, 15, 20.0, 20.1]) | st.floats(9, 21)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(["<", "<=", ">", ">=", "="]), EDGES), min_size=1, max_size=3))
def test_no_row_is_lost_to_the_bounds(large, limits):
    catalog, table = large
    condition = " and ".join(f"mag {operator} {edge!r}" for operator, edge in limits)
    assert catalog.where(condition).select("mag").compute().num_rows == kept(table, condition).num_rows


def test_only_what_is_needed_is_read(large):
    catalog, table = large
    (scan,) = scans(catalog.where("mag < 12").within(CONE).select("k").node)
    assert scan.columns == (*NAMED, "k", "mag")
    (scan,) = scans(catalog.with_columns(a="k + 1", b="name").select("a").node)
    assert scan.columns == (*NAMED, "k")
    (scan,) = scans(catalog.where("mag < 12").select(*table.column_names).node)
    assert set(scan.columns) == set(table.column_names)
    assert catalog.where("mag < 12").select("k").explain().reads < catalog.where("mag < 12").explain().reads


def test_a_region_reaches_the_file_through_a_condition(large):
    catalog, _ = large
    near = sciplat.Cone("45 deg", "0 deg", "10 arcmin")
    plan = catalog.where("mag < 20").within(near)
    assert 0 < plan.compute().num_rows <= rows_read(plan) < rows_read(catalog.where("mag < 20"))
    assert rows_read(plan) == rows_read(catalog.within(near).where("mag < 20"))


def test_a_sample_passes_on_what_is_asked_of_it(large):
    catalog, _ = large
    plan = sciplat.Catalog(Sample(catalog.node, 0.5)).where("mag < 12").select("k")
    (scan,) = scans(plan.node)
    assert (scan.columns, dict(scan.bounds)) == ((*NAMED, "k", "mag"), {"mag": (None, 12)})
    expected = kept(sciplat.Catalog(Sample(catalog.node, 0.5)).compute(), "mag < 12")
    assert same(plan.compute(), expected.select([*NAMED, "k"]))


def test_the_quote_is_an_upper_bound(large):
    catalog, table = large
    plan = catalog.where("mag < 12")
    assert plan.explain().rows == pytest.approx(table.num_rows, rel=0.01)
    assert plan.explain().memory >= catalog.explain().memory
    wide = catalog.with_columns(a="mag + 1", b="mag * k - sqrt(mag)")
    assert wide.explain().writes == pytest.approx(catalog.explain().writes + 16 * table.num_rows, rel=0.01)
    assert wide.explain().memory > catalog.explain().memory

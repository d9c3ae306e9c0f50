"""What is handed down to the scans changes what is read, never the rows: each plan is built a second time without."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.errors import ArgumentError, ColumnError
from sciplat.lazy.catalog import Catalog
from sciplat.lazy.concat import Concat
from sciplat.lazy.join import join_nodes
from sciplat.lazy.map import Map
from sciplat.lazy.nest import Nest
from sciplat.lazy.node import Scan, Select, Within
from sciplat.lazy.push_down import narrowed
from sciplat.lazy.rebuild import rebuild
from sciplat.lazy.sample import Sample
from sciplat.lazy.where import Where, WithColumns
from sciplat.sky.cell import healpix_29
from sciplat.steps.parse import parse_expression
from tests.lazy.test_concat import publish
from tests.plan_scene import stars
from tests.sky_scene import WHOLE_SKY

NORTH = WHOLE_SKY[:4]
QUARTERS = [*NORTH[0].children, *NORTH[1:]]
CONES = [sciplat.Cone("0 deg", "90 deg", "1.5 deg"), sciplat.Cone("50 deg", "87 deg", "3 deg")]
NAMES = pa.table({"source_id": pa.array(range(0, 90, 2), pa.int16()), "name": [f"n{i}" for i in range(45)]})


def northern():
    table = stars(40)
    return table.filter(pa.array(table["_healpix_29"].to_numpy() < NORTH[-1].stop))


def sources():
    """Return stars with a number and a text, some of them missing."""
    table, rng = northern(), np.random.default_rng(3)
    n = len(table)
    table = table.append_column("n", pa.array(rng.integers(-3, 4, n), mask=rng.uniform(size=n) < 0.2))
    return table.append_column("text", pa.array([f"s{i % 7}" if i % 5 else None for i in range(n)]))


def epochs():
    """Return two rows at each star's place and one near it, with other columns of some of the same names."""
    table, rng = northern(), np.random.default_rng(4)
    place = np.repeat(np.arange(len(table)), 3)
    ra, dec = (table[name].to_numpy()[place] for name in ("ra", "dec"))
    dec = np.clip(np.where(np.arange(len(place)) % 3, dec, dec + 0.5), 45, 90)
    mag = pa.array(rng.normal(20, 1, len(place)), pa.float32())
    columns = {"_healpix_29": healpix_29(ra, dec), "source_id": table["source_id"].to_numpy()[place].astype(np.int32)}
    columns |= {"ra": ra, "dec": dec, "text": pa.array(rng.choice(["s1", "s2", "z"], len(place))), "mag": mag}
    return pa.table(columns | {"k": pa.array(np.arange(len(place)), pa.int16())}).sort_by("_healpix_29")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return publish(folder / "stars", sources(), QUARTERS), publish(folder / "epochs", epochs(), NORTH)


def keep(table):
    return table


def drawn(rng, stores, depth=4):
    """Return a plan, and the same operations with nothing handed down."""
    plan = rng.choice(stores)
    plain = plan.node
    for _ in range(rng.randint(0, depth)):
        operation = rng.choice(OPERATIONS)
        try:
            plan, plain = operation(rng, stores, depth, plan, plain)
        except (ArgumentError, ColumnError):
            continue  # columns that do not fit, or names that would stand twice
    return plan, plain


def column_of(rng, plan, accept):
    names = [field.name for field in plan.schema if accept(field.type)]
    return rng.choice(names)


def is_plain_number(kind):
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def where(rng, _stores, _depth, plan, plain):
    name = column_of(rng, plan, lambda kind: is_plain_number(kind) or pa.types.is_string(kind))
    if pa.types.is_string(plan.schema.field(name).type):
        text = f"{name} = 's2' or {name} is null" if rng.random() < 0.5 else f"{name} >= 's2'"
    else:
        text = f"{name} {rng.choice(['<', '>='])} {rng.choice([0, 1.5, 20, 40])}"
    return plan.where(text), Where(plain, parse_expression(text))


def within(rng, _stores, _depth, plan, plain):
    cone = rng.choice(CONES)
    return plan.within(cone), Within(plain, cone, cone.cover())


def select(rng, _stores, _depth, plan, plain):
    result = plan.select(*rng.sample(plan.columns, rng.randint(0, 3)))
    return result, Select(plain, tuple(result.columns))


def with_columns(rng, _stores, _depth, plan, plain):
    name, text = rng.choice(["mag", "new", "k"]), f"{column_of(rng, plan, is_plain_number)} / 2"
    return plan.with_columns(**{name: text}), WithColumns(plain, ((name, parse_expression(text)),))


def concat(rng, stores, depth, plan, plain):
    other, its = drawn(rng, stores, depth // 2)
    return plan.concat(other), Concat(plain, its)


def join(rng, stores, depth, plan, plain):
    other, its = drawn(rng, stores, depth // 2)
    how, reach = rng.choice(["inner", "left"]), rng.choice([0.01, 2.0])
    joined = join_nodes(plain, its, on="source_id", how=how, reach=reach)
    return plan.join(other, on="source_id", how=how, reach=f"{reach} deg"), joined


def join_table(rng, _stores, _depth, plan, plain):
    how = rng.choice(["inner", "left"])
    return plan.join(NAMES, on="source_id", how=how), join_nodes(plain, NAMES, on="source_id", how=how, reach=1.0)


def nest(rng, _stores, _depth, plan, plain):
    columns = [name for name in plan.columns if name not in ("_healpix_29", "source_id", "ra", "dec")]
    chosen = rng.sample(columns, min(len(columns), 2))
    return plan.nest("source_id", chosen), Nest(plain, "source_id", tuple(chosen), "light_curve")


def sample(_rng, _stores, _depth, plan, plain):
    return plan.sample(0.7), Sample(plain, 0.7)


def function(_rng, _stores, _depth, plan, plain):
    return plan.map(keep, schema=plan.schema), Map(plain, keep, plan.schema)


OPERATIONS = (where, within, select, with_columns, concat, join, join_table, nest, sample, function)


def rows(plan):
    """Return schema and values; NaN equals NaN."""
    table = plan.compute()
    return table.schema.to_string(), repr(table.to_pydict())


@pytest.mark.parametrize("seed", range(60))
def test_what_is_handed_down_changes_no_row(stores, seed):
    rng = random.Random(seed)
    plan, plain = drawn(rng, stores)
    assert rows(plan) == rows(Catalog(plain))
    name = rng.choice(plan.columns)
    few = narrowed(plan.node, tuple(dict.fromkeys(["_healpix_29", name])))
    assert repr(Catalog(few).compute()[name].to_pylist()) == repr(Catalog(plain).compute()[name].to_pylist())
    assert plan.count() == Catalog(plain).compute().num_rows
    record = plan.node.describe()
    if '"table"' not in json.dumps(record):
        assert rebuild(json.loads(json.dumps(record))).node.describe() == record


def scans(node):
    """Return the scans of a plan, from left to right."""
    if isinstance(node, Scan):
        return [node]
    return [scan for side in ("inner", "other") if hasattr(node, side) for scan in scans(getattr(node, side))]


def test_a_count_of_two_catalogs_reads_the_index_alone(stores):
    both = stores[0].concat(stores[1])
    assert [scan.columns for scan in scans(narrowed(both.node, ("_healpix_29",)))] == [("_healpix_29",)] * 2
    assert both.count() == len(stores[0]) + len(stores[1])


def test_regions_conditions_and_columns_reach_both_sides_of_a_concat(stores):
    left, right = stores
    plan = left.concat(right).within(CONES[0]).where("k > 20 and mag < 19").select("k")
    mine, its = scans(plan.node)
    assert mine.columns == ("_healpix_29", "source_id", "ra", "dec", "mag")
    assert its.columns == ("_healpix_29", "source_id", "ra", "dec", "k", "mag")
    assert (dict(mine.bounds), dict(its.bounds)) == ({"mag": (None, 19)}, {"mag": (None, 19), "k": (20, None)})
    assert mine.cells == left.within(CONES[0]).cells
    assert its.cells == right.within(CONES[0]).cells


def test_a_hidden_column_does_not_stand_in_for_the_other_side_s(stores):
    """The magnitudes by which the left rows were chosen are not the magnitudes of the result."""
    left, right = stores
    chosen = left.where("mag < 20").select("n")
    assert chosen.concat(right).select("mag").compute()["mag"].null_count == len(chosen.compute())
    pairs = chosen.join(right, on="source_id", reach="2 deg").select("mag")
    assert pairs.schema.field("mag").type == pa.float32()
    assert pairs.compute().num_rows > 0


def test_a_join_reads_of_both_sides_what_is_asked_for(stores):
    left, right = stores
    pairs = left.join(right, on="source_id", reach="2 deg")
    plan = pairs.within(CONES[0]).where("n > 0 and k > 3").select("text_other")
    mine, its = scans(plan.node)
    assert set(mine.columns) == {"_healpix_29", "source_id", "ra", "dec", "n", "text"}
    assert set(its.columns) == {"_healpix_29", "source_id", "ra", "dec", "k", "text"}
    assert (dict(mine.bounds), dict(its.bounds)) == ({"n": (0, None)}, {})
    assert mine.cells == left.within(CONES[0]).cells
    assert plan.compute().num_rows > 0


def test_a_condition_on_the_key_of_a_nest_reaches_the_scan_and_one_on_its_position_does_not(stores):
    plan = stores[1].nest("source_id", ["mag"]).where("source_id < 40 and dec > 0")
    (scan,) = scans(plan.node)
    assert dict(scan.bounds) == {"source_id": (None, 40)}
    (scan,) = scans(plan.within(CONES[0]).select("light_curve").node)
    assert scan.columns == ("_healpix_29", "source_id", "ra", "dec", "mag")
    assert scan.cells == stores[1].within(CONES[0]).cells


def test_a_join_looks_only_around_the_region_of_its_rows(stores):
    left, right = stores
    near = left.within(sciplat.Cone("0 deg", "90 deg", "1 arcmin")).join(right, on="source_id", how="left")
    whole = left.join(right, on="source_id", how="left")
    parts = [[part for cell in plan.cells for part in plan.node.task(cell).parts] for plan in (near, whole)]
    length = [sum(part.cover.length for part in each) for each in parts]
    assert 0 < length[0] < length[1] / 1000
    assert near.explain().memory < whole.explain().memory


def test_the_other_side_is_not_read_for_a_cell_without_rows(tmp_path, stores):
    right = publish(tmp_path / "epochs", epochs(), QUARTERS)
    cone = sciplat.Cone("33 deg", "86 deg", "1 arcmin")
    plan = stores[0].within(cone).join(right, on="source_id", how="left", reach="2 deg")
    assert plan.node.task(plan.cells[0]).parts
    for file in tmp_path.glob("epochs/**/Npix=*.parquet"):
        file.unlink()
    assert plan.compute().equals(plan.schema.empty_table())

import json
import shutil
import subprocess
import sys

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import Angle
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mocpy import MOC

import sciplat
from sciplat import Box, Cell, Cone, Moc, Polygon
from sciplat.errors import PlanChanged
from sciplat.lazy.fingerprint import differences, fingerprint
from sciplat.lazy.region import describe_region, parse_region
from sciplat.sky.coverage import Coverage
from tests.plan_scene import COUNTED, SCHEMA, brighten, count_neighbours, keep_bright, stars, write_stars
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images

CONE = Cone("0 deg", "90 deg", "2 deg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with two versions of the stars, the sources and the images."""
    folder = tmp_path_factory.mktemp("stores")
    write_stars(folder / "stars", WHOLE_SKY)
    write_catalog(folder / "sources", sources(), WHOLE_SKY)
    sciplat.ingest_images(write_images(folder / "fits"), folder / "images")
    sciplat.open_catalog(folder / "stars").map(brighten, schema=SCHEMA).write(folder / "stars", replace=True)
    return folder


def mapped(folder, *, version=1, step=count_neighbours, schema=COUNTED, reach="2 deg", region=CONE, **limits):
    catalog = sciplat.open_catalog(folder / "stars", version=version).within(region)
    return catalog.map(step, schema=schema, reach=reach, **limits).node.describe()


def measured(folder, *, bands=None, near=None, keep=("ra",), radii=("4 pix", "10 arcsec"), **arguments):
    images = sciplat.open_images(folder / "images")
    images = images if near is None else images.within(near)
    catalog = sciplat.open_catalog(folder / "sources")
    return images.photometry(catalog, radii=radii, keep=keep, bands=bands, **arguments).node.describe()


def test_the_same_plan_is_the_same(folder):
    assert fingerprint(mapped(folder)) == fingerprint(mapped(folder))
    assert fingerprint(measured(folder)) == fingerprint(measured(folder))
    assert differences(mapped(folder), mapped(folder)) == []
    assert fingerprint(json.loads(json.dumps(mapped(folder)))) == fingerprint(mapped(folder))


def test_another_process_finds_the_same(folder):
    code = (
        "import sys; from pathlib import Path; from tests.lazy.test_fingerprint import *\n"
        "for plan in (mapped, measured): print(fingerprint(plan(Path(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [fingerprint(mapped(folder)), fingerprint(measured(folder))]


def test_stores_may_move(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    for plan in (mapped, measured):
        here, there = plan(folder), plan(tmp_path / "moved")
        assert here != there
        assert fingerprint(here) == fingerprint(there)
        assert differences(here, there) == []


def test_limits_of_a_function_do_not_matter(folder):
    assert fingerprint(mapped(folder, timeout=3, memory="1 GiB")) == fingerprint(mapped(folder))
    assert differences(mapped(folder, timeout=3, memory="1 GiB"), mapped(folder)) == []


WITH_UNIT = COUNTED.set(4, SCHEMA.field("mag").with_metadata({"unit": "ABmag"}))
NEVER_NULL = COUNTED.set(4, SCHEMA.field("mag").with_nullable(False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, r"the input .*stars: version 1, now 2, with other rows"),
        ({"step": keep_bright}, "the code of keep_bright"),
        ({"schema": SCHEMA}, "schema of map: .*neighbours"),
        ({"schema": WITH_UNIT}, "schema of map: .*ABmag"),
        ({"schema": NEVER_NULL}, "schema of map: .*never null"),
        ({"schema": pa.schema(list(COUNTED)[::-1])}, "schema of map: in another order"),
        ({"reach": "1 deg"}, "reach of map: 2.0, now 1.0"),
        ({"reach": None}, "reach of map: 2.0, now null"),
        ({"region": Cone("0 deg", "90 deg", "3 deg")}, r"region.*2\.0 deg.*now.*3\.0 deg"),
        ({"region": Box(("0 deg", "1 deg"), ("0 deg", "1 deg"))}, "region.*cone.*now.*box"),
    ],
)
def test_each_change_of_a_map_is_named(folder, change, words):
    old, new = mapped(folder), mapped(folder, **change)
    assert fingerprint(old) != fingerprint(new)
    found = differences(old, new)
    assert any(pa.compute.match_substring_regex(pa.array(found), words).to_pylist()), found
    assert all(len(line) < 300 for line in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radii": ["4 pix"]}, "radii of photometry"),
        ({"radii": ["4 arcsec", "10 arcsec"]}, "radii of photometry"),
        ({"annulus": ("8 pix", "12 pix")}, "annulus of photometry: null, now"),
        ({"background": "mean"}, 'background of photometry: "median", now "mean"'),
        ({"keep": ["dec"]}, 'keep of photometry: ["ra"], now ["dec"]'),
        ({"bands": ["g"]}, "chosen of"),
        ({"near": CONE}, "chosen of"),
    ],
)  # fmt: skip
def test_each_change_of_photometry_is_named(folder, change, words):
    old, new = measured(folder), measured(folder, **change)
    assert fingerprint(old) != fingerprint(new)
    assert any(words in line for line in differences(old, new)), differences(old, new)


def test_other_images_are_named(folder, tmp_path):
    shutil.copytree(folder / "sources", tmp_path / "sources")
    sciplat.ingest_images(folder / "fits" / "plain.fits", tmp_path / "images")
    (line,) = differences(measured(folder), measured(tmp_path))
    assert line.startswith(f"the input {tmp_path / 'images'}: version 1, now 1, with other rows")


def test_a_function_by_another_name_is_named(folder):
    def one(table):
        return table

    def other(table):
        return table

    old, new = (mapped(folder, step=step, schema=SCHEMA) for step in (one, other))
    assert old["step"]["digest"] == new["step"]["digest"]
    assert fingerprint(old) != fingerprint(new)
    (line,) = differences(old, new)
    assert line.startswith("the name of the function: ")


def test_values_that_a_function_holds_matter(folder):
    def fainter(by):
        return lambda table: table.slice(by)

    old, new, same = (mapped(folder, step=fainter(by), schema=SCHEMA) for by in (1, 2, 1))
    assert fingerprint(old) == fingerprint(same) != fingerprint(new)
    (line,) = differences(old, new)
    assert line.startswith("the code of ")


def test_the_order_of_operations_matters_where_it_may_change_rows(folder):
    catalog = sciplat.open_catalog(folder / "stars")
    plans = [
        catalog.map(count_neighbours, schema=COUNTED, reach="2 deg").within(CONE),
        catalog.within(CONE).map(count_neighbours, schema=COUNTED, reach="2 deg"),
        catalog.map(brighten, schema=SCHEMA).map(keep_bright, schema=SCHEMA),
        catalog.map(keep_bright, schema=SCHEMA).map(brighten, schema=SCHEMA),
        catalog.map(brighten, schema=SCHEMA),
        catalog,
        catalog.select("source_id"),
        catalog.nest("source_id"),
        catalog.nest("source_id", name="curve"),
        catalog.nest("source_id", ["mag"], name="curve").within(CONE),
    ]
    records = [plan.node.describe() for plan in plans]
    assert len({fingerprint(record) for record in records}) == len(records)
    for old in records:
        for new in records:
            assert bool(differences(old, new)) is (old is not new)
    assert differences(records[1], records[0]) == ["the operation: map, now within"]


def test_the_digest_covers_all_columns_of_a_long_list_by_its_difference():
    old, new = ({"op": "select", "columns": [f"a_long_name_{i}" for i in range(n)]} for n in (40, 41))
    assert differences(old, new) == ['columns of select: [], now ["a_long_name_40"]']
    shuffled = {"op": "select", "columns": old["columns"][::-1]}
    assert differences(old, shuffled) == ["columns of select: in another order"]


angles = st.floats(0, 360, exclude_max=True)
declinations = st.floats(-90, 90)
unit = st.sampled_from([u.deg, u.rad, u.arcmin, u.arcsec, u.mas, u.hourangle, 0.1 * u.deg, u.Unit("1e-3 rad")])


@st.composite
def written(draw, value):
    """Draw an angle of so many degrees as text or as a quantity of any unit."""
    kind = draw(st.sampled_from(["text", "quantity", "angle"]))
    if kind == "text":
        return f"{value!r} deg"
    quantity = (value * u.deg).to(draw(unit))
    assume(value > 90 or abs(quantity.to_value(u.deg)) <= 90)  # a pole may leave the sphere on the way
    return Angle(quantity) if kind == "angle" else quantity


@st.composite
def regions(draw):
    shape = draw(st.sampled_from(["cone", "box", "polygon", "cells"]))
    ra, dec = draw(angles), draw(declinations)
    if shape == "cone":
        return Cone(draw(written(ra)), draw(written(dec)), draw(written(draw(st.floats(1e-4, 90)))))
    if shape == "box":
        sides = sorted([dec, draw(declinations)])
        return Box((draw(written(ra)), draw(written(draw(angles)))), tuple(f"{side!r} deg" for side in sides))
    if shape == "polygon":
        dec = draw(st.floats(-80, 80))
        size = draw(st.floats(1e-3, 5))
        corners = [(ra, dec), (ra + size, dec), (ra, dec + size)]
        return Polygon([(draw(written(lon)), draw(written(lat))) for lon, lat in corners])
    orders = draw(st.lists(st.integers(0, 29), min_size=1, max_size=6))
    return Moc([Cell(order, draw(st.integers(0, 12 * 4**order - 1))) for order in orders])


@settings(max_examples=120)
@given(regions())
def test_regions_come_back_from_their_records(region):
    record = json.loads(json.dumps(describe_region(region)))
    again = parse_region(record)
    assert type(again) is type(region)
    assert np.array_equal(again.cover().ranges, region.cover().ranges)
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(0, 360, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))
    table = stars()
    ra, dec = np.append(ra, table["ra"].to_numpy()), np.append(dec, table["dec"].to_numpy())
    assert np.array_equal(again.contains(ra, dec), region.contains(ra, dec))
    assert describe_region(again) == record


def test_a_moc_of_nothing_comes_back():
    again = parse_region(describe_region(Moc(MOC.new_empty(10))))
    assert len(again.cover().ranges) == 0
    assert not again.contains(np.array([1.0]), np.array([2.0])).any()


class Ring:
    """A user's own region: rings of one outer radius have one cover."""

    def __init__(self, inner):
        self.hole, self.outer = Cone("10 deg", "20 deg", inner), Cone("10 deg", "20 deg", "5 deg")

    def cover(self) -> Coverage:
        return self.outer.cover()

    def contains(self, ra, dec):
        return self.outer.contains(ra, dec) & ~self.hole.contains(ra, dec)


def test_a_user_s_own_region_is_told_from_others_and_cannot_be_made_anew():
    narrow, wide = describe_region(Ring("1 deg")), describe_region(Ring("2 deg"))
    assert narrow == describe_region(Ring("1 deg"))
    assert narrow != wide
    with pytest.raises(PlanChanged, match=r"(?s)test_fingerprint:Ring.*give the plan as Python"):
        parse_region(narrow)

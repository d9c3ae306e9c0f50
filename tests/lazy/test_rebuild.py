import importlib
import json
import shutil
import sys

import pyarrow as pa
import pytest

import sciplat
from sciplat import Box, Cell, Cone, Moc, Polygon
from sciplat.errors import PlanChanged, StoreExists, StoreNotFound
from sciplat.lazy.fingerprint import fingerprint
from sciplat.lazy.rebuild import rebuild, rerun
from tests.plan_scene import COUNTED, SCHEMA, brighten, count_neighbours, keep_bright, stars, write_stars
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images

REGIONS = {
    "pole": Cone("0 deg", "90 deg", "1 arcsec"),
    "cone": Cone("0 deg", "90 deg", "2 deg"),
    "box": Box(("358 deg", "3 deg"), ("-3 deg", "3 deg")),
    "polygon": Polygon([("359 deg", "-1 deg"), ("2 deg", "-1 deg"), ("0.5 deg", "2 deg")]),
    "moc": Moc([Cell(2, 15), Cell(0, 4), Cell(1, 30)]),
}


def from_json(plan):
    return rebuild(json.loads(json.dumps(plan.node.describe())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_stars(folder / "stars", [cell for base in WHOLE_SKY for cell in base.children])
    write_catalog(folder / "sources", sources(), WHOLE_SKY)
    sciplat.ingest_images(write_images(folder / "fits"), folder / "images")
    return folder


def star_plans(folder):
    catalog = sciplat.open_catalog(folder / "stars")
    cone = catalog.within(REGIONS["cone"])
    return {
        "scan": catalog,
        "select": catalog.select("mag"),
        "select after within": cone.select("mag", "dec"),
        "within twice": cone.within(REGIONS["moc"]),
        "nest": catalog.nest("source_id", ["mag"], name="curve"),
        "nest within": catalog.nest("source_id").within(REGIONS["box"]).select("light_curve"),
        "map": catalog.map(brighten, schema=SCHEMA),
        "reach": catalog.map(count_neighbours, schema=COUNTED, reach="120.1 arcmin"),
        "limits": catalog.within(REGIONS["pole"]).map(brighten, schema=SCHEMA, timeout=50, memory="2 GiB"),
        "maps": cone.select("mag").map(brighten, schema=SCHEMA).map(count_neighbours, schema=COUNTED, reach="1 deg"),
    } | {name: catalog.within(region) for name, region in REGIONS.items()}


def photometry_plans(folder):
    images, catalog = sciplat.open_images(folder / "images"), sciplat.open_catalog(folder / "sources")
    ring = {"radii": ["4 pix", "10 arcsec"], "annulus": ("8 pix", "15 arcsec"), "background": "mode"}
    seam = images.within(REGIONS["cone"])
    return {
        "radii": images.photometry(catalog, radii=["1e-3 deg", "0.1 arcmin"]),
        "annulus": images.photometry(catalog, **ring),
        "bands": images.photometry(catalog, radii=["3 pix"], bands=["r"], keep=["dec", "ra"]),
        "images within": seam.photometry(catalog, radii=["3 pix"], bands="g", keep="ra"),
        "catalog within": images.photometry(catalog.within(REGIONS["cone"]), radii=["3 pix"]),
        "catalog selected": images.photometry(catalog.within(REGIONS["box"]).select("ra"), radii=["3 pix"], keep="ra"),
        "nest": images.photometry(catalog, **ring).nest("source_id", ["mjd", "flux_0"]),
        "after": images.photometry(catalog, **ring).within(REGIONS["cone"]).select("flux_0"),
    }


def assert_same(plan, again):
    assert fingerprint(again.node.describe()) == fingerprint(plan.node.describe())
    assert again.node.describe() == plan.node.describe()
    assert again.cells == plan.cells
    assert again.schema.equals(plan.schema, check_metadata=True)
    rows = plan.compute()
    assert rows.num_rows > 0
    assert again.compute().equals(rows)


def test_every_plan_of_a_catalog_comes_back(folder):
    for plan in star_plans(folder).values():
        assert_same(plan, from_json(plan))


def test_every_plan_of_images_comes_back(folder):
    for plan in photometry_plans(folder).values():
        assert_same(plan, from_json(plan))


def test_an_older_version_of_an_input_is_read_again(folder, tmp_path):
    write_stars(tmp_path / "stars", WHOLE_SKY)
    old = sciplat.open_catalog(tmp_path / "stars").map(keep_bright, schema=SCHEMA)
    record = old.node.describe()
    sciplat.open_catalog(tmp_path / "stars").map(brighten, schema=SCHEMA).write(tmp_path / "stars", replace=True)
    assert rebuild(record).compute().equals(keep_bright(stars()))


def test_an_input_that_is_gone_is_named(folder, tmp_path):
    shutil.copytree(folder / "stars", tmp_path / "stars")
    record = sciplat.open_catalog(tmp_path / "stars").node.describe()
    with pytest.raises(StoreNotFound, match="version 7"):
        rebuild(record | {"version": 7})
    shutil.rmtree(tmp_path / "stars")
    with pytest.raises(StoreNotFound, match=str(tmp_path / "stars")):
        rebuild(record)


@pytest.mark.parametrize("kind", ["stars", "images"])
def test_an_input_with_other_rows_is_named(folder, tmp_path, kind):
    """A store of the same version number, put in the place of the old one."""
    shutil.copytree(folder, tmp_path / "stores")
    plans = star_plans if kind == "stars" else photometry_plans
    name = "maps" if kind == "stars" else "images within"
    record = plans(tmp_path / "stores")[name].node.describe()
    shutil.rmtree(tmp_path / "stores" / kind)
    if kind == "stars":
        write_stars(tmp_path / "stores" / "stars", WHOLE_SKY, stars(20))
    else:
        sciplat.ingest_images(folder / "fits" / "north.fits", tmp_path / "stores" / "images")
    with pytest.raises(PlanChanged, match=rf"(?s){kind}, version 1, is not what it was.*recorded.*restore"):
        rebuild(record)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module anew and forgets the old one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts in one second would share it

    def write(text):
        (tmp_path / "rebuilt_steps.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "rebuilt_steps", raising=False)
        return importlib.import_module("rebuilt_steps")

    yield write
    sys.modules.pop("rebuilt_steps", None)


def test_a_function_that_changed_or_went_away_is_named(folder, tmp_path, module):
    catalog = sciplat.open_catalog(folder / "stars")
    record = catalog.map(module("def step(t):\n    return t\n").step, schema=SCHEMA).node.describe()
    assert rebuild(record).compute().equals(stars())
    module("def step(t):\n    return t.slice(1)\n")
    with pytest.raises(PlanChanged, match="function step is not the one of the plan"):
        rebuild(record)
    sys.modules.pop("rebuilt_steps")
    (tmp_path / "rebuilt_steps.py").unlink()
    with pytest.raises(PlanChanged, match="step of the plan cannot be imported"):
        rebuild(record)


def test_a_function_without_a_module_is_named(folder, monkeypatch):
    catalog = sciplat.open_catalog(folder / "stars")
    with pytest.raises(PlanChanged, match=r"(?s)<lambda>.*put it into a module"):
        from_json(catalog.map(lambda table: table, schema=SCHEMA))

    def typed_in(table):
        return table

    typed_in.__module__, typed_in.__qualname__ = "__main__", "typed_in"
    monkeypatch.setattr(sys.modules["__main__"], "typed_in", typed_in, raising=False)
    with pytest.raises(PlanChanged, match=r"(?s)typed_in.*put it into a module"):
        from_json(catalog.map(typed_in, schema=SCHEMA))


def test_unknown_operations_and_regions_are_refused(folder):
    record = sciplat.open_catalog(folder / "stars").within(REGIONS["cone"]).node.describe()
    with pytest.raises(PlanChanged, match="no operation 'blend'"):
        rebuild(record | {"op": "blend"})
    with pytest.raises(PlanChanged, match="a region of survey:Ring"):
        rebuild(record | {"region": {"shape": "survey:Ring", "arguments": "00"}})


def test_rerun_gives_the_same_files_in_place_and_elsewhere(folder, tmp_path):
    plans = star_plans(folder) | photometry_plans(folder)
    for number, name in enumerate(["maps", "select after within", "catalog within", "nest"]):
        url = str(tmp_path / f"store{number}")
        first = plans[name].write(url)
        again, same = rerun(url)
        assert (again.version, same, again.versions) == (2, True, [1, 2])
        assert again.store.manifest.properties["fingerprint"] == first.store.manifest.properties["fingerprint"]
        other, same = rerun(url, f"{url}-other")
        assert (other.version, same) == (1, True)
        assert other.compute().equals(first.compute())
    with pytest.raises(StoreExists):
        rerun(url, str(tmp_path / "store0"))


def test_rerun_repeats_what_made_the_store_whatever_was_begun_since(folder, tmp_path):
    catalog, url = sciplat.open_catalog(folder / "stars"), str(tmp_path / "store")
    catalog.map(brighten, schema=SCHEMA).write(url)
    with pytest.raises(sciplat.errors.StepError):
        catalog.map(fail_where_few, schema=SCHEMA).write(url, replace=True)
    assert (tmp_path / "store" / ".staging").exists()
    other, same = rerun(url, str(tmp_path / "other"))
    assert same
    assert other.compute().equals(brighten(stars()))
    with pytest.raises(PlanChanged, match="brighten"):  # in place, the unfinished run is not dropped without a word
        rerun(url)


def fail_where_few(table):
    if table.num_rows == 1:
        raise ValueError("too few")
    return table


def test_rerun_finishes_what_did_not_end(folder, tmp_path, module):
    steps = module("broken = True\n\n\ndef step(t):\n    import rebuilt_switch\n    return rebuilt_switch.pass_on(t)\n")
    switch = tmp_path / "rebuilt_switch.py"
    switch.write_text("def pass_on(t):\n    if t.num_rows == 1:\n        raise OSError(5)\n    return t\n")
    with pytest.raises(sciplat.errors.StepError):
        sciplat.open_catalog(folder / "stars").map(steps.step, schema=SCHEMA).write(tmp_path / "store")
    switch.write_text("def pass_on(t):\n    return t\n")
    sys.modules.pop("rebuilt_switch")
    store, same = rerun(str(tmp_path / "store"))
    sys.modules.pop("rebuilt_switch")
    assert same is None
    assert store.compute().equals(stars())
    assert 0 < store.report["cells_of_this_run"] < store.report["cells"]


def test_what_was_ingested_has_no_plan(folder):
    with pytest.raises(StoreNotFound, match="no record of a plan"):
        rerun(str(folder / "stars"))
    with pytest.raises(StoreNotFound, match="no record of a plan"):
        rerun(str(folder / "nowhere"))


def test_the_record_holds_the_schema_as_it_was(folder):
    described = SCHEMA.set(4, pa.field("mag", pa.float64(), metadata={"unit": "mag", "description": 'µ, "g"'}))
    plan = sciplat.open_catalog(folder / "stars").map(brighten, schema=described)
    assert from_json(plan).schema.equals(described, check_metadata=True)

"""HATS catalogs as other writers leave them, in all the ways that they do."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat import Cone
from sciplat.errors import ArgumentError, ColumnError, InputError, StoreCorrupt, StoreNotFound
from sciplat.io.catalog_store import read_cell
from sciplat.io.foreign import open_any_catalog
from sciplat.io.storage import open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.sky.cell import Cell, healpix_29, split_cells

PROPERTIES = {
    "obs_collection": "stars",
    "dataproduct_type": "object",
    "hats_nrows": 900,
    "hats_col_ra": "ra",
    "hats_col_dec": "dec",
    "hats_col_healpix": "_healpix_29",
    "hats_col_healpix_order": 29,
    "hats_npix_suffix": ".parquet",
    "hats_max_rows": 200,
}


def stars(n=900, seed=0):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    index = healpix_29(ra, dec)
    order = np.argsort(index)
    return pa.table(
        {
            "_healpix_29": index[order],
            "objid": np.arange(n),
            "ra": ra[order],
            "dec": dec[order],
            "mag": pa.array(rng.normal(20, 1, n), mask=rng.uniform(size=n) < 0.1),
        }
    )


def list_rows(folder, *said):
    """Let the partition list say rows of the first cells, and nothing of the others."""
    path = folder / "partition_info.csv"
    _, *cells = path.read_text().split()
    lines = [f"{cell},{rows}" for cell, rows in zip(cells, [*said, *[""] * len(cells)], strict=False)]
    path.write_text("\n".join(["Norder,Npix,num_rows", *lines, ""]))


def write_hats(folder, rows, *, listed=True, common=False, change=lambda rows: rows, **about):
    """Write a catalog; `change` is applied to the rows of every cell, properties that are None are left out."""
    about = {key: value for key, value in {**PROPERTIES, **about}.items() if value is not None}
    suffix, names = about.get("hats_npix_suffix", ".parquet"), ["Norder,Npix"]
    for cell, first, last in split_cells(rows["_healpix_29"].to_numpy(), 200):
        part, names = change(rows.slice(first, last - first)), [*names, f"{cell.order},{cell.index}"]
        path = folder / f"dataset/Norder={cell.order}/Dir={cell.index // 10000 * 10000}/Npix={cell.index}"
        path = path if suffix == "/" else path.with_name(path.name + suffix)
        (path if suffix == "/" else path.parent).mkdir(parents=True, exist_ok=True)
        if suffix == "/":
            pq.write_table(part.slice(0, part.num_rows // 2), path / "part1.parquet")
            pq.write_table(part.slice(part.num_rows // 2), path / "part0.parquet")
        else:
            pq.write_table(part, path, row_group_size=20)
    if listed:
        (folder / "partition_info.csv").write_text("\n".join([*names, ""]))
    if common:
        pq.write_metadata(part.schema, folder / "dataset" / "_common_metadata")
    (folder / "hats.properties").write_text("".join(f"{key}={value}\n" for key, value in about.items()))
    return folder


def without(name):
    return lambda rows: rows.drop_columns([name])


def shuffled(rows):
    return rows.take(np.random.default_rng(1).permutation(rows.num_rows))


def coarse(rows):
    return rows.set_column(0, "_healpix_29", pa.array(rows["_healpix_29"].to_numpy() >> 20))


def named_otherwise(rows):
    return rows.rename_columns(["spatial", *rows.schema.names[1:]])


WAYS = {
    "plain": {},
    "with a common schema": {"common": True},
    "without a partition list": {"listed": False},
    "not sorted": {"change": shuffled},
    "without an index": {"change": without("_healpix_29"), "hats_col_healpix": None, "hats_col_healpix_order": None},
    "with an index of another order": {"change": coarse, "hats_col_healpix_order": 19},
    "with an index of another name": {"change": named_otherwise, "hats_col_healpix": "spatial"},
    "with another suffix": {"hats_npix_suffix": ".snappy.parq"},
    "a folder for each cell": {"hats_npix_suffix": "/"},
    "folders without a list": {"hats_npix_suffix": "/", "listed": False},
    "without its number of rows": {"hats_nrows": None},
}


@pytest.fixture(params=WAYS)
def catalog(request, tmp_path):
    return sciplat.open_catalog(write_hats(tmp_path / "stars", stars(), **WAYS[request.param]))


def test_every_way_of_writing_gives_the_same_rows(catalog):
    assert catalog.compute().equals(stars())
    assert catalog.schema.equals(stars().schema)
    assert (len(catalog), catalog.properties["position"], catalog.properties["id"]) == (900, ["ra", "dec"], "objid")
    assert catalog.cells == [cell for cell, _, _ in split_cells(stars()["_healpix_29"].to_numpy(), 200)]
    assert not catalog.node.store.has_digests


def test_regions_and_columns_are_read_alone(catalog):
    cone = Cone("40 deg", "-20 deg", "25 deg")
    rows = stars()
    inside = cone.contains(rows["ra"].to_numpy(), rows["dec"].to_numpy())
    wanted = rows.filter(pa.array(inside)).select(["_healpix_29", "objid", "ra", "dec", "mag"])
    assert 10 < wanted.num_rows < 200
    assert catalog.within(cone).compute().equals(wanted)
    names = ["_healpix_29", "objid", "ra", "dec"]
    assert catalog.select().within(cone).compute().equals(wanted.select(names))
    assert catalog.explain().cells > 0


def test_a_result_of_it_is_a_store_of_ours(tmp_path):
    catalog = sciplat.open_catalog(write_hats(tmp_path / "stars", stars()))
    made = catalog.within(Cone("40 deg", "-20 deg", "25 deg")).write(tmp_path / "near")
    assert made.version == 1
    assert made.provenance["entity"]["run:input-1"]["sciplat:digest"] == catalog.node.store.digest
    assert made.store.has_digests


def test_of_a_collection_the_primary_table_is_opened(tmp_path):
    write_hats(tmp_path / "main", stars())
    write_hats(tmp_path / "main_10arcs", stars(100), dataproduct_type="margin")
    (tmp_path / "collection.properties").write_text("hats_primary_table_url=main\nall_margins=main_10arcs\n")
    assert sciplat.open_catalog(tmp_path).compute().equals(stars())


@pytest.mark.parametrize("where", ["../main", "/etc", "https://elsewhere/main", "a/../../b", "a%2e", "."])
def test_a_primary_table_elsewhere_is_refused(tmp_path, where):
    write_hats(tmp_path / "main", stars(100))
    folder = tmp_path / "collection"
    folder.mkdir()
    (folder / "collection.properties").write_text(f"hats_primary_table_url={where}\n")
    with pytest.raises(StoreCorrupt, match="does not lie in the collection"):
        sciplat.open_catalog(folder)


def test_nested_columns_and_units_stay_and_pandas_goes(tmp_path):
    def change(rows):
        lists = pa.array([[{"mjd": 1.0, "flux": 2.0}] * (k % 3) for k in range(rows.num_rows)])
        bands = pa.array(["g"] * rows.num_rows).dictionary_encode()
        rows = rows.append_column("curve", lists).append_column("lists", pa.StructArray.from_arrays([lists], ["x"]))
        about = {"unit": "none", "PARQUET:field_id": "3"}
        rows = rows.append_column(pa.field("band", bands.type, metadata=about), bands)
        return rows.replace_schema_metadata({"pandas": "{}"})

    catalog = sciplat.open_catalog(write_hats(tmp_path / "stars", stars(), change=change))
    found = catalog.compute()
    wanted = change(stars().slice(0, 30))["curve"]
    assert found.schema.equals(catalog.schema, check_metadata=True)
    assert found.schema.metadata is None
    assert found.schema.field("band").type == pa.string()
    assert found.schema.field("band").metadata == {b"unit": b"none"}
    assert found["curve"].slice(0, 30).to_pylist() == wanted.to_pylist()
    assert found["lists"][1].as_py() == {"x": [{"mjd": 1.0, "flux": 2.0}]}


def test_a_column_of_nulls_takes_the_type_of_the_catalog(tmp_path):
    write_hats(tmp_path / "stars", stars(), common=True)
    path = next(iter(sorted((tmp_path / "stars").rglob("Npix=3.parquet"))))
    rows = pq.ParquetFile(path).read()
    pq.write_table(rows.set_column(4, "mag", pa.nulls(rows.num_rows)), path)
    found = sciplat.open_catalog(tmp_path / "stars").compute()
    assert found["mag"].type == pa.float64()
    assert found["mag"].null_count > rows.num_rows


def test_equal_indices_keep_the_order_of_the_files(tmp_path):
    row = stars(100).slice(0, 1)
    rows = pa.concat_tables([row] * 6).set_column(1, "objid", pa.array(range(6)))
    catalog = sciplat.open_catalog(write_hats(tmp_path / "stars", rows, hats_npix_suffix="/", hats_nrows=6))
    assert catalog.compute()["objid"].to_pylist() == [3, 4, 5, 0, 1, 2]  # part0 before part1


def test_other_tables_and_formats_are_refused_in_words(tmp_path):
    write_hats(tmp_path / "margin", stars(100), dataproduct_type="margin")
    with pytest.raises(InputError, match="no catalog of sources"):
        sciplat.open_catalog(tmp_path / "margin")
    write_hats(tmp_path / "nowhere", stars(100), hats_col_ra=None)
    with pytest.raises(InputError, match="does not name its position"):
        sciplat.open_catalog(tmp_path / "nowhere")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "catalog_info.json").write_text("{}")
    with pytest.raises(InputError, match="hipscat"):
        sciplat.open_catalog(tmp_path / "old")
    with pytest.raises(StoreNotFound):
        sciplat.open_catalog(tmp_path)


def test_there_are_no_versions(tmp_path):
    write_hats(tmp_path / "stars", stars())
    with pytest.raises(ArgumentError, match="no versions"):
        sciplat.open_catalog(tmp_path / "stars", version=1)
    assert sciplat.open_catalog(tmp_path / "stars").versions == []


@pytest.mark.parametrize("lines", ["0,99", "0,../x", "0,1\n1,4", "0", "30,1"])
def test_a_partition_list_without_sense_is_named(tmp_path, lines):
    write_hats(tmp_path / "stars", stars())
    (tmp_path / "stars" / "partition_info.csv").write_text(f"Norder,Npix\n{lines}\n")
    with pytest.raises(StoreCorrupt, match=r"partition_info\.csv|overlap"):
        sciplat.open_catalog(tmp_path / "stars")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: pq.write_table(pq.ParquetFile(path).read(["ra", "dec"]), path),
        lambda path: pq.write_table(stars(50), path),
        lambda path: pq.write_table(pa.table({name: ["x"] for name in stars().schema.names}), path),
    ],
    ids=["cut", "empty", "missing", "without columns", "of other cells", "of other types"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, damage):
    catalog = sciplat.open_catalog(write_hats(tmp_path / "stars", stars()))
    damage(next(iter((tmp_path / "stars").rglob("Npix=3.parquet"))))
    with pytest.raises(StoreCorrupt, match=r"Npix=3\.parquet"):
        catalog.compute()


def test_positions_outside_the_cell_are_an_error_and_not_lost(tmp_path):
    def change(rows):
        return rows.drop_columns(["_healpix_29"]).set_column(0, "ra", pa.array(rows["ra"].to_numpy() + 90))

    wrong = write_hats(tmp_path / "stars", stars().select(["_healpix_29", "ra", "dec"]), change=change)
    with pytest.raises(StoreCorrupt, match="do not lie in cell"):
        sciplat.open_catalog(wrong).compute()


def test_the_digest_tells_a_changed_catalog(tmp_path):
    write_hats(tmp_path / "stars", stars())
    store = open_any_catalog(open_storage(tmp_path / "stars"))
    assert open_any_catalog(open_storage(tmp_path / "stars")).digest == store.digest
    path = next(iter((tmp_path / "stars").rglob("Npix=3.parquet")))
    pq.write_table(pq.ParquetFile(path).read(), path)
    assert open_any_catalog(open_storage(tmp_path / "stars")).digest != store.digest


@pytest.mark.parametrize("said", [(), (5,), (0, 40)], ids=str)
@pytest.mark.parametrize("total", [None, 3, 5000])
def test_rows_that_are_said_wrongly_are_counted_in_the_files(tmp_path, said, total):
    folder = write_hats(tmp_path / "stars", stars(), hats_nrows=total)
    list_rows(folder, *said)
    catalog = sciplat.open_catalog(folder)
    assert (catalog.count(), len(catalog), catalog.compute().num_rows) == (900, 900, 900)
    assert catalog.select("mag").count() == 900
    assert f"about {catalog.node.store.manifest.rows:,} rows" in repr(Catalog.of_store(catalog.node.store))


def test_cells_that_say_their_rows_keep_them_beside_others_that_do_not(tmp_path):
    folder = write_hats(tmp_path / "stars", stars())
    list_rows(folder, 70, 0, 80)
    rows = [file.rows for file in sciplat.open_catalog(folder).node.store.manifest.files]
    assert (rows[0], rows[2], sum(rows)) == (70, 80, 900)


@pytest.mark.parametrize("said", [-5, 10**19])
def test_a_number_of_rows_that_cannot_be_is_refused(tmp_path, said):
    folder = write_hats(tmp_path / "stars", stars())
    list_rows(folder, said)
    with pytest.raises(StoreCorrupt, match=rf"(?s)partition_info\.csv.*{said} rows"):
        sciplat.open_catalog(folder)


@pytest.mark.parametrize("suffix", ["/../../../secret.parquet", "/x", "//", "..", ".a/b", "", "\\x"])
def test_a_suffix_that_leads_elsewhere_is_refused(tmp_path, suffix):
    write_hats(tmp_path / "stars", stars(100))
    about = tmp_path / "stars" / "hats.properties"
    about.write_text(about.read_text().replace("hats_npix_suffix=.parquet", f"hats_npix_suffix={suffix}"))
    with pytest.raises(StoreCorrupt, match=r"(?s)hats\.properties.*no end of a file's name"):
        sciplat.open_catalog(tmp_path / "stars")


@pytest.mark.parametrize("region", [None, Cone("40 deg", "-20 deg", "180 deg")], ids=["all", "a region"])
def test_an_index_with_nulls_is_named(tmp_path, region):
    def change(rows):
        index = pa.array(rows["_healpix_29"].to_numpy(), mask=np.arange(rows.num_rows) == 3)
        return rows.set_column(0, "_healpix_29", index)

    catalog = sciplat.open_catalog(write_hats(tmp_path / "stars", stars(), change=change))
    with pytest.raises(StoreCorrupt, match=r"(?s)Npix=.*nulls in _healpix_29"):
        (catalog if region is None else catalog.within(region)).compute()


def test_a_file_travels_and_knows_its_columns(tmp_path):
    store = open_any_catalog(open_storage(write_hats(tmp_path / "stars", stars())))
    file = pickle.loads(pickle.dumps(store.entries[0].file))
    assert (file.footer, file.sha256, file.cell) == (0, "", store.entries[0].cell)
    with pytest.raises(ColumnError, match="'magnitude'"):
        read_cell(store.storage, file, ["magnitude"])
    one = read_cell(store.storage, file, ["mag"], np.array([[Cell(0, 0).start, Cell(0, 0).stop]]), {"mag": (19, 21)})
    assert one.schema.names == ["mag"]


def test_a_summary_tells_the_rows_of_each_cell(tmp_path):
    folder, found = write_hats(tmp_path / "stars", stars()), []
    for path in sorted((folder / "dataset").rglob("*.parquet")):
        metadata = pq.read_metadata(path)
        metadata.set_file_path(path.relative_to(folder / "dataset").as_posix())
        found.append(metadata)
    pq.write_metadata(stars().schema, folder / "dataset" / "_metadata", found)
    store = sciplat.open_catalog(folder).node.store
    assert [entry.file.rows for entry in store.entries] == [
        last - first for _, first, last in split_cells(stars()["_healpix_29"].to_numpy(), 200)
    ]

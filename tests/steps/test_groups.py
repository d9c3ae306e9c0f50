import numpy as np
import pyarrow as pa
import pytest

from sciplat.errors import ArgumentError
from sciplat.sky.cell import Cell, healpix_29
from sciplat.steps.groups import CATALOGS_FIELD, GROUP_FIELDS, Linking, group_catalogs, group_rows
from tests.kernels.test_groups import brute_force, scatter

POSITION = ("lon", "lat")
ARCSEC = 1 / 3600
WHOLE = Linking(0.1, 10.0)  # 4.95 degrees from the first row


def table(ra, dec, first=0):
    """Return rows at some places, with a name for each."""
    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    columns = {"_healpix_29": index, "name": np.arange(first, first + len(ra)), "lon": ra, "lat": dec}
    return pa.table({name: column[order] for name, column in columns.items()})


def cut(rows, cell):
    """Return the rows inside and outside a cell."""
    first, last = np.searchsorted(rows["_healpix_29"].to_numpy(), [cell.start, cell.stop])
    return rows.slice(first, last - first), pa.concat_tables([rows.slice(0, first), rows.slice(last)])


def test_rows_get_the_number_and_the_size_of_their_groups_wherever_the_other_rows_lie():
    ra, dec = scatter((0, 41.8103), 200, 1.0, 4)
    rows = table(ra, dec)
    first = brute_force(ra, dec, 0.2)
    index = rows["_healpix_29"].to_numpy()
    expected = rows.append_column(GROUP_FIELDS[0], [index[first]])
    expected = expected.append_column(GROUP_FIELDS[1], [np.bincount(first)[first]])
    cells = [Cell(5, place) for place in np.unique(index >> 48)]
    assert len(cells) == 10
    found = [group_rows(own, around, POSITION, Linking(0.2, 10.0)) for own, around in (cut(rows, c) for c in cells)]
    assert pa.concat_tables(found).equals(expected)
    assert found[0].schema.equals(expected.schema, check_metadata=True)
    numbers = [number for rows in found for number in set(rows["group_id"].to_pylist())]
    assert len(numbers) > len(set(numbers)) + 3  # groups that lie in several cells


def test_no_rows_have_no_groups():
    rows = table([10.0], [0.0])
    assert group_rows(rows.slice(0, 0), rows, POSITION, WHOLE).to_pydict().keys() == {
        *rows.schema.names, "group_id", "group_size",
    }  # fmt: skip
    alone = group_rows(rows, rows.slice(0, 0), POSITION, WHOLE)
    assert (alone["group_id"].to_pylist(), alone["group_size"].to_pylist()) == (rows["_healpix_29"].to_pylist(), [1])


def test_a_group_that_may_go_on_beyond_what_was_read_is_refused():
    """Nine rows an arcsecond apart: their first row is that with the smallest index, near the middle or not."""
    rows = table(np.full(9, 10.0), np.arange(9) * ARCSEC)
    none = rows.slice(0, 0)
    spread = 8 * ARCSEC  # from one end, where the first row is
    assert rows["lat"][0].as_py() == 0
    radius = 1.001 * ARCSEC
    wide, narrow = (Linking(radius, 2 * share * spread + radius) for share in (1.001, 0.999))
    assert group_rows(rows, none, POSITION, wide)["group_size"].to_pylist() == [9] * 9
    with pytest.raises(ArgumentError, match=r"ra 10.000000, dec 0.000000 reaches farther than 7.992 arcsec") as error:
        group_rows(rows, none, POSITION, narrow)
    assert error.value.found == "a member 8 arcsec away; 9 rows so far"
    assert error.value.hint.startswith('reach="33.97 arcsec", or a smaller radius')


def test_a_group_without_a_row_in_the_cell_may_be_as_wide_as_it_likes():
    ra = np.concatenate([[10.0], 10.5 + 0.09 * np.arange(60)])
    rows = table(ra, np.zeros(61))
    own, around = cut(rows, Cell(12, int(healpix_29([10.0], [0.0])[0] >> 34)))
    assert group_rows(own, around, POSITION, Linking(0.1, 2.0))["group_size"].to_pylist() == [1]
    with pytest.raises(ArgumentError, match=r"try    reach=\"4 deg\", or"):
        group_rows(rows, rows.slice(0, 0), POSITION, Linking(0.1, 2.0))
    with pytest.raises(ArgumentError, match=r"try    a smaller radius"):
        group_rows(rows, rows.slice(0, 0), POSITION, WHOLE)


def many(tables, cells, linking=WHOLE, names=("name", "lat")):
    """Return the groups of some tables, cell by cell."""
    kept = [tuple((name, f"{name}_{number}") for name in names) for number in range(1, len(tables) + 1)]
    fields = [("_healpix_29", pa.int64()), ("ra", pa.float64()), ("dec", pa.float64())]
    for rows, pairs in zip(tables, kept, strict=True):
        fields += [pa.field(new, rows.schema.field(old).type) for old, new in pairs]
    schema = pa.schema([*fields, *GROUP_FIELDS, CATALOGS_FIELD])
    positions = [POSITION] * len(tables)
    return pa.concat_tables(group_catalogs(tables, positions, kept, linking, cell, schema) for cell in cells)


SKY = [Cell(0, base) for base in range(12)]


def test_one_row_for_each_group_with_the_columns_of_every_catalog():
    tables = [
        table([10.0, 40.0], [0.0, 5.0]),
        table([10.02, 20.0, 10.09], [0.0, 0.0, 0.0], first=10),  # the last of them has the smallest index of its group
        table([20.03, 10.05], [0.0, 0.0], first=20),
    ]
    rows = many(tables, SKY)
    expected = {
        "ra": [10.0, 20.0, 40.0],
        "dec": [0.0, 0.0, 5.0],
        "name_1": [0, None, 1],
        "lat_1": [0.0, None, 5.0],
        "name_2": [12, 11, None],
        "lat_2": [0.0, 0.0, None],
        "name_3": [21, 20, None],
        "lat_3": [0.0, 0.0, None],
        "group_size": [4, 2, 1],
        "catalogs": [3, 2, 1],
    }
    assert rows.sort_by("ra").select(list(expected)).to_pydict() == expected
    assert rows["_healpix_29"].to_pylist() == sorted(healpix_29(rows["ra"], rows["dec"]).tolist())


def test_equally_near_rows_stand_in_the_order_of_their_store_and_catalogs_of_one_place_in_their_order():
    pile = [table([10.0] * 3, [0.0] * 3, first) for first in (0, 10)]
    rows = many(pile, SKY).to_pylist()
    assert len(rows) == 1
    assert (rows[0]["name_1"], rows[0]["name_2"], rows[0]["group_size"]) == (0, 10, 6)


def test_a_group_belongs_to_the_cell_of_its_own_position():
    """RA = 0 divides two cells: the row of the first catalog lies in the one, that of smallest index in the other."""
    tables = [table([359.95, 100.0], [60.0, 1.0]), table([0.05], [60.0], first=10)]
    cells = [Cell(0, 0), Cell(0, 3), Cell(0, 5)]
    found = [many(tables, [cell]) for cell in cells]
    assert [rows.num_rows for rows in found] == [0, 1, 1]
    assert found[1]["name_2"].to_pylist() == [10]
    assert found[1]["group_id"].to_pylist() == tables[1]["_healpix_29"].to_pylist()
    assert found[1]["_healpix_29"].to_pylist() == healpix_29([359.95], [60.0]).tolist()
    assert pa.concat_tables(found).equals(many(tables, SKY))


def test_no_rows_of_any_catalog():
    empty = table([], [])
    assert many([empty, empty], SKY).num_rows == 0
    assert many([empty, table([1.0], [1.0])], SKY)["name_1"].to_pylist() == [None]

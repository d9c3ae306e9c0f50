"""`sciplat cone`: rows of a cone on the terminal and in files."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

import sciplat
from sciplat.cli.cone import _write_fits
from sciplat.cli.main import main


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


CONE = ("--ra", "10 deg", "--dec", "20 deg", "--radius", "60 deg")


def in_cone(url):
    return sciplat.open_catalog(url).within(sciplat.Cone("10 deg", "20 deg", "60 deg")).compute()


def test_a_cone_is_shown_in_the_width_of_the_terminal(measured):
    rows = in_cone(measured)
    shown = run("cone", measured, *CONE)
    assert shown.exit_code == 0
    assert "the first 20 rows" in shown.output
    assert "more columns" in shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())
    shown = run("cone", measured, *CONE, "--column", "name", "--column", "pmra", "-n", 500).output
    lines = shown.splitlines()
    assert lines[1].split() == ["name", "pmra"]
    assert lines[2].split() == ["mas/yr"]
    assert f"{rows.num_rows} rows" in lines
    assert str(rows["name"].drop_null()[0]) in shown
    assert run("cone", measured, *CONE, "--column", "nothing").exit_code == 2
    assert run("cone", measured, "--ra", "10", *CONE[2:]).exit_code == 2


def test_a_cone_says_that_there_is_more_only_where_there_is(measured):
    rows = in_cone(measured).num_rows
    for limit, last in ((1, "the first 1 row, -n N shows more"), (rows - 1, "shows more"), (rows, f"{rows} rows")):
        lines = run("cone", measured, *CONE, "--column", "name", "-n", limit).output.splitlines()
        assert lines[-1].endswith(last)
    only = sciplat.open_catalog(measured).within(sciplat.Cone("10 deg", "20 deg", "60 deg")).head(1)
    place = ("--ra", f"{only['ra'][0]} deg", "--dec", f"{only['dec'][0]} deg", "--radius", "0.1 arcsec")
    assert run("cone", measured, *place, "--column", "name", "-n", 1).output.splitlines()[-1] == "1 row"


def test_a_cone_has_each_column_once(measured, tmp_path):
    columns = ("--column", "pmra", "--column", "pmra")
    assert run("cone", measured, *CONE, *columns).output.count("pmra") == 1
    assert run("cone", measured, *CONE, *columns, "--output", tmp_path / "c.csv").exit_code == 0
    assert pyarrow.csv.read_csv(tmp_path / "c.csv").column_names == ["pmra"]


def test_a_cone_is_kept_neither_in_a_folder_nor_in_the_store(measured, tmp_path):
    (tmp_path / "x.csv").mkdir()
    refused = run("cone", measured, *CONE, "--output", tmp_path / "x.csv")
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (2, f"error: {tmp_path / 'x.csv'} is a folder")
    (tmp_path / "link").symlink_to(measured)
    for folder in (measured, tmp_path / "link"):
        refused = run("cone", measured, *CONE, "--output", folder / "out.csv")
        assert refused.exit_code == 2
        assert f"out.csv lies inside the store {measured}" in refused.stderr
    assert not (measured / "out.csv").exists()
    refused = run("cone", measured, *CONE, "--output", tmp_path / f"{'n' * 300}.csv")
    assert refused.exit_code == 1
    assert "cannot be written\n  found  File name too long" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "x.csv"]


def test_a_cone_keeps_the_rows_that_fulfil_a_condition(measured):
    rows = in_cone(measured)
    expected = int((rows["pmra"].to_numpy() > 0.5).sum())
    shown = run("cone", measured, *CONE, "--where", "pmra > 0.5", "--column", "name", "-n", 500)
    assert shown.exit_code == 0
    assert f"{expected} rows" in shown.output.splitlines()
    assert run("cone", measured, *CONE, "--where", "pmra >").exit_code == 2


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits", "vot", "FITS"])
def test_a_cone_is_kept_in_a_file(measured, tmp_path, ending):
    path, rows = tmp_path / f"cone.{ending}", in_cone(measured).drop_columns(["_healpix_29"])
    path.write_text("an older file")
    kept = run("cone", measured, *CONE, "--output", path)
    assert (kept.exit_code, kept.output) == (0, f"{path}: {rows.num_rows} rows\n")
    assert list(tmp_path.iterdir()) == [path]
    if ending == "parquet":
        assert pq.read_table(path).equals(rows)
    elif ending == "csv":
        assert pyarrow.csv.read_csv(path)["pmra"].to_pylist() == rows["pmra"].to_pylist()
    else:
        read = Table.read(path)
        assert read["source_id"].tolist() == rows["source_id"].to_pylist()
        assert read["pmra"].unit == "mas / yr"
        given = [None if value is None else bool(value) for value in read["is_star"].tolist()]
        assert given == rows["is_star"].to_pylist()
        names = [name.decode() if isinstance(name, bytes) else name for name in read["name"].tolist()]
        assert [name or None for name in names] == rows["name"].to_pylist()


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_beside_missing_ones_keep_their_values_in_fits(kind, tmp_path):
    most = np.iinfo(kind).max
    rows = pa.table({"n": pa.array([0, 63, int(most) // 2 + 1, int(most), None], kind)})
    _write_fits(rows, tmp_path / "rows.fits")
    back = Table.read(tmp_path / "rows.fits")["n"]
    assert [None if value is np.ma.masked else int(value) for value in back] == rows["n"].to_pylist()
    if kind != "uint64":  # the others are not shifted: every reader finds the same number missing
        assert "TZERO1" not in fits.getheader(tmp_path / "rows.fits", 1)


def test_a_file_that_cannot_be_made_is_refused_and_nothing_is_left(measured, tmp_path):
    for name in ("cone.txt", "cone", "nowhere/cone.csv"):
        assert run("cone", measured, *CONE, "--output", tmp_path / name).exit_code == 2
    table = sciplat.open_catalog(measured)
    table.nest("source_id", ["pmra"]).write(tmp_path / "curves")
    for ending in ("csv", "fits"):
        (tmp_path / f"cone.{ending}").write_text("an older file")
        result = run("cone", tmp_path / "curves", *CONE, "--output", tmp_path / f"cone.{ending}")
        assert result.exit_code == 2
        assert "cannot hold these rows" in result.stderr
        assert (tmp_path / f"cone.{ending}").read_text() == "an older file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cone.csv", "cone.fits", "curves"]

"""`sciplat crossmatch` and `groups`: two catalogs on the command line, and what `info` says of the result."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

import sciplat
from sciplat.cli.main import main
from sciplat.sky.motion import Errors, Motion

STARS, FAST, TWINS = 60, 10, 8  # stars in both catalogs; of these, moved out of the radius; of these, with a twin
NEW, FAR, LOST = 5, 7, 3  # stars in the left catalog alone: near the others, far from them; in the right one alone
YEARS = 16.0
LEFT = STARS + NEW + FAR
RADIUS = ("--radius", "1 arcsec")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def survey(numbers, dec, shift, *, pm):
    """Return stars an arcminute apart at declinations near `dec` (degrees), shifted by some arcseconds."""
    rows = len(numbers)
    place = {"star": numbers, "ra": 10 + np.asarray(numbers) / 60, "dec": dec + np.asarray(shift) / 3600}
    errors = {"e_ra": np.full(rows, 100.0), "e_dec": np.full(rows, 100.0)}  # mas
    return pa.table(place | {"pmra": np.zeros(rows), "pmdec": pm} | errors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two stores: `left` at J2000.0 with proper motions, `right` at J2016.0 without."""
    folder = tmp_path_factory.mktemp("match")
    pm = np.where(np.arange(STARS) < FAST, 500.0, 2.0)  # mas/yr: 8 arcsec, or 0.03
    near = survey(range(STARS + NEW), 20.0, np.zeros(STARS + NEW), pm=np.append(pm, np.zeros(NEW)))
    left = pa.concat_tables([near, survey(range(900, 900 + FAR), -70.0, np.zeros(FAR), pm=np.zeros(FAR))])
    moved = survey(range(STARS), 20.0, pm * YEARS / 1000 + 0.1, pm=np.zeros(STARS))
    twins = survey(range(FAST, FAST + TWINS), 20.0, np.full(TWINS, 0.5), pm=np.zeros(TWINS))
    lost = survey(range(2000, 2000 + LOST), 20.0, np.zeros(LOST), pm=np.zeros(LOST))
    right = pa.concat_tables([moved, twins, lost]).drop_columns(["pmra", "pmdec"])
    errors, motion = Errors("e_ra", "e_dec"), Motion("pmra", "pmdec")
    sciplat.ingest_catalog(left, folder / "left", epoch="J2000.0", errors=errors, motion=motion, rows_per_cell=20)
    sciplat.ingest_catalog(right, folder / "right", epoch="J2016.0", errors=errors, rows_per_cell=25)
    return folder


@pytest.fixture
def match(folder, tmp_path):
    """Return a function that matches both on the command line and returns what was said, and the rows."""

    def match(*arguments):
        done = run("crossmatch", folder / "left", folder / "right", tmp_path / "out", *arguments)
        assert done.exit_code == 0, done.output
        return done.output, sciplat.open_catalog(tmp_path / "out").compute()

    return match


def test_a_match_says_what_it_takes_and_what_became_of_the_rows(match, tmp_path):
    said, rows = match(*RADIUS, "--how", "left")
    assert "cells" in said.splitlines()[0]
    *_, where, found = said.splitlines()
    assert where.startswith(f"{tmp_path / 'out'}: {LEFT:,} rows in ")
    assert found == f"{LEFT:,} rows in: {STARS:,} matched, {NEW:,} unmatched, {FAR:,} out of coverage"
    pairs = rows.filter(pc.is_valid(rows["separation"]))
    assert pairs["star"].to_pylist() == pairs["star_other"].to_pylist()
    assert pairs["separation"].to_numpy() == pytest.approx(0.1, abs=1e-6)


def test_info_repeats_the_completeness(match, tmp_path):
    match(*RADIUS, "--how", "left")
    shown = run("info", tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())
    text = " ".join(shown.output.split())
    for fact in ("made by crossmatch", f"completeness {LEFT} rows in: {STARS} matched, {NEW} unmatched, {FAR} out of"):
        assert fact in text


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ((), STARS),
        (("--find", "all"), STARS + TWINS),
        (("--neighbours", 2), STARS + TWINS),
        (("--find", "mutual"), STARS),
        (("--no-motion",), STARS - FAST),
        (("--epoch", "J2016.0"), STARS),
        (("--epoch", "J2000.0"), STARS - FAST),
        (("--how", "left"), LEFT),
        (("--how", "right"), STARS + TWINS + LOST),
        (("--how", "outer"), LEFT + TWINS + LOST),
        (("--how", "anti"), NEW + FAR),
        (("--how", "xor"), NEW + FAR + TWINS + LOST),
        (("--find", "all", "--n-sigma", 3), STARS),
        (("--find", "all", "--n-sigma", 5), STARS + TWINS),
    ],
    ids=str,
)
def test_each_option_has_its_meaning(match, arguments, rows):
    said, found = match(*RADIUS, *arguments)
    assert found.num_rows == rows
    assert said.splitlines()[-1].startswith(f"{LEFT:,} rows in: ")  # whichever of them are in the result


def test_errors_alone_may_say_how_near_rows_must_be(match):
    _, rows = match("--n-sigma", 5, "--probability", "--suffix", "_2016")
    assert rows.num_rows == STARS
    assert rows["star"].to_pylist() == rows["star_2016"].to_pylist()
    assert rows["sigma"].to_numpy() == pytest.approx(0.1 / np.hypot(0.1, 0.1), abs=1e-5)
    both = rows["match_probability"].to_numpy() + rows["no_match_probability"].to_numpy()
    twins = np.isin(rows["star"].to_numpy(), np.arange(FAST, FAST + TWINS))
    assert both[~twins] == pytest.approx(1)
    assert (both[twins] < 1).all()  # the rest is the twin's


def test_explain_stops_before_anything_is_read(folder, tmp_path):
    told = run("crossmatch", folder / "left", folder / "right", tmp_path / "out", *RADIUS, "--explain")
    assert told.exit_code == 0
    assert "cells" in told.output
    assert not (tmp_path / "out").exists()


def test_a_store_is_replaced_only_where_that_was_said(match, folder, tmp_path):
    match(*RADIUS)
    arguments = ("crossmatch", folder / "left", folder / "right", tmp_path / "out", "--radius", "2 arcsec")
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--replace" in refused.stderr
    assert run(*arguments, "--replace", "--restart").exit_code == 0
    assert sciplat.open_catalog(tmp_path / "out").version == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("how near two rows are to be is not said", "1 arcsec")),
        (("--radius", "1"), ("radius", "arcsec")),
        (("--radius", "11 deg"), ("the radius of a match is out of range", "10 deg")),
        ((*RADIUS, "--find", "best"), ("'best' is unknown", "mutual")),
        ((*RADIUS, "--how", "full"), ("'full' is unknown", "outer")),
        ((*RADIUS, "--neighbours", 0), ("neighbours", "found  0")),
        ((*RADIUS, "--neighbours", 2, "--find", "all"), ("neighbours=2", "nearest")),
        (("--n-sigma", -1), ("n_sigma", "found  -1")),
        ((*RADIUS, "--epoch", "soon"), ("'soon'", "J2016.0")),
        ((*RADIUS, "--epoch", "J2016.0", "--no-motion"), ("epoch= has no meaning",)),
        ((*RADIUS, "--on-error", "ignore"), ("'ignore' is unknown", "quarantine")),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_one_message(folder, tmp_path, arguments, words):
    refused(run("crossmatch", folder / "left", folder / "right", tmp_path / "out", *arguments), *words)
    assert not (tmp_path / "out").exists()


def refused(result, *words):
    """Check the one message of a command that failed."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) <= 3
    for word in words:
        assert word in result.stderr


def test_a_catalog_that_is_not_there_and_words_that_are_no_numbers(folder, tmp_path):
    refused(run("crossmatch", folder / "none", folder / "right", tmp_path / "out", *RADIUS), "none")
    refused(run("groups", folder / "none", tmp_path / "out", *RADIUS), "none")
    for option in ("--neighbours", "--n-sigma"):
        assert run("crossmatch", folder / "left", folder / "right", tmp_path / "out", option, "many").exit_code == 2
    assert run("groups", folder / "left", tmp_path / "out").exit_code == 2


def test_groups_of_one_catalog(folder, tmp_path):
    done = run("groups", folder / "right", tmp_path / "out", *RADIUS)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith(f"{tmp_path / 'out'}: {STARS + TWINS + LOST:,} rows in ")
    rows = sciplat.open_catalog(tmp_path / "out").compute()
    near = rows.filter(pc.equal(rows["group_size"], 2))
    assert sorted(near["star"].to_pylist()) == sorted(2 * [*range(FAST, FAST + TWINS)])
    refused(run("groups", folder / "right", tmp_path / "new", *RADIUS, "--reach", "2 arcsec"), "reach", "3 radii")


def test_the_command_as_a_process(folder, tmp_path):
    code = "from sciplat.cli.main import main; main()"
    arguments = ["crossmatch", "left", "right", str(tmp_path / "out"), *RADIUS, "--how", "anti"]
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{LEFT:,} rows in: {STARS:,} matched")

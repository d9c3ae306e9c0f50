"""`sciplat versions` and `gc` as an operator uses them."""

import uuid

import pytest
from click.testing import CliRunner

import sciplat
from sciplat.cli.main import main
from sciplat.cli.versions import parse_duration
from sciplat.errors import ArgumentError
from tests.plan_scene import stars, write_stars
from tests.sky_scene import WHOLE_SKY, write_images


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path):
    """Make a catalog with three versions: the first is like one that was ingested, the others are results."""
    write_stars(tmp_path / "store", WHOLE_SKY)
    first = sciplat.open_catalog(tmp_path / "store")
    first.nest("source_id", ["mag"]).write(tmp_path / "store", replace=True)
    first.within(sciplat.Cone("0 deg", "0 deg", "40 deg")).write(tmp_path / "store", replace=True)
    return tmp_path / "store"


def test_versions_are_listed_with_what_made_them(store):
    shown = run("versions", store)
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.output.splitlines() if line.strip()[:1].isdigit()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    newest = sciplat.open_catalog(store)
    assert [line[1] for line in lines] == [str(len(stars())), str(len(stars())), str(len(newest))]
    assert [line[2] for line in lines] == ["12", "12", str(len(newest.cells))]
    assert [("ingest" in line, "nest" in line, "within" in line) for line in lines] == [
        (True, False, False), (False, True, False), (False, False, True)
    ]  # fmt: skip
    assert ["current" in line for line in lines] == [False, False, True]
    assert all(len(line) <= 80 for line in shown.output.splitlines())


def test_a_version_whose_record_is_damaged_hides_no_other(store):
    record = max(store.glob("v2-*/provenance.json"))
    record.write_text("{}")
    shown = run("versions", store)
    assert shown.exit_code == 0
    assert "damaged" in shown.output
    assert "current" in shown.output


def test_old_versions_are_removed_on_request_only(store):
    said = run("gc", store)
    assert (said.exit_code, said.output) == (0, f"{store}: nothing to remove (leftovers younger than 1d stay)\n")
    said = run("gc", store, "--keep", 1, "--dry-run")
    assert "would be freed" in said.output
    assert sciplat.open_catalog(store).versions == [1, 2, 3]
    said = run("gc", store, "--keep", 1)
    assert said.exit_code == 0
    for word in ("versions/1.json", "versions/2.json", "version 2", "4 removals"):
        assert word in said.output
    catalog = sciplat.open_catalog(store)
    assert catalog.versions == [3]
    assert catalog.compute().num_rows == len(catalog)
    assert run("verify", store).exit_code == 0
    assert run("info", store).exit_code == 0


def test_leftovers_are_removed_by_their_age(store):
    leftover = store / f"v4-{uuid.uuid4().hex[:12]}" / "dataset"
    leftover.mkdir(parents=True)
    (leftover / "file").write_bytes(b"123456")
    assert "nothing to remove" in run("gc", store, "--older-than", "7d").output
    said = run("gc", store, "--older-than", "0s")
    assert f"{leftover.parent.name}  6 B  never published" in said.output
    assert not leftover.parent.exists()


def test_image_stores_have_versions_too(tmp_path):
    files = write_images(tmp_path / "fits")
    sciplat.ingest_images([files / "plain.fits"], tmp_path / "images")
    shown = run("versions", tmp_path / "images")
    assert shown.exit_code == 0
    assert "ingest" in shown.output
    assert "nothing to remove" in run("gc", tmp_path / "images", "--keep", 1).output
    assert len(sciplat.open_images(tmp_path / "images")) == 1


@pytest.mark.parametrize(
    "arguments", [("--keep", "0"), ("--keep", "all"), ("--older-than", "7"), ("--older-than", "soon")]
)
def test_what_is_no_number_or_duration_is_refused(store, arguments):
    assert run("gc", store, *arguments).exit_code == 2
    assert len(list((store / "versions").iterdir())) == 3


def test_where_no_store_is_nothing_is_done(tmp_path):
    (tmp_path / "file").write_text("mine")
    for command in ("versions", "gc"):
        result = run(command, tmp_path)
        assert result.exit_code == 2
        assert "there is no store" in result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604800), ("12h", 43200), ("30min", 1800), ("45 s", 45), ("1.5d", 129600), ("2w", 1209600)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "7", "-7d", "7 days", "1e3d", "7D"])
def test_no_durations(text):
    with pytest.raises(ArgumentError, match="no duration"):
        parse_duration(text)

"""The command line as it is used: help everywhere, ingest, look, and damage that `verify` finds."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import sciplat
from sciplat.cli.main import main
from tests.sky_scene import SIZE, sources, write_images


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def commands(group=main, path=()):
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_explains_itself(path):
    for flag in ("--help", "-h"):
        result = run(*path, flag)
        assert result.exit_code == 0
        assert "Usage:" in result.output
        assert not [line for line in result.output.splitlines() if line.endswith("...") and "Usage" not in line]
    assert "Options:" in result.output


def test_usage_errors_of_every_command():
    for path in commands():
        assert run(*path, "--nonsense").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert run("ingest", "catalog", "only-one-argument").exit_code == 2
    assert run("head", "url", "-n", "0").exit_code == 2


def test_the_version():
    assert run("--version").output.split() == ["sciplat,", "version", sciplat.__version__]


def test_import_and_help_without_a_warning():
    for code in ("import sciplat", "import sys; sys.argv[1:] = ['--help']; import sciplat.cli.main as m; m.main()"):
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A folder with the stores `catalog` and `images`, made on the command line."""
    folder = tmp_path_factory.mktemp("stores")
    pq.write_table(sources(), folder / "sources.parquet")
    write_images(folder / "fits")
    (folder / "fits" / "broken.fits").write_text("no FITS")
    made = run("ingest", "catalog", folder / "sources.parquet", folder / "catalog", "--epoch", "J2016.0")
    assert (made.exit_code, made.stderr) == (0, "")
    assert f"{len(sources()):,} rows in" in made.output
    made = run("ingest", "images", folder / "fits", folder / "images")
    assert made.exit_code == 0
    assert "6 images in bands g, r; 1 files refused" in made.stdout
    assert "broken.fits is no FITS file" in made.stderr
    return folder


def test_looking_at_a_catalog(stores):
    shown = run("info", stores / "catalog").output
    for word in (f"{len(sources()):,} in", "ra, dec; icrs, epoch J2016.0", "source_id", "double"):
        assert word in shown
    shown = run("head", stores / "catalog", "-n", 2, "--column", "dec", "--column", "ra").output
    assert "dec" in shown
    assert "source_id" not in shown


def test_info_says_what_a_catalog_says_of_itself(measured):
    shown = run("info", measured)
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    for fact in (
        "300 in", "rows per cell at most 50,", "ra, dec; icrs, epoch J2016.0", "identity source_id", "mas/yr",
        "motion pmra (mas/yr), pmdec (mas/yr)", "errors e_ra (mas), e_dec (mas)", "ingest of 300 rows, 0 without",
        "to cite Somebody 2020", "meta.id", "Right ascension", "version 1",
    ):  # fmt: skip
        assert fact in text
    assert all(len(line) <= 80 for line in shown.output.splitlines())


def test_info_survives_odd_properties(measured, tmp_path):
    store = sciplat.open_catalog(measured).store
    odd = {"citations": [5, None, "a \x1b[2J text"], "frame": 7, "id": 3}
    shown = CliRunner().invoke(main, ["info", str(rewritten(measured, tmp_path / "odd", store.manifest, odd))])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for fact in ("to cite 5", "to cite None", "to cite a ?[2J text", "identity 3", "ra, dec; 7"):
        assert fact in text
    shown = run("info", rewritten(measured, tmp_path / "one", store.manifest, {"citations": "Me 2020"}))
    assert "to cite Me 2020" in " ".join(shown.output.split())


def rewritten(url, copy, manifest, properties):
    """Return a copy of a store that says other things of itself."""
    shutil.copytree(url, copy)
    path = copy / "versions" / "1.json"
    path.write_bytes(replace(manifest, properties=manifest.properties | properties).to_json())
    return copy


def test_head_shows_each_column_once_and_rows_in_the_width_of_the_terminal(measured):
    shown = run("head", measured, "--column", "name", "--column", "name", "-n", 2)
    assert shown.exit_code == 0
    assert shown.output.count("name") == 1
    shown = run("head", measured, "-n", 12)
    assert shown.exit_code == 0
    lines = [line for line in shown.output.splitlines() if line.strip()]
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.split()[0] == "source_id" for line in lines) > 1
    ids = [int(text) for line in lines if line.split()[0] == "source_id" for text in line.split()[1:]]
    assert ids == sciplat.open_catalog(measured).head(12)["source_id"].to_pylist()
    assert "_healpix_29" not in shown.output
    assert "_healpix_29" in run("head", measured, "--column", "_healpix_29").output


def test_a_catalog_of_another_program_is_shown_and_not_verified(measured, tmp_path):
    """The folder of one version is a whole HATS catalog, without our manifest."""
    foreign = tmp_path / "foreign"
    shutil.copytree(max(measured.glob("v1-*")), foreign)
    shown = run("info", foreign)
    assert shown.exit_code == 0, shown.output
    assert "another program" in shown.output
    assert "pmra" in shown.output
    assert "pmra" in run("head", foreign).output
    place = ("--ra", "10 deg", "--dec", "20 deg", "--radius", "60 deg")
    assert run("cone", foreign, *place, "-n", 3).exit_code == 0
    for command in ("verify", "versions"):
        result = run(command, foreign)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {foreign} was not written by sciplat")
    assert run("gc", foreign, "--keep", 1).exit_code == 2


def test_a_reader_that_has_seen_enough(stores):
    read, write = os.pipe()
    os.close(read)
    code = f"import sciplat.cli.main as m; m.main(['head', {str(stores / 'catalog')!r}])"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_the_system_refuses_is_said_in_words(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    shown = run("status", tmp_path / "loop")
    assert shown.exit_code in (1, 2)
    assert "symbolic links" in shown.stderr
    assert "Errno" not in shown.stderr


def test_looking_at_images(stores):
    shown = run("info", stores / "images").output
    assert f"{SIZE} x {SIZE}" in shown
    assert all(len(line) <= 80 and "…" not in line for line in shown.splitlines())
    assert shown.split()[:2] == ["store", str(stores / "images")]
    assert "broken.fits" in shown
    assert "image_id" in run("head", stores / "images").output


def test_measuring(stores):
    arguments = ["photometry", stores / "images", stores / "catalog", stores / "out", "--radius", "4 pix"]
    planned = run(*arguments, "--explain")
    assert planned.exit_code == 0
    assert not (stores / "out").exists()
    made = run(*arguments, "--annulus", "8 pix", "12 pix", "--keep", "source_id", "--band", "r")
    assert made.exit_code == 0, made.output
    rows = sciplat.open_catalog(stores / "out").compute()
    assert f"{rows.num_rows:,} measurements" in made.output
    assert set(rows["band"].to_pylist()) == {"r"}
    assert run(*arguments).exit_code == 2
    assert run(*arguments, "--replace").exit_code == 0
    assert sciplat.open_catalog(stores / "out").version == 2


@pytest.fixture
def fresh(tmp_path):
    """A small catalog and a small image store that a test may damage."""
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 500), rng.uniform(-80, 80, 500)
    sciplat.ingest_catalog(pa.table({"id": range(500), "ra": ra, "dec": dec}), tmp_path / "catalog", rows_per_cell=100)
    fits_files = write_images(tmp_path / "fits")
    sciplat.ingest_images([fits_files / "plain.fits", fits_files / "north.fits"], tmp_path / "images")
    return tmp_path


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << (len(content) % 8)
    path.write_bytes(content)


VICTIMS = [
    ("catalog", "v1-*/dataset/Norder=*/Dir=*/Npix=*.parquet"), ("catalog", "v1-*/partition_info.csv"),
    ("catalog", "v1-*/dataset/_common_metadata"), ("catalog", "v1-*/skymap.fits"), ("catalog", "v1-*/hats.properties"),
    ("images", "Norder=*/Npix=*/*/science/c/*/0/0"), ("images", "Norder=*/Npix=*/*/mask/c/*/0/0"),
    ("images", "Norder=*/Npix=*/*/variance/zarr.json"), ("images", "images/v1-*/dataset/Norder=*/Dir=*/*.parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("store", "pattern"), VICTIMS, ids=lambda value: value.rpartition("/")[2])
def test_verify_names_what_is_damaged(fresh, store, pattern):
    victim = max((fresh / store).glob(pattern))
    whole = victim.read_bytes()
    name = victim.relative_to(fresh / store).as_posix().removeprefix("images/")
    for damage in ("flip", "cut", "missing"):
        if damage == "flip":
            for place in np.random.default_rng(7).uniform(0, 1, 5):
                flip(victim, place)
                found = check_damage(fresh / store)
                assert f"{name}: content differs from its digest" in found
                victim.write_bytes(whole)
        elif damage == "cut":
            victim.write_bytes(whole[:-1])
            assert f"{name}: {len(whole) - 1} bytes instead of {len(whole)}" in check_damage(fresh / store)
        else:
            victim.unlink()
            assert f"{name}: missing" in check_damage(fresh / store)
        victim.write_bytes(whole)
    assert run("verify", fresh / store).exit_code == 0


def check_damage(url):
    """Verify a damaged store, and look at it: exit code 0 or 1, one message, no traceback; return what verify says."""
    result = run("verify", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: 1 of ")
    for command in ("info", "head"):
        looked = run(command, url)
        assert looked.exit_code in (0, 1), looked.output
        assert looked.exit_code == 0 or looked.stderr.startswith("error: "), looked.stderr
    return result.stdout


@pytest.mark.parametrize(("store", "manifest"), [("catalog", "versions/1.json"), ("images", "images/versions/1.json")])
def test_a_damaged_manifest_is_named(fresh, store, manifest):
    path = fresh / store / manifest
    whole = path.read_bytes()
    for damaged in (
        whole[:-1],
        whole[: len(whole) // 2],
        b"",
        b"{}",
        b"[]",
        b"\xff" * 100,
        whole.replace(b"rows", b"rowz", 1),
    ):
        path.write_bytes(damaged)
        for command in ("info", "head", "verify"):
            result = run(command, fresh / store)
            assert result.exit_code == 1, result.output
            assert result.stderr.startswith(f"error: the manifest {path} is damaged")
    path.write_bytes(whole)
    assert run("verify", fresh / store).exit_code == 0


def test_a_manifest_that_lacks_a_file(fresh):
    path = fresh / "catalog" / "versions" / "1.json"
    body = json.loads(path.read_bytes())["manifest"]
    body["files"] = [entry for entry in body["files"] if "_common_metadata" not in entry["path"]]
    from sciplat.io.storage import sha256

    digest = sha256(json.dumps(body, sort_keys=True).encode())
    path.write_text(json.dumps({"sha256": digest, "manifest": body}))
    result = run("info", fresh / "catalog")
    assert result.exit_code == 1
    assert "_common_metadata" in result.stderr

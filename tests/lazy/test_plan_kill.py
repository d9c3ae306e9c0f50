"""SIGKILL, Ctrl-C, twins and a full disk under a plan that is written: the same call makes the same store."""

import multiprocessing
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import sciplat
from sciplat.errors import PlanChanged, StepError, StorageError
from sciplat.io.catalog_store import open_catalog_store
from sciplat.io.publish import version_numbers
from sciplat.io.staging import STAGING
from sciplat.io.storage import LocalStorage
from tests.lazy.plan_process import (
    Writing,
    children_of,
    content,
    done_before,
    fail_at_the_pole,
    has_come,
    left_over,
    plan_of,
    reader,
)
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images

SEED = 2026
FAULTS = 20
# what a plan imports: without it most faults would hit the imports
PRELOAD = {
    "sciplat.lazy.catalog", "sciplat.lazy.images", "sciplat.kernels.aperture", "zarr.codecs", "zarr.storage",
    "cdshealpix.skymap", "cdshealpix.nested", "mocpy", "astropy.wcs", "astropy.table", "astropy.coordinates",
    "pyarrow.parquet", "pyarrow.dataset", "pandas", "scipy.linalg", "rich.live", "tests.lazy.plan_process",
}  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    sciplat.ingest_images(write_images(folder / "fits"), folder / "images")
    write_catalog(folder / "catalog", sources(), WHOLE_SKY)
    return folder


@pytest.fixture(scope="module")
def start(scene):
    """Return a function that starts to write a plan in a process that has everything imported, and no thread yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(PRELOAD))

    def begin(name, url, together=None, **options):
        return Writing(context, name, scene, url, options, together)

    begin.barrier = lambda: context.Barrier(2)
    return begin


@pytest.fixture(scope="module")
def undisturbed(start, scene, tmp_path_factory):
    """Return a function that tells what an undisturbed run gives: each file's digest, the cells, and the seconds."""
    folder, known = tmp_path_factory.mktemp("undisturbed"), {}

    def run(name):
        if name not in known:
            assert start(name, folder / f"{name} warm").end() is None
            writing = start(name, folder / name)
            assert writing.end() is None
            assert left_over(folder / name) == []
            known[name] = content(folder / name), len(plan_of(name, scene).cells), writing.seconds
        return known[name]

    return run


@pytest.fixture(scope="module")
def old_store(undisturbed, tmp_path_factory):
    """Return the store of another plan."""
    undisturbed("wider")
    return next(tmp_path_factory.getbasetemp().glob("undisturbed*/wider"))


# states of a store that is being written; {} is the number of the version
STATES = ["{s}/*/plan.json", "{s}/*/*.parquet", "{s}/*/done-*", "v{n}-*", "v{n}-*/*/*/*/Npix=*", "v{n}-*/skymap.fits"]
STATES += ["versions/.{n}.json*", "versions/{n}.json", ".collection.properties*", "cleared"]


def moments(seed, seconds, url, number=1):
    """Return when to strike: 10 times at any time, and once in every state."""
    times = np.random.default_rng(seed).uniform(0.1 * seconds, 1.1 * seconds, FAULTS // 2).tolist()
    return [*times, *(has_come(url / str(len(times) + place), state, number) for place, state in enumerate(STATES))]


def test_after_a_kill_the_same_call_makes_the_same_store(tmp_path, start, undisturbed):
    name = "map"
    expected, cells, seconds = undisturbed(name)
    resumed, published, slowest = 0, 0, 0.0
    for number, moment in enumerate(moments(SEED, seconds, tmp_path)):
        url = tmp_path / str(number)
        where = f"seed {SEED}, fault {number} at {moment}"
        with reader(url) as seen:
            start(name, url).end(signal.SIGKILL, moment)
            is_there, done = bool(version_numbers(LocalStorage(url))), done_before(url)
            again = start(name, url)
            assert again.end() is None, where
        assert content(url) == expected, where
        assert left_over(url) == [], where
        assert seen <= {None, expected[1]}, where
        assert sciplat.open_catalog(url).version == 1, where
        if not is_there:
            assert sciplat.open_catalog(url).report["cells_of_this_run"] == cells - done, where
        resumed, published, slowest = resumed + bool(done), published + is_there, max(slowest, again.seconds)
    print(
        f"seed {SEED}: {FAULTS} SIGKILL of a plan, {resumed} resumed, {published} after it was published, "
        f"0 lost, 0 wrong, 0 unclear errors, worst recovery {slowest:.2f} s"
    )


def test_after_a_kill_readers_see_the_old_version_or_the_new_one(tmp_path, start, undisturbed, old_store):
    (old, _, _), (new, cells, seconds) = undisturbed("wider"), undisturbed("map")
    slowest = 0.0
    for number, moment in enumerate(moments(SEED + 1, seconds, tmp_path, number=2)[FAULTS // 4 :]):
        url = tmp_path / str(number + FAULTS // 4)
        where = f"seed {SEED + 1}, fault {number} at {moment}"
        shutil.copytree(old_store, url)
        with reader(url) as seen:
            start("map", url, replace=True).end(signal.SIGKILL, moment)
            is_there, done = len(version_numbers(LocalStorage(url))) == 2, done_before(url)
            # where the last trace of the run is gone, the second call is a new one
            cleared = is_there and not list(url.glob(f"{STAGING}/*/log-*"))
            again = start("map", url, replace=True)
            assert again.end() is None, where
        assert content(url) == new, where
        assert left_over(url) == [], where
        assert seen <= {old[1], new[1]}, where
        assert version_numbers(LocalStorage(url)) == ([1, 2, 3] if cleared else [1, 2]), where
        if not is_there:
            assert sciplat.open_catalog(url).report["cells_of_this_run"] == cells - done, where
        slowest = max(slowest, again.seconds)
    print(f"seed {SEED + 1}: {number + 1} SIGKILL of a replacement, 0 lost, 0 wrong, worst recovery {slowest:.2f} s")


@pytest.mark.parametrize("name", ["photometry", "apart"])
def test_interrupted_it_leaves_what_is_done_or_nothing(tmp_path, start, undisturbed, name):
    expected, cells, seconds = undisturbed(name)
    faults = {"photometry": 5, "apart": 3}[name]
    resumed, slowest = 0, 0.0
    for number, moment in enumerate(np.random.default_rng(SEED + 2).uniform(0.05, 0.95, faults) * seconds):
        url = tmp_path / str(number)
        where = f"seed {SEED + 2}, fault {number} after {moment:.4f} s"
        stopped = start(name, url)
        stopped.end(signal.SIGINT, moment)
        assert stopped.dying < 10, where
        assert children_of(stopped.process.pid) == [], where
        done = done_before(url)
        if not version_numbers(LocalStorage(url)):
            assert stopped.process.exitcode != 0, where
            assert done or not url.exists(), where
        again = start(name, url)
        assert again.end() is None, where
        assert content(url) == expected, where
        assert left_over(url) == [], where
        if done:
            assert sciplat.open_catalog(url).report["cells_of_this_run"] == cells - done, where
        resumed, slowest = resumed + bool(done), max(slowest, stopped.dying)
    print(f"seed {SEED + 2}: {faults} Ctrl-C in {name}, {resumed} resumed, 0 lost, 0 wrong, worst end {slowest:.2f} s")


def test_interrupted_it_stops_a_function_that_never_ends(tmp_path, start):
    stuck = start("stuck", tmp_path / "store")
    end = time.monotonic() + 30
    while done_before(tmp_path / "store") < 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert children_of(stuck.process.pid)
    stuck.end(signal.SIGINT)
    assert stuck.dying < 10
    assert children_of(stuck.process.pid) == []
    assert done_before(tmp_path / "store") >= 3


@pytest.fixture
def killed(tmp_path, start, undisturbed):
    """Return the URL at which a plan was killed when some of its cells were done, and how many those are."""
    url = tmp_path / "store"
    writing = start("slow", url)
    while done_before(url) < 3:
        time.sleep(0.01)
    writing.end(signal.SIGKILL)
    assert not version_numbers(LocalStorage(url))
    return url, done_before(url)


def test_a_changed_plan_is_refused_and_the_first_one_goes_on(killed, scene, start, undisturbed):
    url, done = killed
    expected, cells, _ = undisturbed("slow")
    for name, difference in {"wider": "operation", "other code": "the code of first_half"}.items():
        error = start(name, url).end()
        assert isinstance(error, PlanChanged), error
        assert difference in error.found
    assert done_before(url) == done
    assert start("slow", url).end() is None
    assert content(url) == expected
    assert sciplat.open_catalog(url).report["cells_of_this_run"] == cells - done


def test_other_radii_and_another_input_are_named(tmp_path, scene):
    images, catalog = sciplat.open_images(scene / "images"), sciplat.open_catalog(scene / "catalog")
    first = catalog.write(tmp_path / "input")
    url = tmp_path / "store"
    narrow = images.photometry(first, radii=["3 arcsec"])
    with pytest.raises(StepError, match="ValueError: the pole"):
        narrow.map(fail_at_the_pole, schema=narrow.schema).write(url)
    assert done_before(url)
    wider = images.photometry(first, radii=["5 arcsec"])
    with pytest.raises(PlanChanged, match=r"radii of photometry: .*, now "):
        wider.map(fail_at_the_pole, schema=wider.schema).write(url)
    second = catalog.within(sciplat.Cone("0 deg", "0 deg", "30 deg")).write(tmp_path / "input", replace=True)
    other = images.photometry(second, radii=["3 arcsec"])
    with pytest.raises(PlanChanged, match=r"input: version 1, now 2"):
        other.map(fail_at_the_pole, schema=other.schema).write(url)
    assert len(wider.write(url, restart=True))
    assert left_over(url) == []


def test_twins_make_one_store(tmp_path, start, undisturbed):
    expected, _, seconds = undisturbed("map")
    slowest = 0.0
    for number, delay in enumerate([0.0, 0.0, 0.0, *np.random.default_rng(SEED + 3).uniform(0, seconds, 3)]):
        url = tmp_path / str(number)
        together = start.barrier() if delay == 0 else None
        with reader(url) as seen:
            first = start("map", url, together)
            time.sleep(delay)
            second = start("map", url, together)
            assert (first.end(), second.end()) == (None, None), f"delay {delay:.4f} s"
        assert content(url) == expected
        assert left_over(url) == [], f"delay {delay:.4f} s"
        assert seen <= {None, expected[1]}
        assert version_numbers(LocalStorage(url)) == [1]
        slowest = max(slowest, first.seconds)
    print(f"seed {SEED + 3}: 6 pairs of one plan, 0 lost, 0 wrong, 0 unclear errors, slowest {slowest:.2f} s")


def test_twins_that_replace_make_whole_versions(tmp_path, start, undisturbed, old_store):
    expected, _, seconds = undisturbed("map")
    old = undisturbed("wider")[0]
    for number, delay in enumerate([0.0, *np.random.default_rng(SEED + 4).uniform(0.5 * seconds, 1.2 * seconds, 3)]):
        url = tmp_path / str(number)
        shutil.copytree(old_store, url)
        with reader(url) as seen:
            first = start("map", url, replace=True)
            time.sleep(delay)
            second = start("map", url, replace=True)
            assert (first.end(), second.end()) == (None, None), f"delay {delay:.4f} s"
        assert content(url) == expected
        assert left_over(url) == [], f"delay {delay:.4f} s"
        assert seen <= {old[1], expected[1]}


def test_of_two_plans_one_wins_and_the_other_says_so(tmp_path, start, undisturbed):
    expected = {undisturbed(name)[0][1]: undisturbed(name)[0] for name in ("map", "wider")}
    for number in range(5):
        url, together = tmp_path / str(number), start.barrier()
        with reader(url) as seen:
            errors = [writing.end() for writing in [start(name, url, together) for name in ("map", "wider")]]
        lost = [error for error in errors if error is not None]
        assert len(lost) == 1, errors
        assert type(lost[0]).__name__ in ("PlanChanged", "StoreExists", "ConflictError"), lost
        assert version_numbers(LocalStorage(url)) == [1]
        digest = open_catalog_store(LocalStorage(url)).manifest.digest
        assert content(url) == expected[digest]
        assert seen <= {None, digest}
        assert [path.name for path in url.glob("v1-*")] == [open_catalog_store(LocalStorage(url)).manifest.folder]


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_the_next_try_goes_on(small_disk, start, undisturbed):
    expected, cells, _ = undisturbed("map")
    (small_disk / "ballast").write_bytes(bytes(400 << 10))
    url = small_disk / "store"
    error = start("map", url).end()
    assert isinstance(error, StorageError), error
    assert str(url) in error.what
    assert "No space left" in error.found
    assert "bytes" in error.found
    done = done_before(url)
    (small_disk / "ballast").unlink()
    assert start("map", url).end() is None
    assert content(url) == expected
    assert left_over(url) == []
    assert sciplat.open_catalog(url).report["cells_of_this_run"] == cells - done

"""SIGKILL and Ctrl-C at seeded moments of an ingest: no version or a whole one, and the same command goes on."""

import os
import shutil
import signal

import numpy as np
import pytest

import sciplat
from sciplat.errors import StoreNotFound
from sciplat.io.catalog_store import open_catalog_store
from sciplat.io.image_store import TABLE
from sciplat.io.publish import version_numbers
from sciplat.io.storage import LocalStorage
from sciplat.io.verify import verify_files
from tests.ingest.ingest_process import SMALLEST, STATES, finish, starter, traces, write_source
from tests.lazy.plan_process import content, done_before, has_come, left_over, reader
from tests.sky_scene import write_images

SEED = 20260
FAULTS = 10


@pytest.fixture(scope="module")
def start():
    begin = starter()
    finish(begin(["--help"]))  # the first one waits for the imports
    return begin


# --- catalogs


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Return the command lines of the ingests, without the URL at their end."""
    folder = tmp_path_factory.mktemp("sources")
    source = write_source(folder / "t.parquet", SEED)
    more = write_source(folder / "more.parquet", SEED + 1, first=10**6, cap=0.3)
    create = ["ingest", "catalog", "--rows-per-cell", 500]
    return {
        "held": [*create, source],
        "spilled": [*create, "--memory", SMALLEST, source],
        "append": ["ingest", "catalog", "--mode", "append", "--memory", SMALLEST, more],
    }


@pytest.fixture(scope="module")
def undisturbed(start, commands, tmp_path_factory):
    """Return a function that tells what an undisturbed run gives: its digests, and the seconds; and the first store."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finish(start([*commands["spilled"], folder / "spilled"]))[0] == 0
    known = {}

    def run(name):
        if name not in known:
            url = folder / f"{name} again"
            if name == "append":
                shutil.copytree(folder / "spilled", url)
            code, seconds = finish(start([*commands[name], url]))
            assert code == 0
            assert (sciplat.open_catalog(url).report["spilled"] > 0) == (name != "held")
            known[name] = content(url), seconds
        return known[name]

    run.first = folder / "spilled"
    return run


def moments(seed, seconds, url, number, faults):
    """Return when to strike: at any time, and if there are enough faults once in every state."""
    states = STATES if faults >= len(STATES) else []
    times = np.random.default_rng(seed).uniform(0.1 * seconds, 1.0 * seconds, faults - len(states)).tolist()
    urls = (url / str(len(times) + place) for place in range(len(states)))
    return [*times, *(has_come(each, state, number, "sorted-*") for each, state in zip(urls, states, strict=True))]


@pytest.mark.parametrize(("name", "faults"), [("held", 5), ("spilled", 20), ("append", 11)])
def test_after_a_kill_the_same_command_goes_on(tmp_path, start, commands, undisturbed, name, faults):
    (expected, seconds), number = undisturbed(name), 2 if name == "append" else 1
    old = {content(undisturbed.first)[1]} if name == "append" else {None}
    assert content(undisturbed.first) == undisturbed("spilled")[0] == undisturbed("held")[0]
    resumed, published, slowest = 0, 0, 0.0
    for fault, moment in enumerate(moments(SEED, seconds, tmp_path, number, faults)):
        url = tmp_path / str(fault)
        where = f"seed {SEED}, fault {fault} at {STATES[fault - faults] if callable(moment) else moment}"
        if name == "append":
            shutil.copytree(undisturbed.first, url)
        with reader(url) as seen:
            finish(start([*commands[name], url]), signal.SIGKILL, moment)
            is_there, done = number in version_numbers(LocalStorage(url)), done_before(url)
            # where the last trace of the run is gone, the second call is a new one
            cleared = is_there and not traces(url)
            code, took = (0, 0.0) if cleared else finish(start([*commands[name], url]))
        assert code == 0, where
        assert content(url) == expected, where
        assert cleared or left_over(url) == [], where
        assert seen <= {*old, expected[1]}, where
        assert version_numbers(LocalStorage(url)) == list(range(1, number + 1)), where
        report = sciplat.open_catalog(url).report
        if not is_there:
            assert report["cells_of_this_run"] == report["cells"] - done, where
        resumed, published, slowest = resumed + bool(done), published + is_there, max(slowest, took)
        shutil.rmtree(url)
    print(
        f"seed {SEED}: {faults} SIGKILL of ingest catalog, {name}, {resumed} resumed, {published} after it was "
        f"published, 0 lost, 0 wrong, 0 unclear errors, worst recovery {slowest:.2f} s"
    )


def test_parts_that_are_sorted_are_not_read_again(tmp_path, start, undisturbed):
    source, url = write_source(tmp_path / "t.parquet", SEED), tmp_path / "store"
    command = ["ingest", "catalog", "--rows-per-cell", 500, "--memory", SMALLEST, source, url]
    finish(start(command), signal.SIGKILL, has_come(url, "{s}/*/done-*", 1))
    times, size = source.stat(), source.stat().st_size
    with source.open("r+b") as file:  # all rows but those that are looked at to see how wide they are
        file.seek(size // 3)
        file.write(bytes(size // 3))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert finish(start(command))[0] == 0
    assert content(url) == undisturbed("spilled")[0]
    assert finish(start([*command[:-1], tmp_path / "other"]))[0] != 0  # the source is damaged indeed


@pytest.mark.parametrize("name", ["held", "append"])
def test_after_ctrl_c_it_leaves_what_is_done_and_goes_on(tmp_path, start, commands, undisturbed, name):
    (expected, seconds), resumed, number = undisturbed(name), 0, 2 if name == "append" else 1
    for fault, moment in enumerate(np.random.default_rng(SEED + 1).uniform(0.1, 0.9, 3) * seconds):
        url = tmp_path / str(fault)
        where = f"seed {SEED + 1}, fault {fault} after {moment:.4f} s"
        if name == "append":
            shutil.copytree(undisturbed.first, url)
        code, _ = finish(start([*commands[name], url]), signal.SIGINT, moment)
        is_there, done = number in version_numbers(LocalStorage(url)), done_before(url)
        if not is_there:
            assert code == 1, where
            assert not list(url.glob(f"v{number}-*")), where
        cleared = is_there and not traces(url)
        assert cleared or finish(start([*commands[name], url]))[0] == 0, where
        assert content(url) == expected, where
        assert cleared or left_over(url) == [], where
        assert version_numbers(LocalStorage(url)) == list(range(1, number + 1)), where
        resumed += bool(done)
    print(f"seed {SEED + 1}: 3 Ctrl-C in ingest catalog, {name}, {resumed} resumed, 0 lost, 0 wrong")


# --- images


@pytest.fixture(scope="module")
def ingest_images(tmp_path_factory):
    """Return the command line, without the URL at its end."""
    images = write_images(tmp_path_factory.mktemp("sources") / "fits")
    return ["ingest", "images", images / "north.fits", images / "seam.fits"]


def pixels(url):
    images = sciplat.open_images(url)
    found = {}
    for row in images.rows.to_pylist():
        dataset = images.to_xarray(row["group"]).isel(image=row["index"])
        found[row["image_id"]] = [dataset[plane].to_numpy().tobytes() for plane in ("science", "variance", "mask")]
    return found


def is_visible(url):
    """Return whether there is a store; one that there is, is whole."""
    try:
        store = open_catalog_store(LocalStorage(url / TABLE))
    except StoreNotFound:
        return False
    assert verify_files(store.storage, store.manifest) == []
    return True


@pytest.fixture(scope="module")
def undisturbed_images(start, ingest_images, tmp_path_factory):
    """Return what the undisturbed ingest holds, and how long it took."""
    url = tmp_path_factory.mktemp("undisturbed") / "store"
    code, seconds = finish(start([*ingest_images, url]))
    assert code == 0
    return pixels(url), seconds


def test_after_a_kill_the_same_command_makes_the_same_images(tmp_path, start, ingest_images, undisturbed_images):
    expected, seconds = undisturbed_images
    moments = np.random.default_rng(SEED).uniform(0, seconds, FAULTS)
    visible = 0
    for number, moment in enumerate(moments):
        url = tmp_path / str(number)
        finish(start([*ingest_images, url]), signal.SIGKILL, moment)
        if is_visible(url):
            visible += 1
        else:
            code, _ = finish(start([*ingest_images, url]))
            assert code == 0, f"seed {SEED}, fault {number} after {moment:.4f} s: {sorted(url.rglob('*'))[:5]}"
            assert is_visible(url)
        assert pixels(url) == expected
    print(f"seed {SEED}: {FAULTS} SIGKILL of ingest images, {visible} after it was published, 0 lost, 0 wrong")


def test_interrupted_images_leave_nothing(tmp_path, start, ingest_images, undisturbed_images):
    expected, seconds = undisturbed_images
    moments = np.random.default_rng(SEED + 1).uniform(0.05 * seconds, seconds, FAULTS // 2)
    whole = 0
    for number, moment in enumerate(moments):
        url = tmp_path / str(number)
        code, _ = finish(start([*ingest_images, url]), signal.SIGINT, moment)
        if is_visible(url):
            whole += 1
            assert pixels(url) == expected
        else:
            assert code == 1
            assert not url.exists(), f"seed {SEED + 1}, fault {number} after {moment:.4f} s: {sorted(url.rglob('*'))}"
    print(f"seed {SEED + 1}: {FAULTS // 2} Ctrl-C in ingest images, {whole} after it was published, 0 left-overs")

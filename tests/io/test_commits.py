"""Writers of one store at the same time: nothing that was acknowledged is lost, nothing is there twice."""

import multiprocessing
import re
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import sciplat
from sciplat.errors import ConflictError, PlanChanged
from sciplat.io.publish import read_manifest, version_numbers
from sciplat.io.storage import open_storage
from sciplat.io.verify import verify_files
from tests.io.commit_process import AROUND, BASE, make, rows, writer
from tests.io.cut_proxy import CuttingProxy

SEED = 20264
PRELOAD = ["sciplat.ingest.catalog", "tests.io.commit_process", "cdshealpix.nested", "cdshealpix.skymap", "mocpy",
           "astropy.table", "rich.live", "pyarrow.parquet"]  # fmt: skip


@pytest.fixture(scope="module")
def context():
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOAD)
    return chosen


def run_together(context, url, places, commits, options=None):
    """Let writers commit at the same time, each at its places; return their answers."""
    together, running = context.Barrier(len(places)), []
    for number, mine in enumerate(places):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=writer, args=(number, mine, commits, url, options, together, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    answers = [ours.recv() for _, ours in running]
    for process, _ in running:
        process.join(60)
        assert process.exitcode == 0
    assert not [answer for answer in answers if isinstance(answer, str)]
    return answers


def check(url, answers, places=BASE, options=None):
    """Compare the store with what was acknowledged; return how many commits and conflicts there were."""
    storage = open_storage(url, options)
    acknowledged = [number for answer in answers for number in answer[0]]
    catalog = sciplat.open_catalog(url, storage_options=options)
    there = Counter(catalog.compute()["id"].to_pylist())
    lost = [number for number in acknowledged if number not in there]
    twice = [number for number, times in there.items() if times > 1]
    assert lost == []
    assert twice == []
    assert there.total() == len(acknowledged) + AROUND * len(places)
    assert version_numbers(storage) == list(range(1, len(acknowledged) // 3 + 2))
    assert verify_files(storage, catalog.store.manifest) == []
    assert storage.names(".staging") == []
    folders = {read_manifest(storage, number).folder for number in version_numbers(storage)}
    assert {name for name in storage.names("") if name.startswith("v") and name != "versions"} == folders
    return len(acknowledged) // 3, [text for answer in answers for text in answer[1]]


@pytest.mark.parametrize(("writers", "commits"), [(3, 2), (8, 1)])
def test_writers_of_different_cells_do_not_notice_each_other(tmp_path, context, writers, commits):
    few = BASE[:16]
    make(tmp_path / "store", few)
    places = [range(number, len(few), writers) for number in range(writers)]
    made, conflicts = check(tmp_path / "store", run_together(context, tmp_path / "store", places, commits), few)
    assert conflicts == []
    hidden = list((tmp_path / "store").rglob(".*"))
    assert hidden == []
    print(f"{writers} writers, {made} commits in different cells, 0 lost, 0 twice, 0 refused")


@pytest.mark.parametrize(("writers", "commits"), [(2, 2), (8, 1)])
def test_writers_of_one_cell_are_told_of_each_other(tmp_path, context, writers, commits):
    few = BASE[:3]
    make(tmp_path / "store", few)
    answers = run_together(context, tmp_path / "store", [[1]] * writers, commits)
    made, conflicts = check(tmp_path / "store", answers, few)
    assert conflicts
    ids = {read_manifest(open_storage(tmp_path / "store"), number).write_id for number in range(1, made + 2)}
    for text in conflicts:
        first, second = re.search(r"write (\w{12}) published .*, this is write (\w{12})", text).groups()
        assert first in ids
        assert second not in ids
        assert "cell" in text
    print(f"{writers} writers, {made} commits in one cell, {len(conflicts)} refused and repeated, 0 lost, 0 twice")


def test_a_replacement_among_appends(tmp_path, context):
    """Whoever is second is refused or goes on from what is there: no version mixes the two."""
    url = tmp_path / "store"
    make(url)
    make(tmp_path / "other")

    def replace():
        plan = sciplat.open_catalog(tmp_path / "other").where("dec > 0")
        while True:
            try:
                plan.write(url, replace=True)
                break
            except (ConflictError, PlanChanged):  # an append came first, or is about to
                pass

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace)
        answers = run_together(context, url, [range(24, 36), range(12)], 3)
        replacing.result()
    storage = open_storage(url)
    northern = sciplat.open_catalog(tmp_path / "other").where("dec > 0").compute()["id"].to_pylist()
    numbers, before, kinds = version_numbers(storage), None, Counter()
    for number in numbers:
        catalog = sciplat.open_catalog(url, version=number)
        there = Counter(catalog.compute()["id"].to_pylist())
        assert max(there.values()) == 1
        if before is not None and there.keys() > before:
            kinds["append"] += 1
        elif before is not None:
            assert sorted(there) == sorted(northern)
            kinds["replace"] += 1
        before = there.keys()
    assert kinds == {"append": sum(len(answer[0]) for answer in answers) // 3, "replace": 1}


# --- object storage


@pytest.fixture(scope="module")
def server():
    """Start an S3 server; return its host and port. There is a bucket called "sky"."""
    import logging

    from botocore.session import get_session
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    names = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    client = get_session().create_client("s3", endpoint_url=f"http://{host}:{port}", **names)
    client.create_bucket(Bucket="sky")
    client.close()
    yield host, port
    running.stop()


def test_writers_of_object_storage_that_loses_answers(context, server):
    url, few = f"s3://sky/{uuid.uuid4().hex}", BASE[:3]
    straight = {"endpoint_url": f"http://{server[0]}:{server[1]}", "key": "testing", "secret": "testing"}
    make(url, few, straight)
    with CuttingProxy(server, 0.05, SEED) as proxy:
        options = straight | {"endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        places = [[0, 2], [1, 2]]  # their own, and one of all
        answers = run_together(context, url, places, 2, options)
    made, conflicts = check(url, answers, few, straight)
    assert made == 4
    assert proxy.cut > 0
    print(
        f"seed {SEED}: {made} commits to S3, {proxy.cut} of {proxy.answers} answers cut, {len(conflicts)} refused, "
        f"{sum(answer[2] for answer in answers)} unclear, 0 lost, 0 twice"
    )


def test_an_append_that_was_killed_is_not_applied_again_after_others(tmp_path):
    """It had published, but not cleared up; another one came in between."""
    from sciplat.io.staging import Staging

    url = tmp_path / "store"
    make(url)
    kept = Staging.remove
    try:
        Staging.remove = lambda self: None  # what a kill at this moment leaves
        sciplat.ingest_catalog(rows(3, 0), url, mode="append")
    finally:
        Staging.remove = kept
    assert list(url.glob(".staging/*/log-*"))
    sciplat.ingest_catalog(rows(5, 10), url, mode="append")
    again = sciplat.ingest_catalog(rows(3, 0), url, mode="append")
    assert again.version == 2
    assert Counter(sciplat.open_catalog(url).compute()["id"].to_pylist())[0] == 1
    assert version_numbers(open_storage(url)) == [1, 2, 3]
    assert not (url / ".staging").exists()

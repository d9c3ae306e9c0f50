"""Object storage as it is: a moto S3 server and a web server on loopback, and memory."""

import http.client
import http.server
import logging
import os
import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat import Cone
from sciplat.errors import ArgumentError, ConflictError, StorageError, StoreCorrupt, StoreExists, StoreNotFound
from sciplat.io.catalog_store import read_cell
from sciplat.io.object_storage import ObjectStorage
from sciplat.io.publish import Manifest, commit, read_manifest
from sciplat.io.staging import Staging
from sciplat.io.storage import open_storage
from tests.io.cut_proxy import CuttingProxy
from tests.io.test_foreign import stars, write_hats

SECRET = "unspeakable-secret"
CONE = Cone("40 deg", "-20 deg", "25 deg")


def few():
    """Return stars of a part of the sky, around the cone: a store of them has few files."""
    rows = stars()
    return rows.filter(pa.array((rows["ra"].to_numpy() < 90) & (rows["dec"].to_numpy() < 0)))


@pytest.fixture(scope="module")
def s3():
    """Start an S3 server; return the options that reach it. There is a bucket called "sky"."""
    from botocore.session import get_session
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "unspeakable-key", "secret": SECRET}
    names = {"aws_access_key_id": options["key"], "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = get_session().create_client("s3", endpoint_url=options["endpoint_url"], **names)
    client.create_bucket(Bucket="sky")
    client.close()
    yield options
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def place(request):
    """Return a URL of a new folder and the options for it."""
    name = uuid.uuid4().hex
    if request.param == "memory":
        return f"memory://{name}", {}
    return f"s3://sky/{name}", request.getfixturevalue("s3")


class Web(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `ranges` and `listings` say what it knows. Python's own server knows no ranges."""

    ranges = listings = True

    def log_message(self, *arguments):
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))

    def list_directory(self, path):
        if self.listings:
            return super().list_directory(path)
        self.send_error(403)
        return None

    def do_GET(self):
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not (self.ranges and wanted and path.is_file()):
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last or len(data)), len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])


@pytest.fixture
def web(tmp_path):
    """Return a function that serves `tmp_path` and gives its URL and the list of what it was asked."""
    servers = []

    def serve(**knows):
        handler = type("Handler", (Web,), knows)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path))
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server.asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_catalog_lives_on_object_storage(place):
    (url, options), rows = place, few()
    made = sciplat.ingest_catalog(rows, f"{url}/stars", rows_per_cell=50, storage_options=options)
    opened = sciplat.open_catalog(f"{url}/stars", storage_options=options)
    assert opened.compute().equals(rows)
    assert (opened.version, opened.versions, len(made.cells)) == (1, [1], len(opened.cells))
    inside = CONE.contains(rows["ra"].to_numpy(), rows["dec"].to_numpy())
    assert opened.within(CONE).compute().equals(rows.filter(pa.array(inside)))
    assert sciplat.open_catalog(f"{url}/stars", version=1, storage_options=options).version == 1
    with pytest.raises(StoreNotFound, match="no version 2"):
        sciplat.open_catalog(f"{url}/stars", version=2, storage_options=options)
    with pytest.raises(StoreExists):
        sciplat.ingest_catalog(rows, f"{url}/stars", storage_options=options)


def test_a_plan_is_written_to_s3_and_to_a_new_version(s3, monkeypatch):
    for name, key in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("ENDPOINT_URL", "endpoint_url")):
        monkeypatch.setenv(f"AWS_{name}", s3[key])
    url = f"s3://sky/{uuid.uuid4().hex}"
    catalog = sciplat.ingest_catalog(few(), f"{url}/stars", rows_per_cell=50, storage_options=s3)
    near = catalog.within(CONE).write(f"{url}/near")
    assert near.compute().equals(catalog.within(CONE).compute())
    again = catalog.write(f"{url}/near", replace=True)
    assert (again.version, again.versions) == (2, [1, 2])
    old = sciplat.open_catalog(f"{url}/near", version=1, storage_options=s3)
    assert old.compute().equals(near.compute())
    assert open_storage(url, s3).names("near/.staging") == []


def test_foreign_catalogs_on_object_storage_are_opened(place, tmp_path):
    storage = open_storage(*place)
    write_hats(tmp_path / "stars", stars(), hats_npix_suffix="/")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            storage.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    catalog = sciplat.open_catalog(f"{place[0]}/stars", storage_options=place[1])
    assert catalog.compute().equals(stars())
    digest = catalog.node.store.digest
    storage.write("stars/dataset/Norder=0/Dir=0/Npix=3/part0.parquet", b"other")
    assert sciplat.open_catalog(f"{place[0]}/stars", storage_options=place[1]).node.store.digest != digest
    with pytest.raises(StoreCorrupt, match=r"Npix=3/part0\.parquet"):
        catalog.compute()


def test_of_sixteen_writers_exactly_one_makes_an_object(place):
    storage = open_storage(*place)
    start = threading.Barrier(16)

    def create(number):
        start.wait()
        return storage.create("versions/1.json", str(number).encode())

    for _ in range(3):
        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(create, range(16)))
        assert sum(made) == 1
        assert storage.read("versions/1.json") == str(made.index(True)).encode()
        storage.remove("versions")


def test_a_large_object_is_made_only_once_too(s3):
    storage = open_storage(f"s3://sky/{uuid.uuid4().hex}", s3)
    large = bytes(101 << 20)  # beyond what one PUT takes: in parts
    assert storage.create("large", large)
    assert not storage.create("large", large)
    assert storage.size("large") == len(large)


def test_of_two_manifests_the_second_is_told_of_the_first(place):
    storage = open_storage(*place)
    one, two = (Manifest(1, write_id, None, f"v1-{write_id}", {}, ()) for write_id in ("a", "b"))
    assert commit(storage, one) == one
    assert commit(storage, one) == one  # as after an answer that was lost
    with pytest.raises(ConflictError, match="another writer"):
        commit(storage, two)


class Lossy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to `beyond`; the answer to the first PUT of a manifest gets lost."""

    beyond, lost, protocol_version = "", 0, "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def hand_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        to = http.client.HTTPConnection(self.beyond)
        to.request(self.command, self.path, body, dict(self.headers))
        answer = to.getresponse()
        data = answer.read()
        to.close()
        if self.command == "PUT" and self.path.endswith("1.json") and not type(self).lost:
            type(self).lost += 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = hand_on  # noqa: N815


def test_a_manifest_whose_answer_was_lost_is_published_all_the_same(s3):
    handler = type("Handler", (Lossy,), {"beyond": s3["endpoint_url"].removeprefix("http://")})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        through = {**s3, "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
        storage = open_storage(f"s3://sky/{uuid.uuid4().hex}", through)
        manifest = Manifest(1, "mine", None, "v1-mine", {}, ())
        assert commit(storage, manifest) == manifest
        server.shutdown()
    assert handler.lost == 1
    assert read_manifest(open_storage(storage.url, s3)).write_id == "mine"


def test_objects_are_copied_listed_dated_and_removed(place):
    storage = open_storage(*place)
    assert storage.names("") == storage.files("a") == storage.marks("a") == []
    storage.write("a/b/one", b"1")
    storage.write("a/.hidden", b"")
    storage.link("a/b/one", "ab/two")
    assert (storage.names("a"), storage.files("a")) == (["b"], ["a/.hidden", "a/b/one"])
    assert (storage.read("ab/two"), storage.size("ab/two"), storage.read("a/.hidden")) == (b"1", 1, b"")
    assert storage.modified("a") >= storage.modified("a/b/one") > 1.7e9
    marks = storage.marks("ab")
    storage.write("ab/two", b"22")
    assert storage.marks("ab") != marks
    storage.remove("a")
    storage.remove("a")
    assert (storage.names(""), storage.names("a"), storage.names("ab/two")) == (["ab"], [], [])
    with pytest.raises(FileNotFoundError):
        storage.modified("a")
    with pytest.raises(StorageError, match="cannot be written"):
        storage.link("a/b/one", "c")


def test_removing_takes_few_requests(s3):
    url = f"s3://sky/{uuid.uuid4().hex}"
    host, port = s3["endpoint_url"].removeprefix("http://").split(":")
    with CuttingProxy((host, int(port)), 0.0, 0) as proxy:
        storage = open_storage(url, {**s3, "endpoint_url": f"http://127.0.0.1:{proxy.port}"})
        staging, straight = Staging(storage, "a" * 64), open_storage(url, s3)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: straight.write(f"{staging.folder}/{n}", b"123"), [*range(60), "log-x.jsonl"]))
        straight.write("v1-x/file", b"1")
        before = proxy.answers
        assert storage.freed([staging.folder, "v1-x"]) == [183, 1]
        looked = proxy.answers
        staging.remove()
        assert (looked - before <= 3, proxy.answers - looked <= 14) == (True, True)
    assert straight.files("") == []


def test_a_listing_sees_what_others_have_just_written(place):
    one, two = open_storage(*place), pickle.loads(pickle.dumps(open_storage(*place)))
    one.write("versions/1.json", b"1")
    assert two.names("versions") == ["1.json"]
    one.write("versions/2.json", b"2")
    assert two.names("versions") == ["1.json", "2.json"]


def test_a_reader_gives_the_bytes_that_are_there(place):
    storage, data = open_storage(*place), np.random.default_rng(0).bytes(1 << 20)
    storage.write("file", data)
    for size in (0, len(data)):
        with storage.open("file", size) as file:
            file.fetch([(10, 20), (900_000, 900_010)])
            assert (file.seek(10), file.read(10)) == (10, data[10:20])
            assert (file.seek(-5, os.SEEK_END), file.read(9), file.read(9)) == (len(data) - 5, data[-5:], b"")
            assert (file.seek(0), file.read()) == (0, data)
    with storage.open("file", len(data) + 100) as file:  # it has become shorter
        file.seek(len(data) - 10)
        assert file.read() == data[-10:]


def test_damage_is_found(place):
    url, options = place
    store = sciplat.ingest_catalog(few(), f"{url}/stars", storage_options=options).store
    file = store.entries[0].file
    data = store.storage.read(file.path)
    for wrong in (data[:-50], b"", data[:100], data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]):
        store.storage.write(file.path, wrong)
        with pytest.raises(StoreCorrupt, match=r"Npix=.*parquet"):
            read_cell(store.storage, file)
    store.storage.remove(file.path)
    with pytest.raises(StoreCorrupt, match=r"Npix=.*parquet"):
        read_cell(store.storage, file)


def test_credentials_are_nowhere(s3, caplog):
    caplog.set_level(logging.DEBUG)
    url = f"s3://sky/{uuid.uuid4().hex}/stars"
    catalog = sciplat.ingest_catalog(few(), url, storage_options=s3)
    task = catalog.node.task(catalog.cells[0])
    shown = [repr(catalog), repr(catalog.store), str(catalog.node.describe()), repr(task)]
    with pytest.raises(StorageError) as caught:
        open_storage("s3://nowhere/x", s3).write("x", b"1")
    shown += [str(caught.value), repr(caught.value)]
    written = [catalog.store.storage.read(name) for name in catalog.store.storage.files("")]
    assert len(written) > 5
    assert not any(b"unspeakable" in data for data in written)
    assert not any("unspeakable" in text for text in shown)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("sciplat", "s3fs", "fsspec"))]
    assert not any("unspeakable" in text for text in ours)


def test_a_task_takes_its_credentials_with_it(s3):
    url = f"s3://sky/{uuid.uuid4().hex}/stars"
    catalog = sciplat.ingest_catalog(few(), url, storage_options=s3)
    task = pickle.loads(pickle.dumps(catalog.node.task(catalog.cells[0])))
    assert task.run().num_rows > 0


def test_errors_of_storage_are_ours_and_in_plain_words(s3, web):
    with pytest.raises(StorageError, match="bucket does not exist") as caught:
        sciplat.ingest_catalog(stars(50), "s3://nowhere/stars", storage_options=s3)
    assert caught.value.kind == "usage"
    with pytest.raises(StoreNotFound):
        sciplat.open_catalog("s3://nowhere/stars", storage_options=s3)
    with pytest.raises(StorageError, match="cannot be listed"):
        sciplat.open_catalog("s3://sky/x", storage_options={**s3, "colour": "red"})
    url, _ = web(do_GET=lambda self: self.send_error(401))
    with pytest.raises(StorageError, match="401") as caught:
        sciplat.open_catalog(f"{url}/stars")
    assert caught.value.kind == "usage"
    url, _ = web(do_GET=lambda self: self.send_error(503))
    with pytest.raises(StorageError, match="503") as caught:
        sciplat.open_catalog(f"{url}/stars")
    assert caught.value.kind == "transient"
    with pytest.raises(StorageError, match="cannot be"):
        sciplat.open_catalog("http://127.0.0.1:9/stars")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("listings", [True, False])
def test_our_stores_open_over_a_plain_web_server(web, tmp_path, ranges, listings):
    first = sciplat.ingest_catalog(stars(), tmp_path / "stars", rows_per_cell=200)
    first.within(CONE).write(tmp_path / "stars", replace=True)
    url, asked = web(ranges=ranges, listings=listings)
    old, new = sciplat.open_catalog(f"{url}/stars", version=1), sciplat.open_catalog(f"{url}/stars")
    assert (old.version, new.version) == (1, 2)
    assert old.compute().equals(stars())
    asked.clear()
    assert new.compute().equals(first.within(CONE).compute())
    # a footer and the rows, or the whole file where there are no ranges
    assert len([each for each in asked if "Npix=" in each[1]]) == len(new.cells) * (2 if ranges else 1)
    with pytest.raises(StoreNotFound):
        sciplat.open_catalog(f"{url}/stars", version=3)
    with pytest.raises(StoreNotFound):
        sciplat.open_catalog(f"{url}/nothing")


@pytest.mark.parametrize("ranges", [True, False])
def test_foreign_catalogs_open_over_a_plain_web_server(web, tmp_path, ranges):
    write_hats(tmp_path / "main", stars())
    (tmp_path / "collection.properties").write_text("hats_primary_table_url=main\n")
    write_hats(tmp_path / "unlisted", stars(), listed=False)
    url, _ = web(ranges=ranges)
    for catalog in (sciplat.open_catalog(url + "/./"), sciplat.open_catalog(f"{url}/unlisted")):
        assert catalog.compute().equals(stars())
    bare, _ = web(ranges=ranges, listings=False)
    assert sciplat.open_catalog(f"{bare}/main").within(CONE).compute().num_rows > 0


def test_a_web_server_is_for_reading(web):
    url, _ = web()
    with pytest.raises(ArgumentError, match="for reading"):
        sciplat.ingest_catalog(stars(), f"{url}/new")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        open_storage(f"{url}/new").write("x", b"1")
    assert caught.value.kind == "usage"


@pytest.mark.parametrize("protocol", ["http", "https", "s3", "memory", "gs"])
def test_paths_are_joined_below_any_protocol(protocol):
    storage = ObjectStorage(f"{protocol}://host/a", {})
    assert storage.child("b/../c").url == f"{protocol}://host/a/c"
    assert storage.child("..").child("d").url == f"{protocol}://host/d"

import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from sciplat.errors import ArgumentError
from sciplat.io.storage import LocalStorage, open_storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_objects_are_written_read_listed_and_removed(storage):
    storage.write("a/b/one", b"1")
    storage.write("a/two", memoryview(b"22"))
    assert storage.read("a/b/one") == b"1"
    assert storage.names("a") == ["b", "two"]
    assert storage.child("a").read("two") == b"22"
    with storage.open("a/two") as file:
        file.seek(1)
        assert file.read() == b"2"
    storage.write("a/two", b"2")
    assert storage.read("a/two") == b"2"
    storage.remove("a")
    assert storage.names("a") == []
    storage.remove("a")


def test_create_makes_an_object_only_once(storage):
    assert storage.create("v/1", b"first")
    assert not storage.create("v/1", b"second")
    assert storage.read("v/1") == b"first"
    assert storage.names("v") == ["1"]


def test_a_changed_object_is_told_without_reading_it(storage):
    assert storage.marks("v") == []
    storage.write("v/1", b"first")
    before = storage.marks("v")
    assert len(before) == 1
    assert storage.marks("v") == before
    storage.write("v/1", b"other")
    assert storage.marks("v") != before
    assert storage.modified("v") >= storage.modified("v/1") > 1.7e9
    with pytest.raises(FileNotFoundError):
        storage.modified("w")


def test_a_missing_object_is_a_file_not_found(storage):
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")


def test_a_storage_travels(storage):
    storage.write("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("x") == b"1"


def test_what_comes_and_goes_disturbs_nobody(tmp_path):
    storage, ended = LocalStorage(tmp_path), threading.Event()
    storage.write("kept/file", b"12345")

    def come_and_go():
        while not ended.is_set():
            for name in "abcdefgh":
                (tmp_path / "passing" / name / "deep").mkdir(parents=True)
            storage.remove("passing")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come_and_go)
        try:
            for _ in range(300):
                assert storage.files("") == ["kept/file"]
                assert len(storage.marks("")) == 1
                assert storage.modified("") > 1.7e9
                assert storage.freed(["", "kept"]) == [5, 0]
        finally:
            ended.set()
        other.result()


def test_many_objects_are_removed_and_no_others(storage):
    names = ["a/1", "a/b[1]", "a/b1", "a/c*", "a/cd"]
    for name in names:
        storage.write(name, b"123")
    assert storage.freed(["a", "a/1", "nothing"])[0] == 15
    storage.remove_all(["a/1", "a/b[1]", "a/c*", "a/nothing"])
    assert storage.files("") == ["a/b1", "a/cd"]
    storage.remove_all([])
    storage.remove("a/b1")
    assert storage.files("") == ["a/cd"]


def test_a_failed_write_leaves_nothing(tmp_path):
    storage = LocalStorage(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OSError, match="taken"):
        storage.write("taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_relative_path_is_made_absolute_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = open_storage("store")
    monkeypatch.chdir("/")
    storage.write("x", b"1")
    assert (tmp_path / "store" / "x").exists()


@pytest.mark.parametrize("url", ["simplecache::s3://a/b", "nowhere://a"])
def test_urls_that_chain_or_are_unknown_are_refused(url):
    with pytest.raises(ArgumentError):
        open_storage(url)


def test_credentials_are_not_shown():
    assert "secret" not in repr(open_storage("memory://x", {"key": "secret"}))


@pytest.mark.parametrize(
    "url", ["https://alice:secret@host/store", "s3://key:secret@bucket/store", "https://host/s?sig=secret"]
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(ArgumentError, match="storage_options") as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)

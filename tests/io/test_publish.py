import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sciplat.errors import ArgumentError, ConflictError, StoreCorrupt, StoreExists, StoreNotFound
from sciplat.io.publish import (
    FileEntry,
    Manifest,
    check_absent,
    commit,
    file_entry,
    new_write_id,
    read_manifest,
    version_numbers,
)
from sciplat.io.storage import LocalStorage, sha256


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "store")


def manifest(parent=None):
    write_id = new_write_id()
    entry = file_entry("v/data", b"content", rows=3)
    number, before = (parent.number + 1, parent.number) if parent else (1, None)
    return Manifest(number, write_id, before, f"v-{write_id}", {"a": [1, None]}, (entry,))


def test_a_published_version_is_read_back(storage):
    first = commit(storage, manifest())
    second = commit(storage, manifest(first))
    assert version_numbers(storage) == [1, 2]
    assert read_manifest(storage) == second
    assert read_manifest(storage, 1) == first
    assert (second.parent, second.rows, second.size) == (1, 3, 7)


def test_of_many_writers_of_one_number_exactly_one_wins(storage):
    contenders = [manifest() for _ in range(16)]

    def attempt(one):
        try:
            return commit(storage, one)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, contenders))
    winners = [result for result in results if isinstance(result, Manifest)]
    assert [winner.write_id for winner in winners] == [read_manifest(storage).write_id]
    losers = [str(result) for result in results if isinstance(result, ConflictError)]
    assert len(losers) == 15
    assert all(winners[0].write_id in loser for loser in losers)


def test_committing_again_after_a_lost_answer_is_no_conflict(storage):
    one = manifest()
    commit(storage, one)
    assert commit(storage, one) == one


def test_every_flipped_byte_of_a_manifest_is_found(storage):
    commit(storage, manifest())
    text = storage.read("versions/1.json")
    for place in range(len(text)):
        changed = bytearray(text)
        changed[place] ^= 1
        storage.write("versions/1.json", bytes(changed))
        if _meaning(changed) == json.loads(text):
            continue  # a space became another blank
        with pytest.raises(StoreCorrupt):
            read_manifest(storage)


def _meaning(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_newer_format_is_refused(storage):
    one = manifest()
    body = json.loads(one.to_json())["manifest"] | {"format": 99}
    digest = sha256(json.dumps(body, sort_keys=True).encode())
    storage.write("versions/1.json", json.dumps({"sha256": digest, "manifest": body}).encode())
    with pytest.raises(StoreCorrupt, match="newer"):
        read_manifest(storage)


def test_absent_stores_and_versions_are_named(storage):
    with pytest.raises(StoreNotFound, match="no store"):
        read_manifest(storage)
    commit(storage, manifest())
    with pytest.raises(StoreNotFound, match="no version 7"):
        read_manifest(storage, 7)


def test_what_stands_already_is_refused(storage):
    check_absent(storage)
    storage.write("v1-abc/leftover", b"")  # of a writer that was killed
    check_absent(storage)
    storage.write("notes.txt", b"")
    with pytest.raises(StoreExists, match="not empty"):
        check_absent(storage)
    commit(storage, manifest())
    with pytest.raises(StoreExists, match="stands already"):
        check_absent(storage)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../b", "a//b", "", "a\\b", "a\0b"])
def test_a_manifest_cannot_name_files_outside(storage, path):
    commit(storage, replace(manifest(), files=(FileEntry(path, 1, "0"),)))
    with pytest.raises(StoreCorrupt):
        read_manifest(storage)


def test_a_number_that_is_free_again_is_not_taken_a_second_time(storage):
    first = commit(storage, manifest())
    late = manifest(first)
    commit(storage, manifest(commit(storage, manifest(first))))
    storage.remove("versions/2.json")  # as `gc --keep` does
    with pytest.raises(ConflictError, match=r"version 3 of .* was published by another writer"):
        commit(storage, late)
    assert version_numbers(storage) == [1, 3]


@pytest.mark.parametrize("number", [1.0, True, "1"], ids=repr)
def test_a_version_has_a_whole_number(storage, number):
    commit(storage, manifest())
    with pytest.raises(ArgumentError, match="is no whole number"):
        read_manifest(storage, number)


def test_a_place_that_the_system_refuses_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for name in ("n" * 300, "loop"):
        for look in (version_numbers, check_absent):
            with pytest.raises(ArgumentError, match=f"{name} is no place for a store"):
                look(LocalStorage(tmp_path / name))


def test_the_way_out_fits_a_write_and_an_ingest(storage):
    commit(storage, manifest())
    with pytest.raises(StoreExists) as caught:
        check_absent(storage)
    for word in ("another URL", "replace=True", "mode='append'", "--mode append"):
        assert word in caught.value.hint

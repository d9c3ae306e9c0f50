"""Folders and secrets of a gateway: whose they are, who may read them, and that there is one of each."""

import os
import subprocess
import sys
import threading

import pytest

from sciplat.errors import SiteError
from sciplat.gateway.private import (
    database_key,
    make_folders,
    proxy_token,
    read_private,
    write_first,
    write_private,
)


def modes(folder):
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_folders_let_others_through_where_they_must_and_nowhere_else(tmp_path):
    state = tmp_path / "deep" / "state"
    for _ in range(2):
        make_folders(state)
        assert modes(state) == {"clusters": 0o711, "secrets": 0o700, "logs": 0o700, "run": 0o700}
        assert state.stat().st_mode & 0o777 == 0o711
        (state / "secrets").chmod(0o755)  # a slip of the operator, undone the second time


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to others")
def test_a_folder_of_another_user_is_refused(tmp_path):
    make_folders(tmp_path / "state")
    os.chown(tmp_path / "state" / "secrets", 12345, 12345)
    with pytest.raises(SiteError, match="belongs to another user"):
        make_folders(tmp_path / "state")


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path):
    make_folders(tmp_path)
    first = database_key(tmp_path), proxy_token(tmp_path)
    assert (database_key(tmp_path), proxy_token(tmp_path)) == first
    assert [len(secret) for secret in first] == [44, 64]
    assert modes(tmp_path / "secrets") == {"database.key": 0o600, "proxy.token": 0o600}


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "token"
    write_private(path, "secret\n")
    assert read_private(path) == "secret"
    path.chmod(0o640)
    with pytest.raises(SiteError, match=r"others may read[\s\S]*mode 640[\s\S]*chmod 600"):
        read_private(path)


def test_of_many_who_make_a_secret_at_once_all_use_the_same(tmp_path):
    make_folders(tmp_path)
    program = "import sys; from pathlib import Path; from sciplat.gateway.private import proxy_token\n"
    program += "sys.stdin.read(); print(proxy_token(Path(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.append(one.communicate("")[0])) for one in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert set(found) == {proxy_token(tmp_path) + "\n"}


def test_a_file_is_replaced_whole_and_a_first_one_stays(tmp_path):
    path = tmp_path / "file"
    write_private(path, "grün")
    write_first(path, "other")
    assert path.read_text(encoding="utf-8") == "grün"
    write_private(path, "new")
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "folder", "text")
    with pytest.raises(UnicodeEncodeError):
        write_private(tmp_path / "file", "\ud800")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]

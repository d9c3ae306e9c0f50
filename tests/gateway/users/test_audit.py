"""The audit log: whole lines that nobody can forge, and a full disk stops nothing."""

import json
import logging
import os
import resource
import threading
from datetime import datetime
from pathlib import Path

import pytest

from sciplat.gateway.users.audit import Audit


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(tmp_path / "audit.jsonl")


def lines(audit: Audit) -> list[dict]:
    return [json.loads(line) for line in audit.path.read_text().splitlines() if line]


def test_a_line_says_who_did_what_when_from_where_and_what_came_of_it(audit):
    audit.write("cluster-created", user="alice", cluster="ab12", source="192.0.2.7", profile="large", workers=3)
    (line,) = lines(audit)
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {
        "event": "cluster-created",
        "user": "alice",
        "cluster": "ab12",
        "source": "192.0.2.7",
        "outcome": "ok",
        "profile": "large",
        "workers": 3,
    }
    assert audit.path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_is_a_link_is_not_written_to(audit, tmp_path):
    target = tmp_path / "target"
    target.write_text("")
    audit.path.symlink_to(target)
    audit.write("token-created", user="alice")
    assert target.read_text() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for somebody else")
def test_what_root_writes_first_the_gateway_can_go_on_with(audit, tmp_path):
    os.chown(tmp_path, 65534, 65534)
    audit.write("token-created", user="alice")
    found = audit.path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o600)


def test_what_users_send_cannot_make_or_break_lines(audit):
    audit.write("request", user='x"}\n{"event": "forged"}', outcome="\x1b[2J\x00\r\udcff", cluster="c" * 5000)
    content = audit.path.read_bytes()
    assert content.count(b"\n") == 1
    assert all(32 <= byte < 127 or byte == 10 for byte in content)
    (line,) = lines(audit)
    assert line["event"] == "request"
    assert len(line["cluster"]) == 300


def test_lists_are_kept_and_cut(audit):
    audit.write("reaped", what=["job 7", "y" * 400, *range(40)])
    (line,) = lines(audit)
    assert line["what"][:2] == ["job 7", "y" * 300]
    assert len(line["what"]) == 20


def test_a_rotated_log_goes_on_in_a_new_file(audit):
    audit.write("first")
    audit.path.rename(audit.path.with_suffix(".1"))
    audit.write("second")
    assert [line["event"] for line in lines(audit)] == ["second"]


def test_lines_of_many_writers_do_not_mix(audit):
    def write(number: int) -> None:
        own = Audit(audit.path)
        for _ in range(50):
            own.write("request", user=f"u{number}", reason="r" * 250)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(audit)) == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        Audit(Path("/dev/full")).write("request", user="alice")
    assert "No space left" in caplog.text


def test_after_a_line_that_was_cut_the_next_one_is_whole(audit, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        audit.write("cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "only a part of a line" in caplog.text
    assert audit.path.stat().st_size == 20
    audit.write("whole")
    assert json.loads(audit.path.read_text().splitlines()[1])["event"] == "whole"

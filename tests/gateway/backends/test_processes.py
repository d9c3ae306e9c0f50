"""Processes that are started, found again by another process, and ended with all that they started."""

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from sciplat.gateway.backends.processes import (
    Process,
    end_processes,
    find_processes,
    is_running,
    read_environment,
    running_processes,
    send_signal,
    start_process,
    ticks_now,
)

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
DAEMON = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


@pytest.fixture
def mark():
    """An environment that no other process has; what carries it is ended with the test."""
    mark = {"SCIPLAT_TEST_MARK": uuid.uuid4().hex}
    yield mark
    for process in find_processes(mark):
        send_signal(process, signal.SIGKILL)


@pytest.fixture
def start(mark, tmp_path):
    """Start Python with the mark and a program; what it writes is in tmp_path/log."""

    def start(program: str, *arguments: str) -> Process:
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, "-c", program, *arguments]
            return start_process(command, environment={**mark, "A": "b=c"}, folder=tmp_path, output=log.fileno())

    return start


def until(condition, seconds=10.0):
    """Return what is true at last."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def end(find, patience=5.0):
    return asyncio.run(end_processes(find, patience=patience))


def test_a_process_has_the_environment_that_was_given_and_a_start(start, mark):
    before = ticks_now()
    process = start(SLEEP)
    assert before - 1 <= process.started <= ticks_now()
    assert read_environment(process) == {**mark, "A": "b=c"}


def test_a_process_has_a_session_and_a_folder_of_its_own_and_no_input(start, tmp_path):
    program = (
        "import os, sys\n"
        "print(os.getsid(0) == os.getpgid(0) == os.getpid(), os.getcwd(), oct(os.umask(0)), repr(sys.stdin.read()))"
    )
    process = start(program)
    until(lambda: not is_running(process))
    assert (tmp_path / "log").read_text() == f"True {tmp_path} 0o77 ''\n"


def test_the_dead_are_not_running_and_leave_no_zombie(start, mark):
    process = start("")
    until(lambda: not is_running(process))
    until(lambda: not Path(f"/proc/{process.pid}").exists())
    assert read_environment(process) == {}
    assert end(lambda: find_processes(mark, process)) == []


def test_a_program_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with (tmp_path / "log").open("wb") as log, pytest.raises(FileNotFoundError, match="/no/such/dask"):
        start_process(["/no/such/dask"], environment={}, folder=tmp_path, output=log.fileno())


def test_a_number_that_was_given_again_is_another_process(start, mark):
    process = start(SLEEP)
    former = Process(process.pid, process.started - 1)
    assert not is_running(former)
    send_signal(former, signal.SIGKILL)
    assert find_processes({"SCIPLAT_TEST_MARK": "other"}, former) == []
    assert end(lambda: find_processes({"SCIPLAT_TEST_MARK": "other"}, former)) == []
    assert is_running(process)
    assert process in running_processes()
    assert end(lambda: find_processes(mark, process)) == []
    assert not is_running(process)


def test_a_signal_to_nobody_is_no_error(start):
    process = start("")
    until(lambda: not Path(f"/proc/{process.pid}").exists())
    send_signal(process, signal.SIGKILL)


def test_a_child_ends_with_its_leader_whatever_environment_it_has(start, mark):
    bare = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], env={})"
    leader = start(bare, SLEEP)
    both = until(lambda: found if len(found := find_processes(mark, leader)) == 2 else None)
    until(lambda: find_processes(mark) == [leader])  # the child, once it is Python, is known by its group alone
    assert end(lambda: find_processes(mark, leader)) == []
    assert not any(map(is_running, both))


@pytest.mark.parametrize("program", [PARENT, DAEMON], ids=["in the group", "in a session of its own"])
def test_a_child_that_its_dead_leader_left_behind_is_found_by_its_environment(start, mark, program):
    leader = start(program, SLEEP)
    both = until(lambda: found if len(found := find_processes(mark, leader)) == 2 else None)
    send_signal(leader, signal.SIGKILL)
    until(lambda: not is_running(leader))
    (child,) = find_processes(mark, leader)
    assert child in both
    assert find_processes({"SCIPLAT_TEST_MARK": "other"}, leader) == []  # a group without its leader proves nothing
    assert end(lambda: find_processes(mark, leader)) == []
    assert not is_running(child)


def test_who_does_not_listen_is_ended_by_force(start, mark, tmp_path):
    process = start(DEAF)
    until((tmp_path / "log").read_bytes)
    assert end(lambda: find_processes(mark, process), patience=0.2) == []
    assert not is_running(process)


def test_what_is_started_while_others_end_is_ended_too(start, mark, tmp_path):
    follower = (
        "import signal, subprocess, sys\n"
        "def follow(*_): subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, follow); print('ready', flush=True); signal.pause()"
    )
    process = start(follower, SLEEP)
    until((tmp_path / "log").read_bytes)
    assert end(lambda: find_processes(mark, process)) == []
    assert find_processes(mark) == []


def test_another_process_than_the_one_that_started_it_finds_watches_and_ends_it(mark, tmp_path):
    starter = (
        "import sys; from pathlib import Path; from sciplat.gateway.backends.processes import start_process\n"
        "mark = {'SCIPLAT_TEST_MARK': sys.argv[1]}\n"
        "process = start_process(sys.argv[2:], environment=mark, folder=Path('/'), output=2)\n"
        "print(process.pid, process.started)"
    )
    command = [sys.executable, "-c", starter, mark["SCIPLAT_TEST_MARK"], sys.executable, "-c", SLEEP]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    process = Process(*map(int, answer.stdout.split()))
    assert is_running(process)
    assert find_processes(mark, process) == [process]
    assert end(lambda: find_processes(mark, process)) == []
    assert not is_running(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes as another user")
def test_a_process_of_another_user_has_their_identity_and_no_group_of_ours(mark, tmp_path):
    account = pwd.getpwnam("nobody")
    with (tmp_path / "log").open("wb") as log:
        command = ["/bin/cat", "/proc/self/status"]
        process = start_process(command, environment=mark, folder=tmp_path, output=log.fileno(), account=account)
    until(lambda: not is_running(process))
    told = dict(line.split(":", 1) for line in (tmp_path / "log").read_text().splitlines())
    assert told["Uid"].split() == [str(account.pw_uid)] * 4
    assert told["Gid"].split() == [str(account.pw_gid)] * 4
    assert told["Groups"].split() == [str(account.pw_gid)]

"""Real processes: what ends is started again, what a killed supervisor leaves is taken over, and nothing is left."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from sciplat.errors import GatewayError, SiteError
from sciplat.gateway.backends.processes import Process, find_processes, is_running, running_processes
from sciplat.gateway.private import make_folders
from sciplat.gateway.server import child as child_module
from sciplat.gateway.server import supervisor
from sciplat.gateway.server.child import Child, end, recorded, write_record
from sciplat.gateway.server.embedded import own_site
from sciplat.gateway.server.supervisor import answers, stop, supervise
from sciplat.gateway.site.schema import load_site

SCIPLAT = [sys.executable, "-c", "from sciplat.cli.main import main; main()"]
SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
ALIVE = "/api/health"


def until(condition, seconds=20.0):
    """Return what a condition gives once it is true."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.02)
    return found


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIPLAT_GATEWAY_STATE", str(tmp_path / "state"))
    make_folders(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def make(state):
    """Return a function that makes a child from a few lines of Python; what it has started is ended."""
    made = []

    def make(program=SLEEP, name="one", **environment):
        made.append(Child(name, [sys.executable, "-c", program], {**os.environ, **environment}, state))
        return made[-1]

    yield make
    for child in made:
        child.stop(0.0)


def test_a_child_runs_in_a_session_of_its_own_and_is_ended(make):
    child = make()
    child.start()
    assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
    assert recorded(child.record) == child.process
    assert {path.stat().st_mode & 0o777 for path in (child.record, child.log)} == {0o600}
    child.stop(5.0)
    assert not child.runs
    assert not child.record.exists()


def test_a_killed_child_is_started_again_at_once_and_then_ever_more_slowly(make, monkeypatch):
    child = make("raise SystemExit('broken')")
    child.start()
    starts = {child.process: time.monotonic()}
    while len(starts) < 4:
        child.keep()
        starts.setdefault(child.process, time.monotonic())
        time.sleep(0.01)
    times = list(starts.values())
    assert times[2] - times[1] > 0.35
    assert times[3] - times[2] > 0.75
    monkeypatch.setattr(child, "_ends", 5000)  # a night of it: no number grows too large
    child.keep()
    until(lambda: child.tail() == "broken")


def test_a_child_that_lived_long_is_started_again_at_once(make, monkeypatch):
    child = make()
    child.start()
    monkeypatch.setattr(child_module, "_STEADY", 0.0)
    for _ in range(3):
        before = child.process
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: not child.runs)
        child.keep()
        assert child.runs
        assert child.process != before


def test_who_does_not_end_when_asked_is_ended_by_force(make):
    child = make(STUBBORN)
    child.start()
    until(lambda: child.tail() == "up")
    child.stop(0.2)
    assert not child.runs


def test_a_former_child_is_adopted_only_if_it_was_started_in_the_same_way(make):
    former = make(DASK_GATEWAY_PROXY_TOKEN="one")
    assert not former.adopt()  # there is none
    former.start()
    same = make(DASK_GATEWAY_PROXY_TOKEN="one")
    assert same.adopt()
    assert same.process == former.process
    for other in (make(DASK_GATEWAY_PROXY_TOKEN="other"), make(f"{SLEEP}  # newer", DASK_GATEWAY_PROXY_TOKEN="one")):
        former.start()
        assert not other.adopt()
        assert not former.runs


def test_a_number_that_was_given_again_is_not_taken_for_the_child(make, tmp_path):
    child = make()
    child.start()
    good = json.loads(child.record.read_text())
    for changed in (
        {"started": good["started"] + 1},
        {"boot": "before"},
        {"pid": 2**22 - 1},
        {"pid": None},
        {"pid": -1},
    ):
        child.record.write_text(json.dumps({**good, **changed}))
        assert recorded(child.record) is None
        assert not make().adopt()
        make().end_former()
        assert child.runs
    for broken in ("", "[]", "{}", "7", "\x00"):
        child.record.write_text(broken)
        assert recorded(child.record) is None
    write_record(child.record, child.process)
    make().end_former()
    assert not child.runs


def test_a_process_of_another_parent_that_cannot_be_ended_is_told_in_the_end(monkeypatch):
    monkeypatch.setattr(child_module, "_FORCED", 0.2)
    monkeypatch.setattr(child_module, "send_signal", lambda *_: None)  # as for another user's process, or a stuck one
    own = next(one for one in running_processes() if one.pid == os.getpid())
    with pytest.raises(GatewayError, match=f"{own.pid} does not end"):
        end(own, 0.1)
    end(Process(own.pid, own.started + 1), 5.0)  # is not there: nothing to wait for


def test_a_long_log_is_put_aside_and_the_end_of_it_shown(make, monkeypatch):
    monkeypatch.setattr(child_module, "_LARGEST", 20_000)
    child = make(
        "import time\nfor n in range(5000): print('line', n, flush=True)\nprint('last', flush=True); time.sleep(60)"
    )
    child.start()
    until(lambda: child.tail(1) == "last")
    assert child.tail(2).splitlines()[0] == "line 4999"
    child.keep()
    assert child.log.stat().st_size == 0
    assert child.log.with_suffix(".log.1").read_text().endswith("line 4999\nlast\n")
    assert child.tail() == ""


def test_a_child_that_cannot_be_recorded_does_not_run(make):
    child = make(SOME_CHILD="cannot be recorded")
    child.record.mkdir()
    with pytest.raises(OSError, match="directory"):
        child.start()
    child.keep()  # tries again, and waits for better times
    assert find_processes({"SOME_CHILD": "cannot be recorded"}) == []
    child.record.rmdir()
    until(lambda: child.keep() or child.runs)


@contextmanager
def started(path, **more):
    """Run `sciplat gateway start` until the end of the block."""
    command = [*SCIPLAT, "gateway", "start", "--config", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        stop(load_site(path))


def wait_for_welcome(process):
    line = process.stdout.readline()
    assert line.startswith("gateway at "), line + process.stderr.read()


def listens(address):
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def another_could_listen(address):
    """Return whether another user of this machine could take the gateway's place."""
    program = (
        "import socket, sys; one = socket.socket(); one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
        "one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); one.bind((sys.argv[1], int(sys.argv[2])))"
    )
    command = ["/usr/bin/python3", "-c", program, *address.rsplit(":", 1)]
    return subprocess.run(command, user=65534, group=65534, stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_gateway_survives_the_death_of_each_of_its_processes(state):
    path = own_site(state)
    path.write_text(path.read_text().replace("on_stop: stop", "on_stop: keep"))
    site, run = load_site(path), state / "run"

    def both():
        return recorded(run / "server.json"), recorded(run / "proxy.json")

    with started(path) as first:
        wait_for_welcome(first)
        server, proxy = both()
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: both()[0] not in {server, None} and answers(site.api_address, ALIVE))
        assert both()[1] == proxy
        os.kill(proxy.pid, signal.SIGKILL)
        until(lambda: both()[1] not in {proxy, None} and answers(site.address, ALIVE))

        with pytest.raises(SiteError, match="running already"):
            supervise(site, path, pytest.fail)
        server, proxy = both()
        assert answers(site.address, ALIVE)

        first.kill()
        first.wait()
        assert is_running(server)
        assert is_running(proxy)
        with started(path) as second:
            wait_for_welcome(second)
            assert not is_running(server)
            assert both()[1] == proxy
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
            assert not listens(site.api_address)
            assert both() == (None, proxy)  # clusters are kept, and their connections
            assert os.geteuid() != 0 or not another_could_listen(site.api_address)  # the proxy still sends tokens there
    assert not listens(site.address)  # `stop` has ended it


def test_one_s_own_gateway_ends_with_everything_when_it_is_asked(state):
    path = own_site(state)
    site, run = load_site(path), state / "run"
    with started(path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        wait_for_welcome(process)
        process.send_signal(signal.SIGHUP)  # its terminal goes, but it was started with nohup
        time.sleep(0.3)
        assert process.poll() is None
        both = recorded(run / "server.json"), recorded(run / "proxy.json")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # twice is no harm: what is being ended is ended to its end
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
        assert not any(map(is_running, both))
        assert {one.name for one in run.iterdir()} == {"supervisor"}
        assert not listens(site.address)
        assert stop(site) == []


def test_what_ends_a_gateway_is_taken_note_of_and_given_back():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(one) for one in numbers]
    with supervisor._signals() as stopping:
        for one in numbers:
            os.kill(os.getpid(), one)
        assert until(lambda: len(stopping) == 3)
    assert [signal.getsignal(one) for one in numbers] == before


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log_and_nothing_is_left(state):
    path = own_site(state)
    path.write_text(path.read_text() + f"ledger: sqlite:///{state}/no/such/folder/ledger.sqlite\n")
    site = load_site(path)
    with pytest.raises(GatewayError, match="the gateway's server did not start") as caught:
        supervise(site, path, pytest.fail)
    assert "no/such/folder/ledger.sqlite" in caught.value.found
    assert caught.value.hint == str(state / "logs" / "server.log")
    assert {one.name for one in (state / "run").iterdir()} == {"supervisor"}
    assert not listens(site.address)


def test_an_address_that_somebody_else_has_is_not_taken_for_the_gateway(state, monkeypatch):
    monkeypatch.setattr(supervisor, "_FREED", 0.2)
    path = own_site(state)
    site = load_site(path)
    for address in (site.address, site.api_address):
        host, port = address.rsplit(":", 1)
        with socket.create_server((host, int(port))), pytest.raises(SiteError, match=f"else answers at {address}"):
            supervise(site, path, pytest.fail)
    assert {one.name for one in (state / "run").iterdir()} == {"supervisor"}
    assert not (state / "logs" / "server.log").exists()


def test_a_lock_that_is_just_being_taken_stops_nobody(state):
    own_site(state)
    lock = state / "run" / "supervisor"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(GatewayError, match="just being started"):
            stop(load_site(state / "site.yaml"))

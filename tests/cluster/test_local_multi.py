"""Clusters of several Unix users on one machine: each runs as its user, who reaches no file but their own."""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from dask_gateway_server.backends.base import PublicException

from sciplat.gateway.backends.processes import find_processes, is_running
from tests.conftest import required
from tests.gateway.local_scene import Scene, process_of, until

TELL = (
    "import json, os, time; told = [os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd(), dict(os.environ)]; "
    "print(json.dumps(told), flush=True); open('mine', 'w').close(); time.sleep(60)"
)
# what a user may leave where the gateway clears up as root
TRAPS = (
    "import os, sys, time\n"
    "os.symlink('{outside}', 'folder'); os.symlink('{outside}/kept', 'file'); os.makedirs('deep/closed')\n"
    "open('deep/closed/file', 'w').close(); os.chmod('deep/closed', 0); os.mkfifo('pipe')\n"
    "print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def users():
    """Return the accounts of alice and bob, or skip: the tests of this file are root's."""
    missing = "root" if os.geteuid() != 0 else ""
    try:
        return {name: pwd.getpwnam(name) for name in ("alice", "bob") if not missing}
    except KeyError as error:
        missing = str(error)
    finally:
        if missing and required("users"):
            pytest.fail(f"several users: {missing}")
        if missing:
            pytest.skip(f"several users: {missing} (deploy/slurm/dev-cluster install)")


@pytest.fixture
def scene(users):
    """A backend with its state where users may pass through; its clusters end with the test."""
    folder = Path(tempfile.mkdtemp(prefix="sciplat-multi-"))
    folder.chmod(0o711)
    scene = Scene(folder / "state", backend="local-multi")
    yield scene
    scene.close()
    shutil.rmtree(folder)


def can(account, *command):
    """Return whether a command of a user succeeds."""
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    done = subprocess.run(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, **who)
    return done.returncode == 0


def test_scheduler_and_worker_run_as_the_user_with_all_their_groups_and_nothing_of_roots(scene, users, monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("PATH", "/root/bin:/usr/bin")
    alice = users["alice"]
    cluster = scene.started(TELL)
    worker = scene.worker(cluster)
    for name in ("", worker.name):
        uids, gids, groups, work, found = json.loads(until(lambda name=name: scene.log(cluster, name)))
        assert set(uids) == {alice.pw_uid}
        assert set(gids) == {alice.pw_gid}
        assert set(groups) == set(os.getgrouplist("alice", alice.pw_gid))
        assert work == str(scene.folder(cluster) / "work")
        assert (found["HOME"], found["USER"], found["LOGNAME"]) == (alice.pw_dir, "alice", "alice")
        assert found["PATH"] == "/usr/local/bin:/usr/bin:/bin"
        assert not any("secret" in value or "/root" in value for value in found.values())


def test_a_cluster_s_files_are_for_its_user_alone_and_they_cannot_replace_what_the_gateway_opens(scene, users):
    alice, bob = users["alice"], users["bob"]
    cluster = scene.started(TELL)
    folder = scene.folder(cluster)
    until((folder / "work" / "mine").exists)
    for name in ("dask.crt", "dask.pem", "work/mine"):
        assert can(alice, "cat", f"{folder}/{name}")
        assert not can(bob, "cat", f"{folder}/{name}")
    assert (folder / "work" / "mine").stat().st_mode & 0o777 == 0o600
    for account in (alice, bob):
        assert not can(account, "cat", f"{folder}/logs/scheduler.log")
        assert not can(account, "ls", str(folder))
        assert not can(account, "ls", str(folder.parent))
        for name in ("dask.pem", "logs", "work"):
            assert not can(account, "mv", f"{folder}/{name}", f"{folder}/other")
        assert not can(account, "ln", "-s", "/etc", f"{folder}/logs/worker-x.log")
    assert not can(bob, "ls", f"{folder}/work")


def test_the_gateway_clears_up_without_following_what_a_user_has_left(scene, tmp_path):
    (tmp_path / "kept").write_text("root's")
    cluster = scene.started(TRAPS.format(outside=tmp_path))
    assert until(lambda: scene.log(cluster)) == "ready"
    scene.run(scene.backend.do_stop_cluster(cluster))
    assert (tmp_path / "kept").read_text() == "root's"
    assert [path.name for path in scene.folder(cluster).iterdir()] == ["logs"]


def test_the_clusters_of_two_users_end_apart(scene, users):
    clusters = {name: scene.started(user=name) for name in users}
    workers = {name: scene.worker(cluster) for name, cluster in clusters.items()}
    scene.run(scene.backend.do_stop_cluster(clusters["alice"]))
    assert find_processes({"DASK_GATEWAY_CLUSTER_NAME": clusters["alice"].name}) == []
    assert is_running(process_of(workers["bob"]))
    told = scene.run(scene.backend.reap({clusters["alice"].name}))
    assert [clusters["bob"].name in line for line in told] == [True, True]
    assert not is_running(process_of(workers["bob"]))


def test_a_program_that_the_user_may_not_run_is_told_to_them(scene, tmp_path):
    program = tmp_path / "dask"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    cluster = scene.cluster(python=str(program))
    with pytest.raises(PublicException, match=f"alice cannot run {program} or the interpreter it names: Permission"):
        scene.run(scene.start(cluster))

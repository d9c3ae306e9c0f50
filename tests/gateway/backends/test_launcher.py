"""The launcher, run as somebody who is not root: what it is told is checked, whoever has checked it before."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import sciplat.gateway.backends.launcher as launcher_module

CLUSTER = "c" * 32
WORKER = "e" * 32
SUBMIT = {
    "action": "submit",
    "site": "test",
    "cluster": CLUSTER,
    "kind": "scheduler",
    "script": "#!/bin/sh\nhostname\n",
    "files": {"dask.crt": "public", "dask.pem": "secret", "scheduler.env": "export A=b\n"},
    "arguments": [],
}
# Programs in the place of Slurm's: one tells how it was called and is content, one refuses, one never ends.
TELLS = (
    "#!/bin/sh\n"
    'env -0 > "$(dirname "$0")/environment"; printf "%s\\n" "$@" > "$(dirname "$0")/arguments"\n'
    'cat > "$(dirname "$0")/input"; echo "42;elsewhere"\n'
)
REFUSES = '#!/bin/sh\necho "sbatch: error: Invalid qos specification" >&2; exit 1\n'
SILENT = '#!/bin/sh\necho "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1\n'
HANGS = "#!/bin/sh\nexec sleep 60\n"
OVER = '#!/bin/sh\necho "scancel: error: Kill job error on job id 7: Invalid job id specified" >&2; exit 1\n'
# The interpreter may lie in root's home: it gives up its rights only after its imports.
AS_USER = (
    "import os, sys, shutil; import sciplat.gateway.backends.launcher as it; it.SUBMIT_LIMIT = float(sys.argv[2])\n"
    "os.getuid() == 0 and (os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1])))\n"
    "it.main()"
)
USER = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.getuid())


@pytest.fixture
def folder():
    """A folder of the user, in which everything takes place."""
    made = Path(tempfile.mkdtemp(prefix="sciplat-launcher-"))
    if os.geteuid() == 0:
        os.chown(made, USER.pw_uid, USER.pw_gid)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def launch(folder):
    """Run the launcher as the user, and return its answer."""

    def launch(request, limit=30.0, **changes):
        place = {"staging": f"{folder}/clusters", "commands": str(folder)}
        text = request if isinstance(request, bytes) else json.dumps(place | request | changes).encode()
        command = [sys.executable, "-c", AS_USER, str(USER.pw_uid), str(limit)]
        done = subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return launch


@pytest.fixture
def program(folder):
    """Put a program in the place of one of Slurm's."""

    def program(text, name="sbatch"):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    return program


@pytest.fixture
def check_options():
    """Return what the launcher's own check of options says, without a process for each."""

    def check(options):
        try:
            launcher_module._options({"arguments": options})
        except launcher_module.Failure as failure:
            return str(failure)
        return ""

    return check


def told(folder):
    return (folder / "arguments").read_text().splitlines()


def refused(answer, code="request"):
    return not answer["ok"] and answer["code"] == code


def test_a_job_is_submitted_with_its_files_and_script(launch, program, folder):
    program(TELLS)
    assert launch(SUBMIT, arguments=["--mem=100M"]) == {"ok": True, "job": "42"}
    made = folder / "clusters" / CLUSTER
    assert {path.name: path.read_text() for path in made.iterdir()} == SUBMIT["files"]
    assert (folder / "input").read_text() == SUBMIT["script"]
    own = ["--parsable", "--no-requeue", "--export=ALL", "--job-name=sciplat-scheduler"]
    place = [f"--comment=sciplat:test:{CLUSTER}:scheduler", f"--chdir={made}", f"--output={made}/scheduler.log"]
    assert told(folder) == ["--mem=100M", *own, *place]


def test_a_worker_has_a_log_and_a_comment_of_its_own(launch, program, folder):
    program(TELLS)
    assert launch(SUBMIT, kind=f"worker:{WORKER}", files={})["ok"]
    assert f"--comment=sciplat:test:{CLUSTER}:{WORKER}" in told(folder)
    assert f"--output={folder}/clusters/{CLUSTER}/worker-{WORKER}.log" in told(folder)


def test_files_are_for_the_users_eyes_alone(launch, program, folder):
    program(TELLS)
    launch(SUBMIT)
    made = folder / "clusters" / CLUSTER
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made.parent, made, *made.iterdir())}
    assert set(modes.values()) == {0o600, 0o700}
    assert {name for name, mode in modes.items() if mode == 0o700} == {"clusters", CLUSTER}


def test_jobs_inherit_nothing_of_the_gateways_environment(launch, program, folder, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    monkeypatch.setenv("SCIPLAT_SECRET", "x")
    program(TELLS)
    launch(SUBMIT)
    names = {line.split("=")[0] for line in (folder / "environment").read_text().split("\0")}
    assert names - {"", "PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "LANG", "SHELL", "HOME", "USER", "LOGNAME"}


def test_a_submission_that_was_cut_short_is_repeated(launch, program):
    program(TELLS)
    assert launch(SUBMIT)["ok"]
    assert launch(SUBMIT)["ok"]


def test_home_stands_for_the_users_own(launch, program, folder):
    program(TELLS)
    assert launch(SUBMIT, staging="{home}/.sciplat", files={})["ok"]
    assert f"--chdir={USER.pw_dir}/.sciplat/{CLUSTER}" in told(folder)


@pytest.mark.parametrize("option", [f"--{name}" for name in launcher_module.RESERVED])
def test_no_reserved_option_reaches_sbatch(check_options, option):
    assert "may not be given" in check_options([option])
    assert "may not be given" in check_options([f"{option}=1"])


@pytest.mark.parametrize(
    "option",
    ["--wra=id", "--ui=0", "--out=/x", "--exp", "-o/x", "--", "", "hostname", "--mem 1", "--a\n", "--A=1", "--x=\n", 3],
)
def test_no_beginning_of_a_reserved_option_nor_anything_else_reaches_sbatch(check_options, option):
    assert "may not be given" in check_options([option])


def test_the_options_of_profiles_are_taken(check_options):
    profile = ["--partition=a", "--qos=b", "--account=c", "--constraint=d&e", "--reservation=f", "--nice=100"]
    size = [
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=1M",
        "--gres=gpu:h200:1",
        "--time=10",
        "--exclusive",
        "--licenses=x",
    ]
    assert check_options([*profile, *size]) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": "../../etc"},
        {"cluster": "C" * 32},
        {"cluster": None},
        {"kind": "worker:x"},
        {"kind": "scheduler\n"},
        {"site": "a b"},
        {"staging": "relative"},
        {"staging": "/a/../b"},
        {"staging": "/a\nb"},
        {"staging": ["/a"]},
        {"commands": "bin"},
        {"files": {"../x": "y"}},
        {"files": {".bashrc": "y"}},
        {"files": {"dask.pem": 3}},
        {"files": []},
        {"arguments": "--mem=1"},
        {"action": "run"},
        {"action": ["submit"]},
    ],
)
def test_a_request_that_is_not_well_formed_is_refused(launch, program, folder, changes):
    program(TELLS)
    assert refused(launch(SUBMIT, **changes))
    assert not (folder / "input").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"action": "submit"', b" " * 1_000_001])
def test_what_is_no_request_is_refused(launch, text):
    assert refused(launch(text))


def test_a_folder_that_is_a_link_is_not_written_to(launch, program, folder):
    program(TELLS)
    (folder / "elsewhere").mkdir()
    (folder / "clusters").mkdir()
    (folder / "clusters" / CLUSTER).symlink_to(folder / "elsewhere")
    assert refused(launch(SUBMIT), "files")
    assert list((folder / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="files of somebody else: this needs root")
def test_a_folder_of_somebody_else_is_not_written_to(launch, program, folder):
    program(TELLS)
    (folder / "clusters" / CLUSTER).mkdir(parents=True, mode=0o777)
    (folder / "clusters" / CLUSTER).chmod(0o777)
    answer = launch(SUBMIT)
    assert refused(answer, "files")
    assert "somebody else" in answer["error"]


def test_a_link_in_the_place_of_a_file_is_replaced(launch, program, folder):
    program(TELLS)
    launch(SUBMIT)
    key, kept = folder / "clusters" / CLUSTER / "dask.pem", folder / "kept"
    kept.write_text("mine")
    key.unlink()
    key.symlink_to(kept)
    assert launch(SUBMIT)["ok"]
    assert kept.read_text() == "mine"
    assert not key.is_symlink()


def test_what_slurm_refuses_is_told_in_its_words(launch, program):
    program(REFUSES)
    answer = launch(SUBMIT)
    assert refused(answer, "refused")
    assert "Invalid qos specification" in answer["error"]


@pytest.mark.parametrize("text", [SILENT, HANGS])
def test_silence_of_slurm_is_told_apart(launch, program, text):
    program(text)
    assert refused(launch(SUBMIT, limit=1.0), "silent")


def test_a_program_that_is_not_there_is_an_error(launch):
    assert refused(launch(SUBMIT), "files")


def test_a_test_submits_nothing_and_writes_nothing(launch, program, folder):
    program(TELLS)
    assert launch(SUBMIT, test=True, arguments=["--mem=1M"]) == {"ok": True}
    assert told(folder) == ["--mem=1M", "--test-only"]
    assert not (folder / "clusters").exists()


def test_jobs_are_cancelled_together_and_those_that_are_over_do_not_matter(launch, program, folder):
    program(TELLS, "scancel")
    assert launch({"action": "cancel", "jobs": ["7", "8"]}) == {"ok": True}
    assert told(folder) == ["7", "8"]
    program(OVER, "scancel")
    assert launch({"action": "cancel", "jobs": ["7"]}) == {"ok": True}


@pytest.mark.parametrize("jobs", [["--user=alice"], [7], "7", ["7\n"], [""]])
def test_only_numbers_of_jobs_are_cancelled(launch, program, jobs):
    program(TELLS, "scancel")
    assert refused(launch({"action": "cancel", "jobs": jobs}))


def test_cleaning_removes_keys_and_keeps_logs(launch, program, folder):
    program(TELLS)
    launch(SUBMIT)
    made = folder / "clusters" / CLUSTER
    (made / "scheduler.log").write_text("it ran\n")
    assert launch({"action": "clean", "cluster": CLUSTER, "keep": 100, "jobs": []}) == {"ok": True}
    assert [path.name for path in made.iterdir()] == ["scheduler.log"]


def test_cleaning_removes_the_keys_though_slurm_is_silent(launch, program, folder):
    program(TELLS)
    program(SILENT, "scancel")
    launch(SUBMIT)
    assert refused(launch({"action": "clean", "cluster": CLUSTER, "keep": 100, "jobs": ["42"]}), "silent")
    assert list((folder / "clusters" / CLUSTER).iterdir()) == []


def test_cleaning_removes_old_folders_of_clusters_that_are_over_and_nothing_else(launch, folder):
    clusters, old = folder / "clusters", time.time() - 1000
    kinds = {"1" * 32: "scheduler.log", "2" * 32: "dask.pem", "3" * 32: "scheduler.log", "mine": "scheduler.log"}
    for name, file in kinds.items():
        (clusters / name).mkdir(parents=True)
        (clusters / name / file).touch()
        for path in (clusters / name / file, clusters / name):
            os.utime(path, None if name == "3" * 32 else (old, old))
    for path in (clusters, *clusters.iterdir()):
        os.chown(path, USER.pw_uid, USER.pw_gid)
    assert launch({"action": "clean", "cluster": CLUSTER, "keep": 500}) == {"ok": True}
    assert {path.name for path in clusters.iterdir()} == set(kinds) - {"1" * 32}


@pytest.fixture
def logs(folder):
    """A cluster's folder of the user with two logs."""
    made = folder / "clusters" / CLUSTER
    made.mkdir(parents=True)
    (made / "scheduler.log").write_text("one\ntwo\nthree\n")
    (made / f"worker-{WORKER}.log").write_bytes(b"x" * 200_000 + b"\nlast \xff\n")
    if os.geteuid() == 0:
        os.chown(made, USER.pw_uid, USER.pw_gid)
    return made


def read(launch, *files, lines=2):
    return launch({"action": "logs", "cluster": CLUSTER, "files": list(files), "lines": lines})


def test_the_ends_of_logs_are_read(launch, logs):
    answer = read(launch, "scheduler.log", f"worker-{WORKER}.log", f"worker-{'0' * 32}.log")
    assert answer["logs"]["scheduler.log"] == "two\nthree"
    long = answer["logs"][f"worker-{WORKER}.log"]
    assert long.endswith("\nlast \ufffd")
    assert len(long) <= launcher_module.LONGEST_TAIL
    assert len(answer["logs"]) == 2


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", ["dask.pem", "../x.log", "/etc/passwd", "scheduler.log\n", ".log", 3])
def test_nothing_but_logs_is_read(launch, name):
    assert refused(read(launch, name))


def test_a_log_that_is_a_link_is_not_read(launch, logs):
    (logs / "scheduler.log").unlink()
    (logs / "scheduler.log").symlink_to("/etc/passwd")
    assert refused(read(launch, "scheduler.log"), "files")


def test_a_log_that_is_a_pipe_holds_nothing_up(launch, logs):
    (logs / "scheduler.log").unlink()
    os.mkfifo(logs / "scheduler.log")
    (logs / "scheduler.log").chmod(0o666)
    assert refused(read(launch, "scheduler.log"), "files")


def test_a_cluster_without_a_folder_has_no_logs(launch):
    assert read(launch, "scheduler.log") == {"ok": True, "logs": {}}


@pytest.mark.skipif(os.geteuid() != 0, reason="root: this needs root")
def test_it_does_not_run_as_root(folder, program):
    program(TELLS)
    request = SUBMIT | {"staging": f"{folder}/clusters", "commands": str(folder)}
    command = [sys.executable, "-m", "sciplat.gateway.backends.launcher"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=True)
    assert refused(json.loads(done.stdout))
    assert not (folder / "input").exists()


def test_it_needs_nothing_but_the_standard_library():
    source = Path(launcher_module.__file__)
    done = subprocess.run([sys.executable, "-I", "-S", source], input="", capture_output=True, text=True, check=True)
    assert refused(json.loads(done.stdout))

"""Options and scripts for sbatch: nothing that a user or a profile says may change what a shell or Slurm reads."""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError
from sciplat.gateway.backends.job_script import environment_text, job_script, minutes, scheduler_options, worker_options

GIB = 1024**3
PLAIN = {
    "scheduler_cores": 1,
    "scheduler_memory": 2 * GIB,
    "worker_cores": 4,
    "worker_memory": 8 * GIB,
    "gpus": 0,
    "gpu_type": "",
    "flags": [],
} | dict.fromkeys(("partition", "scheduler_partition", "qos", "account", "constraint", "reservation"), "")
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
SHOW = ["/usr/bin/python3", "-c", "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"]


def config(**changes):
    return SimpleNamespace(**(PLAIN | changes))


def run(script, tmp_path, **environment):
    """Return the environment and the arguments that a script's command gets."""
    done = subprocess.run(
        ["/bin/bash"], input=script, env={"PATH": "/usr/bin:/bin", **environment}, cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plain_worker_is_one_task_with_its_cores_and_memory():
    assert worker_options(config(), None) == ["--ntasks=1", "--cpus-per-task=4", "--mem=8192M"]


def test_a_scheduler_gets_its_own_size_and_no_gpus():
    options = scheduler_options(config(gpus=2, gpu_type="h200"), 0)
    assert options == ["--ntasks=1", "--cpus-per-task=1", "--mem=2048M", "--time=0"]


def test_memory_and_walltime_are_rounded_up():
    options = worker_options(config(worker_memory=GIB + 1), 3601)
    assert "--mem=1025M" in options
    assert "--time=61" in options


@pytest.mark.parametrize(("kind", "gres"), [("", "--gres=gpu:2"), ("h200", "--gres=gpu:h200:2")])
def test_gpus_are_asked_for_by_type_if_there_is_one(kind, gres):
    assert gres in worker_options(config(gpus=2, gpu_type=kind), None)


def test_a_profiles_place_in_the_queue_becomes_options():
    place = {"partition": "debug", "qos": "high", "account": "survey", "constraint": "ssd&ib", "reservation": "night"}
    options = worker_options(config(**place), None)
    assert [f"--{name}={value}" for name, value in place.items()] == options[:5]
    assert options[:5] == scheduler_options(config(**place), None)[:5]


def test_a_scheduler_may_run_in_another_partition_than_its_workers():
    both = config(partition="preemptable", scheduler_partition="debug")
    assert worker_options(both, None)[0] == "--partition=preemptable"
    assert scheduler_options(both, None)[0] == "--partition=debug"
    assert not [one for one in worker_options(config(scheduler_partition="debug"), None) if "partition" in one]


def test_what_quotas_count_comes_after_further_options_so_that_it_counts():
    options = worker_options(config(flags=["--nice=100", "--mem=1M"]), None)
    assert options.index("--mem=8192M") > options.index("--mem=1M")
    assert options[0] == "--nice=100"


@given(st.integers(0, 10**7))
def test_minutes_are_never_fewer_than_asked_for_nor_one_more(seconds):
    assert 0 <= minutes(seconds) * 60 - seconds < 60


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}x", fullmatch=True), TEXT, max_size=5))
def test_variables_arrive_as_they_are(variables):
    text = environment_text(variables)
    program = f"{text}exec /usr/bin/env -0"
    told = subprocess.run(["/bin/bash"], input=program.encode(), env={}, capture_output=True, check=True).stdout
    found = dict(line.decode().split("=", 1) for line in told.split(b"\0") if line)
    assert variables.items() <= found.items()


@pytest.mark.parametrize("name", ["", "1A", "A B", "A;touch x", "A=", "A\nB"])
def test_names_that_a_shell_would_read_as_something_else_are_refused(name):
    with pytest.raises(ArgumentError):
        environment_text({name: "x"})


def test_a_value_with_a_zero_byte_is_refused():
    with pytest.raises(ArgumentError):
        environment_text({"A": "x\0y"})


@given(st.lists(TEXT, max_size=5))
def test_the_command_gets_its_arguments_as_they_are(tmp_path_factory, arguments):
    folder = tmp_path_factory.mktemp("job")
    (folder / "it's env").write_text(environment_text({"A": "it's\n#SBATCH --nice"}))
    environment, got = run(job_script([*SHOW, *arguments], str(folder / "it's env")), folder)
    assert got == arguments
    assert environment["A"] == "it's\n#SBATCH --nice"


def test_the_environment_comes_after_the_setup_and_stands_nowhere_in_the_script(tmp_path):
    (tmp_path / "env").write_text(environment_text({"TOKEN": "secret", "B": "ours"}))
    script = job_script(SHOW, str(tmp_path / "env"), setup=["export A=profile", "export B=profile"])
    environment, _ = run(script, tmp_path)
    assert (environment["A"], environment["B"], environment["TOKEN"]) == ("profile", "ours", "secret")
    assert "secret" not in script


def test_only_a_script_with_a_setup_reads_the_files_of_a_login_shell():
    assert job_script(SHOW, "/env").startswith("#!/bin/bash\n")
    assert job_script(SHOW, "/env", setup=["module load python"]).startswith("#!/bin/bash -l\n")


def test_slurm_reads_no_options_from_a_setup():
    lines = job_script(SHOW, "/env", setup=["#SBATCH --output=/tmp/x"]).splitlines()
    assert lines[1] == "umask 077"  # sbatch stops looking at the first command


def test_nothing_runs_without_the_environment(tmp_path):
    done = subprocess.run(["/bin/bash"], input=job_script(["/bin/echo", "ran"], str(tmp_path / "none")),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""


def test_a_worker_knows_its_end(tmp_path):
    (tmp_path / "env").touch()
    before = time.time()
    environment, _ = run(job_script(SHOW, str(tmp_path / "env"), walltime=90), tmp_path)
    assert before + 89 <= float(environment["SCIPLAT_WORKER_ENDS"]) <= time.time() + 90


def test_slurms_own_word_about_the_end_counts_more(tmp_path):
    (tmp_path / "env").touch()
    environment, _ = run(job_script(SHOW, str(tmp_path / "env"), walltime=90), tmp_path, SLURM_JOB_END_TIME="123")
    assert environment["SCIPLAT_WORKER_ENDS"] == "123"


def test_without_a_walltime_there_is_no_end(tmp_path):
    (tmp_path / "env").touch()
    environment, _ = run(job_script(SHOW, str(tmp_path / "env"), walltime=0), tmp_path, SLURM_JOB_END_TIME="123")
    assert "SCIPLAT_WORKER_ENDS" not in environment


def test_spilled_data_goes_to_the_nodes_own_disk_unless_the_user_says_otherwise(tmp_path):
    (tmp_path / "env").touch()
    script = job_script(SHOW, str(tmp_path / "env"))
    own = tmp_path / f"sciplat-{os.getuid()}"
    for _ in range(2):
        assert run(script, tmp_path, TMPDIR=str(tmp_path))[0]["DASK_TEMPORARY_DIRECTORY"] == str(own)
        assert own.stat().st_mode & 0o777 == 0o700
        own.chmod(0o755)
    (tmp_path / "env").write_text(environment_text({"DASK_TEMPORARY_DIRECTORY": "/mine"}))
    assert run(script, tmp_path, TMPDIR=str(tmp_path))[0]["DASK_TEMPORARY_DIRECTORY"] == "/mine"


def test_what_is_spilled_is_never_in_a_folder_that_another_has_prepared(tmp_path):
    (tmp_path / "env").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / f"sciplat-{os.getuid()}").symlink_to(tmp_path / "other")
    found = run(job_script(SHOW, str(tmp_path / "env")), tmp_path, TMPDIR=str(tmp_path))[0]
    assert Path(found["DASK_TEMPORARY_DIRECTORY"]).parent == tmp_path
    assert Path(found["DASK_TEMPORARY_DIRECTORY"]).name.startswith("tmp.")


def test_the_command_takes_the_place_of_the_shell_so_that_signals_reach_it(tmp_path):
    (tmp_path / "env").touch()
    script = job_script(["/bin/sh", "-c", "echo $$"], str(tmp_path / "env"))
    process = subprocess.Popen(["/bin/bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.communicate(script)[0].strip() == str(process.pid)

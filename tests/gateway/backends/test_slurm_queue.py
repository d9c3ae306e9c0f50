"""What Slurm prints is read without being misled by what users write into it, and silence is told from an answer."""

import asyncio
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.gateway.backends.slurm_queue import (
    Ended,
    Partition,
    Shape,
    SlurmQueue,
    SlurmSilent,
    parse_ended,
    parse_gpus,
    parse_jobs,
    parse_limit,
    parse_partitions,
    parse_shapes,
    run,
)

CLUSTER, WORKER = "c" * 32, "e" * 32
TAG = f"sciplat:survey:{CLUSTER}:{WORKER}"
# as Slurm 22.05 prints them
PARTITIONS = (
    "PartitionName=debug AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES DefaultTime=NONE MaxTime=UNLIMITED "
    "Nodes=n[1-3] State=UP TRES=cpu=24,mem=48000M\n"
    "PartitionName=physics AllowGroups=physics AllowAccounts=ALL AllowQos=ALL Default=NO DefaultTime=01:00:00 "
    "MaxTime=2-12:30:00 State=DOWN\n"
    "PartitionName=other AllowGroups=ALL DenyAccounts=a,b AllowQos=ALL State=UP DefaultTime=30:00 MaxTime=UNLIMITED\n"
)
SHAPES = "debug|8|16000|(null)\ndebug|64|512000+|gpu:h200:2(S:0-1)\nphysics|8|16000|(null)\n"


def line(number="7", state="PENDING", reason="Priority", start="N/A", ran="0:00", comment="(null)", mark="m:"):
    return f"{mark}{number}|{state}|{reason}|debug|alice|n1|11000|{start}|{ran}|{comment}\n"


def one(**changes):
    (job,) = parse_jobs(line(**changes), "m:")
    return job


def test_a_job_is_read_field_by_field():
    job = one(state="RUNNING", reason="None", start="1795655820", ran="1-00:00:05", comment=TAG)
    assert (job.number, job.state, job.partition, job.user, job.nodes, job.priority) == (
        *("7", "RUNNING", "debug", "alice", "n1"),
        11000,
    )
    assert (job.start, job.ran) == (1795655820.0, 86405.0)
    assert (job.site, job.cluster, job.worker) == ("survey", CLUSTER, WORKER)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "(null)",
        "sciplat",
        "sciplat:survey",
        f"sciplat:survey:{CLUSTER}",
        f"sciplat:survey:{CLUSTER}:x",
        f"{TAG}:x",
        "a|b",
    ],
)
def test_a_comment_that_the_launcher_did_not_write_names_nobody(comment):
    job = one(comment=comment)
    assert (job.site, job.cluster, job.worker) == ("", "", "")


@given(st.text(max_size=60))
def test_a_comment_cannot_pass_for_a_line_about_another_job(text):
    forged = line(number="8", state="FAILED", comment=TAG, mark="")
    jobs = parse_jobs(line(comment=f"{text}\n{forged}") + line(number="9"), "m:")
    assert [job.number for job in jobs] == ["7", "9"]


@pytest.mark.parametrize(
    "state", ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "RESIZING"]
)
def test_a_job_that_runs_or_will_is_alive(state):
    assert one(state=state).alive


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_a_job_that_slurm_took_away_is_excused(state):
    job = one(state=state)
    assert (job.alive, job.excused) == (False, True)


@pytest.mark.parametrize(
    "state",
    ["FAILED", "COMPLETED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "REQUEUE_HOLD", "SPECIAL_EXIT"],
)
def test_any_other_end_is_a_failed_start_unless_it_ran_for_long(state):
    assert (one(state=state).alive, one(state=state, ran="4:59").excused) == (False, False)
    assert one(state=state, ran="5:00").excused


def test_partitions_are_read_with_their_limits_and_whether_they_are_for_everybody():
    assert parse_partitions(PARTITIONS) == [
        Partition("debug", default=True, up=True, restricted=False, longest=None, usual=None),
        Partition("physics", default=False, up=False, restricted=True, longest=217800.0, usual=3600.0),
        Partition("other", default=False, up=True, restricted=True, longest=None, usual=1800.0),
    ]


def test_kinds_of_nodes_are_read():
    assert parse_shapes(SHAPES) == [
        Shape("debug", 8, 16000 * 1024**2, {}),
        Shape("debug", 64, 512000 * 1024**2, {"h200": 2}),
        Shape("physics", 8, 16000 * 1024**2, {}),
    ]


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_are_read_in_each_of_slurms_forms(days, hours, minutes, seconds):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_limit(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert parse_limit(f"{hours}:{minutes:02}:{seconds:02}") == total - days * 86400
    assert parse_limit(f"{minutes}:{seconds:02}") == minutes * 60 + seconds


@pytest.mark.parametrize("text", ["(null)", "", "mps:100", "shard:h200:3"])
def test_other_resources_are_no_gpus(text):
    assert parse_gpus(text) == {}


def test_what_has_ended_is_read_from_the_accounting():
    told = "1|1795655190|1795655191|COMPLETED\n2|1795655190|Unknown|RUNNING\n3|None|1795655200|CANCELLED by 1001\n"
    assert parse_ended(told) == {
        "1": Ended("COMPLETED", 1795655190.0, 1795655191.0),
        "3": Ended("CANCELLED", 1795655200.0, 1795655200.0),
    }


def test_a_command_that_takes_too_long_is_ended():
    before = time.monotonic()
    with pytest.raises(SlurmSilent, match="does not answer"):
        asyncio.run(run(["/bin/sleep", "60"], limit=0.1))
    assert time.monotonic() - before < 10


def test_a_command_gets_its_input_and_nothing_of_our_environment(monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "x")
    program = "import os, sys; print(sys.stdin.read(), 'SQUEUE_FORMAT' in os.environ)"
    assert asyncio.run(run([sys.executable, "-c", program], limit=10, text="é")) == (0, "é False\n", "")


def test_slurm_that_is_not_there_is_silent(tmp_path):
    with pytest.raises(SlurmSilent, match="cannot be run"):
        asyncio.run(SlurmQueue(str(tmp_path)).jobs())


@pytest.fixture
def answers(tmp_path):
    """Return a queue whose commands print the texts above, and count how often they are asked."""
    for name, text, status in (("scontrol", PARTITIONS, 0), ("sinfo", SHAPES, 0), ("sacct", "", 1)):
        (tmp_path / f"{name}.txt").write_text(text)
        wrong = "echo 'Slurm accounting storage is disabled' >&2; " if status else ""
        (tmp_path / name).write_text(f"#!/bin/sh\necho >> $0.asked; cat $0.txt; {wrong}exit {status}\n")
        (tmp_path / name).chmod(0o755)
    return SlurmQueue(str(tmp_path)), lambda name: len((tmp_path / f"{name}.asked").read_text().splitlines())


def test_what_nodes_are_like_is_asked_once_for_many(answers):
    queue, asked = answers

    async def ask():
        return await asyncio.gather(*(queue.layout() for _ in range(10)))

    assert asyncio.run(ask()) == [(parse_partitions(PARTITIONS), parse_shapes(SHAPES))] * 10
    assert asked("sinfo") == 1


def test_accounting_that_is_off_is_asked_once(answers):
    queue, asked = answers

    async def ask():
        return [await queue.ended(["1", "2"]) for _ in range(3)]

    assert asyncio.run(ask()) == [{}, {}, {}]
    assert asked("sacct") == 1


def test_a_silence_is_not_waited_for_by_everybody(answers, tmp_path):
    queue, asked = answers
    (tmp_path / "scontrol").write_text(
        "#!/bin/sh\necho >> $0.asked; echo 'Unable to contact slurm controller' >&2; exit 1\n"
    )

    async def ask():
        return await asyncio.gather(*(queue.layout() for _ in range(5)), return_exceptions=True)

    told = asyncio.run(ask())
    assert all(isinstance(error, SlurmSilent) and "Unable to contact" in error.found for error in told)
    assert asked("scontrol") == 1

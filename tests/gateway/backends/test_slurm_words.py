"""Why a job waits and why it never could start, in words."""

import pytest

from sciplat.gateway.backends.slurm_queue import Job, Partition, Shape
from sciplat.gateway.backends.slurm_words import choose_partition, describe_job, find_misfit, find_overtime, jobs_ahead

GIB = 1024**3
SHAPES = [
    Shape("debug", 8, 16 * GIB, {}),
    Shape("debug", 4, 64 * GIB, {"h200": 2, "a100": 1}),
    Shape("gpu", 1, GIB, {}),
]


def job(number=7, state="PENDING", reason="Priority", priority=100, partition="debug", start=None, ran=0.0):
    return Job(str(number), state, reason, partition, "alice", "n1", priority, start, ran)


OTHERS = [
    job(1, priority=200),
    job(2, priority=100),
    job("3_[1-9]", priority=300),
    job(9, priority=100),
    job(4, priority=50),
    job(5, priority=200, partition="gpu"),
    job(6, priority=200, reason="Dependency"),
    job(8, priority=200, state="RUNNING"),
]


def test_jobs_ahead_have_more_priority_or_are_older_and_wait_for_room_in_the_same_partition():
    assert jobs_ahead(job(), [*OTHERS, job()]) == 3


def test_a_full_partition_is_told_with_the_jobs_ahead():
    assert describe_job(job(), OTHERS) == "PENDING, partition debug full, 3 jobs ahead [Priority]"
    assert describe_job(job(reason="Resources"), []) == "PENDING, partition debug full [Resources]"


def test_an_expected_start_is_told():
    assert "expected to start at 2026-11-26 01:17 UTC [" in describe_job(job(start=1795655820.0), [])


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxCpuPerUserLimit", "a limit of its QOS for one user is reached"),
        ("QOSGrpNodeLimit", "a limit of its QOS is reached"),
        ("AssocGrpCpuLimit", "the account has used up one of its limits"),
        ("AssocMaxJobsLimit", "a limit of the user in this account is reached"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "the nodes that it needs are down, drained or reserved"),
        ("PartitionTimeLimit", "its walltime is more than partition debug allows"),
        ("DependencyNeverSatisfied", "it waits for a job that can no longer end well"),
        ("Dependency", "it waits for another job"),
        ("JobHeldAdmin", "an administrator holds it back"),
        ("Licenses", "all licenses are in use"),
        ("Reservation", "its reservation has not begun"),
        ("SomethingNew", "it waits"),
    ],
)
def test_slurms_reasons_are_put_in_words_and_kept(reason, words):
    assert describe_job(job(reason=reason), OTHERS) == f"PENDING, {words} [{reason}]"


def test_a_job_that_runs_and_one_that_has_ended_are_told():
    assert describe_job(job(state="RUNNING", ran=12.0), []) == "RUNNING on n1 for 12 s, not connected yet"
    assert describe_job(job(state="OUT_OF_MEMORY"), []) == "OUT_OF_MEMORY, it needed more memory than it had"


def test_the_default_partition_is_taken_where_none_is_named():
    partitions = [Partition(name, name == "b", True, False, None, None) for name in "abc"]
    assert choose_partition("", partitions).name == "b"
    assert choose_partition("c", partitions).name == "c"
    assert choose_partition("x", partitions) is None
    assert choose_partition("", partitions[:1]) is None


@pytest.mark.parametrize(
    ("cores", "memory", "gpus"),
    [(8, 16 * GIB, {}), (4, 64 * GIB, {"h200": 2}), (1, GIB, {"": 3}), (1, GIB, {"a100": 1})],
)
def test_what_fits_on_one_kind_of_node_fits(cores, memory, gpus):
    assert find_misfit("worker", Shape("debug", cores, memory, gpus), SHAPES) == ""


@pytest.mark.parametrize(
    ("cores", "memory", "gpus", "most"),
    [
        (9, GIB, {}, "8 cores, 64 GiB"),
        (1, 65 * GIB, {}, "8 cores, 64 GiB"),
        (8, 64 * GIB, {}, "8 cores, 64 GiB"),  # each somewhere, not together
        (1, GIB, {"h200": 3}, "8 cores, 64 GiB, 2 h200 GPUs"),
        (1, GIB, {"v100": 1}, "8 cores, 64 GiB, 0 v100 GPUs"),
        (1, GIB, {"": 4}, "8 cores, 64 GiB, 3 GPUs"),
    ],
)
def test_what_no_node_has_is_refused_with_what_the_largest_have(cores, memory, gpus, most):
    told = find_misfit("worker", Shape("debug", cores, memory, gpus), SHAPES)
    assert told.endswith(f"fits on no node of the partition debug: its nodes have at most {most}")


def test_nodes_of_other_partitions_do_not_count():
    assert "1 core, 1 GiB" in find_misfit("worker", Shape("gpu", 2, GIB, {}), SHAPES)
    assert find_misfit("worker", Shape("empty", 1, 1, {}), SHAPES) == "the partition empty has no nodes"


def test_a_walltime_over_the_partitions_is_refused():
    limited = Partition("debug", True, True, False, 3600.0, None)
    assert find_overtime("worker", limited, 3600.0) == ""
    assert "2 h is more than the partition debug allows, 1 h" in find_overtime("worker", limited, 7200.0)
    assert find_overtime("worker", Partition("debug", True, True, False, None, None), 1e9) == ""

"""What Slurm's answers mean for people: why a job waits, and why a job of some shape never could start. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sciplat.gateway.backends.slurm_queue import Job, Partition, Shape
from sciplat.gateway.units import format_duration, format_memory

_REASONS = {  # by the beginning of Slurm's own word, the longer ones first
    "Resources": "partition {} full",
    "Priority": "partition {} full",
    "None": "just submitted",
    "QOSMax": "a limit of its QOS for one user is reached",
    "QOS": "a limit of its QOS is reached",
    "AssocGrp": "the account has used up one of its limits",
    "AssocMax": "a limit of the user in this account is reached",
    "Assoc": "a limit of the account is reached",
    "ReqNodeNotAvail": "the nodes that it needs are down, drained or reserved",
    "NodeDown": "the nodes that it needs are down",
    "PartitionTimeLimit": "its walltime is more than partition {} allows",
    "PartitionNodeLimit": "it is larger than partition {} allows",
    "PartitionDown": "partition {} is closed",
    "PartitionInactive": "partition {} is closed",
    "BeginTime": "it may not begin yet",
    "DependencyNeverSatisfied": "it waits for a job that can no longer end well",
    "Dependency": "it waits for another job",
    "JobHeldUser": "its owner holds it back",
    "JobHeldAdmin": "an administrator holds it back",
    "Licenses": "all licenses are in use",
    "ReservationDeleted": "its reservation is gone",
    "Reservation": "its reservation has not begun",
    "BadConstraints": "no node is what it asks for",
    "AccountNotAllowed": "partition {} is not open to its account",
    "QOSNotAllowed": "partition {} is not open to its QOS",
}
_FULL = {"Resources", "Priority"}
_ENDS = {
    "CANCELLED": "it was cancelled",
    "TIMEOUT": "its walltime was over",
    "OUT_OF_MEMORY": "it needed more memory than it had",
    "PREEMPTED": "Slurm gave its place to a job of more right",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "COMPLETED": "it ended by itself",
    "FAILED": "it ended with an error",
    "REQUEUE_HOLD": "Slurm could not start it, and holds it back",
    "SPECIAL_EXIT": "Slurm could not start it, and holds it back",
}


def describe_job(job: Job, jobs: Iterable[Job]) -> str:
    """Return what a job is doing, and why it is not doing more.

    Parameters
    ----------
    job : Job
    jobs : iterable of Job
        Everybody's, to know how many come first.

    Returns
    -------
    str
        Such as "PENDING, partition debug full, 3 jobs ahead [Priority]".
    """
    if job.state == "PENDING":
        return f"PENDING, {_waiting(job, jobs)} [{job.reason}]"
    if job.alive:
        where = f" on {job.nodes}" if job.nodes else ""
        return f"{job.state}{where} for {format_duration(job.ran)}, not connected yet"
    return f"{job.state}, {describe_end(job.state)}"


def describe_end(state: str) -> str:
    """Return why a job has ended."""
    return _ENDS.get(state, "it ended")


def _waiting(job: Job, jobs: Iterable[Job]) -> str:
    known = max((word for word in _REASONS if job.reason.startswith(word)), key=len, default="")
    words = [_REASONS[known].format(job.partition) if known else "it waits"]
    if job.reason in _FULL:
        ahead = jobs_ahead(job, jobs)
        words += [f"{ahead} job{'' if ahead == 1 else 's'} ahead"] if ahead else []
    if job.start is not None:
        words.append(f"expected to start at {datetime.fromtimestamp(job.start, UTC):%Y-%m-%d %H:%M} UTC")
    return ", ".join(words)


def jobs_ahead(job: Job, jobs: Iterable[Job]) -> int:
    """Return how many waiting jobs of a job's partition come first: of more priority, or of the same and older."""
    place = _place(job)
    return sum(
        other.state == "PENDING"
        and other.partition == job.partition
        and other.reason in {*_FULL, "None"}  # others wait for something else
        and _place(other) < place
        for other in jobs
    )


def _place(job: Job) -> tuple[int, int]:
    digits = job.number.partition("_")[0]  # of an array: 12_[1-100]
    return -job.priority, int(digits) if digits.isdigit() else 0


# what can never start


def choose_partition(name: str, partitions: Sequence[Partition]) -> Partition | None:
    """Return the partition of a name, the default one for no name; None if there is none."""
    return next((one for one in partitions if (one.name == name if name else one.default)), None)


def find_misfit(what: str, asked: Shape, shapes: Iterable[Shape]) -> str:
    """Return why no node of a partition could run a job, or nothing.

    Parameters
    ----------
    what : str
        "worker" or "scheduler".
    asked : Shape
        What the job asks for, and of which partition; GPUs of type "" are of any type.
    shapes : iterable of Shape
        Kinds of nodes, of any partition.
    """
    nodes = [shape for shape in shapes if shape.partition == asked.partition]
    if not nodes:
        return f"the partition {asked.partition} has no nodes"
    if any(_fits(asked, node) for node in nodes):
        return ""
    kinds = {kind: max(_gpus(node, kind) for node in nodes) for kind in asked.gpus}
    most = Shape(asked.partition, max(node.cores for node in nodes), max(node.memory for node in nodes), kinds)
    place = f"no node of the partition {asked.partition}"
    return f"a {what} of {_tell(asked)} fits on {place}: its nodes have at most {_tell(most)}"


def _fits(asked: Shape, node: Shape) -> bool:
    enough_gpus = all(_gpus(node, kind) >= count for kind, count in asked.gpus.items())
    return node.cores >= asked.cores and node.memory >= asked.memory and enough_gpus


def _gpus(node: Shape, kind: str) -> int:
    return node.gpus.get(kind, 0) if kind else sum(node.gpus.values())


def _tell(shape: Shape) -> str:
    gpus = [_count(count, f"{kind} GPU".strip()) for kind, count in shape.gpus.items()]
    return ", ".join([_count(shape.cores, "core"), format_memory(shape.memory), *gpus])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def find_overtime(what: str, partition: Partition, walltime: float) -> str:
    """Return that a walltime is longer than a partition allows, or nothing."""
    if partition.longest is None or walltime <= partition.longest:
        return ""
    told, most = format_duration(walltime), format_duration(partition.longest)
    return f"a {what}'s walltime of {told} is more than the partition {partition.name} allows, {most}"

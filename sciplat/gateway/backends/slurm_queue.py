"""What Slurm says of jobs, partitions, nodes and the past: commands that ask, and pure readers of their answers.

Nothing here needs the rights of a user; times are seconds since the epoch, durations seconds, sizes bytes.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from sciplat.errors import GatewayError, Kind

ASK_LIMIT = 3.0  # seconds for a question; Slurm's commands themselves wait longer for a controller that is away
_ACCOUNTING_LIMIT = 20.0
_KEPT = 5.0  # seconds for which the same is not asked again
_MANY = 500  # jobs in one question to the accounting: a command line has an end
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SLURM_TIME_FORMAT": "%s"}
T = TypeVar("T")

_OUR_NAMES = "--name=sciplat-scheduler,sciplat-worker"

_ALIVE = {
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"),
    *("REQUEUED", "REQUEUE_FED"),  # comes again by itself
}
_TAKEN = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"}  # by Slurm, not by its own fault
_JOINED = 300.0  # seconds: a worker that ran for so long had joined, and the gateway was away


class SlurmSilent(GatewayError):
    """Slurm does not answer: nobody knows whether it did what was asked."""

    code = "slurm-silent"
    kind: Kind = "transient"


@dataclass(frozen=True)
class Job:
    """A job in Slurm's queue, or one that has just left it.

    Attributes
    ----------
    number, state, reason, partition, user, nodes : str
        In Slurm's words.
    priority : int
    start : float or None
        When it started, or is expected to.
    ran : float
        How long it has run.
    site, cluster, worker : str
        Whose it is if the gateway submitted it, otherwise empty; the worker of a scheduler is "scheduler".
    """

    number: str
    state: str
    reason: str
    partition: str
    user: str
    nodes: str
    priority: int
    start: float | None
    ran: float
    site: str = ""
    cluster: str = ""
    worker: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs, or will."""
        return self.state in _ALIVE

    @property
    def excused(self) -> bool:
        """Whether its end is nobody's failure to start: Slurm took it away, or it had joined its cluster."""
        return self.state in _TAKEN or self.ran >= _JOINED


@dataclass(frozen=True)
class Partition:
    """A partition: when its jobs end at the latest, and by default; None is never, or nothing said."""

    name: str
    default: bool
    up: bool
    restricted: bool
    longest: float | None
    usual: float | None


@dataclass(frozen=True)
class Shape:
    """A kind of node in a partition; `gpus` counts them by type, "" for those of no type."""

    partition: str
    cores: int
    memory: int
    gpus: dict[str, int]


@dataclass(frozen=True)
class Ended:
    """What the accounting says of a job that has ended."""

    state: str
    started: float
    ended: float


# asking


class _Kept(Generic[T]):
    """An answer of Slurm, or its silence, that serves all who ask within a few seconds."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._answer: T | SlurmSilent
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        async with self._lock:
            if time.monotonic() - self._asked > _KEPT:
                try:
                    self._answer = await self._ask()
                except SlurmSilent as silent:
                    self._answer = silent
                self._asked = time.monotonic()
        if isinstance(self._answer, SlurmSilent):
            raise self._answer
        return self._answer


@dataclass
class SlurmQueue:
    """Slurm as anybody may ask it.

    Parameters
    ----------
    commands : str
        The folder of squeue, sinfo, scontrol and sacct.
    """

    commands: str = "/usr/bin"
    has_accounting: bool = True

    def __post_init__(self) -> None:
        self._layout = _Kept(self._ask_layout)
        self._everybodys = _Kept(self._ask_jobs)

    async def jobs(self) -> list[Job]:
        """Return jobs of all gateways, those included that ended minutes ago.

        Raises
        ------
        SlurmSilent
        """
        return await self._ask_jobs(_OUR_NAMES)

    async def everybodys_jobs(self) -> list[Job]:
        """Return all jobs, at most a few seconds old: many users want to know at once what they wait for.

        Raises
        ------
        SlurmSilent
        """
        return await self._everybodys.get()

    async def _ask_jobs(self, *names: str) -> list[Job]:
        mark = secrets.token_hex(8)
        # --all: partitions of groups to which the gateway itself does not belong are hidden otherwise
        arguments = ["--all", "--noheader", "--states=all", "--priority", *names, f"--format={mark}{_JOB_FORMAT}"]
        return parse_jobs(await self._ask("squeue", *arguments), mark)

    async def layout(self) -> tuple[list[Partition], list[Shape]]:
        """Return partitions and kinds of nodes, at most a few seconds old.

        Raises
        ------
        SlurmSilent
        """
        return await self._layout.get()

    async def _ask_layout(self) -> tuple[list[Partition], list[Shape]]:
        told = await self._ask("scontrol", "--all", "--oneliner", "show", "partition")
        nodes = await self._ask("sinfo", "--all", "--noheader", "--exact", f"--format={_NODE_FORMAT}")
        return parse_partitions(told), parse_shapes(nodes)

    async def ended(self, numbers: Sequence[str]) -> dict[str, Ended]:
        """Return what the accounting says of those jobs that have ended; nothing where there is no accounting.

        Raises
        ------
        SlurmSilent
        """
        found: dict[str, Ended] = {}
        for first in range(0, len(numbers), _MANY):
            if not self.has_accounting:
                break
            asked = ",".join(numbers[first : first + _MANY])
            arguments = ["--allusers", "--allocations", "--noheader", "--parsable2", f"--jobs={asked}"]
            try:
                told = await self._ask("sacct", *arguments, f"--format={_ENDED_FORMAT}", limit=_ACCOUNTING_LIMIT)
            except SlurmSilent as silent:
                if "disabled" not in silent.found:
                    raise
                self.has_accounting = False
            else:
                found |= parse_ended(told)
        return found

    async def _ask(self, program: str, *arguments: str, limit: float = ASK_LIMIT) -> str:
        status, told, wrong = await run([f"{self.commands}/{program}", *arguments], limit=limit)
        if status:
            raise SlurmSilent("Slurm does not answer", found=f"{program}: {wrong.strip()[:300] or status}", hint=_HINT)
        return told


async def run(command: Sequence[str], *, limit: float, text: str = "") -> tuple[int, str, str]:
    """Run a command without a shell, and return its exit status, what it printed and what it said was wrong.

    Parameters
    ----------
    command : sequence of str
        An absolute program and its arguments.
    limit : float
        Seconds.
    text : str
        Its standard input.

    Raises
    ------
    SlurmSilent
        If it takes longer, or cannot be run.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=_ENVIRONMENT)
    except OSError as error:
        raise SlurmSilent(f"{command[0]} cannot be run", found=str(error), hint="sciplat gateway check") from None
    try:
        async with asyncio.timeout(limit):
            told, wrong = await process.communicate(text.encode())
    except TimeoutError:
        found = f"{command[0]} took more than {limit:g} s"
        raise SlurmSilent("Slurm does not answer", found=found, hint=_HINT) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # sudo is not ours to kill; what it runs has limits
                process.kill()
                await process.wait()
    return process.returncode or 0, told.decode(errors="replace"), wrong.decode(errors="replace")


# reading

_JOB_FORMAT = "%i|%T|%r|%P|%u|%N|%Q|%S|%M|%k"
_NODE_FORMAT = "%R|%c|%m|%G"
_ENDED_FORMAT = "JobIDRaw,Start,End,State"
_TAG = re.compile(r"sciplat:([a-z0-9-]+):([0-9a-f]{32}):(scheduler|[0-9a-f]{32})")  # the launcher writes it
_HINT = "wait a little and try again, or ask whoever runs Slurm"


def parse_jobs(text: str, mark: str) -> list[Job]:
    """Return the jobs that squeue lists.

    A job's comment is its user's own, newlines included: without a mark that nobody can know, it could pass for a line
    about somebody else's job.

    Parameters
    ----------
    text : str
    mark : str
        What each line begins with.
    """
    jobs = []
    for line in text.split("\n"):
        if not line.startswith(mark):
            continue
        *words, priority, start, ran, comment = line.removeprefix(mark).split("|", 9)
        number, state, reason, partition, user, nodes = words
        times = int(priority), _moment(start), parse_limit(ran) or 0.0
        tag = _TAG.fullmatch(comment)
        whose = tag.groups() if tag else ("", "", "")
        jobs.append(Job(number, state, reason, partition, user, nodes, *times, *whose))
    return jobs


def parse_partitions(text: str) -> list[Partition]:
    """Return the partitions that scontrol shows, one a line."""
    partitions = []
    for line in text.splitlines():
        told = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" in told:
            allowed = [told.get(key, "ALL") for key in ("AllowGroups", "AllowAccounts", "AllowQos")]
            denied = any(told.get(key, "(null)") != "(null)" for key in ("DenyAccounts", "DenyQos"))
            partitions.append(
                Partition(
                    told["PartitionName"],
                    told.get("Default") == "YES",
                    told.get("State") == "UP",
                    denied or any(names != "ALL" for names in allowed),
                    parse_limit(told.get("MaxTime", "")),
                    parse_limit(told.get("DefaultTime", "")),
                )
            )
    return partitions


def parse_shapes(text: str) -> list[Shape]:
    """Return the kinds of nodes that sinfo lists."""
    shapes = []
    for line in text.splitlines():
        partition, cores, memory, resources = line.split("|", 3)
        if cores.rstrip("+").isdigit() and memory.rstrip("+").isdigit():
            size = int(memory.rstrip("+")) * 1024**2
            shapes.append(Shape(partition, int(cores.rstrip("+")), size, parse_gpus(resources)))
    return shapes


def parse_gpus(text: str) -> dict[str, int]:
    """Return the GPUs among a node's generic resources, by type.

    >>> parse_gpus("gpu:h200:2(S:0-1),gpu:1,shard:8,gpu:a100:4(IDX:0-3)")
    {'h200': 2, '': 1, 'a100': 4}
    """
    return {kind or "": int(count) for kind, count in re.findall(r"\bgpu(?::([A-Za-z]\w*))?:(\d+)", text)}


def parse_limit(text: str) -> float | None:
    """Return a duration that Slurm prints; None for none.

    >>> [parse_limit(text) for text in ("1-02:00:00", "2:00:00", "5:30", "UNLIMITED", "NONE", "INVALID")]
    [93600.0, 7200.0, 330.0, None, None, None]
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def parse_ended(text: str) -> dict[str, Ended]:
    """Return the jobs that sacct lists as ended; one that never started has its end for its start."""
    found = {}
    for line in text.splitlines():
        number, started, ended, state = line.split("|", 3)
        end = _moment(ended)
        if end is not None and state:
            found[number] = Ended(state.split()[0], min(_moment(started) or end, end), end)
    return found


def _moment(text: str) -> float | None:
    return float(text) if text.isdigit() and text != "0" else None

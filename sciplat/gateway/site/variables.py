"""What may reach a cluster from its user or its profile: environment variables, and options of sbatch."""

import re
from collections.abc import Sequence

from sciplat.errors import ArgumentError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("SBATCH_", "SLURM_", "SQUEUE_", "SCANCEL_", "DASK_GATEWAY_", "SCIPLAT_")
_LONGEST = 32_000  # characters of a value: all of them must fit on the way to a process

_FLAG = re.compile(r"[a-z]+(-[a-z]+)*")
_REASONS = {
    "the gateway sets it": (
        "job-name", "comment", "output", "error", "chdir", "export", "export-file", "parsable", "input", "open-mode",
    ),
    "a profile has a key of its own for it": (
        "partition", "qos", "account", "constraint", "reservation", "time", "time-min", "gres", "mem", "cpus-per-task",
    ),
    "quotas count one job for each worker, as large as they know it": (
        "array", "nodes", "ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket", "ntasks-per-gpu",
        "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "cpus-per-gpu", "mem-per-cpu", "mem-per-gpu",
        "mincpus", "tres-per-task", "core-spec", "thread-spec",
    ),
    "the gateway follows each job itself": (
        "dependency", "begin", "deadline", "hold", "requeue", "no-requeue", "signal", "wait", "test-only", "no-kill",
        "kill-on-invalid-dep", "clusters", "delay-boot", "quiet", "verbose", "version", "help", "usage", "nodefile",
    ),
    "it decides as whom a job runs": ("uid", "gid", "get-user-env"),
    "it changes what a job runs": (
        "wrap", "bcast", "bb", "bbf", "container", "container-id", "ignore-pbs", "prolog", "epilog", "task-prolog",
        "task-epilog", "propagate", "reboot",
    ),
}  # fmt: skip


def check_variable(name: str, value: str) -> str:
    """Return the value of an environment variable that a cluster may have.

    Parameters
    ----------
    name, value : str

    Raises
    ------
    ArgumentError
        If the name is none, belongs to the batch system or the gateway, or the value cannot be one.
    """
    if not _NAME.fullmatch(name):
        hint = "letters, digits and _, and no digit first"
        raise ArgumentError("this is no name of an environment variable", found=repr(name)[:80], hint=hint)
    if name.startswith(_OURS):
        raise ArgumentError(f"the variable {name[:80]} belongs to the batch system or the gateway", hint="leave it out")
    if "\0" in value or len(value) > _LONGEST or _is_broken(value):
        hint = f"at most {_LONGEST} characters of text"
        raise ArgumentError(f"the value of the variable {name[:80]} cannot be one", found=repr(value)[:80], hint=hint)
    return value


def check_flag_name(name: str) -> str:
    """Return the name of an option of sbatch, without dashes, that may be given beside those of the gateway.

    Raises
    ------
    ArgumentError
        If it is no long option, or one that the gateway keeps to itself, or the beginning of such a one: sbatch takes
        ``--wra`` for ``--wrap``.
    """
    if not _FLAG.fullmatch(name):
        raise ArgumentError("this is no long option of sbatch", found=repr(name)[:80], hint='"nice", "exclusive"')
    for reason, names in _REASONS.items():
        for reserved in names:
            if reserved.startswith(name):
                raise ArgumentError(f"--{reserved} cannot be given here: {reason}", found=f"--{name}")
    return name


def check_flag(name: str, value: str = "", *, allowed: Sequence[str] | None = None) -> str:
    """Return an option of sbatch as ``--name`` or ``--name=value``.

    Parameters
    ----------
    name : str
        Without dashes.
    value : str
        Empty for an option that has none.
    allowed : sequence of str, optional
        The names that may be given; by default all that the gateway does not keep to itself.

    Raises
    ------
    ArgumentError
        If the option may not be given, or the value is not printable.
    """
    check_flag_name(name)
    if allowed is not None and name not in allowed:
        hint = f"allowed: {', '.join(allowed)}" if allowed else "this gateway allows none"
        raise ArgumentError(f"the option --{name[:80]} is not allowed by this gateway", hint=hint)
    if not value.isprintable() or len(value) > 200:
        raise ArgumentError(f"the value of --{name} is not printable", found=repr(value)[:80], hint="one short line")
    return f"--{name}={value}" if value else f"--{name}"


def parse_flag(text: str) -> str:
    """Return an option of sbatch that was written as ``--name`` or ``--name=value``, checked by `check_flag`.

    Raises
    ------
    ArgumentError
    """
    name, equals, value = text.removeprefix("--").partition("=")
    if not text.startswith("--") or (equals and not value):
        raise ArgumentError("this is no option of sbatch", found=repr(text)[:80], hint='"--nice=100", "--exclusive"')
    return check_flag(name, value)


def _is_broken(value: str) -> bool:
    """Return whether a text holds half characters, which cannot be written."""
    return any("\ud800" <= character <= "\udfff" for character in value)

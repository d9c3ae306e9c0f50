"""What is given to sbatch: the options and the script of a scheduler's or a worker's job. Pure: text in, text out."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sciplat.errors import ArgumentError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPTIONS = ("qos", "account", "constraint", "reservation")
# What does not fit into memory goes to the node's own disk, not to the home folder over the network. It is unpickled
# when it is needed again, so the folder must be the user's own: others may have made one of Dask's name in /tmp.
_SCRATCH = (
    'scratch="${TMPDIR:-/tmp}/sciplat-$UID"',
    'mkdir -m 700 "$scratch" 2> /dev/null',
    '[ -d "$scratch" ] && [ -O "$scratch" ] && [ ! -L "$scratch" ] && chmod 700 "$scratch" || scratch=$(mktemp -d)',
    'export DASK_TEMPORARY_DIRECTORY="${DASK_TEMPORARY_DIRECTORY:-$scratch}"',
)


def scheduler_options(config: Any, walltime: float | None) -> list[str]:
    """Return the options of sbatch for a scheduler.

    Parameters
    ----------
    config : SiteClusterConfig or FrozenAttrDict
    walltime : float or None
        Seconds; 0: without limit, None: what the partition gives by itself.
    """
    return _options(config, scheduler_partition(config), config.scheduler_cores, config.scheduler_memory, walltime)


def scheduler_partition(config: Any) -> str:
    """Return the partition of a scheduler, empty for Slurm's default."""
    return str(config.scheduler_partition or config.partition)


def worker_options(config: Any, walltime: float | None) -> list[str]:
    """Return the options of sbatch for a worker, which gets the GPUs too; the same parameters."""
    options = _options(config, config.partition, config.worker_cores, config.worker_memory, walltime)
    if config.gpus:
        options.append("--gres=" + ":".join(part for part in ("gpu", config.gpu_type, str(config.gpus)) if part))
    return options


def _options(config: Any, partition: str, cores: int, memory: int, walltime: float | None) -> list[str]:
    """Return a job's options. The profile's further ones come first: the last one counts, and quotas know ours."""
    place = {"partition": partition} | {name: getattr(config, name) for name in _OPTIONS}
    named = [f"--{name}={value}" for name, value in place.items() if value]
    size = ["--ntasks=1", f"--cpus-per-task={cores}", f"--mem={math.ceil(memory / 1024**2)}M"]
    time = [] if walltime is None else [f"--time={minutes(walltime)}"]
    return [*config.flags, *named, *size, *time]


def minutes(seconds: float) -> int:
    """Return a duration as Slurm counts it, in whole minutes, rounded up.

    >>> [minutes(seconds) for seconds in (0, 1, 60, 61)]
    [0, 1, 1, 2]
    """
    return math.ceil(seconds / 60)


def environment_text(variables: Mapping[str, str]) -> str:
    r"""Return a file that a shell reads to set environment variables, whatever is in their values.

    Parameters
    ----------
    variables : mapping of str to str

    Raises
    ------
    ArgumentError
        If a shell could not set one.

    Examples
    --------
    >>> print(environment_text({"GREETING": "it's, a=b\n$HOME"}), end="")
    export GREETING='it'"'"'s, a=b
    $HOME'
    """
    for name, value in variables.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ArgumentError("this cannot be an environment variable", found=repr(name)[:80])
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def job_script(
    command: Sequence[str], environment: str, *, setup: Sequence[str] = (), walltime: float | None = None
) -> str:
    """Return the script of a job.

    Secrets are in the environment file alone, since every user of a cluster may be able to see scripts.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environment : str
        Path of the file with the environment, as `environment_text` writes it.
    setup : sequence of str
        Lines before it, such as "module load python/3.11".
    walltime : float or None
        Seconds after which a worker ends, counted from now unless Slurm tells more exactly.

    Returns
    -------
    str
        It ends in an exec, so that Slurm's signals reach Dask itself.
    """
    login = " -l" if setup else ""  # modules are defined by a login shell's files
    lines = [f"#!/bin/bash{login}", "umask 077", *setup, f"source {shlex.quote(environment)} || exit 1"]
    lines += _SCRATCH
    if walltime:
        lines.append(f'export SCIPLAT_WORKER_ENDS="${{SLURM_JOB_END_TIME:-$(($(date +%s) + {int(walltime)}))}}"')
    return "\n".join([*lines, f"exec {shlex.join(command)}", ""])

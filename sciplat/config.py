"""Settings of one process, read once: defaults, then the YAML file that SCIPLAT_CONFIG names, then SCIPLAT_*."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from numbers import Integral
from pathlib import Path

from sciplat.errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """What a user or a site may set.

    Parameters
    ----------
    threads : int
        Threads of a plan that runs without a cluster; ``SCIPLAT_THREADS``.
    memory : int
        Bytes that such a plan may use, for example "4 GiB"; ``SCIPLAT_MEMORY``. By default four fifths of what the
        machine or its container has.
    """

    threads: int
    memory: int


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process.

    Raises
    ------
    ArgumentError
        If the file or a variable names a setting that does not exist or a value that makes no sense.
    """
    values: dict[str, object] = {"threads": _own_cpus(), "memory": _own_memory() * 4 // 5}
    named = os.environ.get("SCIPLAT_CONFIG")
    if named:
        values |= _read_file(Path(named))
    known = {field.name for field in fields(Settings)}
    values |= {name: os.environ[f"SCIPLAT_{name.upper()}"] for name in known if f"SCIPLAT_{name.upper()}" in os.environ}
    if unknown := sorted(set(values) - known, key=str):
        raise ArgumentError(f"unknown setting {unknown[0]!r}", found=str(named), hint=f"known: {sorted(known)}")
    try:
        threads = int(str(values["threads"]))
    except ValueError:
        threads = 0
    if threads < 1:
        raise ArgumentError(
            "the setting threads is not a positive number", found=repr(values["threads"]), hint="SCIPLAT_THREADS=2"
        )
    return Settings(threads, parse_bytes(values["memory"], what="the setting memory"))


def parse_bytes(size: object, *, what: str) -> int:
    """Return a number of bytes, given as a number or as text such as "4 GiB" or "500 MB".

    Parameters
    ----------
    size : int or str
    what : str
        Names it in the error.

    Raises
    ------
    ArgumentError
        If it is no positive number of bytes.
    """
    found = _SIZE.fullmatch(str(size).strip())
    count = float(found[1]) * _UNITS.get(found[2].lower(), 0) if found else 0
    if count < 1 or isinstance(size, bool):
        raise ArgumentError(f"{what} is no number of bytes", found=repr(size), hint='"4 GiB"')
    return int(count)


def is_whole(value: object) -> bool:
    """Return whether a value that a user gave is a whole number, of Python or numpy; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


_SIZE = re.compile(r"(\d+(?:\.\d*)?)\s*([a-zA-Z]*)")
_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for ending, base in (("b", 1000), ("ib", 1024))
}


def _own_memory() -> int:
    """Return the bytes of this process: a container or a batch job may own less than the machine has."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes)


def _own_cpus() -> int:
    """Return the processors of this process: a container or a batch job may own fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_file(path: Path) -> dict[str, object]:
    import yaml

    try:
        read = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
        raise ArgumentError(f"the settings file {path} cannot be read", found=found, hint="threads: 4") from None
    if not isinstance(read, dict):
        raise ArgumentError(f"the settings file {path} holds no settings", found=repr(read)[:80], hint="threads: 4")
    return read

"""Settings of one process, read once: defaults, then the YAML file that SCIPLAT_CONFIG names, then SCIPLAT_*."""

import os
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from sciplat.errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """What a user or a site may set.

    Parameters
    ----------
    threads : int
        Threads of a plan that runs without a cluster; ``SCIPLAT_THREADS``.
    """

    threads: int


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process.

    Raises
    ------
    ArgumentError
        If the file or a variable names a setting that does not exist or a value that makes no sense.
    """
    # not os.cpu_count(): a container or a batch job may own fewer
    values: dict[str, object] = {"threads": len(os.sched_getaffinity(0))}
    named = os.environ.get("SCIPLAT_CONFIG")
    if named:
        values |= _read_file(Path(named))
    known = {field.name for field in fields(Settings)}
    values |= {name: os.environ[f"SCIPLAT_{name.upper()}"] for name in known if f"SCIPLAT_{name.upper()}" in os.environ}
    if unknown := sorted(set(values) - known):
        raise ArgumentError(f"unknown setting {unknown[0]!r}", found=str(named), hint=f"known: {sorted(known)}")
    try:
        threads = int(str(values["threads"]))
    except ValueError:
        threads = 0
    if threads < 1:
        raise ArgumentError(
            "the setting threads is not a positive number", found=repr(values["threads"]), hint="SCIPLAT_THREADS=2"
        )
    return Settings(threads)


def _read_file(path: Path) -> dict[str, object]:
    import yaml

    try:
        read = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ArgumentError(f"the settings file {path} cannot be read", found=str(error)) from None
    if not isinstance(read, dict):
        raise ArgumentError(f"the settings file {path} is no mapping", hint="threads: 4")
    return read

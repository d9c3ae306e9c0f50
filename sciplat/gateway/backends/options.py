"""What a user may say of a cluster, within a profile: read, checked, and turned into the cluster's configuration."""

import difflib
import math
import sys
from typing import TYPE_CHECKING, Any

from dask_gateway_server.options import Integer, Mapping, Options, Select, String

from sciplat.errors import ArgumentError
from sciplat.gateway.site.values import LEAST_WALLTIME
from sciplat.gateway.site.variables import check_flag, check_variable
from sciplat.gateway.units import format_duration, format_memory, parse_duration, parse_memory

if TYPE_CHECKING:
    from sciplat.gateway.site.schema import Profile, Site

_PLACE = ("partition", "scheduler_partition", "qos", "account", "constraint", "reservation")
_MOST_CORES = 4096  # of a worker: no machine has more
_LEAST_MEMORY, _MOST_MEMORY = 256 * 1024**2, 64 * 1024**4  # bytes of a worker: Python alone takes the least
_MOST_WALLTIME = 366 * 86_400.0  # s
_MOST_TEXT = 1000  # characters
_MOST_PAIRS = 200  # variables, or flags
_MOST_VARIABLES = 65_536  # characters of all variables together: they travel with every job


class SiteOptions(Options):  # type: ignore[misc]
    """Options that are refused in few words, however many or long they are."""

    def parse_options(self, request: Any) -> dict[str, Any]:
        """Return checked options, with defaults for what is absent.

        Raises
        ------
        ArgumentError
            For the first one that cannot be.
        """
        if not isinstance(request, dict):
            raise ArgumentError("a cluster's options are a mapping", found=_told(request))
        known = [one.field for one in self.fields]
        for name in request:
            if name not in known:
                near = difflib.get_close_matches(str(name)[:100], known, 1)
                raise ArgumentError("a cluster has no such option", found=_told(name), hint=", ".join(near or known))
        checked: dict[str, Any] = super().parse_options(request)
        return checked


class _Cores(Integer):  # type: ignore[misc]
    def validate(self, x: Any) -> int:
        if isinstance(x, bool) or not isinstance(x, int) or not 0 <= x <= _MOST_CORES:
            raise ArgumentError(f"{self.field} is a whole number up to {_MOST_CORES}", found=_told(x))
        return x


class _Text(String):  # type: ignore[misc]
    def validate(self, x: Any) -> str:
        if not isinstance(x, str) or len(x) > _MOST_TEXT or not x.isprintable():
            raise ArgumentError(f"{self.field} is a short text in one line", found=_told(x))
        return x


class _Profile(Select):  # type: ignore[misc]
    def validate(self, x: Any) -> str:
        if not isinstance(x, str) or x not in self.options:
            raise ArgumentError("there is no such profile for you", found=_told(x), hint=", ".join(self.options))
        return x


class _Pairs(Mapping):  # type: ignore[misc]
    def validate(self, x: Any) -> dict[str, Any]:
        if not isinstance(x, dict):
            raise ArgumentError(f"{self.field} is a mapping of names to values", found=_told(x))
        if len(x) > _MOST_PAIRS:
            raise ArgumentError(f"{self.field} has too many entries", found=str(len(x)), hint=f"at most {_MOST_PAIRS}")
        return x


def allowed_profiles(site: "Site", user: Any) -> dict[str, "Profile"]:
    """Return the profiles that a user may choose, by name; the first one is the default.

    Raises
    ------
    ArgumentError
        If there is none.
    """
    groups = set(user.groups)
    found = {name: one for name, one in site.profiles.items() if not one.groups or groups & set(one.groups)}
    if not found:
        raise ArgumentError(f"no profile of this gateway is open to {user.name}", hint="ask whoever runs it")
    return found


def cluster_options(site: "Site", user: Any) -> Options:
    """Return the options that a user has, for our client and for dask-gateway's own.

    Parameters
    ----------
    site : Site
    user : SiteUser

    Returns
    -------
    Options
        Empty text and zero stand for what the profile says.
    """
    return SiteOptions(
        _Profile("profile", list(allowed_profiles(site, user))),
        _Cores("cores", default=0, min=0, max=_MOST_CORES, label="cores of a worker"),
        _Text("memory", label="memory of a worker"),
        _Text("walltime", label="time after which a worker ends"),
        _Text("environment", label="virtual environment"),
        _Pairs("variables", label="environment variables"),
        _Pairs("flags", label="options of the batch system"),
        handler=lambda options, user: _overrides(site, options, user),
    )


def _overrides(site: "Site", options: Any, user: Any) -> dict[str, Any]:
    """Return the traits of SiteClusterConfig for checked options."""
    profile = site.profiles[options.profile]
    cores = options.cores or profile.cores
    _check_most("cores", cores, profile.max_cores, options.profile)
    prefix = _environment(profile, options)
    return {
        "profile": options.profile,
        "worker_cores": cores,
        "worker_memory": _memory(profile, options),
        "worker_threads": cores,
        "scheduler_cores": profile.scheduler_cores,
        "scheduler_memory": profile.scheduler_memory,
        "cluster_max_workers": profile.max_workers,
        "idle_timeout": float(site.limits.idle or 0),
        "lifetime": math.ceil(site.limits.lifetime or 0),
        "walltime": _walltime(profile, options),
        "gpus": profile.gpus,
        "gpu_type": profile.gpu_type or "",
        "prefix": prefix,
        "kernels": str(profile.kernels or ""),
        "scheduler_cmd": [f"{prefix}/bin/dask", "scheduler"],
        "worker_cmd": [f"{prefix}/bin/dask", "worker"],
        "setup": list(profile.setup),
        **{name: getattr(profile, name) or "" for name in _PLACE},
        "flags": [*profile.flags, *_flags(site, profile, options.flags)],
        "variables": {**profile.variables, **_variables(profile, options.variables)},
        "owner_groups": sorted(user.groups),
    }


def _memory(profile: "Profile", options: Any) -> int:
    """Return the memory of a worker in bytes."""
    if not options.memory:
        return profile.memory
    if len(options.memory) > 40:  # more digits than a float has room for
        raise ArgumentError("memory is no size", found=_told(options.memory), hint='"4 GiB"')
    asked = parse_memory(options.memory, what="memory")
    if not _LEAST_MEMORY <= asked <= _MOST_MEMORY:
        bounds = f"from {format_memory(_LEAST_MEMORY)} to {format_memory(_MOST_MEMORY)}"
        raise ArgumentError("no worker has so much memory, or so little", found=_told(options.memory), hint=bounds)
    _check_most("memory", asked, profile.max_memory, options.profile)
    return asked


def _walltime(profile: "Profile", options: Any) -> int:
    """Return the seconds after which a worker ends, 0 for never."""
    if not options.walltime:
        return math.ceil(profile.walltime or 0)
    asked = parse_duration(options.walltime, what="walltime")
    if not LEAST_WALLTIME <= asked <= _MOST_WALLTIME:
        bounds = f"from {format_duration(LEAST_WALLTIME)} to {format_duration(_MOST_WALLTIME)}"
        raise ArgumentError("no worker lives so long, or so shortly", found=_told(options.walltime), hint=bounds)
    _check_most("walltime", asked, profile.max_walltime, options.profile)
    return math.ceil(asked)


def _check_most(what: str, asked: Any, most: Any, profile: str) -> None:
    if most is not None and asked > most:
        told = {"memory": format_memory, "walltime": format_duration}.get(what, str)
        raise ArgumentError(
            f"{what} of {told(asked)} is more than the profile {profile} gives",
            found=f"at most {told(most)}",
            hint="ask for less, or take another profile",
        )


def _environment(profile: "Profile", options: Any) -> str:
    """Return the prefix of the environment: the profile's if it has one, otherwise the one of whoever asks.

    Our client always names the notebook's; how that differs from a profile's is found when it connects.
    """
    if profile.environment is not None:
        return str(profile.environment)
    asked = options.environment.rstrip("/")
    if options.environment and not (asked.startswith("/") and ":" not in asked and ".." not in asked.split("/")):
        raise ArgumentError("an environment is the absolute path of its folder", found=_told(options.environment))
    return asked or sys.prefix


def _flags(site: "Site", profile: "Profile", flags: dict[str, Any]) -> list[str]:
    """Return a user's options of sbatch; one that the profile gives stays as it is."""
    if not flags:
        return []
    if site.slurm is None:
        raise ArgumentError("this gateway has no batch system that would take flags", found=_told(list(flags)))
    fixed = {flag.removeprefix("--").partition("=")[0] for flag in profile.flags}
    checked = []
    for name, value in flags.items():
        text = "" if value is True or value is None else _text(f"the flag {name[:80]!r}", value)
        checked.append(check_flag(name, text, allowed=site.slurm.flags))
        if name in fixed:
            raise ArgumentError(f"the profile gives --{name} already", hint="leave it out")
    return checked


def _variables(profile: "Profile", variables: dict[str, Any]) -> dict[str, str]:
    """Return a user's environment variables; one that the profile gives stays as it is.

    LD_PRELOAD and the like are let through: what they change is the user's own processes.
    """
    checked = {}
    for name, value in variables.items():
        checked[name] = check_variable(name, _text(f"the variable {name[:80]!r}", value))
        if checked[name] != profile.variables.get(name, checked[name]):
            raise ArgumentError(f"the profile gives the variable {name[:80]} already", hint="leave it out")
    size = sum(len(name) + len(value) for name, value in checked.items())
    if size > _MOST_VARIABLES:
        raise ArgumentError("the variables are too long", found=f"{size} characters", hint=f"at most {_MOST_VARIABLES}")
    return checked


def _text(what: str, value: Any) -> str:
    """Return a value that is text, or a number for which text can stand."""
    if isinstance(value, bool) or not isinstance(value, str | int) or (isinstance(value, int) and abs(value) >= 2**63):
        raise ArgumentError(f"the value of {what} is no text", found=_told(value))
    return str(value)


def _told(value: Any) -> str:
    """Return a value in few characters."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # a number of thousands of digits, a list of lists of lists
        return type(value).__name__

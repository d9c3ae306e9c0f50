"""The schema of site.yaml: what an operator says of a gateway, and what holds where nothing is said.

Every key is checked and an unknown one is refused; `load_site` tells all that is wrong in the words of the file.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from sciplat.errors import SiteError
from sciplat.gateway.private import state_folder
from sciplat.gateway.quota.limits import Limits, Period, Policy
from sciplat.gateway.site.file import problems_of, read_yaml
from sciplat.gateway.site.values import (
    LEAST_WALLTIME,
    Address,
    Bytes,
    Count,
    FilePath,
    Flag,
    FlagName,
    GroupName,
    Hours,
    Interface,
    LedgerUrl,
    Line,
    Positive,
    Prefix,
    ProfileName,
    Seconds,
    SiteName,
    Staging,
    UserName,
    VariableName,
    WebAddress,
    Word,
    is_loopback,
    split_address,
)
from sciplat.gateway.site.variables import check_variable

_SLURM_KEYS = ("setup", "partition", "scheduler_partition", "qos", "account", "constraint", "reservation", "flags")
_DAY = 86400.0


class Section(BaseModel):
    """A section of the file: unknown keys are refused, and a section with nothing in it means the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        return {} if value is None else value


class Tls(Section):
    """PEM files: the certificate (with its chain) and the key that only the gateway may read."""

    cert: FilePath
    key: FilePath


class TokenFile(Section):
    """Tokens that the gateway makes itself; `path` is <state>/tokens.json by default."""

    type: Literal["token-file"] = "token-file"
    path: FilePath | None = None


class JupyterHub(Section):
    """Tokens of a JupyterHub of which the gateway is the service of this name.

    The hub is asked about a token with that token itself: the gateway needs no secret of the hub.
    """

    type: Literal["jupyterhub"] = "jupyterhub"
    api_url: WebAddress
    service: Word


class Groups(Section):
    """Where the groups of a user come from: whoever vouches for them, Unix, or a YAML file (group: list of users)."""

    source: Literal["authenticator", "unix", "file"] = "authenticator"
    file: FilePath | None = Field(default=None, validate_default=True)

    @field_validator("file")
    @classmethod
    def _agrees(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is None and info.data.get("source") == "file":
            raise ValueError("missing, since the groups' source is a file")
        if file is not None and info.data.get("source", "file") != "file":
            raise ValueError("only read with source: file")
        return file


class Admins(Section):
    """Who sees and stops everything."""

    users: tuple[UserName, ...] = ()
    groups: tuple[GroupName, ...] = ()


class Slurm(Section):
    """How jobs are given to Slurm.

    `launcher` is the program that sudo runs as the user; `flags` are the long options of sbatch, without dashes, that
    users may give; `commands` is the folder of sbatch and its like; `staging` is where a cluster's files lie, the same
    for the gateway and the nodes.
    """

    launcher: FilePath = Field(default_factory=lambda: Path(sys.prefix, "bin", "sciplat-gateway-launcher"))
    flags: tuple[FlagName, ...] = ()
    commands: FilePath = Path("/usr/bin")
    staging: Staging = "{home}/.sciplat/clusters"


class Profile(Section):
    """A kind of cluster: who may have it, how large its workers are by default and at most, and where they run.

    Sizes are those of one worker. `environment` is the virtual environment of its workers, by default the notebook's
    own, and `kernels` a folder of root's with kernels compiled for it; `setup` are lines of the job script before it;
    `scheduler_partition` is where schedulers run if not in `partition`, as where that one's jobs may be preempted;
    `flags` are further options of sbatch.
    """

    groups: tuple[GroupName, ...] = ()
    cores: Positive = 1
    max_cores: Positive | None = None
    memory: Bytes = 4 * 1024**3
    max_memory: Bytes | None = None
    max_workers: Positive | None = None
    walltime: Seconds | None = None
    max_walltime: Seconds | None = None
    gpus: Count = 0
    gpu_type: Word | None = None
    scheduler_cores: Positive = 1
    scheduler_memory: Bytes = 2 * 1024**3
    environment: FilePath | None = None
    kernels: FilePath | None = None
    setup: tuple[Line, ...] = ()
    partition: Word | None = None
    scheduler_partition: Word | None = None
    qos: Word | None = None
    account: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    flags: tuple[Flag, ...] = ()
    variables: dict[VariableName, str] = Field(default_factory=dict)

    @field_validator("max_cores", "max_memory", "max_walltime")
    @classmethod
    def _is_most(cls, most: float | None, info: ValidationInfo) -> float | None:
        name = str(info.field_name).removeprefix("max_")
        if most is None or name not in info.data:  # the default was wrong itself
            return most
        if info.data[name] is None:
            raise ValueError(f"of no use without {name}, what a worker has by default")
        if most < info.data[name]:
            raise ValueError(f"less than {name}, what a worker has by default")
        return most

    @field_validator("walltime")
    @classmethod
    def _is_of_use(cls, walltime: float | None) -> float | None:
        if walltime is not None and walltime < LEAST_WALLTIME:
            raise ValueError(f"less than {LEAST_WALLTIME:.0f} s: a worker would leave before it has done anything")
        return walltime

    @field_validator("gpu_type")
    @classmethod
    def _has_gpus(cls, kind: str | None, info: ValidationInfo) -> str | None:
        if kind is not None and info.data.get("gpus") == 0:
            raise ValueError("of no use without gpus: 1 or more")
        return kind

    @field_validator("variables")
    @classmethod
    def _may_be_set(cls, variables: dict[VariableName, str]) -> dict[str, str]:
        return {name: check_variable(name, value) for name, value in variables.items()}


class Quota(Section):
    """The most that a user or a group may have; `quota.Limits` says what each key means."""

    clusters: Count | None = None
    workers: Count | None = None
    cores: Count | None = None
    memory: Bytes | None = None
    gpus: Count | None = None
    core_hours: Hours | None = None
    period: Period = "month"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        return asdict(value) if isinstance(value, Limits) else value  # and nothing given is not "no limit"

    def limits(self) -> Limits:
        """Return them for `quota.decide`."""
        return Limits(**self.model_dump())


class Quotas(Section):
    """Quotas of every user, of users by name in its place, and of groups as a whole."""

    default: Quota | None = None
    users: dict[UserName, Quota] = Field(default_factory=dict)
    groups: dict[GroupName, Quota] = Field(default_factory=dict)

    def policy(self) -> Policy:
        """Return them for `quota.Policy`'s users."""
        return Policy(
            self.default.limits() if self.default else None,
            {name: quota.limits() for name, quota in self.users.items()},
            {name: quota.limits() for name, quota in self.groups.items()},
        )


class Lifetimes(Section):
    """How long clusters may idle, live and wait for their start, and how long their logs are kept, in seconds."""

    idle: Seconds | None = 30 * 60.0
    lifetime: Seconds | None = 7 * _DAY
    start: Seconds = _DAY
    logs: Seconds = 14 * _DAY


class Site(Section):
    """A gateway: all of site.yaml.

    `address` is where users and schedulers come in, `api_address` the private way from its proxy to its server,
    `prefix` the path below which a hub serves it, and `interface` where schedulers and workers listen. `ledger` is the
    database of the quotas, by default a file in `state`; `on_stop` says what becomes of clusters when the gateway is
    stopped.
    """

    name: SiteName = "sciplat"
    address: Address = "127.0.0.1:8000"
    api_address: Address = "127.0.0.1:8001"
    prefix: Prefix = ""
    state: FilePath = Field(default_factory=lambda: state_folder().absolute())
    tls: Tls | None = Field(default=None, validate_default=True)
    backend: Literal["local", "local-multi", "slurm"] = "local"
    slurm: Slurm | None = Field(default=None, validate_default=True)
    interface: Interface = "127.0.0.1"
    authenticators: tuple[Annotated[TokenFile | JupyterHub, Field(discriminator="type")], ...] = Field(
        default=(TokenFile(),), min_length=1
    )
    groups: Groups = Groups()
    admins: Admins = Admins()
    profiles: dict[ProfileName, Profile] = Field(default={"default": Profile()}, min_length=1)
    quotas: Quotas = Quotas()
    limits: Lifetimes = Lifetimes()
    ledger: LedgerUrl | None = Field(default=None, repr=False)
    on_stop: Literal["keep", "stop"] = "keep"
    heartbeat: Seconds = 5.0

    @property
    def ledger_url(self) -> str:
        """The database of the quotas."""
        return self.ledger or f"sqlite:///{self.state / 'ledger.sqlite'}"

    @property
    def token_file(self) -> Path:
        """The file of the tokens that the gateway makes itself."""
        named = [one.path for one in self.authenticators if isinstance(one, TokenFile) and one.path]
        return named[0] if named else self.state / "tokens.json"

    @field_validator("api_address")
    @classmethod
    def _is_private(cls, address: str, info: ValidationInfo) -> str:
        if not is_loopback(split_address(address)[0]):
            raise ValueError("must be on loopback: it is not encrypted, and others come in at `address`")
        if address == info.data.get("address"):
            raise ValueError("must be another one than `address`")
        return address

    @field_validator("tls")
    @classmethod
    def _is_encrypted(cls, tls: Tls | None, info: ValidationInfo) -> Tls | None:
        address = info.data.get("address")
        if tls is None and address and not is_loopback(split_address(address)[0]):
            raise ValueError(f"missing: {address} can be reached from other machines; give cert and key")
        return tls

    @field_validator("slurm", mode="before")
    @classmethod
    def _goes_with_backend(cls, slurm: Any, info: ValidationInfo) -> Any:
        backend = info.data.get("backend", "slurm")
        if slurm is not None and backend != "slurm":
            raise ValueError("only read with backend: slurm")
        return {} if slurm is None and info.data.get("backend") == "slurm" else slurm

    @field_validator("profiles")
    @classmethod
    def _fit_the_backend(cls, profiles: dict[str, Profile], info: ValidationInfo) -> dict[str, Profile]:
        if info.data.get("backend", "slurm") != "slurm":
            named = [f"{name}.{key}" for name, one in profiles.items() for key in _SLURM_KEYS if getattr(one, key)]
            if named:
                raise ValueError(f"{', '.join(named)}: only read with backend: slurm")
        return profiles


def default_site(state: Path | None = None) -> Site:
    """Return the gateway of one user on this machine, with its state in a folder of theirs."""
    return Site() if state is None else Site(state=state)


def load_site(path: Path | str) -> Site:
    """Return what a site file says; relative paths in it begin at its folder.

    Parameters
    ----------
    path : path or str

    Raises
    ------
    SiteError
        If anything in it is wrong: `found` has one line for each problem.
    """
    path = Path(path).absolute()
    data, problems = read_yaml(path)
    try:
        site = Site.model_validate(data, context=path.parent)
    except ValidationError as error:
        problems += problems_of(error, Site)
    else:
        problems += _open_password(path, site)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SiteError(f"the site file {path} has {count}", found="\n         ".join(problems))
    return site


def _open_password(path: Path, site: Site) -> list[str]:
    """Return a problem if the database's password can be read by others; PostgreSQL has a file of its own for it."""
    user = (site.ledger or "").partition("://")[2].partition("@")
    if user[1] and ":" in user[0] and path.stat().st_mode & 0o077:
        return [f"ledger: holds a password that others can read; try chmod 600 {path}, or ~/.pgpass"]
    return []

"""What stands between a valid site file and a gateway on this machine: files, programs, ports, users."""

import errno
import grp
import os
import pwd
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sciplat.errors import SiteError
from sciplat.gateway.site.file import read_yaml
from sciplat.gateway.site.schema import JupyterHub, Site, TokenFile
from sciplat.gateway.site.values import split_address

_COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
_SUDO = "/usr/bin/sudo"  # as the backend calls it
_NETWORK = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "afs", "panfs", "wekafs", "orangefs", "pvfs2"),
    *("cifs", "smb3", "fuse.sshfs", "fuse.ceph", "fuse.glusterfs"),
}


def find_problems(site: Site) -> list[str]:
    """Return what is wrong on this machine, one line "key: what is wrong; what to try" for each problem.

    Nothing is left behind: files are opened for reading only, ports are taken for an instant.

    Parameters
    ----------
    site : Site
    """
    checks: tuple[Callable[[Site], Iterable[str]], ...] = (
        _check_state,
        _check_tls,
        _check_authenticators,
        _check_who,
        _check_groups,
        _check_names,
        find_risks,
        _check_backend,
        _check_environments,
        _check_ports,
        _check_ledger,
    )
    return [problem for check in checks for problem in check(site)]


def find_risks(site: Site) -> Iterator[str]:
    """Yield those problems that do not show when a gateway starts, but do harm later.

    Parameters
    ----------
    site : Site
    """
    if site.backend == "slurm" and site.name == Site.model_fields["name"].default:
        yield f"name: two gateways named {site.name} on one Slurm end each other's jobs; give it a name of its own"
    kind = _file_system(site.state)
    if kind in _NETWORK:
        yield f"state: {site.state} is on {kind}, where SQLite's databases can break; name a folder on a local disk"


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on, or will be."""
    import psutil

    mounted = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    path = folder.resolve()
    return next((mounted[one] for one in (path, *path.parents) if one in mounted), "")


def _check_state(site: Site) -> Iterator[str]:
    folder = next(one for one in (site.state, *site.state.parents) if _is_there(one))
    if not folder.is_dir():
        yield f"state: {folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"state: this user may not write to {folder}"
    elif site.state == folder and folder.stat().st_uid != os.geteuid():
        yield f"state: {folder} belongs to another user"
    elif site.state == folder and folder.stat().st_mode & 0o022:
        yield f"state: others can write to {folder}; try chmod 755 {folder}"


def _check_tls(site: Site) -> Iterator[str]:
    if site.tls is None:
        return
    problems = [*_check_file("tls.cert", site.tls.cert), *_check_secret("tls.key", site.tls.key)]
    yield from problems
    if problems:
        return
    try:
        # No password: the gateway starts with nobody to type it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(site.tls.cert, site.tls.key, password=lambda: "")
    except (ssl.SSLError, ValueError):
        yield f"tls: {site.tls.cert} and {site.tls.key} are not a PEM certificate and its unencrypted key"
    else:
        yield from _check_dates(site.tls.cert)


def _check_dates(cert: Path) -> Iterator[str]:
    from cryptography import x509

    read, now = x509.load_pem_x509_certificate(cert.read_bytes()), datetime.now(UTC)
    if read.not_valid_after_utc < now:
        yield f"tls.cert: {cert} has expired on {read.not_valid_after_utc:%Y-%m-%d}"
    if read.not_valid_before_utc > now:
        yield f"tls.cert: {cert} begins to hold on {read.not_valid_before_utc:%Y-%m-%d}"


def _check_authenticators(site: Site) -> Iterator[str]:
    for at, one in enumerate(site.authenticators):
        match one:
            case TokenFile(path=Path() as path) if _is_there(path):
                yield from _check_secret(f"authenticators.{at}.path", path)
            case TokenFile(path=Path() as path) if not os.access(path.parent, os.W_OK):
                yield f"authenticators.{at}.path: this user cannot make {path}"


def _check_who(site: Site) -> Iterator[str]:
    """Yield what would let users read each other's secrets, or round the limits of their groups."""
    hub = any(isinstance(one, JupyterHub) for one in site.authenticators)
    if hub and site.backend == "local":
        yield "backend: local runs all clusters as one user, who can read the gateway's secrets; try local-multi"
    named = [*site.quotas.groups, *site.admins.groups]
    named += [group for one in site.profiles.values() for group in one.groups]
    if named and not hub and site.groups.source == "authenticator":
        yield f"groups: token files know none, so nobody is in {named[0]}; try groups: {{source: unix}}"


def _check_groups(site: Site) -> Iterator[str]:
    if site.groups.file is None:
        return
    problems = list(_check_file("groups.file", site.groups.file))
    yield from problems
    if problems:
        return
    try:
        groups, twice = read_yaml(site.groups.file)
    except SiteError as error:
        yield f"groups.file: {error.what}, found {error.found}"
        return
    yield from (f"groups.file: {site.groups.file}: {problem}" for problem in twice)
    if not isinstance(groups, dict) or not all(_is_list_of_names(users) for users in groups.values()):
        yield f"groups.file: {site.groups.file} does not give a list of users for each group; try physics: [alice, bob]"


def _is_list_of_names(users: object) -> bool:
    return isinstance(users, list) and all(isinstance(user, str) for user in users)


def _check_names(site: Site) -> Iterator[str]:
    """Yield users and groups that Unix does not know, where it is Unix that tells them apart."""
    if site.backend != "local":
        named = {"admins.users": site.admins.users, "quotas.users": tuple(site.quotas.users)}
        yield from (f"{key}: there is no Unix user {user}" for key, user in _unknown(named, pwd.getpwnam))
    if site.groups.source == "unix":
        named = {"admins.groups": site.admins.groups, "quotas.groups": tuple(site.quotas.groups)}
        named |= {f"profiles.{name}.groups": one.groups for name, one in site.profiles.items()}
        yield from (f"{key}: there is no Unix group {group}" for key, group in _unknown(named, grp.getgrnam))


def _unknown(named: dict[str, tuple[str, ...]], find: Callable[[str], object]) -> Iterator[tuple[str, str]]:
    for key, names in named.items():
        for name in names:
            try:
                find(name)
            except (KeyError, ValueError):
                yield key, name


def _check_backend(site: Site) -> Iterator[str]:
    if site.backend == "local-multi" and os.geteuid() != 0:
        yield "backend: local-multi runs workers as their users, which only root can; try sudo, or backend: local"
    if site.backend != "slurm":
        yield from _check_interface(site.interface)
    if site.slurm is None:
        return
    for command in _COMMANDS:
        if shutil.which(command, path=str(site.slurm.commands)) is None:
            yield f"slurm.commands: there is no {command} in {site.slurm.commands}"
    if shutil.which(str(site.slurm.launcher)) is None:
        yield f"slurm.launcher: there is no program {site.slurm.launcher}"
    elif site.slurm.launcher.stat().st_mode & 0o022:
        yield f"slurm.launcher: others can write to {site.slurm.launcher}, which runs as every user; try chmod 755"
    if shutil.which(_SUDO) is None:
        yield f"slurm.launcher: there is no {_SUDO}, which runs it as the user"


def _check_interface(interface: str) -> Iterator[str]:
    import psutil

    known = psutil.net_if_addrs()
    if interface not in known and not any(one.address == interface for all_ in known.values() for one in all_):
        yield f"interface: this machine has no {interface}; it has {', '.join(sorted(known))}"


def _check_environments(site: Site) -> Iterator[str]:
    """Yield environments that are not there; those of Slurm's nodes need not be on this machine."""
    for name, one in site.profiles.items():
        if one.environment and site.backend != "slurm" and not os.access(one.environment / "bin" / "python", os.X_OK):
            yield f"profiles.{name}.environment: there is no virtual environment in {one.environment}"


def _check_ports(site: Site) -> Iterator[str]:
    for key, address in (("address", site.address), ("api_address", site.api_address)):
        host, port = split_address(address)
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with closing(socket.socket(family, kind, protocol)) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do after a restart
                listener.bind(place)
                listener.listen(1)
        except OSError as error:
            hint = "; perhaps a gateway runs already" if error.errno == errno.EADDRINUSE else ""
            yield f"{key}: {address} cannot be used: {error.strerror}{hint}"


def _check_ledger(site: Site) -> Iterator[str]:
    """Yield a database that does not answer; a file of SQLite that is not there yet will be made."""
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    url = sqlalchemy.make_url(site.ledger_url)
    arguments: dict[str, int] = {"connect_timeout": 5}
    if url.drivername == "sqlite":
        file = Path(str(url.database))
        if not _is_there(file):
            if site.ledger and not os.access(file.parent, os.W_OK):
                yield f"ledger: this user cannot make {file}"
            return
        arguments = {"timeout": 5}
    try:
        engine = sqlalchemy.create_engine(url, connect_args=arguments, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA schema_version" if url.drivername == "sqlite" else "SELECT 1")
    except ModuleNotFoundError as error:
        yield f"ledger: the package {error.name} is not installed; try pip install 'sciplat[postgresql]'"
    except SQLAlchemyError as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        yield f"ledger: {url.render_as_string(hide_password=True)} cannot be opened: {why}"


def _check_secret(key: str, path: Path) -> Iterator[str]:
    problems = list(_check_file(key, path))
    yield from problems
    if not problems and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"{key}: others can read {path}; try chmod 600 {path}"


def _check_file(key: str, path: Path) -> Iterator[str]:
    try:
        found = path.stat()
    except OSError as error:
        yield f"{key}: {path}: {error.strerror}"
        return
    if not stat.S_ISREG(found.st_mode):
        yield f"{key}: {path} is not a file"
    elif not os.access(path, os.R_OK):
        yield f"{key}: this user may not read {path}"
    elif not found.st_size:
        yield f"{key}: {path} is empty"


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:  # also where this user may not look, which Path.exists raises
        return False
    return True

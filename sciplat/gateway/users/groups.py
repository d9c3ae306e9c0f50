"""Which groups a user is in, as Unix or a file says it."""

import grp
import logging
import os
import pwd
from pathlib import Path
from typing import Any

import yaml

from sciplat.errors import SiteError

_log = logging.getLogger(__name__)


def unix_user(name: str) -> pwd.struct_passwd | None:
    """Return the account of a Unix user, None if there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def unix_groups(name: str) -> tuple[str, ...]:
    """Return the Unix groups of a user, sorted; none for who is no Unix user."""
    account = unix_user(name)
    if account is None:
        return ()
    return tuple(sorted({group for number in os.getgrouplist(name, account.pw_gid) for group in _name_of(number)}))


def _name_of(number: int) -> list[str]:
    """Return a group's name; a number without a name, which a directory service may leave behind, gives none."""
    try:
        return [grp.getgrgid(number).gr_name]
    except KeyError:
        return []


class GroupFile:
    """Groups from a YAML file: a mapping of a group's name to a list of users.

    Parameters
    ----------
    path : Path
        The file, read again whenever it has changed.

    Raises
    ------
    SiteError
        If it cannot be used. Later the last good content holds, and the log tells why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = _stamp(path)
        self._groups = _read(path)

    def groups_of(self, user: str) -> tuple[str, ...]:
        """Return the groups that name a user, sorted."""
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._groups = _read(self.path)
            except SiteError as error:
                _log.error("Groups stay as they were: %s", error)
        return tuple(sorted(group for group, users in self._groups.items() if user in users))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> dict[str, frozenset[str]]:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SiteError(f"The group file {path} cannot be read", found=f"{error}") from error
    if content is None:
        return {}
    hint = "physics: [alice, bob]"
    if not isinstance(content, dict) or not all(isinstance(users, list) for users in content.values()):
        raise SiteError(f"The group file {path} must map groups to lists of users", hint=hint)
    for name in [*content, *(user for users in content.values() for user in users)]:
        if not isinstance(name, str):
            raise SiteError(f"A name in the group file {path} is no text", found=f"{name!r}", hint=hint)
    return {group: frozenset(users) for group, users in content.items()}

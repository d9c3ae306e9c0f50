"""The gateway's own folders and secrets: made once, and readable by nobody else."""

import os
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path

from sciplat.errors import SiteError

SHARED = 0o711  # others may pass through it to a folder of theirs, not look into it
PRIVATE = 0o700


def state_folder() -> Path:
    """Return where a user's own gateway keeps its state: `$SCIPLAT_GATEWAY_STATE`, or in the user's state folder."""
    named = os.environ.get("SCIPLAT_GATEWAY_STATE")
    if named:
        return Path(named).absolute()
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"  # the standard ignores others
    return base / "sciplat" / "gateway"


def make_folders(state: Path) -> None:
    """Make the folders of a gateway's state: what others must pass through, and what is for the gateway alone.

    Raises
    ------
    SiteError
        If one of them is another user's: who owns a folder can read and exchange what is in it.
    """
    for name, mode in ((".", SHARED), ("clusters", SHARED), ("secrets", PRIVATE), ("logs", PRIVATE), ("run", PRIVATE)):
        folder = state / name
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise SiteError(
                f"{folder} belongs to another user",
                found=f"user number {folder.stat().st_uid}",
                hint="run as that user",
            )
        folder.chmod(mode)


def database_key(state: Path) -> str:
    """Return the key that the gateway's database is encrypted with, 32 bytes in base64; make it if there is none."""
    return _secret(state / "secrets" / "database.key", urlsafe_b64encode(os.urandom(32)).decode())


def proxy_token(state: Path) -> str:
    """Return the token that the proxy shows to the server; make it if there is none."""
    return _secret(state / "secrets" / "proxy.token", os.urandom(32).hex())


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = _write_beside(path, text)
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_first(path: Path, text: str) -> None:
    """Write such a file unless there is one: of several processes that do so at once, the first one wins."""
    temporary = _write_beside(path, text)
    try:
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def read_private(path: Path) -> str:
    """Return the text of a secret.

    Raises
    ------
    SiteError
        If others may read it.
    """
    with path.open(encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & 0o077:
            raise SiteError(
                f"{path} is a secret that others may read", found=f"mode {mode & 0o777:o}", hint=f"chmod 600 {path}"
            )
        return file.read().strip()


def _secret(path: Path, new: str) -> str:
    if not path.exists():
        write_first(path, new)
    return read_private(path)


def _write_beside(path: Path, text: str) -> Path:
    """Return a new file beside `path` with its content to be, safe on disk."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # a full disk
        temporary.unlink(missing_ok=True)
        raise
    return temporary

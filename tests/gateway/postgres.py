"""A PostgreSQL server of the tests' own: in a private folder, on a Unix socket only, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import required

_ACCOUNT = "postgres"  # the server refuses to run as root
_SETTINGS = ("listen_addresses=", "fsync=off", "max_connections=120", "shared_buffers=16MB")


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server and yield its SQLAlchemy URL, or skip where PostgreSQL is not installed."""
    programs = _find_programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short, and the account reach it
    owner: dict[str, object] = {}
    if os.getuid() == 0:
        account = pwd.getpwnam(_ACCOUNT)
        os.chown(folder, account.pw_uid, account.pw_gid)
        owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        make = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", _ACCOUNT, "-E", "UTF8", "--no-sync"]
        subprocess.run(make, check=True, cwd=folder, stdout=subprocess.DEVNULL, **owner)
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        serve = [programs / "postgres", "-D", folder / "data", "-k", folder, *settings]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(serve, cwd=folder, stdout=log, stderr=log, **owner)
        try:
            _wait(server, folder)
            yield f"postgresql+psycopg://{_ACCOUNT}@/postgres?host={folder}"
        finally:
            server.send_signal(2)  # SIGINT: end the sessions, then stop
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _find_programs() -> Path:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    absent = "" if folders else "PostgreSQL is not installed"
    if not absent and os.getuid() == 0 and _ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}:
        absent = f"the account {_ACCOUNT} does not exist"
    if absent and required("postgres"):
        pytest.fail(f"SCIPLAT_REQUIRE asks for postgres: {absent}")
    if absent:
        pytest.skip(absent)
    return folders[-1].parent


def _wait(server: subprocess.Popen[bytes], folder: Path) -> None:
    # The last line of its pid file says when it takes connections; its socket is there before.
    state = folder / "data" / "postmaster.pid"
    deadline = time.monotonic() + 30
    while not (state.exists() and "ready" in state.read_text(encoding="utf-8")):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
        time.sleep(0.02)

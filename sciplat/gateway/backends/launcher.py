"""What the gateway does as a user: submit and cancel Slurm jobs, keep a cluster's files, read its logs.

Run as ``sudo -nHu USER sciplat-gateway-launcher``. Reads one JSON object from standard input and writes one. It runs
with the rights of somebody else, so it is short, uses the standard library alone and never a shell, refuses to be root,
and checks all that it is told, whoever has checked it before.
"""

import json
import os
import pwd
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LONGEST_REQUEST = 1_000_000  # bytes
LONGEST_TAIL = 65_536  # bytes of a log
TIME_LIMIT = 8.0  # seconds for a command of Slurm; they wait longer for a controller that is away
SUBMIT_LIMIT = 30.0  # seconds: one that is busy takes a job late, and whoever asked would not know its number

KEYS = ("dask.pem", "dask.crt", "scheduler.env", "worker.env")  # of no use, and better gone, when a cluster is over
RESERVED = (  # options of sbatch that would change who, what or where, or what the gateway can find again
    "array", "bcast", "chdir", "clusters", "comment", "dependency", "error", "export", "export-file", "get-user-env",
    "gid", "help", "hold", "input", "job-name", "no-requeue", "open-mode", "output", "parsable", "requeue", "signal",
    "test-only", "uid", "usage", "version", "wait", "wrap",
)  # fmt: skip

_CLUSTER = re.compile(r"[0-9a-f]{32}")
_KIND = re.compile(r"scheduler|worker:[0-9a-f]{32}")
_SITE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LOG = re.compile(r"scheduler\.log|worker-[0-9a-f]{32}\.log")
_JOB = re.compile(r"[0-9]{1,12}")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?:=[\x20-\x7e]{1,500})?")
_SILENT = re.compile(r"Unable to contact slurm controller|timed out|Connection refused", re.IGNORECASE)
_OVER = re.compile(r"Invalid job id|already (completing|completed)|Job has finished", re.IGNORECASE)


class Failure(Exception):
    """What is answered in place of a result: a code for the gateway, and words."""

    def __init__(self, code: str, error: str) -> None:
        super().__init__(error)
        self.code = code


def main() -> None:
    """Answer the request on standard input."""
    os.umask(0o077)
    os.chdir("/")  # the gateway's own folder may be closed to the user
    try:
        answer = {"ok": True, **_answer(sys.stdin.buffer.read(LONGEST_REQUEST + 1))}
    except Failure as failure:
        answer = {"ok": False, "code": failure.code, "error": str(failure)}
    except OSError as error:
        answer = {"ok": False, "code": "files", "error": f"{error.strerror}: {error.filename}"}
    json.dump(answer, sys.stdout)


def _answer(text: bytes) -> dict[str, Any]:
    if 0 in {os.getuid(), os.geteuid()}:
        raise Failure("request", "the launcher does not run as root")
    if len(text) > LONGEST_REQUEST:
        raise Failure("request", f"the request is longer than {LONGEST_REQUEST} bytes")
    try:
        request = json.loads(text)
        action = _ACTIONS[request["action"]]
    except (ValueError, KeyError, TypeError):
        raise Failure("request", f"the request is not a JSON object with an action of {', '.join(_ACTIONS)}") from None
    return action(request)


# actions


def _submit(request: dict[str, Any]) -> dict[str, Any]:
    """Write a cluster's files, if there are any, and submit a job; with "test", ask only if Slurm would take it."""
    cluster, kind = _text(request, "cluster", _CLUSTER), _text(request, "kind", _KIND)
    options = _options(request)
    if request.get("test") is True:
        _slurm(request, "sbatch", [*options, "--test-only"], str(request.get("script", "")))
        return {}
    path = f"{_staging(request)}/{cluster}"
    _write_files(path, request.get("files", {}))
    part, _, worker = kind.partition(":")
    log = f"worker-{worker}.log" if worker else "scheduler.log"
    comment = f"sciplat:{_text(request, 'site', _SITE)}:{cluster}:{worker or part}"
    own = [
        *("--parsable", "--no-requeue", "--export=ALL", f"--job-name=sciplat-{part}", f"--comment={comment}"),
        *(f"--chdir={path}", f"--output={path.replace('%', '%%')}/{log}"),
    ]
    printed = _slurm(request, "sbatch", [*options, *own], str(request.get("script", "")), limit=SUBMIT_LIMIT)
    job = printed.strip().partition(";")[0]
    if not _JOB.fullmatch(job):
        raise Failure("refused", f"sbatch gave no job number: {printed[:200]!r}")
    return {"job": job}


def _cancel(request: dict[str, Any]) -> dict[str, Any]:
    jobs = request.get("jobs", [])
    if not isinstance(jobs, list) or not all(isinstance(job, str) and _JOB.fullmatch(job) for job in jobs):
        raise Failure("request", "jobs are a list of numbers")
    if jobs:
        _slurm(request, "scancel", jobs)
    return {}


def _clean(request: dict[str, Any]) -> dict[str, Any]:
    """Remove a cluster's keys but not its logs, and folders whose logs are too old; cancel what is left of it.

    The keys go first: without them a job that cannot be cancelled now will not get far.
    """
    cluster, keep = _text(request, "cluster", _CLUSTER), request.get("keep")
    if not isinstance(keep, int | float) or isinstance(keep, bool):
        raise Failure("request", "keep is a number of seconds")
    staging = _staging(request)
    with suppress(FileNotFoundError):
        folder = _open_folder(f"{staging}/{cluster}")
        try:
            _remove(folder, KEYS)
        finally:
            os.close(folder)
    _prune(staging, time.time() - keep)
    return _cancel(request)


def _logs(request: dict[str, Any]) -> dict[str, Any]:
    cluster, names, lines = _text(request, "cluster", _CLUSTER), request.get("files"), request.get("lines")
    if not isinstance(names, list) or not all(isinstance(name, str) and _LOG.fullmatch(name) for name in names):
        raise Failure("request", "files are a list of names of logs")
    if not isinstance(lines, int) or isinstance(lines, bool) or lines < 1:
        raise Failure("request", "lines is a number from 1 on")
    logs = {}
    with suppress(FileNotFoundError):  # nothing has been submitted, or it is too long ago
        folder = _open_folder(f"{_staging(request)}/{cluster}")
        try:
            for name in names:
                with suppress(FileNotFoundError):
                    logs[name] = _tail(folder, name, lines)
        finally:
            os.close(folder)
    return {"logs": logs}


_ACTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "submit": _submit,
    "cancel": _cancel,
    "clean": _clean,
    "logs": _logs,
}


# what is checked


def _text(request: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Failure("request", f"{key} cannot be {str(value)[:80]!r}")
    return value


def _staging(request: dict[str, Any]) -> str:
    template = request.get("staging")
    if not isinstance(template, str):
        raise Failure("request", "staging is a path")
    path = template.replace("{home}", pwd.getpwuid(os.getuid()).pw_dir, 1)
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise Failure("request", f"staging is an absolute path, not {template[:80]!r}")
    return path.rstrip("/")


def _options(request: dict[str, Any]) -> list[str]:
    """Return the options for sbatch, none of them reserved nor the beginning of a reserved one, which is the same."""
    options = request.get("arguments", [])
    if not isinstance(options, list):
        raise Failure("request", "arguments are a list")
    for option in options:
        found = _OPTION.fullmatch(option) if isinstance(option, str) else None
        if found is None or any(name.startswith(found[1]) for name in RESERVED):
            raise Failure("request", f"sbatch may not be given {str(option)[:80]!r}")
    return options


# Slurm


def _slurm(
    request: dict[str, Any], program: str, arguments: list[str], text: str = "", *, limit: float | None = None
) -> str:
    """Run a command of Slurm in an environment of its own, which jobs inherit, and return what it prints."""
    limit = TIME_LIMIT if limit is None else limit
    user = pwd.getpwuid(os.getuid())
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "SHELL": "/bin/bash",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
    }
    command = [f"{request.get('commands') or '/usr/bin'}/{program}", *arguments]
    if not command[0].startswith("/"):
        raise Failure("request", "commands is an absolute path")
    try:
        done = subprocess.run(  # noqa: S603 (no shell, and every argument has been checked)
            command, input=text, capture_output=True, timeout=limit, env=environment, check=False,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failure("silent", f"{program} took more than {limit:g} s") from None
    wrong = [line for line in done.stderr.splitlines() if line and not _OVER.search(line)]
    if done.returncode and (wrong or program != "scancel"):  # scancel minds jobs that are over
        said = " ".join(" ".join(wrong).split())[:500] or f"exit status {done.returncode}"
        raise Failure("silent" if _SILENT.search(said) else "refused", said)
    return done.stdout


# files: everything below a folder that has been opened, so that no link leads elsewhere


def _open_folder(path: str) -> int:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(folder).st_uid != os.getuid():
        os.close(folder)
        raise Failure("files", f"{path} belongs to somebody else")
    return folder


def _write_files(path: str, files: Any) -> None:
    if not isinstance(files, dict) or not all(
        name in KEYS and isinstance(content, str) for name, content in files.items()
    ):
        raise Failure("request", f"files are texts with names of {', '.join(KEYS)}")
    if not files:
        return
    Path(path).mkdir(0o700, parents=True, exist_ok=True)  # it is there after a submission that was cut short
    folder = _open_folder(path)
    try:
        os.fchmod(folder, 0o700)
        _remove(folder, tuple(files))
        for name, content in files.items():
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            with os.fdopen(file, "w", encoding="utf-8") as stream:
                stream.write(content)
    finally:
        os.close(folder)


def _remove(folder: int, names: tuple[str, ...]) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _tail(folder: int, name: str, lines: int) -> str:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)  # a pipe would block
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise Failure("files", f"{name} is not a file")
        stream.seek(max(status.st_size - LONGEST_TAIL, 0))
        text = stream.read(LONGEST_TAIL).decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:])


def _prune(staging: str, before: float) -> None:
    """Remove the folders of clusters that are over and have written nothing since `before`."""
    import shutil

    with suppress(FileNotFoundError), os.scandir(staging) as entries:
        for entry in entries:
            if not (_CLUSTER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)):
                continue
            with suppress(OSError), os.scandir(entry.path) as found:
                times = {file.name: file.stat(follow_symlinks=False).st_mtime for file in found}
                if "dask.pem" not in times and max(entry.stat().st_mtime, *times.values(), 0.0) < before:
                    shutil.rmtree(entry.path)


if __name__ == "__main__":
    main()

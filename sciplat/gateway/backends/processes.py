"""Processes that outlive the gateway that started them: found again, watched and ended, on Linux.

The kernel gives numbers of processes again, so a process is known by its number and its start together, and a signal
goes through a handle that cannot come to mean another process.
"""

import asyncio
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FIRST_LOOK = 0.02  # seconds until the first look whether processes have ended; each later one waits twice as long
_LAST_LOOK = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes
    ----------
    pid : int
        Its number, also that of the group which it leads if `start_process` made it.
    started : int
        Its start, in the kernel's ticks since the machine's own.
    """

    pid: int
    started: int


def ticks_now() -> int:
    """Return the time that a process which starts now would have as its start."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


def start_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    output: int,
    account: pwd.struct_passwd | None = None,
    held: Sequence[int] = (),
) -> Process:
    """Start a process in a session and a group of its own.

    Parameters
    ----------
    command : sequence of str
        Program, with its path, and arguments.
    environment : mapping
        All of its environment.
    folder : Path
        Where it runs.
    output : int
        Descriptor of the open file that gets what it writes.
    account : struct_passwd, optional
        The user as whom it runs, with all their groups; this needs root. By default the user of this process.
    held : sequence of int
        Descriptors that it holds too.

    Raises
    ------
    OSError
        If it cannot be started, e.g. because the user may not execute the program.
    """
    child = subprocess.Popen(  # noqa: S603 (no shell; the caller vouches for the command)
        list(command),
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        umask=0o077,
        pass_fds=held,
        user=account and account.pw_uid,
        group=account and account.pw_gid,
        extra_groups=account and os.getgrouplist(account.pw_name, account.pw_gid),
    )
    status = _status(child.pid)  # it is there, though it may have ended: nobody has waited for it yet
    assert status is not None
    # The dead keep their number until their parent has waited for them.
    threading.Thread(target=child.wait, name=f"wait-{child.pid}", daemon=True).start()
    return Process(child.pid, status.started)


def is_running(process: Process) -> bool:
    """Return whether a process has not ended yet."""
    status = _status(process.pid)
    return status is not None and status.started == process.started and not status.ended


def find_processes(mark: Mapping[str, str], leader: Process | None = None) -> list[Process]:
    """Return the running processes with `mark` in their environment, and those of the group that `leader` leads.

    A group is believed as long as its leader is there: its number cannot have been given again. Processes that left
    the group, and those whose leader has died, are known by their environment, as far as this user may read it.
    """
    entries = {f"{name}={value}".encode() for name, value in mark.items()}
    found, group = [], []
    for process, status in _all_running():
        if leader is not None and status.group == leader.pid:
            group.append(process)
        elif entries <= set(_environment(process.pid)):
            found.append(process)
    if leader is not None and group:
        status_now = _status(leader.pid)
        led = status_now is not None and status_now.started == leader.started
        found += [one for one in group if led or entries <= set(_environment(one.pid))]
    return found


def read_environment(process: Process) -> dict[str, str]:
    """Return the environment with which a process was started; empty if it has ended or may not be read."""
    pairs = (os.fsdecode(entry).partition("=") for entry in _environment(process.pid))
    found = {name: value for name, _, value in pairs}
    return found if is_running(process) else {}


def running_processes() -> list[Process]:
    """Return all processes of the machine that have not ended."""
    return [process for process, _ in _all_running()]


async def end_processes(find: Callable[[], list[Process]], *, patience: float = 5.0) -> list[Process]:
    """End processes, first politely, then by force.

    Parameters
    ----------
    find : callable
        Tells which; asked again before force is used and at the end, since processes start others.
    patience : float
        Seconds in which they may end, each time.

    Returns
    -------
    list of Process
        Those that are still there.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        found = await asyncio.to_thread(find)
        if not found:
            return []
        for process in found:
            send_signal(process, number)
        await _wait_for_end(found, patience)
    return await asyncio.to_thread(find)


def send_signal(process: Process, number: int) -> None:
    """Send a signal to exactly this process, or to none if it has ended."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The handle keeps to the process it was opened for: if that is ours now, it cannot become a stranger's.
        if is_running(process):
            with suppress(ProcessLookupError, PermissionError):  # has just ended; runs as another user by its own right
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


async def _wait_for_end(processes: list[Process], patience: float) -> None:
    deadline, pause = time.monotonic() + patience, _FIRST_LOOK
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LAST_LOOK)


@dataclass(frozen=True)
class _Status:
    ended: bool
    group: int
    started: int


def _status(pid: int) -> _Status | None:
    """Return what the kernel says of a process, None if there is none of this number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # it has ended, or the machine hides other users' processes
        return None
    fields = text.rpartition(b")")[2].split()  # proc(5); the program's name before may hold blanks and parentheses
    return _Status(fields[0] in b"ZXx", int(fields[2]), int(fields[19]))


def _all_running() -> Iterator[tuple[Process, _Status]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            pid = int(folder.name)
            status = _status(pid)
            if status is not None and not status.ended:
                yield Process(pid, status.started), status


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []

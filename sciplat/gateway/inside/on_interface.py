"""Runs a program on one network interface of the machine it is started on, whose address only that machine knows.

`python -m sciplat.gateway.inside.on_interface ib0 PROGRAM --host {host}` becomes PROGRAM, with the address in place.
"""

import os
import socket
import sys

import psutil

HOST = "{host}"


def with_address(interface: str, command: list[str]) -> list[str]:
    """Return a command with the interface's IPv4 address in the place of `{host}`.

    Raises
    ------
    SystemExit
        If this machine has no such interface.
    """
    known = psutil.net_if_addrs()
    found = [one.address for one in known.get(interface, []) if one.family == socket.AF_INET]
    if not found:
        host = socket.gethostname()
        raise SystemExit(f"{host} has no interface {interface} with an IPv4 address; it has {', '.join(sorted(known))}")
    return [part.replace(HOST, found[0]) for part in command]


def main() -> None:
    """Become the program."""
    command = with_address(sys.argv[1], sys.argv[2:])
    os.execv(command[0], command)  # noqa: S606 (the gateway's own command)


if __name__ == "__main__":
    main()

"""Keeps a gateway's two processes alive: the proxy, through which all traffic to schedulers goes, and the server.

They are apart so that the server can end, crash or be replaced by a newer one while every connection to a scheduler
goes on. Either is started again when it ends. A proxy that a former supervisor left running is taken over.
"""

import fcntl
import http.client
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sciplat.errors import GatewayError, SiteError
from sciplat.gateway.private import make_folders
from sciplat.gateway.server.child import Child, end, recorded
from sciplat.gateway.site.schema import Site
from sciplat.gateway.site.values import split_address

_READY = 60.0  # seconds in which server and proxy must answer
_STOP = 30.0  # seconds in which a server stops its clusters
_FREED = 2.0  # seconds in which the kernel gives an address free after its holder has ended: threads end one by one
_LOOK = 0.1
_ALIVE = "/api/health"


def supervise(site: Site, path: Path, ready: Callable[[], None]) -> None:
    """Run a gateway until SIGTERM, Ctrl-C or the end of its terminal.

    The server ends with it, and the proxy too where a site stops its clusters. Where clusters are kept the proxy goes
    on, with every connection to them, until the gateway is started again or `stop` ends it.

    Parameters
    ----------
    site : Site
    path : Path
        The site file, which the server reads.
    ready : callable
        Called once when server and proxy answer.

    Raises
    ------
    SiteError
        If another supervisor runs for this state, or somebody else has one of its addresses.
    GatewayError
        If a process does not come up; nothing that was started is left then.
    """
    make_folders(site.state)
    with _alone(_lock(site)), _signals() as stopping:
        proxy, server = children(site, path)
        server.end_former()  # its state is in the database, its clusters do not notice
        adopted = proxy.adopt()
        _check_free(site.api_address, *([] if adopted else [site.address]))
        with _reserve(site.api_address) as reserved:
            proxy.held = (reserved.fileno(),)
            _supervise(site, proxy, server, stopping, ready, adopted=adopted)


def _supervise(
    site: Site, proxy: Child, server: Child, stopping: list[int], ready: Callable[[], None], *, adopted: bool
) -> None:
    came_up = False
    try:
        server.start()
        came_up = _wait(lambda: answers(site.api_address, _ALIVE), stopping, server)
        if came_up and not adopted:  # only now: it would wait ever longer between two looks for the server
            proxy.start()
        came_up = came_up and _wait(lambda: _is_reached(site), stopping, server, proxy)
        if came_up:
            ready()
        while not stopping:
            proxy.keep()
            server.keep()
            time.sleep(_LOOK)
    finally:
        server.stop(_STOP)
        if site.on_stop == "stop" or not (came_up or adopted):
            proxy.stop(_LOOK)


def stop(site: Site) -> list[str]:
    """End the processes of a site, those that a killed supervisor has left too.

    Parameters
    ----------
    site : Site

    Returns
    -------
    list of str
        What was ended.

    Raises
    ------
    GatewayError
        If one of them does not end.
    """
    ended = ["supervisor"] if _end_holder(_lock(site), _STOP + 10.0) else []
    for name, seconds in (("server", _STOP), ("proxy", 1.0)):
        record = site.state / "run" / f"{name}.json"
        found = recorded(record)
        if found is not None:
            end(found, seconds)
            ended.append(name)
        record.unlink(missing_ok=True)
    return ended


def children(site: Site, path: Path) -> tuple[Child, Child]:
    """Return the proxy and the server of a site, not yet started."""
    from dask_gateway_server.proxy import Proxy

    from sciplat.gateway.server.server import traits

    proxy = Proxy(config=traits(site), gateway_address=site.api_address)
    # -P: no modules of the folder it is in
    program = [sys.executable, "-P", "-m", "sciplat.gateway.server.server", str(path)]
    return (
        Child("proxy", proxy.get_start_command(is_child_process=False), proxy.get_start_env(), site.state),
        Child("server", program, dict(os.environ), site.state),
    )


def answers(address: str, path: str, *, tls: bool = False) -> bool:
    """Return whether an HTTP server at an address says that it is well.

    It is asked directly, whatever proxies the environment names; a certificate is for others, who know the address
    by its name.
    """
    host, port = split_address(address)
    connection = http.client.HTTPConnection(host, port, timeout=5)
    if tls:
        unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=5, context=unchecked)
    with closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _wait(answer: Callable[[], bool], stopping: list[int], *children: Child) -> bool:
    """Return when the last of some children answers, or False when it is to stop."""
    limit = time.monotonic() + _READY
    while not stopping:
        for child in children:
            if not child.runs:
                raise GatewayError(f"the gateway's {child.name} did not start", found=child.tail(), hint=str(child.log))
        if answer():
            return True
        if time.monotonic() > limit:
            late = children[-1]
            raise GatewayError(f"the gateway's {late.name} does not answer", found=late.tail(), hint=str(late.log))
        time.sleep(_LOOK)
    return False


def _is_reached(site: Site) -> bool:
    """Return whether the server answers through the proxy, as users reach it."""
    return answers(site.address, site.prefix + _ALIVE, tls=site.tls is not None)


def _check_free(*addresses: str) -> None:
    """Refuse an address that somebody else has: who answers there would be taken for the gateway."""
    limit = time.monotonic() + _FREED
    for address in addresses:
        while _is_taken(address):
            if time.monotonic() > limit:
                raise SiteError(f"something else answers at {address}", hint="name another address in the site file")
            time.sleep(_LOOK)


def _reserve(address: str) -> socket.socket:
    """Take the server's address without listening there, so that only this user's processes can.

    The proxy sends all tokens to it. It holds the reservation too: while there is no server, and while there is no
    supervisor either, another user of the machine could listen in its place.
    """
    host, port = split_address(address)
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the kernel lets in nobody but the same user
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        raise SiteError(f"{address} is not to be had", found=f"{error.strerror}", hint="name another address") from None
    return reserved


def _is_taken(address: str) -> bool:
    try:
        socket.create_connection(split_address(address), timeout=5).close()
    except OSError:
        return False
    return True


def _lock(site: Site) -> Path:
    return site.state / "run" / "supervisor"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends; the file says whose it is."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SiteError(
                "this gateway is running already",
                found=f"a lock on {path}",
                hint="stop it, or name another state folder",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _end_holder(path: Path, seconds: float) -> bool:
    """End the process that holds a lock, if there is one."""
    if not path.exists():
        return False
    with path.open() as file:
        if _is_free(file.fileno()):
            return False
        try:
            holder = os.pidfd_open(int(file.read()))
        except (ValueError, ProcessLookupError):
            raise GatewayError("this gateway is just being started or stopped", hint="try again") from None
        try:
            for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
                if _is_free(file.fileno()):
                    break
                # As long as the lock is held its holder lives, and the number is not another process's.
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(holder, number)
                limit = time.monotonic() + patience
                while not _is_free(file.fileno()) and time.monotonic() < limit:
                    time.sleep(_LOOK)
        finally:
            os.close(holder)
    return True


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Give the list to which signals to end are added, so that what is being done is done to its end."""
    received: list[int] = []
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = [signal.signal(one, lambda number, _: received.append(number)) for one in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

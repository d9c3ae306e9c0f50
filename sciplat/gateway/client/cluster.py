"""The notebook's side: a cluster of one's own, open while a `with` block lasts; plans inside run on it."""

import html
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from sciplat.errors import (
    ArgumentError,
    ClusterNotFound,
    EnvironmentMismatch,
    GatewayAway,
    GatewayError,
    MissingDependency,
    SciplatError,
)
from sciplat.gateway.client.connection import Connection
from sciplat.gateway.client.login import Login, find_login
from sciplat.gateway.inside.versions import installed_versions, mismatches
from sciplat.tasks.progress import Progress

_POLL = 0.2  # seconds between two looks at a cluster that starts
_SLOWEST = 5.0  # seconds between two looks at one that has waited for long
_PATIENCE = 15.0  # seconds in which a gateway that was ended is there again
_OVER = ("stopping", "stopped", "failed")


def open_cluster(
    address: str | None = None,
    *,
    workers: int | tuple[int, int] = 4,
    cores: int | None = None,
    memory: str | None = None,
    walltime: str | None = None,
    profile: str | None = None,
) -> "Cluster":
    """Open a Dask cluster of one's own beside the data.

    Plans that are computed or written while it is open run on it. It ends with its `with` block, with `close()`, or
    with this process; and after it has had nothing to do for as long as the gateway allows.

    Parameters
    ----------
    address : str, optional
        The gateway's; by default `$SCIPLAT_GATEWAY`, the one of the hub this notebook runs on, or the one that you
        have started with `sciplat gateway start`.
    workers : int or (int, int)
        How many; or the least and the most, between which the cluster follows its work.
    cores : int, optional
        Of a worker; by default what the profile says.
    memory : str, optional
        Of a worker, like "8 GiB"; by default what the profile says.
    walltime : str, optional
        How long a worker lives, like "2 h"; another one takes its place before it ends. By default what the profile
        says.
    profile : str, optional
        One of the gateway's; by default the first that is open to you.

    Returns
    -------
    Cluster

    Raises
    ------
    GatewayError
        If the gateway cannot be reached, or the cluster does not start; it says why.
    QuotaExceeded
        If a quota does not allow it; it says which, and what would still fit.
    EnvironmentMismatch
        If the cluster's packages are not the notebook's.

    Examples
    --------
    >>> with sciplat.open_cluster(workers=(2, 20), memory="8 GiB"):  # doctest: +SKIP
    ...     images.photometry(gaia, radii=["4 pix"]).write("stores/phot")
    """
    least, most = _bounds(workers)
    connection = Connection(find_login(address))
    options = {
        "profile": profile,
        "cores": cores,
        "memory": memory,
        "walltime": walltime,
        "environment": sys.prefix,
    }
    name = _ask(connection, {key: value for key, value in options.items() if value is not None})
    try:
        _wait_for_scheduler(connection, name)
        return Cluster(connection, name, least, most)
    except BaseException:
        with suppress(SciplatError):
            _stop(connection, name)
        raise


class Cluster:
    """A Dask cluster that a gateway runs for its user; `open_cluster` makes it.

    Attributes
    ----------
    name : str
        What `sciplat cluster stop | logs | why` call it.
    client : distributed.Client
    """

    def __init__(self, connection: Connection, name: str, least: int, most: int) -> None:
        self.name = name
        self._connection = connection
        gateway = _stock_gateway(connection.login)
        try:
            self._cluster = gateway.connect(name, shutdown_on_close=True)
        finally:
            gateway.close()
        try:
            self.adapt(least, most) if least < most else self.scale(least)
            self.client = self._cluster.get_client(set_as_default=True)
        except BaseException:
            self._cluster.close()
            raise

    def scale(self, workers: int) -> None:
        """Ask for a fixed number of workers."""
        self._tell("scale", count=workers)

    def adapt(self, least: int, most: int) -> None:
        """Let the number of workers follow the work, between two bounds."""
        self._tell("adapt", minimum=least, maximum=most)

    def _tell(self, what: str, **counts: int) -> None:
        reply = _patiently(lambda: self._connection.post(f"/api/v1/clusters/{self.name}/{what}", **counts))
        if reply.get("msg"):
            raise GatewayError(str(reply["msg"]))

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    @property
    def dashboard(self) -> str:
        """An address at which a browser shows the cluster at work; it opens once, within a minute."""
        ticket = self._connection.post(f"/api/sciplat/clusters/{self.name}/ticket")
        return self._connection.login.address + str(ticket["url"])

    def why(self) -> list[str]:
        """Return what each part of the cluster is waiting for."""
        return list(self._connection.cluster(self.name, "why")["lines"])

    def logs(self, lines: int = 100) -> dict[str, str]:
        """Return the end of the logs of scheduler and workers, by name."""
        return dict(self._connection.cluster(self.name, "logs", lines=lines)["logs"])

    def close(self) -> None:
        """End the cluster; what it has written stays, and an unfinished plan goes on when it is called again."""
        if self._cluster.status != "closed":
            self.client.close()
            self._cluster.close(shutdown=False)
            _stop(self._connection, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as trouble:
            if error is None:
                raise
            error.add_note(f"and the cluster could not be closed: {trouble}")

    def __repr__(self) -> str:
        return f"Cluster({self.name[:8]}, {self._cluster.status})"

    def _repr_html_(self) -> str:
        state = self._connection.cluster(self.name)
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in state.get("waiting", []))
        return (
            f"<b>Cluster {html.escape(self.name[:8])}</b>: {html.escape(state['status'])}, "
            f"{state['workers']['running']} of {state['workers']['asked']} workers<ul>{lines}</ul>"
        )


def _bounds(workers: Any) -> tuple[int, int]:
    """Return the least and the most workers."""
    pair = workers if isinstance(workers, tuple) else (workers, workers)
    if len(pair) != 2 or any(not isinstance(one, int) or isinstance(one, bool) for one in pair):
        wanted = "workers is a number, or the least and the most"
        raise ArgumentError(wanted, found=repr(workers), hint="workers=(2, 20)")
    least, most = pair
    if not 0 <= least <= most or most == 0:
        raise ArgumentError("workers are at least none and at most some", found=repr(workers), hint="workers=(0, 20)")
    return least, most


def _stop(connection: Connection, name: str) -> None:
    """Stop a cluster; one that is over already is left alone."""
    with suppress(ClusterNotFound):
        _patiently(lambda: connection.delete(f"/api/sciplat/clusters/{name}"))


def _patiently(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return an answer, also if the gateway is just being started again."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return ask()
        except GatewayAway:
            if time.monotonic() > end:
                raise
            time.sleep(_POLL)


def _ask(connection: Connection, options: dict[str, Any]) -> str:
    return str(connection.post("/api/v1/clusters/", cluster_options=options)["name"])


def _wait_for_scheduler(connection: Connection, name: str) -> None:
    """Wait until the scheduler has told its versions, showing what it waits for; refuse packages that differ."""
    began = time.monotonic()
    with Progress("opening a cluster", None) as bar:
        while True:
            state = _patiently(lambda: connection.cluster(name))
            if state["status"] in _OVER:
                reason, hint = state["reason"], f"sciplat cluster logs {name[:8]}"
                raise GatewayError(f"the cluster did not start: {reason}", hint=hint)
            if state["status"] == "running":
                break
            bar.show(note="".join(state["waiting"][:1]))
            time.sleep(max(_POLL, min((time.monotonic() - began) / 10, _SLOWEST)))
    found = mismatches(installed_versions(), state["versions"])
    if found:
        raise EnvironmentMismatch(
            "the packages of the cluster are not those of this process",
            found="; ".join(found),
            hint="install the same versions, or take a profile that runs in this environment",
        )


def _stock_gateway(login: Login) -> Any:
    """Return dask-gateway's own client for a login."""
    try:
        from dask_gateway import Gateway
    except ImportError as error:
        raise MissingDependency("clusters need dask-gateway", hint="pip install 'sciplat[gateway]'") from error

    from sciplat.gateway.client.stock_auth import TokenAuth

    return Gateway(login.address, proxy_address=login.proxy, auth=TokenAuth(login))

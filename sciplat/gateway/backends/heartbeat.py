"""What a cluster tells of itself: it comes from the user's own process, so it is checked like any input."""

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import JobStatus

from sciplat.gateway.backends.commands import is_address
from sciplat.gateway.inside.versions import PACKAGES
from sciplat.gateway.site.values import split_address

if TYPE_CHECKING:
    from sciplat.gateway.site.schema import Site

_NAMES = ("active_workers", "closing_workers", "closed_workers")
_ADDRESSES = {"scheduler_address": "tls", "dashboard_address": "http", "api_address": "http"}
_VERSION = re.compile(r"[\w.+!-]{1,64}")
_MOST_WORKERS = 100_000
_LATEST = 2.0**36  # seconds since 1970: in the year 4147


@dataclass(frozen=True)
class Heartbeat:
    """One message of a cluster.

    Attributes
    ----------
    message : dict
        What upstream reads.
    running : list of str
        Names of workers that run, those about to end included.
    ends : dict
        When workers will end, seconds since the epoch, by name.
    versions : dict
        Versions of the packages in the cluster's environment.
    quiet_since : float or None
        Since when nothing runs or waits to run, seconds since the epoch, whether or not workers are awaited.
    """

    message: dict[str, Any]
    running: list[str]
    ends: dict[str, float]
    versions: dict[str, str]
    quiet_since: float | None = None


def checked(msg: Any, cluster: Any, site: "Site") -> Heartbeat:
    """Return a heartbeat with nothing in it but what is known and well formed.

    Parameters
    ----------
    msg : dict
        As it came.
    cluster : Cluster
        Whose it is said to be.
    site : Site

    Raises
    ------
    PublicException
        If it is not a heartbeat.
    """
    if not isinstance(msg, dict):
        raise PublicException("a heartbeat is a mapping")
    count = msg.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise PublicException("a heartbeat counts its workers")
    names: dict[str, list[str]] = {key: _own_names(msg.get(key), cluster) for key in _NAMES}
    addresses = {key: _address(key, msg.get(key), scheme, site) for key, scheme in _ADDRESSES.items()}
    ends = {
        name: float(end) for name, end in _mapping(msg, "ends").items() if name in cluster.workers and _is_time(end)
    }
    told = _mapping(msg, "versions")
    versions = {
        name: told[name] for name in PACKAGES if isinstance(told.get(name), str) and _VERSION.fullmatch(told[name])
    }
    running = list(dict.fromkeys([*names["active_workers"], *names["closing_workers"]]))
    # Of one that is just being stopped nothing is said any more, over which upstream stumbles.
    known = {*running, *names["closed_workers"]}
    lost = [one.name for one in cluster.workers.values() if one.status == JobStatus.RUNNING and one.name not in known]
    names["closed_workers"] += lost
    quiet: Any = msg.get("quiet_since")
    message = {"count": min(count, _most(cluster, names["closing_workers"])), **addresses, **names}
    return Heartbeat(message, running, ends, versions, float(quiet) if _is_time(quiet) else None)


def _most(cluster: Any, closing: list[str]) -> int:
    """Return how many workers may stay: no more leave at a time than the cluster may have, or they would never end."""
    most: int | None = cluster.config.get("cluster_max_workers")
    if most is None:
        return _MOST_WORKERS
    active = [worker for worker in cluster.workers.values() if worker.is_active()]
    leaving = sum(worker.close_expected or worker.name in closing for worker in active)
    return int(max(min(most, 2 * most - leaving), 0))


def _own_names(names: Any, cluster: Any) -> list[str]:
    if not isinstance(names, list):
        raise PublicException("a heartbeat lists its workers")
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name in cluster.workers))


def _address(key: str, text: Any, scheme: str, site: "Site") -> str:
    """Return an address that the gateway may speak to: a user's process says it, and may not point elsewhere."""
    if text == "" and key == "dashboard_address":
        return ""
    if not isinstance(text, str) or len(text) > 255:
        raise PublicException(f"a heartbeat tells its {key}")
    try:
        parts = urlsplit(text)
        host, port = ipaddress.ip_address(parts.hostname or ""), parts.port or 0
    except ValueError:
        raise PublicException(f"the {key} of a heartbeat has a host and a port, both numbers") from None
    if isinstance(host, ipaddress.IPv6Address):
        host = host.ipv4_mapped or host
    plain = parts.scheme == scheme and not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if not plain or port < 1024 or host.is_multicast or host.is_unspecified or host.is_link_local:
        raise PublicException(f"the {key} of a heartbeat is no address of a cluster")
    if _is_outside(host, site.interface):
        raise PublicException(f"the {key} of a heartbeat is not at {site.interface}, where clusters listen")
    own = {split_address(one) for one in (site.address, site.api_address)}
    if any(port == one and (host.is_loopback or str(host) == name) for name, one in own):
        raise PublicException(f"the {key} of a heartbeat is the gateway's own")
    return f"{scheme}://[{host}]:{port}" if host.version == 6 else f"{scheme}://{host}:{port}"


def _is_outside(host: Any, interface: str) -> bool:
    """Return whether an address cannot be one of a cluster; on loopback are services of the gateway's own machine."""
    if is_address(interface):
        return bool(host != ipaddress.ip_address(interface))
    return bool(host.is_loopback) and interface != "lo"


def _mapping(msg: dict[str, Any], key: str) -> dict[Any, Any]:
    found = msg.get(key)
    return found if isinstance(found, dict) else {}


def _is_time(value: Any) -> bool:
    """Return whether a value is seconds since 1970 that a calendar has."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LATEST

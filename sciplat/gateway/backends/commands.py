"""The commands of schedulers and workers, and what their environment says; the same on every backend."""

import ipaddress
from typing import TYPE_CHECKING, Any

from sciplat.gateway.inside.on_interface import HOST

if TYPE_CHECKING:
    from sciplat.gateway.site.schema import Site

_DEATH = 60  # seconds after which a worker without a scheduler gives up


def scheduler_command(site: "Site", cluster: Any) -> list[str]:
    """Return the command of a cluster's scheduler.

    Parameters
    ----------
    site : Site
    cluster : Cluster
        Of the gateway's database.

    Returns
    -------
    list of str
        Program and arguments; no secrets, which are in the environment.
    """
    host = _host(site)
    return [
        *_on_interface(site, cluster),
        *cluster.config.scheduler_cmd,
        *("--protocol", "tls", "--host", host, "--port", "0"),
        *("--dashboard-address", f"{host}:0", "--no-dashboard"),
        *("--preload", "sciplat.gateway.inside.scheduler_preload"),
        *("--dg-api-address", f"{host}:0", "--dg-heartbeat-period", str(site.heartbeat)),
        *("--dg-adaptive-period", str(cluster.config.adaptive_period)),
        *("--dg-idle-timeout", str(cluster.config.idle_timeout)),
    ]


def worker_command(site: "Site", cluster: Any, name: str, scheduler: str) -> list[str]:
    """Return the command of a worker, which is called `name` and reports to the address `scheduler`."""
    config = cluster.config
    return [
        *_on_interface(site, cluster),
        *config.worker_cmd,
        scheduler,
        *("--host", _host(site), "--no-dashboard", "--name", name, "--nthreads", str(config.worker_threads)),
        *("--memory-limit", str(config.worker_memory), "--death-timeout", str(_DEATH)),
        *("--preload", "sciplat.gateway.inside.worker_preload"),
    ]


def common_environment(site: "Site") -> dict[str, str]:
    """Return what schedulers and workers find in their environment on top of what dask-gateway gives them."""
    return {
        "SCIPLAT_SITE": site.name,
        "NUMBA_NUM_THREADS": "1",  # Dask's threads run kernels side by side
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def is_address(interface: str) -> bool:
    """Return whether an interface is told by its address, not by its name."""
    try:
        ipaddress.ip_address(interface)
    except ValueError:
        return False
    return True


def _host(site: "Site") -> str:
    """Return where a process listens; the address of a named interface is found where the process starts."""
    return site.interface if is_address(site.interface) else HOST


def _on_interface(site: "Site", cluster: Any) -> list[str]:
    if is_address(site.interface):
        return []
    return [f"{cluster.config.prefix}/bin/python", "-P", "-m", "sciplat.gateway.inside.on_interface", site.interface]

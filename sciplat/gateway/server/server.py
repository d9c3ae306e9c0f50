"""The gateway's server: dask-gateway-server composed from a site file, with our rules in the places it leaves for them.

Run by the supervisor as `python -m sciplat.gateway.server.server SITE.yaml`.
"""

import asyncio
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from dask_gateway_server.app import DaskGateway
from dask_gateway_server.utils import AccessLogger
from traitlets.config import Config

from sciplat.errors import SciplatError
from sciplat.gateway.private import database_key, make_folders, proxy_token
from sciplat.gateway.site.schema import Site, load_site
from sciplat.gateway.site.values import is_loopback, split_address
from sciplat.gateway.users.audit import Audit
from sciplat.gateway.web.routes import add_routes, find_health

_BACKENDS = {
    "local": "sciplat.gateway.backends.local.LocalBackend",
    "local-multi": "sciplat.gateway.backends.local.LocalBackend",
    "slurm": "sciplat.gateway.backends.slurm.SlurmBackend",
}
_TICKET = re.compile(r"\bticket=[^\s&]+")
_LOOK = 2.0  # seconds between two looks at what has not started yet
_LOOK_AT_SLURM = 5.0  # the same where each look is a question to the controller that all users of Slurm share
_ADAPT = 1.0  # seconds between two thoughts of a cluster about its size


class SiteGateway(DaskGateway):  # type: ignore[misc]
    """A dask-gateway server that takes its settings from a site, not from a Python file.

    Parameters
    ----------
    site : Site
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.audit = Audit(site.state / "audit.jsonl")

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Take the site's settings."""
        self.update_config(traits(self.site))

    def initialize(self, argv: list[str] | None = None) -> None:
        """Make backend and authenticator, and add our answers to upstream's."""
        super().initialize(argv or [])
        self.log.addFilter(_without_tickets)
        add_routes(self.app)

    async def setup(self) -> None:
        """Begin to serve, as upstream does, but at an address that the supervisor has reserved."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_shutdown_signal, number)
        await self.authenticator.setup(self.app)
        await self.backend.setup(self.app)
        self.runner = web.AppRunner(
            self.app, handle_signals=False, access_log_class=AccessLogger, access_log=self.log, shutdown_timeout=15.0
        )
        await self.runner.setup()
        await web.TCPSite(self.runner, *split_address(self.site.api_address), reuse_port=True).start()

    async def health(self) -> dict[str, Any]:
        """Return what works and what does not."""
        return await find_health(self.app)


def _without_tickets(record: logging.LogRecord) -> bool:
    """Keep out of the log of requests what opens a dashboard."""
    record.msg, record.args = _TICKET.sub("ticket=...", record.getMessage()), ()
    return True


def traits(site: Site) -> Config:
    """Return a site's settings as dask-gateway-server names them.

    Parameters
    ----------
    site : Site

    Returns
    -------
    traitlets.config.Config
    """
    config = Config()
    config.Application.log_format = "[%(levelname)1.1s %(asctime)s %(name)s] %(message)s"
    config.DaskGateway.address = site.api_address
    config.DaskGateway.backend_class = _BACKENDS[site.backend]
    config.DaskGateway.authenticator_class = "sciplat.gateway.users.identity.SiteAuthenticator"
    config.Proxy.address = site.address
    config.Proxy.prefix = site.prefix
    config.Proxy.api_token = proxy_token(site.state)
    config.Proxy.externally_managed = True  # it outlives the server, and with it every connection to a scheduler
    if site.tls is not None:
        config.Proxy.tls_cert, config.Proxy.tls_key = str(site.tls.cert), str(site.tls.key)
    config.SiteBackend.api_url = api_url(site)
    config.SiteBackend.db_url = f"sqlite:///{site.state / 'gateway.sqlite'}"
    config.SiteBackend.db_encrypt_keys = [database_key(site.state)]
    config.SiteBackend.stop_clusters_on_shutdown = site.on_stop == "stop"
    config.SiteBackend.cluster_heartbeat_period = max(int(site.heartbeat), 1)
    config.SiteBackend.cluster_heartbeat_timeout = max(3.0 * site.heartbeat, 15.0)
    look = _LOOK_AT_SLURM if site.backend == "slurm" else _LOOK
    config.SiteBackend.cluster_status_period = look
    config.SiteBackend.worker_status_period = look
    config.SiteBackend.check_timeouts_period = _LOOK
    config.SiteBackend.cluster_start_timeout = float(site.limits.start)
    config.SiteBackend.worker_start_timeout = float(site.limits.start)
    config.SiteClusterConfig.adaptive_period = _ADAPT
    return config


def api_url(site: Site) -> str:
    """Return where clusters report to: the private API on one machine, otherwise the public address with TLS."""
    if is_loopback(split_address(site.address)[0]):
        return f"http://{site.api_address}/api"
    return f"https://{site.address}{site.prefix}/api"


def main() -> None:
    """Serve the site of the file that is named on the command line."""
    os.umask(0o077)  # databases hold what users say of their clusters
    try:
        site = load_site(Path(sys.argv[1]))
        make_folders(site.state)
        gateway = SiteGateway(site)
        gateway.initialize()
    except SciplatError as error:
        sys.exit(f"error: {error}")
    gateway.start()


if __name__ == "__main__":
    main()

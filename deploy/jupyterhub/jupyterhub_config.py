# ruff: noqa: INP001, F821 - JupyterHub loads this file and provides get_config
"""What a JupyterHub has to know of a sciplat gateway: README.md says how your hub's own configuration loads this file.

The values that differ between sites are read from the environment; change their defaults here, or set them there.
"""

import os
from pathlib import Path

# As notebooks and browsers reach the hub; and what site.yaml says of the gateway: its `address`, https if it has `tls`.
HUB = os.environ.get("SCIPLAT_HUB_URL", "https://hub.example.org")
GATEWAY = os.environ.get("SCIPLAT_HUB_GATEWAY", "https://hub.example.org:8000")
# The service's secret. The hub alone reads it: the gateway shows the hub nothing but the tokens of its users.
TOKEN_FILE = Path(os.environ.get("SCIPLAT_HUB_TOKEN_FILE", "/etc/jupyterhub/sciplat-gateway.token"))

SERVICE = "sciplat-gateway"  # `service` in site.yaml; its `prefix` is /services/ and this
ADDRESS = f"{HUB}/services/{SERVICE}"
MAY_USE_IT = f"access:services!service={SERVICE}"

c = get_config()

c.JupyterHub.services.append(
    {
        "name": SERVICE,
        "url": GATEWAY,
        "api_token": TOKEN_FILE.read_text(encoding="utf-8").strip(),
        "display": False,  # there is no page for people at its root
        "timeout": 1,  # seconds that a hub waits at its start for a gateway that is not there yet; 30 by default
    }
)

# Who may use it: every user here, or those in `groups` of a role of your own in the place of "user". A notebook
# server's token never opens more than its user may do. A hub that has one of these roles already adds the scope there.
c.JupyterHub.load_roles.append({"name": "user", "scopes": ["self", MAY_USE_IT]})
c.JupyterHub.load_roles.append(
    {"name": "server", "scopes": ["users:activity!user", "access:servers!server", MAY_USE_IT]}
)

# What lets sciplat.open_cluster() and dask_gateway.Gateway() do without arguments.
c.Spawner.environment.update(
    {
        "DASK_GATEWAY__ADDRESS": ADDRESS,
        "DASK_GATEWAY__AUTH__TYPE": "jupyterhub",
        # Traffic to schedulers is no HTTP: it goes to the gateway's own port, past the hub's proxy.
        "DASK_GATEWAY__PROXY_ADDRESS": f"gateway://{GATEWAY.partition('://')[2]}",
    }
)

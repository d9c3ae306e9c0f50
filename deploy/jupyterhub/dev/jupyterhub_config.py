# ruff: noqa: INP001, F821 - JupyterHub runs this file and provides get_config
"""A JupyterHub on loopback for alice and bob, with the sciplat gateway as a service: for tests.

`dev-hub start` sets the environment that is read here and makes the files with tokens.
"""

import os
from pathlib import Path

PREFIX = Path(os.environ["SCIPLAT_DEV_PREFIX"])
STATE = Path(os.environ["SCIPLAT_DEV_HUB_STATE"])
PORT = int(os.environ["SCIPLAT_DEV_HUB_PORT"])


def secret(name: str) -> str:
    """Return what stands in a file of the state folder that only root can read."""
    return (STATE / name).read_text(encoding="utf-8").strip()


c = get_config()

c.JupyterHub.bind_url = f"http://127.0.0.1:{PORT}/"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{PORT + 1}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{PORT + 2}"
c.ConfigurableHTTPProxy.command = [str(PREFIX / "npm/bin/configurable-http-proxy")]
c.ConfigurableHTTPProxy.pid_file = str(STATE / "private/proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{STATE}/private/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(STATE / "private/cookie_secret")

# One password for both: whoever can read it is root already.
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = secret("password")
c.Authenticator.allowed_users = {"alice", "bob"}
c.JupyterHub.load_groups = {"physics": {"users": ["alice"]}}

# The hub is root, so notebook servers run as their Unix users. They need the API of a server, no pages.
c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.Spawner.cmd = [str(PREFIX / "env/bin/jupyterhub-singleuser")]
c.Spawner.ip = "127.0.0.1"
c.Spawner.environment = {
    "PATH": f"{PREFIX}/env/bin:/usr/local/bin:/usr/bin:/bin",
    "JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp",
}

c.JupyterHub.services = [{"name": "test-admin", "api_token": secret("admin.token")}]
c.JupyterHub.load_roles = [
    {
        "name": "test-admin",
        "services": ["test-admin"],
        "scopes": ["admin:users", "admin:groups", "admin:servers", "tokens", "access:servers", "access:services"],
    },
]

load_subconfig(str(Path(__file__).parent.parent / "jupyterhub_config.py"))

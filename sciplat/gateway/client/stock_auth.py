"""A login for dask-gateway's own client."""

from typing import Any

from dask_gateway.auth import GatewayAuth

from sciplat.gateway.client.login import Login


class TokenAuth(GatewayAuth):  # type: ignore[misc]
    """Shows a token to the gateway.

    Parameters
    ----------
    login : Login
    """

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login

    def pre_request(self, resp: Any) -> tuple[dict[str, str], None]:  # noqa: ARG002
        """Return the header that logs in."""
        return self._login.header, None

"""The server as a whole: what it writes into its log."""

import logging

from sciplat.gateway.server import SiteGateway
from sciplat.gateway.site import Site


def test_a_ticket_of_a_dashboard_does_not_stand_in_the_log(tmp_path):
    (tmp_path / "secrets").mkdir()
    gateway = SiteGateway(Site(state=tmp_path))
    gateway.initialize()
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    gateway.log.addHandler(handler)
    try:
        path = "/clusters/a/login?ticket=secret&x=%41"
        gateway.log.info("%d %s %s %.3fms", 303, "GET", path, 1.0)  # as upstream logs a request
    finally:
        gateway.log.removeHandler(handler)
        gateway.backend.ledger.close()
    assert lines == ["303 GET /clusters/a/login?ticket=...&x=%41 1.000ms"]

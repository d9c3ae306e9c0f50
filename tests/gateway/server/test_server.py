"""The server as a whole: what it writes into its log."""

import logging

import pytest

from sciplat.gateway.server.server import SiteGateway, traits
from sciplat.gateway.site.schema import Site


@pytest.mark.parametrize(("backend", "seconds"), [("local", 2.0), ("slurm", 5.0)])
def test_slurm_is_asked_less_often_than_this_machine(tmp_path, backend, seconds):
    (tmp_path / "secrets").mkdir()
    found = traits(Site(state=tmp_path, backend=backend)).SiteBackend
    assert found.cluster_status_period == found.worker_status_period == seconds


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

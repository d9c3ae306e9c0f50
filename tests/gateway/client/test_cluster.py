"""The end of a `with` block: what went wrong in it is told first, whatever comes of closing the cluster."""

import pytest

from sciplat.errors import GatewayAway
from sciplat.gateway.client import cluster
from sciplat.gateway.client.cluster import Cluster


class Unclosable(Cluster):
    """A cluster whose gateway has gone away."""

    def __init__(self):
        pass

    def close(self):
        raise GatewayAway("the gateway does not answer")


def test_an_error_in_the_block_is_not_replaced_by_one_of_closing():
    with pytest.raises(ZeroDivisionError) as caught, Unclosable():
        raise ZeroDivisionError
    [note] = caught.value.__notes__
    assert note.startswith("and the cluster could not be closed: the gateway does not answer")


def test_an_error_of_closing_alone_is_raised():
    with pytest.raises(GatewayAway), Unclosable():
        pass


def test_a_gateway_that_is_just_being_started_again_is_asked_again(monkeypatch):
    answers = [{"status": "running"}, GatewayAway("not yet"), GatewayAway("not there")]

    def ask():
        answer = answers.pop()
        if isinstance(answer, GatewayAway):
            raise answer
        return answer

    assert cluster._patiently(ask) == {"status": "running"}
    monkeypatch.setattr(cluster, "_PATIENCE", 0.0)
    answers.append(GatewayAway("gone for good"))
    with pytest.raises(GatewayAway, match="gone for good"):
        cluster._patiently(ask)

"""The end of a `with` block: what went wrong in it is told first, whatever comes of closing the cluster."""

import pytest

from sciplat.errors import GatewayAway
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

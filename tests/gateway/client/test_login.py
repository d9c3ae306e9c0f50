"""Which gateway is meant and what opens it."""

import json

import dask
import pytest

from sciplat.errors import GatewayError, SiteError, TokenRefused
from sciplat.gateway.client.login import Login, find_login, state_folder
from sciplat.gateway.private import write_private

NAMES = ("SCIPLAT_GATEWAY", "SCIPLAT_TOKEN", "JUPYTERHUB_API_TOKEN", "XDG_STATE_HOME")
OWN = "http://127.0.0.1:14000"
HUB = "https://hub.example.org/services/sciplat-gateway"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCIPLAT_GATEWAY_STATE", str(tmp_path))


@pytest.fixture
def own(tmp_path):
    """A gateway that this user has started."""
    write_private(tmp_path / "client.json", json.dumps({"address": OWN, "token": "sciplat_own"}))


def test_without_any_gateway_one_is_told_how_to_get_one():
    with pytest.raises(GatewayError, match="no gateway is known") as caught:
        find_login()
    assert "sciplat gateway start" in caught.value.hint


@pytest.mark.usefixtures("own")
def test_one_s_own_gateway_is_found_and_its_traffic_goes_there_whatever_else_is_configured():
    with dask.config.set({"gateway.proxy-address": "gateway://hub.example.org:8786"}):
        assert find_login() == Login(OWN, "sciplat_own", "Bearer", "gateway://127.0.0.1:14000")
    assert find_login(OWN + "/") == find_login()
    assert "sciplat_own" not in repr(find_login())


@pytest.mark.usefixtures("own")
def test_tokens_are_taken_in_the_order_that_is_promised(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hubs")
    assert find_login().token == "sciplat_own"
    assert find_login(HUB).header == {"Authorization": "jupyterhub hubs"}
    monkeypatch.setenv("SCIPLAT_TOKEN", " sciplat_named\n")
    assert find_login().header == find_login(HUB).header == {"Authorization": "Bearer sciplat_named"}


@pytest.mark.usefixtures("own")
def test_the_environment_names_a_gateway_before_the_configuration_and_the_own(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hubs")
    monkeypatch.setenv("HUB_HOST", "hub.example.org")
    with dask.config.set({"gateway.address": "https://{HUB_HOST}/services/sciplat-gateway/"}):
        assert find_login().address == HUB
        monkeypatch.setenv("SCIPLAT_GATEWAY", "https://other.example.org")
        assert find_login().address == "https://other.example.org"
        assert find_login(OWN).address == OWN


def test_the_configured_way_to_schedulers_belongs_to_the_configured_gateway(monkeypatch):
    monkeypatch.setenv("SCIPLAT_TOKEN", "t")
    monkeypatch.setenv("SCIPLAT_GATEWAY", HUB)
    for configured, told in (
        ("gateway://127.0.0.1:8000", "gateway://127.0.0.1:8000"),
        (8786, "gateway://hub.example.org:8786"),
        (None, "gateway://hub.example.org:443"),
    ):
        with dask.config.set({"gateway.proxy-address": configured}):
            assert find_login().proxy == find_login(HUB + "/").proxy == told
            assert find_login("http://[::1]:8000").proxy == "gateway://[::1]:8000"


def test_without_a_token_one_is_told_how_to_get_one():
    with pytest.raises(TokenRefused, match="no token for the gateway https://hub") as caught:
        find_login(HUB)
    assert "SCIPLAT_TOKEN" in caught.value.hint


@pytest.mark.parametrize("token", ["two words", "line\nline", "grün", "x" * 2000])
def test_what_no_header_can_carry_is_no_token(monkeypatch, token):
    monkeypatch.setenv("SCIPLAT_TOKEN", token)
    with pytest.raises(TokenRefused, match="no blanks") as caught:
        find_login(HUB)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "hub.example.org", "ftp://hub", "http://", "http://user:secret@hub", "http://:secret@hub", "http://hub?a=b",
        "http://hub#a", "http://hub/#", "http://hub:99999", "http://hub:0", "http://hub:x", "http://[::1",
        "http://hub\n.example.org", "http://hub/a b", "http://h\u00fcb", "//hub", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address):
    with pytest.raises(GatewayError, match="address is like"):
        find_login(address)


def test_a_configuration_that_cannot_be_read_is_an_error():
    for broken in ("https://{SUCH_A_VARIABLE_IS_NOT_SET}", "https://{", "https://{0}", "https://{HOME.nothing}"):
        with dask.config.set({"gateway.address": broken}), pytest.raises(GatewayError, match=r"gateway\.address"):
            find_login()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"address": "x", "token": "y"}', "\x00"])
def test_a_broken_file_of_the_own_gateway_is_an_error_with_a_way_out(tmp_path, content):
    write_private(tmp_path / "client.json", content)
    with pytest.raises(GatewayError, match=r"client\.json|address is like"):
        find_login()


@pytest.mark.usefixtures("own")
def test_a_token_that_others_may_read_is_not_used(tmp_path):
    (tmp_path / "client.json").chmod(0o644)
    with pytest.raises(SiteError, match="others may read"):
        find_login()


def test_the_state_folder_is_where_it_is_named_or_where_the_standard_says(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert state_folder() == tmp_path
    monkeypatch.setenv("SCIPLAT_GATEWAY_STATE", "here")
    assert state_folder() == tmp_path / "here"
    monkeypatch.delenv("SCIPLAT_GATEWAY_STATE")
    monkeypatch.setenv("HOME", "/home/alice")
    assert str(state_folder()) == "/home/alice/.local/state/sciplat/gateway"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/alice")
    assert str(state_folder()) == "/var/alice/sciplat/gateway"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert str(state_folder()) == "/home/alice/.local/state/sciplat/gateway"

"""A gateway of one's own: its site file and its token."""

import json
import os
import time

import pytest

from sciplat.errors import SiteError, TokenRefused
from sciplat.gateway.client.login import find_login
from sciplat.gateway.private import read_private
from sciplat.gateway.server.embedded import keep_token, own_name, own_site, welcome
from sciplat.gateway.site.check import find_problems
from sciplat.gateway.site.schema import load_site
from sciplat.gateway.site.values import split_address
from sciplat.gateway.users.tokens import Tokens


@pytest.fixture
def state(tmp_path, monkeypatch):
    folder = tmp_path / 'state: "grün", 🔭 #1'
    monkeypatch.setenv("SCIPLAT_GATEWAY_STATE", str(folder))
    for name in ("SCIPLAT_GATEWAY", "SCIPLAT_TOKEN", "JUPYTERHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_the_site_is_one_user_s_on_this_machine_alone_and_can_be_started(state):
    path = own_site(state)
    site = load_site(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (site.state, site.backend, site.on_stop, site.interface) == (state, "local", "stop", "127.0.0.1")
    assert site.admins.users == (own_name(),)
    for address in (site.address, site.api_address):
        host, port = split_address(address)
        assert (host, 10_000 <= port < 32_768) == ("127.0.0.1", True)
    assert find_problems(site) == []


def test_what_the_owner_has_changed_stays(state):
    path = own_site(state)
    changed = path.read_text() + "name: mine\n"
    path.write_text(changed)
    assert own_site(state) == path
    assert path.read_text() == changed
    assert load_site(path).name == "mine"


def test_the_token_is_found_by_its_owner_s_programs_and_kept(state):
    site = load_site(own_site(state))
    told = welcome(site)
    assert str(state / "client.json") in told
    login = find_login()
    assert login.address == f"http://{site.address}" in told
    assert login.token not in told
    token = Tokens(site.token_file).check(login.token, time.time())
    assert (token.user, token.expires, "admin" in token.scopes) == (own_name(), None, True)
    welcome(site)
    assert find_login() == login
    assert len(Tokens(site.token_file).list()) == 1
    assert {one.stat().st_mode & 0o077 for one in (state / "client.json", site.token_file)} == {0}


def test_a_gateway_that_moves_keeps_its_token(state):
    site = load_site(own_site(state))
    keep_token(site, "http://127.0.0.1:14000")
    before = find_login()
    keep_token(site, "http://127.0.0.1:14001")
    assert find_login().address == "http://127.0.0.1:14001"
    assert find_login().token == before.token


@pytest.mark.parametrize("harm", ["revoked", "gone", "cut", "list"])
def test_a_token_that_opens_nothing_any_more_is_replaced(state, harm):
    site = load_site(own_site(state))
    path = keep_token(site, "http://127.0.0.1:14000")
    old, tokens = find_login().token, Tokens(site.token_file)
    if harm == "revoked":
        tokens.revoke(tokens.list()[0].id, now=time.time())
    elif harm == "gone":
        site.token_file.unlink()
    else:
        path.write_text({"cut": path.read_text()[:20], "list": "[]"}[harm])
    keep_token(site, "http://127.0.0.1:14000")
    assert find_login().token != old
    tokens.check(find_login().token, time.time())


def test_a_broken_token_file_and_an_open_secret_are_errors(state):
    site = load_site(own_site(state))
    path = keep_token(site, "http://127.0.0.1:14000")
    content = read_private(path)
    site.token_file.write_text("{")
    with pytest.raises(SiteError, match="cannot be read"):
        keep_token(site, "http://127.0.0.1:14000")
    path.chmod(0o644)
    with pytest.raises(SiteError, match="others may read"):
        keep_token(site, "http://127.0.0.1:14000")
    assert path.read_text() == content


def test_a_site_for_others_tells_how_they_get_in_and_makes_no_token(state, tmp_path):
    site = load_site(own_site(state))
    for elsewhere in (site.model_copy(update={"state": tmp_path}), site.model_copy(update={"backend": "local-multi"})):
        assert "sciplat token create --config" in welcome(elsewhere)
        assert not (elsewhere.state / "client.json").exists()
        assert not elsewhere.token_file.exists()


def test_a_site_without_tokens_of_its_own_speaks_of_none(state, tmp_path):
    text = own_site(state).read_text()
    hub = "{type: jupyterhub, api_url: 'http://127.0.0.1:8081/hub/api', service: gw}"
    path = tmp_path / "hub.yaml"
    path.write_text(f"{text}authenticators: [{hub}]\n")
    assert "token" not in welcome(load_site(path)).replace(str(state), "")
    assert not (state / "client.json").exists()


def test_the_owner_is_who_runs_it_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    assert own_name() != "mallory"
    if os.geteuid() == 0:
        assert own_name() == "root"


def test_a_foreign_token_file_does_not_let_the_kept_token_in(state, tmp_path):
    site = load_site(own_site(state))
    keep_token(site, "http://127.0.0.1:14000")
    with pytest.raises(TokenRefused):
        Tokens(tmp_path / "other.json").check(json.loads((state / "client.json").read_text())["token"], time.time())

"""`sciplat gateway`, `token`, `cluster`, `quota` and `usage`, with a gateway that really runs."""

import json
import re
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from sciplat.cli.cluster import printable
from sciplat.cli.main import main
from sciplat.gateway.client.connection import Connection
from sciplat.gateway.client.login import find_login
from sciplat.gateway.server.embedded import own_name, own_site
from sciplat.gateway.server.supervisor import stop
from sciplat.gateway.site.schema import load_site
from sciplat.gateway.users.tokens import Tokens

SCIPLAT = [sys.executable, "-c", "from sciplat.cli.main import main; main()"]
HEAVY = (
    "dask",
    "distributed",
    "dask_gateway",
    "dask_gateway_server",
    "pydantic",
    "sqlalchemy",
    "aiohttp",
    "urllib.request",
)
TOKEN = re.compile(r"sciplat_[a-z2-7]{10}_\S{43}\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The state of one's own gateway, which every command of this module finds."""
    folder = tmp_path_factory.mktemp("home") / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCIPLAT_GATEWAY_STATE", str(folder))
        for name in ("SCIPLAT_GATEWAY", "SCIPLAT_TOKEN", "JUPYTERHUB_API_TOKEN"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def gateway(home):
    """One's own gateway, as `sciplat gateway start` runs it."""
    with subprocess.Popen([*SCIPLAT, "gateway", "start"], stdout=subprocess.PIPE, text=True) as process:
        try:
            told = [process.stdout.readline() for _ in range(3)]
            assert told[0].startswith("gateway at http://127.0.0.1:"), told
            yield load_site(home / "site.yaml")
        finally:
            ended = stop(load_site(home / "site.yaml"))
        assert ended == ["supervisor"]
        assert process.wait(10) == 0


def run(*arguments, code=0, **environment):
    """Return what a command prints: its output, or the error it ends with."""
    result = CliRunner().invoke(main, [str(one) for one in arguments], env=environment)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr if code else result.stdout


def until(condition):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.1)


def test_help_loads_nothing_of_a_gateway():
    probe = "import sys; from sciplat.cli.main import main; main(['cluster', '--help'], standalone_mode=False)\n"
    probe += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == "[]"


def test_without_a_gateway_every_command_says_how_to_get_one(home):
    for command in (["cluster", "list"], ["quota"], ["usage"], ["token", "list"]):
        assert run(*command, code=2) == (
            "error: no gateway is known\n  try    sciplat gateway start, or set SCIPLAT_GATEWAY to the address of one\n"
        )
    assert run("gateway", "stop") == "nothing was running\n"
    assert "no gateway of your own yet" in run("gateway", "check", code=2)
    assert not home.exists()


@pytest.mark.parametrize("missing", ["pydantic", "dask_gateway_server", "sqlalchemy"])
def test_without_the_server_s_packages_one_is_told_which_extra_has_them(missing):
    start = f"import sys; sys.modules[{missing!r}] = None; from sciplat.cli.main import main; main()"
    for command in (["gateway", "start"], ["token", "list", "--config", "x"]):
        found = subprocess.run([sys.executable, "-c", start, *command], capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert "a gateway needs dask-gateway-server" in found.stderr
        assert "pip install 'sciplat[gateway-server]'" in found.stderr
        assert "Traceback" not in found.stderr


def test_a_site_file_is_checked_with_its_words_and_with_the_machine(tmp_path):
    path = own_site(tmp_path)
    assert run("gateway", "check", "--config", path).startswith("good: local, 1 profile, at 127.0.0.1:")
    text = path.read_text()
    path.write_text(text + "profiles: {large: {memroy: 4 GiB}}\n")
    for command in (["gateway", "check"], ["gateway", "start"], ["gateway", "stop"], ["token", "list"]):
        assert "profiles.large.memroy: unknown key; try memory" in run(*command, "--config", path, code=2)
    path.write_text(text)
    host, port = load_site(path).address.rsplit(":", 1)
    with socket.create_server((host, int(port))):
        assert f"address: {host}:{port} cannot be used" in run("gateway", "check", "--config", path, code=1)
    assert "cannot be read" in run("gateway", "start", "--config", tmp_path / "none.yaml", code=2)


def test_who_runs_a_gateway_makes_and_takes_back_anybody_s_tokens(tmp_path):
    config = ["--config", own_site(tmp_path)]
    tokens = Tokens(tmp_path / "tokens.json")
    assert run("token", "list", *config) == "no tokens\n"
    text = run("token", "create", *config, "--user", "alice", "--scope", "read", "--expires", "1 d", "laptop")
    assert TOKEN.fullmatch(text)
    made = tokens.check(text.strip(), time.time())
    assert (made.user, made.name, made.scopes, round(made.expires - made.created)) == (
        "alice",
        "laptop",
        ("read",),
        86400,
    )
    run("token", "create", *config, "--user", "bob", "--expires", "never", "robot")
    first, second = run("token", "list", *config).splitlines()
    assert re.fullmatch(rf"{made.id}  alice  laptop  read  until \d{{4}}-\d\d-\d\d", first)
    assert second.endswith("  bob  robot  read,clusters  never expires")
    assert run("token", "list", *config, "--user", "bob") == f"{second}\n"
    assert run("token", "revoke", *config, made.id) == f"revoked {made.id}\n"
    assert "  read  revoked 20" in run("token", "list", *config, "--user", "alice")
    assert "There is no token 'nonsense'" in run("token", "revoke", *config, "nonsense", code=2)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    created, _, revoked = [(one["event"], one["user"], one["token"], one["name"], one["by"]) for one in lines]
    assert created == ("token-created", "alice", made.id, "laptop", own_name())
    assert revoked == ("token-revoked", "alice", made.id, "laptop", own_name())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["name"], "name --user"),
        (["--user", "Alice", "name"], "user's name"),
        (["--user", "alice", "--scope", "root", "name"], "read, clusters, tokens"),
        (["--user", "alice", "--expires", "30", "name"], "--expires has no unit"),
        (["--user", "alice", "two\nlines"], "printable"),
    ],
)
def test_a_token_that_cannot_be_is_not_made(tmp_path, arguments, words):
    path = own_site(tmp_path)
    assert words in run("token", "create", "--config", path, *arguments, code=2)
    assert not (tmp_path / "tokens.json").exists()


def test_a_user_makes_lists_and_takes_back_their_own_tokens(gateway):
    text = run("token", "create", "--scope", "read", "--expires", "2 h", "notebook")
    assert TOKEN.fullmatch(text)
    environment = {"SCIPLAT_TOKEN": text, "SCIPLAT_GATEWAY": f"http://{gateway.address}"}
    assert run("cluster", "list", **environment) == "no clusters\n"
    assert "has not the scope" in run("token", "create", "more", code=2, **environment)
    line = next(line for line in run("token", "list").splitlines() if "  notebook  " in line)
    assert text.strip() not in line
    assert run("token", "revoke", line.split()[0]) == f"revoked {line.split()[0]}\n"
    error = run("cluster", "list", code=2, **environment)
    assert "does not let you in: The token 'notebook' was revoked" in error
    assert "There is no token" in run("token", "revoke", "../clusters/x", code=2)
    for arguments in (
        ["create", "--expires", "never", "x"],
        ["create", "--user", "bob", "x"],
        ["list", "--user", "bob"],
    ):
        assert "with --config" in run("token", *arguments, code=2) or "goes with --config" in run(
            "token", *arguments, code=2
        )


def test_a_cluster_is_listed_explained_read_and_stopped_by_the_beginning_of_its_name(gateway):
    config = ["--config", gateway.state / "site.yaml"]
    stranger = {
        "SCIPLAT_TOKEN": run("token", "create", *config, "--user", "alice", "laptop"),
        "SCIPLAT_GATEWAY": f"http://{gateway.address}",
    }
    name = Connection(find_login()).post("/api/v1/clusters/", cluster_options={})["name"]
    short = name[:8]
    header, row = run("cluster", "list").splitlines()
    assert header.split() == ["cluster", "user", "state", "workers", "profile", "started"]
    assert row.split()[0] == short
    assert row.split()[3:5] == ["0/0", "default"]
    assert run("cluster", "why", short)
    assert "--- scheduler" in run("cluster", "logs", short, "--lines", "5")
    assert "  clusters" in run("quota")
    until(lambda: "  running  " in run("cluster", "list"))
    until(lambda: short in run("usage", "--by", "user,cluster", "--since", "1 h"))

    assert run("cluster", "list", **stranger) == "no clusters\n"
    for command in ("stop", "why", "logs"):
        assert f"no cluster begins with {short}" in run("cluster", command, short, code=2, **stranger)
        assert "no such cluster" in run("cluster", command, name, code=2, **stranger)
    assert "Only an admin" in run("cluster", "list", "--all", code=2, **stranger)
    assert short not in run("usage", "--by", "cluster", **stranger)

    assert run("cluster", "stop", short) == f"stopped {short}\n"
    until(lambda: run("cluster", "list") == "no clusters\n")
    assert "stopped" in run("cluster", "list", "--ended")
    assert "stopped" in run("cluster", "why", short)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cluster", "stop", "../../v1/clusters"], "a cluster's name is 0-9 and a-f"),
        (["cluster", "why", ""], "a cluster's name is"),
        (["cluster", "logs", "ffff"], "no cluster begins with ffff"),
        (["cluster", "stop", "f" * 32], "no such cluster"),
        (["usage", "--by", "nobody"], "by is a list of user, group and cluster"),
        (["usage", "--since", "7"], "since has no unit"),
        (["cluster", "list", "--gateway", "ftp://x"], "address is like"),
    ],
)
@pytest.mark.usefixtures("gateway")
def test_what_cannot_be_answered_is_one_error(arguments, words):
    assert words in run(*arguments, code=2)


def test_what_others_wrote_does_not_steer_the_terminal():
    assert printable("a\tb\x1b[2Jc\r\u202egrün") == "a\tb\ufffd[2Jc\ufffd\ufffdgrün"

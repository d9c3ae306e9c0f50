"""What goes wrong is told in one clear error within ten seconds, and leaves nothing running."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sciplat.gateway.users.tokens import Tokens
from tests.cluster.running_gateway import until

CONTROLLER = Path("/var/lib/sciplat-dev/slurm/slurm/slurmctld.pid")  # of deploy/slurm/dev-cluster
STOCK = """
from dask_gateway import BasicAuth, Gateway
with Gateway(os.environ["SCIPLAT_GATEWAY"], auth=BasicAuth({user!r}, os.environ["SCIPLAT_TOKEN"])) as stock:
    stock.new_cluster({options})
"""


@contextmanager
def told_at_once(gateway):
    """Fail if what is inside takes ten seconds or leaves a cluster, a process or a job."""
    clusters, running = gateway.clusters(), gateway.running()
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10
    assert gateway.clusters() == clusters
    assert gateway.running() <= running


def with_token(token, code):
    """Return code that runs with another token."""
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    return (
        f"import os; own = os.environ['SCIPLAT_TOKEN']; os.environ['SCIPLAT_TOKEN'] = {token!r}\n"
        f"try:\n{body}finally:\n    os.environ['SCIPLAT_TOKEN'] = own\n"
    )


def test_a_profile_that_is_not_there(gateway, alice):
    with told_at_once(gateway):
        ours = alice.error("sciplat.open_cluster(profile='enormous')")
        stock = alice.error(STOCK.format(user="alice", options="profile='enormous'"))
    for told in (ours, stock):
        assert "enormous" in told
        assert "default, short, other" in told


@pytest.mark.parametrize("size", ["cores=4096", "memory='60 TiB'"])
def test_more_than_any_node_has(gateway, alice, size):
    with told_at_once(gateway):
        told = alice.error(f"sciplat.open_cluster({size})")
    number = size.partition("=")[2].strip("'")
    place = "no node of the partition debug: its nodes have" if gateway.backend == "slurm" else "this machine has"
    assert told.startswith("GatewayError: a worker of ")
    assert number in told
    assert place in told


def test_an_environment_that_is_not_there(gateway, alice):
    with told_at_once(gateway):
        made = gateway.ask("POST", "/api/v1/clusters/", "alice", body={"cluster_options": {"environment": "/nowhere"}})
        name = json.loads(made.body)["name"]
        until(lambda: gateway.cluster(name)["status"] == "failed", 10)
    assert "/nowhere/bin/dask" in gateway.cluster(name)["reason"]


def test_tokens_that_open_nothing(gateway, alice, tmp_path):
    made = ["token", "create", "a token", "--config", str(gateway.site), "--user", "alice"]
    expired = gateway.operate(*made, "--expires", "1 s").strip()
    revoked = gateway.operate(*made).strip()
    gateway.operate("token", "revoke", "--config", str(gateway.site), revoked.split("_")[1])
    _, foreign = Tokens(tmp_path / "tokens.json").create("alice", "elsewhere", now=time.time())
    reasons = {expired: "The token 'a token' expired on 20", revoked: "was revoked on 20", foreign: "is not known here"}
    until(lambda: gateway.ask("GET", "/api/sciplat/clusters", token=expired).status == 401, 5)
    with told_at_once(gateway):
        for token, reason in reasons.items():
            told = alice.error(with_token(token, "sciplat.open_cluster()"))
            assert told.startswith("TokenRefused: the gateway")
            assert reason in told
        assert "401" in alice.error(STOCK.format(user="bob", options=""))  # alice's token


@pytest.mark.parametrize("gateway", ["local-multi", "slurm"], indirect=True)
def test_a_user_without_a_unix_account(gateway, alice):
    token = gateway.token("mallory")
    with told_at_once(gateway):
        told = alice.error(with_token(token, "sciplat.open_cluster()"))
    assert "mallory has no Unix account on the gateway's machine" in told


def test_a_site_file_with_a_typo(tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text(f"state: {tmp_path / 'state'}\nprofils: {{}}\nlimits: {{idle: 30}}\n")
    for command in ("start", "check"):
        program = [str(Path(sys.prefix) / "bin" / "sciplat"), "gateway", command, "--config", str(site)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 2
        assert "profils: unknown key; try profiles" in done.stderr
        assert "limits.idle: " in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()
    running = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in running if str(site) in command]


@pytest.mark.parametrize("gateway", ["slurm"], indirect=True)
def test_a_slurm_that_does_not_answer(gateway, alice, opened):
    before = gateway.running()
    with silent_slurm():
        began = time.monotonic()
        told = alice.error("sciplat.open_cluster()")
        assert time.monotonic() - began < 10
        assert alice.run("answer = cluster.client.submit(sum, [1, 2]).result(10)") == 3  # what runs goes on
    assert "Slurm does not answer" in told
    until(lambda: gateway.running() <= before, 40)  # it may do later what it did not answer


@contextmanager
def silent_slurm():
    controller = psutil.Process(int(CONTROLLER.read_text()))
    assert controller.name() == "slurmctld"
    controller.suspend()
    time.sleep(5)  # for so long an earlier answer is good
    try:
        yield
    finally:
        controller.resume()
        # it works through what it was asked meanwhile, and the gateway keeps a silence for some seconds
        subprocess.run(["scontrol", "ping"], capture_output=True, timeout=30, check=True)
        time.sleep(5)

"""The commands of deploy/slurm/README.md, one block after the other as they stand there, on the dev cluster.

Only paths, ports and names are others. What installs packages, makes users or talks to systemd is left out: the dev
cluster's own `install` has done it, and the test does with the unit what systemd would.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from sciplat.gateway.site.schema import load_site
from tests.cluster.running_gateway import SERVICE_USER, SHARED_ENVIRONMENT, check_backend, free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "deploy" / "slurm" / "README.md").read_text()
SITE = (ROOT / "deploy" / "slurm" / "site.yaml").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LEFT_OUT = re.compile(
    r"useradd |chmod 700|groupadd |usermod |umask 022|/usr/bin/python3 -m venv|\S+ -m pip|systemctl "
    r"|deploy/slurm/dev-cluster "
)
# words of one block each
CHECK_RULE, ASK_LAUNCHER, INSTALL_SITE, CHECK_SITE = "visudo", "| runuser", "644 CERT", "check --config /etc"
UNIT, HEALTH, TOKEN, CLUSTER = "systemctl enable", "/health", "token create first", "getpass.getuser"
METRICS, STOP, TRY = "/metrics", "stop --config /etc", "dev-cluster start"


class Page:
    """The README's blocks of commands, with everything that they make in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        port, api_port = free_ports(2)
        self.host, self.name = socket.gethostname(), f"t{os.getpid()}-{port}"
        self.changes = {
            "gateway.example.org:8000": f"{self.host}:{port}",
            "http://127.0.0.1:8000": f"http://127.0.0.1:{port}",
            ":8000": f":{port}",
            ":8001": f":{api_port}",
            "/opt/sciplat/env": str(SHARED_ENVIRONMENT),
            "/opt/sciplat-dev/env": str(SHARED_ENVIRONMENT),
            "/etc/sciplat": str(folder / "etc"),
            "/var/lib/sciplat-gw/": f"{folder}/gw/",
            "/etc/sudoers.d/": f"{folder}/",
            "/etc/systemd/system/": f"{folder}/",
            " CERT ": f" {folder}/made-cert.pem ",
            " KEY ": f" {folder}/made-key.pem ",
        }
        (folder / "gw").mkdir()
        (folder / "deploy" / "slurm").mkdir(parents=True)
        shutil.chown(folder / "gw", SERVICE_USER, SERVICE_USER)
        self.environment = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}

    def changed(self, text):
        """Return a text with the test's own paths, ports and names; none is found in what another one put in."""
        found = re.compile("|".join(re.escape(old) for old in sorted(self.changes, key=len, reverse=True)))
        return found.sub(lambda match: self.changes[match[0]], text)

    def run(self, words):
        """Run the one block that has these words; return what it prints."""
        (block,) = (one for one in BLOCKS if words in one)
        lines = [line for line in block.splitlines(keepends=True) if not LEFT_OUT.match(line)]
        script = self.changed("".join(lines))
        log = self.folder / "block.log"  # not a pipe: what goes on in the background would hold it open
        with log.open("w") as out:
            command = ["bash", "-euo", "pipefail", "-c", script]
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, stdout=out, stderr=out, timeout=60, check=False
            )
        assert done.returncode == 0, f"{script}\n{log.read_text()}\n{self.logs()}"
        return log.read_text()

    def logs(self):
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("gw/gateway/logs/*.log"))

    def write_site(self, text):
        """Put a site file where the commands take it from."""
        (self.folder / "deploy" / "slurm" / "site.yaml").write_text(text)

    def trust(self):
        """Make a certificate that vouches for itself, and let everybody here trust it."""
        cert, key = (self.changes[word].strip() for word in (" CERT ", " KEY "))
        kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
        name = ["-subj", f"/CN={self.host}", "-addext", f"subjectAltName=DNS:{self.host}"]
        command = ["openssl", "req", *kind, *name, "-keyout", key, "-out", cert]
        subprocess.run(command, check=True, capture_output=True)
        self.environment |= {"SSL_CERT_FILE": cert, "CURL_CA_BUNDLE": cert}


@pytest.fixture
def page():
    check_backend("slurm")
    folder = Path(tempfile.mkdtemp(prefix="sciplat-readme-"))
    folder.chmod(0o755)  # the service user and alice find what is theirs
    page = Page(folder)
    yield page
    for site in (folder / "etc" / "site.yaml", folder / "gw" / "site.yaml"):
        if site.exists():
            stop = [SHARED_ENVIRONMENT / "bin" / "sciplat", "gateway", "stop", "--config", site]
            subprocess.run(["runuser", "-u", SERVICE_USER, "--", *stop], cwd="/", check=False, timeout=60)
    told = subprocess.run(["squeue", "--noheader", "--format=%i %k"], capture_output=True, text=True, check=True).stdout
    jobs = [line.split()[0] for line in told.splitlines() if f" sciplat:{page.name}:" in line]
    if jobs:
        subprocess.run(["scancel", *jobs], check=True, timeout=20)
    shutil.rmtree(folder)


class Unit:
    """The unit of the page, run as systemd would."""

    def __init__(self, path):
        keys = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
        assert keys["KillMode"] == "process"
        self.command, self.user = shlex.split(keys["ExecStart"]), keys["User"]
        self.process = None

    def start(self):
        clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}
        who = {"user": self.user, "group": self.user, "extra_groups": []}
        self.process = subprocess.Popen(self.command, cwd="/", env=clean, stdout=subprocess.PIPE, text=True, **who)
        assert self.process.stdout.readline().startswith("gateway at")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 0
        self.process.stdout.close()


def test_a_gateway_as_the_page_sets_it_up(page):
    page.trust()
    site = yaml.safe_load(page.changed(SITE)) | {"name": page.name, "interface": "127.0.0.1"}
    for profile in site["profiles"].values():
        profile["variables"] = {"SSL_CERT_FILE": page.environment["SSL_CERT_FILE"]}
    page.write_site(yaml.safe_dump(site))

    assert page.run(CHECK_RULE).strip().endswith("parsed OK")
    assert json.loads(page.run(ASK_LAUNCHER)) == {"ok": True}
    page.run(INSTALL_SITE)
    assert page.run(CHECK_SITE).startswith("good: slurm, 3 profiles, at ")
    page.run(UNIT)
    unit = Unit(page.folder / "sciplat-gateway.service")
    unit.start()
    try:
        assert '"status": "pass"' in page.run(HEALTH)
        page.run(TOKEN)
        assert (page.folder / "alice.token").stat().st_mode & 0o777 == 0o600
        assert re.search(r"\('alice', '\d+'\)", page.run(CLUSTER))
        assert "sciplat_gateway_users" in page.run(METRICS)
        run = load_site(page.folder / "etc" / "site.yaml").state / "run"
        proxy, server = ((run / f"{name}.json").read_text() for name in ("proxy", "server"))
        unit.stop()  # as `systemctl restart` does
        unit.start()
        assert (run / "proxy.json").read_text() == proxy
        assert (run / "server.json").read_text() != server
        assert '"status": "pass"' in page.run(HEALTH)
        assert page.run(STOP).strip() == "stopped supervisor, proxy"
        assert unit.process.wait(10) == 0
    finally:
        unit.process.kill()
        unit.process.wait()
        unit.process.stdout.close()


def test_the_gateway_that_one_tries_on_the_dev_cluster(page):
    ports = {"gateway.example.org:8000": "gateway.example.org" + page.changes[":8000"]}
    page.changes = {**page.changes, **ports}
    page.write_site(page.changed(SITE).replace("name: survey", f"name: {page.name}"))
    told = page.run(TRY).splitlines()
    assert told[0].startswith("good: slurm, 3 profiles, at 127.0.0.1:")
    assert "physics" in told
    assert "user alice" in told
    assert "group physics" in told
    assert told[-1] == "stopped supervisor, proxy"


def test_no_block_of_the_page_is_left_out():
    run = (CHECK_RULE, ASK_LAUNCHER, INSTALL_SITE, CHECK_SITE, UNIT, HEALTH, TOKEN, CLUSTER, METRICS, STOP, TRY)
    left = [block for block in BLOCKS if not any(words in block for words in run)]
    assert left
    assert all(LEFT_OUT.match(line) for block in left for line in block.splitlines())

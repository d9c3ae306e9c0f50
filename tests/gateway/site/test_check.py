"""What a valid site file lacks on this machine, with real files, ports, programs, users and databases."""

import os
import socket
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from dask_gateway_server.tls import new_keypair

from sciplat.gateway.quota.limits import Limits
from sciplat.gateway.site import check
from sciplat.gateway.site.check import find_problems, find_risks
from sciplat.gateway.site.schema import Admins, Groups, JupyterHub, Profile, Quotas, Site, Slurm, Tls, TokenFile

_NOBODY = 65534


@pytest.fixture
def site(tmp_path):
    """Return a function that makes a site with ports that are free and its state in a folder of the test."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    addresses = {"address": f"127.0.0.1:{ports[0]}", "api_address": f"127.0.0.1:{ports[1]}"}
    return lambda **keys: Site(**{"state": tmp_path / "state", **addresses, **keys})


@pytest.fixture
def secret(tmp_path):
    """Return a function that writes a file for its owner alone, and returns its path."""

    def write(name, content=b"secret", mode=0o600):
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


@contextmanager
def _as_nobody():
    """Run as a user who is not root, if this is root; the saved identity brings root back."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_site_without_problems_leaves_nothing_behind(site, tmp_path):
    assert find_problems(site()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_state_must_be_a_folder_of_ones_own(site, secret, tmp_path):
    file = secret("file")
    assert find_problems(site(state=file / "state")) == [f"state: {file} is not a folder"]
    tmp_path.chmod(0o777)
    assert find_problems(site(state=tmp_path)) == [f"state: others can write to {tmp_path}; try chmod 755 {tmp_path}"]
    tmp_path.chmod(0o711)
    assert find_problems(site(state=tmp_path)) == []


def test_what_this_user_may_not_see_is_told_and_not_raised(site, secret, tmp_path):
    keys = {"groups": Groups(source="file", file=secret("groups.yaml", b"{}"))}
    assert find_problems(site(**keys)) == []  # and what it imports is imported
    tmp_path.chmod(0o000)
    try:
        with _as_nobody():
            problems = find_problems(site(**keys, ledger=f"sqlite:///{tmp_path}/ledger.sqlite"))
    finally:
        tmp_path.chmod(0o700)
    state, groups, ledger = problems
    assert state.startswith("state: this user may not write to ")
    assert groups == f"groups.file: {tmp_path}/groups.yaml: Permission denied"
    assert ledger == f"ledger: this user cannot make {tmp_path}/ledger.sqlite"


def test_users_who_could_read_the_gateways_secrets_and_groups_without_members_are_told(site):
    hub = JupyterHub(api_url="https://hub/api", service="x")
    quotas = Quotas(groups={"physics": {"cores": 4}})
    (shared,) = find_problems(site(authenticators=(TokenFile(), hub), quotas=quotas))
    assert shared.startswith("backend: local runs all clusters as one user")
    (empty,) = find_problems(site(quotas=quotas))
    assert empty.startswith("groups: token files know none, so nobody is in physics")
    assert find_problems(site(quotas=quotas, groups=Groups(source="unix"))) != [empty]


def test_certificate_and_key(site, secret):
    cert, key = new_keypair("survey")
    good = Tls(cert=secret("cert.pem", cert), key=secret("key.pem", key))
    assert find_problems(site(tls=good)) == []

    foreign = Tls(cert=good.cert, key=secret("foreign.pem", new_keypair("survey")[1]))
    (line,) = find_problems(site(tls=foreign))
    assert line.startswith("tls: ")
    assert "are not a PEM certificate and its unencrypted key" in line

    empty = Tls(cert=secret("empty.pem", b""), key=good.key.parent / "none.pem")
    assert find_problems(site(tls=empty)) == [
        f"tls.cert: {empty.cert} is empty",
        f"tls.key: {empty.key}: No such file or directory",
    ]

    good.key.chmod(0o640)
    assert find_problems(site(tls=good)) == [f"tls.key: others can read {good.key}; try chmod 600 {good.key}"]


def test_a_key_with_a_password_is_refused_and_not_asked_for(site, secret):
    cert, key = new_keypair("survey")
    hidden = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (line,) = find_problems(site(tls=Tls(cert=secret("cert.pem", cert), key=secret("key.pem", hidden))))
    assert "unencrypted" in line


@pytest.mark.parametrize(("days", "told"), [(-9, "has expired on "), (9, "begins to hold on ")])
def test_a_certificate_outside_its_time(site, secret, days, told):
    cert, pem = new_keypair("survey")
    key, old = serialization.load_pem_private_key(pem, None), x509.load_pem_x509_certificate(cert)
    begin = datetime.now(UTC) + timedelta(days=days)
    made = x509.CertificateBuilder(
        issuer_name=old.issuer, subject_name=old.subject, public_key=old.public_key(), serial_number=1,
        not_valid_before=begin, not_valid_after=begin + timedelta(days=1),
    ).sign(key, hashes.SHA256())  # fmt: skip
    path = secret("cert.pem", made.public_bytes(serialization.Encoding.PEM))
    (line,) = find_problems(site(tls=Tls(cert=path, key=secret("key.pem", pem))))
    assert line.startswith(f"tls.cert: {path} {told}")


def test_files_of_authenticators_are_private(site, secret, tmp_path):
    tokens = secret("tokens.json", mode=0o644)
    hub = JupyterHub(api_url="https://hub/api", service="x")
    assert find_problems(site(authenticators=(hub, TokenFile(path=tokens))))[:1] == [
        f"authenticators.1.path: others can read {tokens}; try chmod 600 {tokens}"
    ]
    assert find_problems(site(authenticators=(TokenFile(path=tmp_path / "new.json"),))) == []
    nowhere = tmp_path / "none" / "new.json"
    assert find_problems(site(authenticators=(TokenFile(path=nowhere),))) == [
        f"authenticators.0.path: this user cannot make {nowhere}"
    ]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (b"physics: [alice, bob]\n", None),
        (b"physics: [\n", "is not YAML"),
        (b"physics: alice\n", "does not give a list of users"),
        (b"physics: [1]\n", "does not give a list of users"),
        (b"- physics\n", "does not give a list of users"),
        (b"physics: [alice]\nphysics: [bob]\n", "line 2: 'physics' stands here again"),
    ],
)
def test_the_file_of_groups(site, secret, file, told):
    problems = find_problems(site(groups=Groups(source="file", file=secret("groups.yaml", file))))
    assert [told in line and line.startswith("groups.file: ") for line in problems] == ([True] if told else [])


def test_unix_users_and_groups_that_do_not_exist(site):
    named = {
        "admins": Admins(users=("root", "no-such-user"), groups=("no-such-group",)),
        "quotas": Quotas(users={"no-such-one": Limits()}, groups={"root": Limits()}),
        "profiles": {"small": Profile(groups=("no-such-group",))},
    }
    assert not [line for line in find_problems(site(**named)) if "there is no" in line]
    groups = site(**named, groups=Groups(source="unix"))
    assert find_problems(groups) == [
        "admins.groups: there is no Unix group no-such-group",
        "profiles.small.groups: there is no Unix group no-such-group",
    ]
    users = [line for line in find_problems(site(**named, backend="local-multi")) if "Unix user" in line]
    assert users == [
        "admins.users: there is no Unix user no-such-user",
        "quotas.users: there is no Unix user no-such-one",
    ]


def test_only_root_runs_workers_as_their_users(site):
    multi = site(backend="local-multi", state=os.devnull)
    find_problems(multi)  # imports, as the user who may
    with _as_nobody():
        assert [line for line in find_problems(multi) if line.startswith("backend: local-multi")]
    if os.geteuid() == 0:
        assert not [line for line in find_problems(multi) if line.startswith("backend")]


def test_programs_of_slurm(site, secret, tmp_path, monkeypatch):
    commands = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
    for name in ("launcher", "sudo", *commands):
        secret(name, b"#!/bin/sh\n", mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # where the backend does not look
    slurm = Slurm(launcher=tmp_path / "launcher", commands=tmp_path)
    monkeypatch.setattr(check, "_SUDO", str(tmp_path / "sudo"))
    site = partial(site, name="survey", backend="slurm")
    assert find_problems(site(slurm=slurm)) == []
    default = find_problems(site(slurm=Slurm(launcher=tmp_path / "launcher")))
    there = {command for command in commands if os.access(f"/usr/bin/{command}", os.X_OK)}
    assert default == [
        f"slurm.commands: there is no {command} in /usr/bin" for command in commands if command not in there
    ]

    (tmp_path / "launcher").chmod(0o777)
    (tmp_path / "sbatch").chmod(0o644)
    (tmp_path / "sudo").unlink()
    command, launcher, sudo = find_problems(site(slurm=slurm))
    assert command == f"slurm.commands: there is no sbatch in {tmp_path}"
    assert launcher.startswith(f"slurm.launcher: others can write to {tmp_path}/launcher")
    assert sudo.startswith(f"slurm.launcher: there is no {tmp_path}/sudo")

    nowhere = Slurm(launcher=tmp_path / "none", commands=tmp_path / "none")
    problems = find_problems(site(slurm=nowhere))
    named = [line.partition(": there is no ")[2].split()[0] for line in problems]
    assert named == [*commands, "program", f"{tmp_path}/sudo,"]


def test_a_gateway_on_slurm_needs_a_name_of_its_own_and_starts_without(site):
    nameless = site(backend="slurm")
    (line,) = find_risks(nameless)
    assert line.startswith("name: two gateways named sciplat on one Slurm end each other's jobs")
    assert line in find_problems(nameless)
    assert not list(find_risks(site(backend="slurm", name="survey")))


def test_databases_on_a_network_are_told(site, tmp_path, monkeypatch):
    told = subprocess.run(["df", "--output=fstype", tmp_path], capture_output=True, text=True, check=True).stdout
    kind = told.split()[-1]
    assert not list(find_risks(site()))
    monkeypatch.setattr(check, "_NETWORK", {kind})  # as if this were one
    (line,) = find_risks(site(state=tmp_path / "not" / "there"))
    assert line.startswith(f"state: {tmp_path}/not/there is on {kind}, where SQLite's databases can break")


def test_an_interface_that_this_machine_does_not_have(site):
    assert find_problems(site(interface="lo")) == []
    (line,) = find_problems(site(interface="eth77"))
    assert line.startswith("interface: this machine has no eth77; it has ")
    assert find_problems(site(interface="192.0.2.1"))[0].startswith("interface: ")


def test_an_environment_that_is_not_there(site, secret, tmp_path):
    profiles = {"small": Profile(environment=tmp_path / "env")}
    assert find_problems(site(profiles=profiles)) == [
        f"profiles.small.environment: there is no virtual environment in {tmp_path}/env"
    ]
    (tmp_path / "env" / "bin").mkdir(parents=True)
    secret("env/bin/python", mode=0o755)
    assert find_problems(site(profiles=profiles)) == []


def test_ports_that_are_taken_and_addresses_of_others(site):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert find_problems(site(api_address=taken)) == [
            f"api_address: {taken} cannot be used: Address already in use; perhaps a gateway runs already"
        ]
    cert = Tls(cert="none", key="none")
    problems = find_problems(site(address="192.0.2.1:8000", tls=cert))
    assert problems[-1] == "address: 192.0.2.1:8000 cannot be used: Cannot assign requested address"


def test_databases_that_cannot_be_opened(site, secret, tmp_path):
    with closing(sqlite3.connect(tmp_path / "good.sqlite")) as made:
        made.executescript("CREATE TABLE one (two)")
    assert find_problems(site(ledger=f"sqlite:///{tmp_path}/good.sqlite")) == []
    assert find_problems(site(ledger=f"sqlite:///{tmp_path}/new.sqlite")) == []
    other = secret("other.sqlite", b"no database at all" * 100)
    (line,) = find_problems(site(ledger=f"sqlite:///{other}"))
    assert line == f"ledger: sqlite:///{other} cannot be opened: file is not a database"
    assert find_problems(site(ledger=f"sqlite:///{tmp_path}/none/new.sqlite")) == [
        f"ledger: this user cannot make {tmp_path}/none/new.sqlite"
    ]


def test_a_database_server_that_does_not_answer_is_told_without_its_password(site):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (line,) = find_problems(site(ledger=f"postgresql+psycopg://alice:hidden@127.0.0.1:{port}/ledger"))
    assert line.startswith(f"ledger: postgresql+psycopg://alice:***@127.0.0.1:{port}/ledger cannot be opened: ")
    assert "hidden" not in line

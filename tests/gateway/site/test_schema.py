"""The schema of site.yaml: what each key becomes, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sciplat.errors import SiteError
from sciplat.gateway.private import state_folder
from sciplat.gateway.quota.limits import Limits, Policy
from sciplat.gateway.site.schema import JupyterHub, Profile, Quotas, Site, TokenFile, default_site, load_site
from tests.gateway.site_scene import FULL


@pytest.fixture
def load(tmp_path):
    """Return a function that reads a site file of this text."""

    def load_text(text):
        path = tmp_path / "site.yaml"
        path.write_text(text)
        return load_site(path)

    return load_text


@pytest.fixture
def refused(load):
    """Return a function that gives the problems of a site file, one line each."""

    def problems(text):
        with pytest.raises(SiteError) as error:
            load(text)
        return [line.strip() for line in error.value.found.splitlines()]

    return problems


def test_an_empty_file_is_the_gateway_of_one_user(load):
    assert load("") == load("# nothing\n") == load("limits:\nprofiles: {default: }\n") == default_site()


def test_the_defaults_stay_on_loopback_and_end_what_is_idle(tmp_path):
    site = default_site(tmp_path)
    assert (site.address, site.api_address, site.interface) == ("127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1")
    assert (site.backend, site.slurm, site.tls, site.authenticators) == ("local", None, None, (TokenFile(),))
    assert (site.limits.idle, site.limits.lifetime, site.limits.start) == (1800, 7 * 86400, 86400)
    assert site.profiles == {"default": Profile(cores=1, memory=4 * 1024**3, scheduler_memory=2 * 1024**3)}
    assert site.quotas.policy() == Policy()
    assert (site.token_file, site.ledger_url) == (tmp_path / "tokens.json", f"sqlite:///{tmp_path}/ledger.sqlite")
    assert default_site().state == state_folder()


def test_every_key_of_a_full_file(load, tmp_path):
    site = load(FULL)
    assert site.tls.cert == tmp_path / "tls/cert.pem"
    assert site.tls.key == Path("/etc/site/key.pem")
    assert site.slurm.flags == ("nice", "exclusive")
    tokens, hub = site.authenticators
    assert tokens == TokenFile(path=tmp_path / "tokens.json")
    assert site.token_file == tmp_path / "tokens.json"
    assert isinstance(hub, JupyterHub)
    assert (hub.api_url, hub.service) == ("http://127.0.0.1:8081/hub/api", "sciplat-gateway")
    assert list(site.profiles) == ["default", "large"]
    large = site.profiles["large"]
    assert (large.memory, large.max_memory, large.walltime) == (8 * 1024**3, 64 * 1024**3, 7200)
    assert large.setup == ("module load python/3.11",)
    assert (large.partition, large.scheduler_partition) == ("debug", "steady")
    assert site.quotas.policy() == Policy(
        Limits(2, 20, 40, 64 * 1024**3, 2, 1000.0, "week"),
        {"alice": Limits(clusters=4)},
        {"physics": Limits(cores=400)},
    )
    assert (site.limits.logs, site.heartbeat) == (7 * 86400, 2)


def test_paths_begin_at_the_folder_of_the_file(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    assert load("state: state\n").state == tmp_path / "state"
    assert load("state: ~/state\n").state == Path("/home/alice/state")
    assert load("ledger: sqlite:///ledger.sqlite\n").ledger == f"sqlite:///{tmp_path}/ledger.sqlite"
    assert load("ledger: sqlite:////var/ledger.sqlite\n").ledger_url == "sqlite:////var/ledger.sqlite"


def test_slurm_needs_no_section_of_its_own(load):
    site = load("backend: slurm\n")
    assert site.slurm.staging == "{home}/.sciplat/clusters"
    assert site.slurm.launcher.name == "sciplat-gateway-launcher"
    assert load("backend: slurm\nslurm:\n") == site


def test_from_python_numbers_are_seconds_and_bytes():
    profile = Profile(walltime=60, memory=1024**3)
    assert (profile.walltime, profile.memory) == (60, 1024**3)
    assert Quotas(default=Limits(workers=4)).policy().default == Limits(workers=4)
    for wrong in (0, -1, float("nan"), float("inf"), True):
        with pytest.raises(ValidationError):
            Profile(walltime=wrong)


def test_a_site_does_not_change_and_does_not_show_its_password(load, tmp_path):
    (tmp_path / "site.yaml").touch(0o600)
    site = load("ledger: postgresql+psycopg://gateway:secret@localhost/ledger\n")
    assert "secret" not in repr(site)
    with pytest.raises(ValidationError, match="frozen"):
        site.name = "other"


def test_a_password_in_a_file_that_others_read(refused, tmp_path):
    (tmp_path / "site.yaml").touch(0o644)
    (line,) = refused("ledger: postgresql+psycopg://gateway:secret@localhost/ledger\n")
    assert line.startswith("ledger: holds a password")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: Survey", "name: this cannot stand here, found 'Survey'; try small letters"),
        ("address: 0.0.0.0:8000", "tls: missing: 0.0.0.0:8000 can be reached from other machines"),
        ("address: :8000", "address: this is no address"),
        ("address: 127.0.0.1", "address: this is no address"),
        ("address: 127.0.0.1:0", "address: this is no address"),
        ("address: a..b:80", "address: this is no address"),
        ("address: http://127.0.0.1:80", "address: this is no address"),
        ("api_address: 10.0.0.1:8001", "api_address: must be on loopback"),
        ("api_address: 127.0.0.1:8000", "api_address: must be another one"),
        ("prefix: services/", "prefix: this cannot stand here"),
        ("prefix: /a/../b", "prefix: this cannot stand here"),
        ("backend: slrum", "backend: 'slrum' is none of local, local-multi, slurm; try slurm"),
        ("slurm: {flags: [nice]}", "slurm: only read with backend: slurm"),
        ("backend: slurm\nslurm: {flags: [--nice]}", "slurm.flags.0: this is no long option"),
        ("backend: slurm\nslurm: {flags: [wra]}", "slurm.flags.0: --wrap cannot be given here"),
        ("backend: slurm\nslurm: {staging: clusters}", "slurm.staging: this cannot stand here"),
        ("backend: slurm\nslurm: {staging: '{home}/../b'}", "slurm.staging: this cannot stand here"),
        ("backend: slurm\nslurm: {staging: '{user}/b'}", "slurm.staging: this cannot stand here"),
        ("interface: 0.0.0.0", "interface: this would listen on every interface"),
        ("interface: '::'", "interface: this is no network interface"),
        ("interface: 10.0.0.256", "interface: this is no network interface"),
        ("state: ''", "state: this is no path"),
        ("state: ~no-such-user-here/x", "state: this home folder is unknown"),
        ("tls: {cert: a.pem}", "tls.key: missing"),
        ("authenticators: []", "authenticators: at least one is needed"),
        ("authenticators: [{path: a}]", "authenticators.0.type: missing"),
        ("authenticators: [{tpye: token-file}]", "authenticators.0.tpye: unknown key; try type"),
        ("authenticators: [token-file]", "authenticators.0: 'token-file' is not a section"),
        ("authenticators: [{type: tokenfile}]", "authenticators.0.type: 'tokenfile' is none of token-file, jupyterhub"),
        ("authenticators: [{type: jupyterhub, api_url: ftp://a, service: c}]",
         "authenticators.0.api_url: this is no URL"),
        ("authenticators: [{type: jupyterhub, api_url: http://hub/api, service: c}]",
         "authenticators.0.api_url: tokens would travel unencrypted"),
        ("authenticators: [{type: jupyterhub, api_url: 'https://a:b@hub/api', service: c}]",
         "authenticators.0.api_url: this URL has a password"),
        ("groups: {source: file}", "groups.file: missing"),
        ("groups: {file: groups.yaml}", "groups.file: only read with source: file"),
        ("admins: {users: alice}", "admins.users: 'alice' is not a list; try [alice]"),
        ("admins: {users: [al:ice]}", "admins.users.0: this cannot stand here"),
        ("profiles: {}", "profiles: at least one is needed"),
        ("profiles:", "profiles: nothing stands here"),
        ("profiles: {a b: {}}", "profiles.a b: this cannot stand here"),
        ("profiles: {1: {}}", 'profiles.1: 1 is not text; try "1"'),
        ("profiles: {a: {cores: 0}}", "profiles.a.cores: 0 is less than 1"),
        ("profiles: {a: {cores: 1.5}}", "profiles.a.cores: 1.5 is not a whole number"),
        ("profiles: {a: {cores: yes}}", "profiles.a.cores: yes is not a whole number"),
        ("profiles: {a: {cores: 4, max_cores: 2}}", "profiles.a.max_cores: less than cores"),
        ("profiles: {a: {memory: 4}}", 'profiles.a.memory: the size has no unit, found 4; try "4 GiB"'),
        ("profiles: {a: {memory: 4 G}}", "profiles.a.memory: the size is no number of bytes"),
        ("profiles: {a: {max_memory: 1 GiB}}", "profiles.a.max_memory: less than memory"),
        ("profiles: {a: {walltime: 19 s}}", "profiles.a.walltime: less than 20 s: a worker would leave before it"),
        ("profiles: {a: {max_walltime: 1 h}}", "profiles.a.max_walltime: of no use without walltime"),
        ("profiles: {a: {walltime: 2:00:00}}", "profiles.a.walltime: the duration has no unit, found 7200"),
        ("profiles: {a: {gpu_type: h200}}", "profiles.a.gpu_type: of no use without gpus"),
        ("profiles: {a: {partition: debug, qos: x}}", "profiles: a.partition, a.qos: only read with backend: slurm"),
        ("profiles: {a: {scheduler_partition: x}}", "profiles: a.scheduler_partition: only read with backend: slurm"),
        ("backend: slurm\nprofiles: {a: {partition: no}}", 'profiles.a.partition: no is not text; try "no"'),
        ("backend: slurm\nprofiles: {a: {partition: --uid=0}}", "profiles.a.partition: this cannot stand here"),
        ("backend: slurm\nprofiles: {a: {setup: module load x}}",
         "profiles.a.setup: 'module load x' is not a list; try [module load x]"),
        ('backend: slurm\nprofiles: {a: {setup: ["a\\nb"]}}', "profiles.a.setup.0: this cannot stand here"),
        ("backend: slurm\nprofiles: {a: {flags: [--output=x]}}", "profiles.a.flags.0: --output cannot be given here"),
        ("backend: slurm\nprofiles: {a: {flags: [nice]}}", "profiles.a.flags.0: this is no option of sbatch"),
        ("profiles: {a: {variables: {SLURM_CONF: x}}}", "profiles.a.variables.SLURM_CONF: the variable SLURM_CONF"),
        ("profiles: {a: {variables: {OMP: 1}}}", 'profiles.a.variables.OMP: 1 is not text; try "1"'),
        ("profiles: [a]", "profiles: ['a'] is not a section"),
        ("profiles: {a: large}", "profiles.a: 'large' is not a section"),
        ("quotas: {default: none}", "quotas.default: 'none' is not a section"),
        ("quotas: {users: {alice: }}", "quotas.users.alice: nothing stands here"),
        ("quotas: {users: {workers: 4}}", "quotas.users.workers: 4 is not a section"),
        ("quotas: {default: {workers: -1}}", "quotas.default.workers: -1 is less than 0"),
        ("quotas: {default: {core_hours: .inf}}", "quotas.default.core_hours: inf is no number"),
        ("quotas: {default: {core_hours: many}}", "quotas.default.core_hours: 'many' is not a number"),
        ("quotas: {default: {period: weekly}}", "quotas.default.period: 'weekly' is none of day, week, month; try"),
        ("limits: {idle: 30}", "limits.idle: the duration has no unit, found 30"),
        ("limits: {start: }", "limits.start: nothing stands here"),
        ("heartbeat: 5", "heartbeat: the duration has no unit"),
        ("ledger: postgresql://gateway:secret@host/ledger", "ledger: this is no database"),
        ("ledger: 'sqlite://'", "ledger: this is no database"),
        ("ledger: 'sqlite:///:memory:'", "ledger: this is no database"),
        ("on_stop: kill", "on_stop: 'kill' is none of keep, stop"),
        ("- a", "the file: ['a'] is not a section"),
        ("local", "the file: 'local' is not a section"),
    ],
)  # fmt: skip
def test_one_slip_is_one_line(refused, text, line):
    (told,) = refused(text)
    assert told.startswith(line)
    assert "secret" not in told


def test_every_problem_of_a_file_is_told_at_once(refused):
    told = refused("nam: x\nbackend: slrum\nlimits: {idle: 30}\nprofiles: {a: {memroy: 4 GiB, cores: 0}}\nlimits: {}\n")
    assert sorted(line.partition(":")[0] for line in told) == [
        "backend", "line 5", "nam", "profiles.a.cores", "profiles.a.memroy",
    ]  # fmt: skip


def test_a_site_can_be_made_in_python():
    site = Site(name="survey", authenticators=(TokenFile(),), profiles={"small": {"memory": "1 GiB"}})
    assert site.profiles["small"].memory == 1024**3

"""What users may say of a cluster: within the profile, in the gateway's limits, and refused in few words otherwise."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError
from sciplat.gateway.backends.cluster_config import SiteClusterConfig
from sciplat.gateway.backends.commands import scheduler_command, worker_command
from sciplat.gateway.backends.options import cluster_options
from sciplat.gateway.site.schema import Profile, Site, Slurm

GIB = 1024**3
ALICE = SimpleNamespace(name="alice", groups={"physics", "staff"})
BOB = SimpleNamespace(name="bob", groups=set())
PROFILES = {
    "default": Profile(),
    "bounded": Profile(
        cores=2, max_cores=4, memory="2 GiB", max_memory="8 GiB", walltime="1 h", max_walltime="2 h", max_workers=7,
        scheduler_cores=2, variables={"SITE_PROXY": "on"},
    ),
    "fixed": Profile(groups=("physics",), environment="/opt/site/env", gpus=1, gpu_type="h200"),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(state=tmp_path_factory.mktemp("state"), profiles=PROFILES)


@pytest.fixture(scope="module")
def slurm_site(site):
    batch = {
        "batch": Profile(
            partition="low", scheduler_partition="debug", flags=("--nice=100",), setup=("module load python",)
        )
    }
    return Site(state=site.state, profiles=batch, backend="slurm", slurm=Slurm(flags=("nice", "exclusive", "licenses")))


def ask(site, user=ALICE, **asked):
    """Return the configuration of a cluster as the gateway's backend makes it."""
    options = cluster_options(site, user)
    parsed = options.parse_options(json.loads(json.dumps(asked)))
    return SiteClusterConfig(**options.get_configuration(parsed, user))


def test_who_says_nothing_gets_what_the_profile_says(site):
    config = ask(site)
    assert (config.profile, config.worker_cores, config.worker_threads, config.worker_memory) == (
        "default",
        1,
        1,
        4 * GIB,
    )
    assert (config.walltime, config.lifetime, config.idle_timeout) == (0, 7 * 86400, 1800.0)
    assert config.scheduler_cmd == [f"{sys.prefix}/bin/dask", "scheduler"]
    assert config.owner_groups == ["physics", "staff"]
    bounded = ask(site, profile="bounded")
    assert (bounded.worker_cores, bounded.worker_memory, bounded.walltime) == (2, 2 * GIB, 3600)
    assert (bounded.cluster_max_workers, bounded.scheduler_cores) == (7, 2)


def test_a_worker_has_as_many_threads_as_checked_cores(site):
    config = ask(site, profile="bounded", cores=3)
    assert (config.worker_cores, config.worker_threads) == (3, 3)
    command = worker_command(site, SimpleNamespace(config=config), "w1", "tls://127.0.0.1:4000")
    assert command[command.index("--nthreads") + 1] == "3"


def test_what_is_asked_for_is_given_within_the_profile(site):
    config = ask(site, profile="bounded", cores=4, memory="8 GiB", walltime="2 h", environment="/home/alice/env/")
    assert (config.worker_cores, config.worker_memory, config.walltime) == (4, 8 * GIB, 7200)
    assert config.worker_cmd == ["/home/alice/env/bin/dask", "worker"]
    assert config.prefix == "/home/alice/env"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cores": 5}, "cores of 5 .* at most 4"),
        ({"memory": "8.1 GiB"}, "memory of 8.1 GiB .* at most 8 GiB"),
        ({"walltime": "2 h 1 s"}, "walltime of .* at most 2 h"),
    ],
)
def test_more_than_the_profile_gives_is_refused(site, asked, words):
    with pytest.raises(ArgumentError, match=words.replace(" .* ", r"[\s\S]*")):
        ask(site, profile="bounded", **asked)


def test_a_short_walltime_is_never_taken_for_none(site):
    """Half a second, cut to whole ones, would be 0: no limit at all."""
    assert ask(site, profile="bounded", walltime="60.5 s").walltime == 61
    with pytest.raises(ArgumentError, match="so shortly"):
        ask(site, profile="bounded", walltime="0.5 s")


def test_profiles_of_others_are_not_there(site):
    assert ask(site, profile="fixed").gpus == 1
    assert cluster_options(site, BOB).get_specification()[0]["spec"]["options"] == ["default", "bounded"]
    for name in ("fixed", "nonsense"):
        with pytest.raises(ArgumentError, match=r"no such profile for you[\s\S]*default, bounded$"):
            ask(site, BOB, profile=name)
    closed = site.model_copy(update={"profiles": {"fixed": PROFILES["fixed"]}})
    with pytest.raises(ArgumentError, match="no profile of this gateway is open to bob"):
        cluster_options(closed, BOB)


def test_a_profile_s_environment_is_the_only_one(site):
    assert ask(site, profile="fixed").prefix == "/opt/site/env"
    assert ask(site, profile="fixed", environment="/home/alice/env").prefix == "/opt/site/env"


def test_scheduler_and_workers_may_have_partitions_of_their_own(site, slurm_site):
    config = ask(slurm_site)
    assert (config.partition, config.scheduler_partition) == ("low", "debug")
    assert (ask(site).partition, ask(site).scheduler_partition) == ("", "")


def test_a_profile_s_variables_and_flags_stay(site, slurm_site):
    config = ask(site, profile="bounded", variables={"SITE_PROXY": "on", "A": "b c=d,e", "N": 2, "LD_PRELOAD": "/x.so"})
    assert config.variables == {"SITE_PROXY": "on", "A": "b c=d,e", "N": "2", "LD_PRELOAD": "/x.so"}
    with pytest.raises(ArgumentError, match="gives the variable SITE_PROXY already"):
        ask(site, profile="bounded", variables={"SITE_PROXY": "off"})
    assert ask(slurm_site, flags={"licenses": "idl:1", "exclusive": True}).flags == [
        "--nice=100", "--licenses=idl:1", "--exclusive",
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="gives --nice already"):
        ask(slurm_site, flags={"nice": 0})
    with pytest.raises(ArgumentError, match="no batch system"):
        ask(site, flags={"nice": 0})


LONG = "x" * 1_000_000
HOSTILE = [
    {"cores": value} for value in (-1, 5000, 10**400, 2.0, 1e300, True, "2", None, [1], math.nan)
] + [
    {"memory": value}
    for value in (
        "4", "1 MiB", "0 GiB", "-4 GiB", "9" * 39 + "T", "9" * 400 + " TiB", "100 TiB", "nan", 4, LONG, "4\nGiB", [],
    )
] + [
    {"walltime": value}
    for value in ("30", "1 s", "-2 h", "1 h 1 h", "9" * 300 + " d", "400 d", "inf", 60, None, LONG, "2\x00h", {"h": 2})
] + [
    {"environment": value}
    for value in (
        "../x", "env", "/a/../b", "/a\nb", "/a\x00b", "/a:b", "/\ud800", "/a\u2028b", "~/env", "/", LONG, 7, ["/a"],
    )
] + [
    {"variables": value}
    for value in (
        {"SBATCH_TIMELIMIT": "1"}, {"SLURM_CONF": "/x"}, {"DASK_GATEWAY_API_TOKEN": "x"}, {"SCIPLAT_SITE": "x"},
        {"": "x"},
        {"a b": "x"}, {"A=B": "x"}, {"A\n": "x"}, {"A": "x\x00"}, {"A": "\ud800"}, {"A": None}, {"A": True}, {"A": 1.5},
        {"A": ["x"]}, {"A": 10**400}, {"A": LONG}, {LONG: "x"}, {f"A{n}": "" for n in range(10_000)},
        {f"A{n}": "x" * 1000 for n in range(100)}, ["A"], "A=b", None,
    )
] + [
    {"profile": value} for value in ("", "Default", LONG, 7, None, ["default"], "default\n")
] + [{"memroy": "4 GiB"}, {LONG: 1}, {"a\x1b[31m": 1}, {"flags": {"wrap": "x"}}]  # fmt: skip


def named(asked):
    (name, value), *_ = asked.items()
    return f"{name[:12]!r}: {value!r}"[:60] if not (isinstance(value, int) and abs(value) > 10**9) else f"{name}: huge"


@pytest.mark.parametrize("asked", HOSTILE, ids=named)
def test_what_makes_no_sense_is_one_short_refusal(site, asked):
    options = cluster_options(site, ALICE)
    with pytest.raises(ArgumentError) as caught:
        options.get_configuration(options.parse_options(asked), ALICE)
    message = str(caught.value)
    assert len(message) < 700
    assert all(line.isprintable() for line in message.splitlines())


@pytest.mark.parametrize(
    "flags",
    [
        {"nice": ["1"]}, {"nice": "1\n2"}, {"nice": False}, {"nice": 1.5}, {"nice": "x" * 300}, {"wrap": "id"},
        {"uid": "0"}, {"begin": "now"}, {"Nice": "1"}, {"--nice": "1"}, {"": "1"}, {LONG: "1"}, {"partition": "gpu"},
        {str(n): "" for n in range(10_000)}, ["nice"],
    ],
    ids=lambda flags: repr(flags)[:30],
)  # fmt: skip
def test_flags_that_may_not_be_given_are_refused(slurm_site, flags):
    options = cluster_options(slurm_site, ALICE)
    with pytest.raises(ArgumentError) as caught:
        options.get_configuration(options.parse_options({"flags": flags}), ALICE)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("asked", [None, [], "profile", 7, [["profile", "default"]]])
def test_options_are_a_mapping(site, asked):
    with pytest.raises(ArgumentError, match="options are a mapping"):
        cluster_options(site, ALICE).parse_options(asked)


def test_a_misspelt_option_is_told_what_it_is_like(site):
    with pytest.raises(ArgumentError, match=r"'memroy'[\s\S]*try    memory$"):
        ask(site, memroy="4 GiB")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("profile", "cores", "memory", "walltime", "environment", "variables", "flags", "other")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_whatever_is_asked_is_a_configuration_or_refused(site, asked):
    options = cluster_options(site, ALICE)
    try:
        found = options.get_configuration(options.parse_options(asked), ALICE)
    except ArgumentError:
        return
    config = SiteClusterConfig(**found)
    assert config.worker_threads == config.worker_cores >= 1
    json.dumps(config.to_dict(), allow_nan=False).encode()


def test_the_command_of_a_named_interface_finds_its_address_where_it_starts(site):
    cluster = SimpleNamespace(config=ask(site, environment="/env"))
    plain = scheduler_command(site, cluster)
    assert plain[:2] == ["/env/bin/dask", "scheduler"]
    assert plain[plain.index("--host") + 1] == "127.0.0.1"
    named_site = site.model_copy(update={"interface": "lo"})
    start = ["/env/bin/python", "-P", "-m", "sciplat.gateway.inside.on_interface", "lo"]
    assert [part.replace("{host}", "127.0.0.1") for part in scheduler_command(named_site, cluster)] == [*start, *plain]
    assert worker_command(named_site, cluster, "w", "tls://127.0.0.1:4")[:7] == [*start, "/env/bin/dask", "worker"]

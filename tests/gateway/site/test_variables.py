"""Environment variables and options of sbatch: what a user or a profile may give, and what the gateway keeps."""

import shutil
import string
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError
from sciplat.gateway.site.variables import check_flag, check_flag_name, check_variable, parse_flag
from tests.conftest import required

_KEPT = [
    *("wrap", "output", "error", "chdir", "uid", "gid", "export", "job-name", "comment", "parsable", "array", "mem"),
    *("dependency", "requeue", "signal", "bcast", "partition", "time", "gres", "nodes", "container"),
]


@pytest.mark.parametrize("value", ["", "a b", "x=1,y=2", "quotes \" and '", "two\nlines", "ångström"])
def test_a_variable_keeps_its_value(value):
    assert check_variable("OMP_NUM_THREADS", value) == value


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "Å", "A\0", "$A", "BASH_FUNC_x%%"])
def test_what_is_no_name_of_a_variable(name):
    with pytest.raises(ArgumentError, match="no name") as refused:
        check_variable(name, "x")
    assert refused.value.hint


@pytest.mark.parametrize("prefix", ["SBATCH_", "SLURM_", "SQUEUE_", "SCANCEL_", "DASK_GATEWAY_", "SCIPLAT_"])
def test_variables_of_batch_system_and_gateway_are_refused(prefix):
    with pytest.raises(ArgumentError, match=f"{prefix}X belongs"):
        check_variable(f"{prefix}X", "x")
    assert check_variable(f"MY_{prefix}X", "x") == "x"


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * 100_000])
def test_what_is_no_value_of_a_variable(value):
    with pytest.raises(ArgumentError, match="cannot be one"):
        check_variable("A", value)


def test_flags_with_and_without_a_value():
    assert check_flag("exclusive") == parse_flag("--exclusive") == "--exclusive"
    assert check_flag("nice", "100", allowed=("nice",)) == parse_flag("--nice=100") == "--nice=100"
    assert parse_flag("--licenses=a:2,b=c d") == "--licenses=a:2,b=c d"


def test_users_give_only_what_is_allowed():
    with pytest.raises(ArgumentError, match="--nice is not allowed") as refused:
        check_flag("nice", "1", allowed=("exclusive", "licenses"))
    assert refused.value.hint == "allowed: exclusive, licenses"
    with pytest.raises(ArgumentError, match="not allowed"):
        check_flag("nice", "1", allowed=())
    with pytest.raises(ArgumentError, match="--wrap cannot be given"):
        check_flag("wrap", "id", allowed=("wrap",))


@given(st.sampled_from(_KEPT), st.integers(1, 12))
@example("requeue", 3)
def test_kept_options_are_refused_whole_and_abbreviated(name, letters):
    short = name[:letters].rstrip("-")
    with pytest.raises(ArgumentError, match=r"cannot be given here: \w+"):
        check_flag_name(short)


@pytest.mark.parametrize("name", ["", "-n", "--nice", "nice=1", "Nice", "ni ce", "nice\n", "-", "nice-", "x11"])
def test_what_is_no_name_of_an_option(name):
    with pytest.raises(ArgumentError, match="no long option"):
        check_flag_name(name)


@pytest.mark.parametrize(
    "text", ["", "nice=1", "-n1", "--nice 1", "--nice=", "--", "--nice=a\nb", "--nice=\x1b", "--nice=" + "x" * 300]
)
def test_what_is_no_option(text):
    with pytest.raises(ArgumentError):
        parse_flag(text)


@given(st.text(string.printable + "åΩ\0", max_size=20), st.text(max_size=20))
def test_an_option_that_passes_is_one_word_of_the_command_line(name, value):
    try:
        flag = check_flag(name, value)
    except ArgumentError:
        return
    assert flag.startswith("--")
    assert flag.isprintable()
    assert flag.removeprefix("--").partition("=")[0] == name


def test_every_option_of_the_installed_sbatch_was_thought_of():
    if shutil.which("sbatch") is None:
        assert not required("slurm")
        pytest.skip("Slurm: there is no sbatch in PATH")
    told = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, check=True).stdout
    options = {word.strip("[]=,").removeprefix("--").partition("=")[0].partition("[")[0] for word in told.split()
               if word.startswith("--")}  # fmt: skip
    given = set()
    for name in options:
        try:
            given.add(check_flag_name(name))
        except ArgumentError:
            continue
    harmless = {
        "cluster-constraint", "contiguous", "cores-per-socket", "cpu-freq", "distribution", "exclude", "exclusive",
        "extra-node-info", "gpu-bind", "gpu-freq", "gres-flags", "licenses", "mail-type", "mail-user", "mcs-label",
        "nice", "nodelist", "overcommit", "oversubscribe", "power", "priority", "profile", "sockets-per-node",
        "spread-job", "switches", "threads-per-core", "tmp", "use-min-nodes", "wckey", "acctg-freq", "hint",
        "mem-bind", "network", "resv-ports",
    }  # fmt: skip
    assert given
    assert given <= harmless

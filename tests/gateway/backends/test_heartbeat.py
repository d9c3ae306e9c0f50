"""What a cluster says of itself: known and well-formed, or refused, whatever its user's process sends."""

import json
import math
from types import SimpleNamespace

import pytest
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import JobStatus
from hypothesis import given
from hypothesis import strategies as st

from sciplat.gateway.backends.heartbeat import Heartbeat, checked
from sciplat.gateway.site.schema import Site


def cluster_of(*names, most=None, **settings):
    """Return a cluster with workers that run."""
    settings = {"status": JobStatus.RUNNING, "close_expected": False, "is_active": lambda: True, **settings}
    workers = {name: SimpleNamespace(name=name, **settings) for name in names}
    return SimpleNamespace(workers=workers, config={"cluster_max_workers": most})


CLUSTER = cluster_of("a1", "b2")
GOOD = {
    "scheduler_address": "tls://127.0.0.1:40000",
    "dashboard_address": "http://127.0.0.1:40001",
    "api_address": "http://127.0.0.1:40002",
    "count": 2,
    "active_workers": ["a1"],
    "closing_workers": ["b2"],
    "closed_workers": [],
    "ends": {"b2": 1.9e9},
    "versions": {"dask": "2026.8.0", "python": "3.11.2"},
    "quiet_since": None,
}
ADDRESSES = ("scheduler_address", "dashboard_address", "api_address")
ELSEWHERE = {**GOOD, **{key: GOOD[key].replace("127.0.0.1", "10.0.0.7") for key in ADDRESSES}}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(state=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def wide(site):
    """A site whose clusters are on other machines, on an interface that has another address on each."""
    return site.model_copy(update={"interface": "ib0", "address": "10.0.0.1:8443"})


def test_a_good_heartbeat_is_read(site):
    beat = checked(GOOD, CLUSTER, site)
    assert beat.message == {key: GOOD[key] for key in beat.message}
    assert set(GOOD) - set(beat.message) == {"ends", "versions", "quiet_since"}
    assert beat.running == ["a1", "b2"]
    assert beat.ends == {"b2": 1.9e9}
    assert beat.versions == GOOD["versions"]
    assert checked({**GOOD, "dashboard_address": ""}, CLUSTER, site).message["dashboard_address"] == ""


def test_workers_of_others_are_not_named_and_nobody_is_named_twice(site):
    many = {**GOOD, "active_workers": ["a1", "a1", "c3", 7, None, ["a1"]], "closing_workers": ["a1", "b2"]}
    beat = checked({**many, "ends": {"c3": 1.9e9}}, CLUSTER, site)
    assert beat.message["active_workers"] == ["a1"]
    assert beat.running == ["a1", "b2"]
    assert beat.ends == {}


def test_a_running_worker_of_which_nothing_is_said_is_gone(site):
    assert checked({**GOOD, "closing_workers": []}, CLUSTER, site).message["closed_workers"] == ["b2"]


def test_more_workers_than_any_site_has_are_not_asked_for(site):
    assert checked({**GOOD, "count": 10**9}, CLUSTER, site).message["count"] == 100_000


@pytest.mark.parametrize(("closing", "leaving", "stay"), [([], False, 2), (["a1"], False, 2), (["a1", "b2"], False, 2),
                                                          (["a1", "b2", "c3"], False, 1), ([], True, 0)])  # fmt: skip
def test_workers_that_always_are_about_to_close_do_not_get_successors_for_ever(site, closing, leaving, stay):
    cluster = cluster_of("a1", "b2", "c3", "d4", most=2, close_expected=leaving)
    told = {"count": 100, "active_workers": ["d4"], "closing_workers": closing}
    assert checked({**GOOD, **told}, cluster, site).message["count"] == stay
    assert checked({**GOOD, **told}, cluster_of(*cluster.workers), site).message["count"] == 100


@pytest.mark.parametrize("end", [math.nan, math.inf, -math.inf, 10**400, -1, 0, 1e300, True, "1", None, []])
def test_an_end_that_no_calendar_has_is_left_out(site, end):
    assert checked({**GOOD, "ends": {"a1": end, "b2": 1.9e9}}, CLUSTER, site).ends == {"b2": 1.9e9}


def test_versions_are_short_and_of_packages_that_we_compare(site):
    told = {"dask": "<script>", "numpy": "1" * 65, "python": 3, "evil": "1.0", "pyarrow": "21.0.0+x"}
    assert checked({**GOOD, "versions": told}, CLUSTER, site).versions == {"pyarrow": "21.0.0+x"}


@pytest.mark.parametrize(
    "address",
    [
        "tls://10.0.0.7:40000", "tls://localhost:40000", "tls://127.0.0.1:22", "tls://127.0.0.1", "http://127.0.0.1:40000",
        "tls://127.0.0.1:8000", "tls://127.0.0.1:8001", "tls://127.0.0.1:40000/",
        "tls://u:p@127.0.0.1:40000", "tls://:p@127.0.0.1:40000", "tls://127.0.0.1:99999", "tls://[127.0.0.1]:40000",
        "tls://[::1", "tls://[::ffff:127.0.0.1]:8001", "tls://127.0.0.1:40000#x", "tls://0.0.0.0:40000",
        "tls://169.254.169.254:40000", "", "tls://" + "1" * 300, None, 7, ["tls://127.0.0.1:40000"], "\ud800",
        "tls://\u2460.0.0.1:40000", "tls://127.0.0.1:4\n0000x",
    ],
)  # fmt: skip
def test_the_gateway_is_sent_nowhere_else(site, address):
    with pytest.raises(PublicException, match="scheduler_address"):
        checked({**GOOD, "scheduler_address": address}, CLUSTER, site)


@pytest.mark.parametrize(
    "address", ["tls://127.0.0.1:40000?", "tls://127.0.0.1:4\n0000", "TLS://[::ffff:127.0.0.1]:40000"]
)
def test_an_address_is_passed_on_in_its_plain_form(site, address):
    beat = checked({**GOOD, "scheduler_address": address}, CLUSTER, site)
    assert beat.message["scheduler_address"] == "tls://127.0.0.1:40000"


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:8443", "127.0.0.1:8443", "127.9.9.9:8001", "127.0.0.1:5432", "[::1]:5432", "[::ffff:127.0.0.1]:8001",
     "169.254.169.254:8080", "[fe80::1%eth0]:8080", "224.0.0.1:8080", "[ff02::1]:8080", "[::]:8080"],
)  # fmt: skip
def test_of_other_machines_the_gateway_itself_and_no_machine_are_refused(wide, address):
    with pytest.raises(PublicException, match="api_address"):
        checked({**ELSEWHERE, "api_address": f"http://{address}"}, CLUSTER, wide)


def test_other_machines_are_reached_where_clusters_may_be_there(wide, site):
    assert checked(ELSEWHERE, CLUSTER, wide).message["api_address"] == "http://10.0.0.7:40002"
    six = {**ELSEWHERE, "api_address": "http://[2001:db8::7]:40002"}
    assert checked(six, CLUSTER, wide).message["api_address"] == "http://[2001:db8::7]:40002"
    with pytest.raises(PublicException, match=r"not at 127\.0\.0\.1"):
        checked(ELSEWHERE, CLUSTER, site)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["a1", "b2", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
URLS = st.builds("{}://{}:{}{}".format, st.sampled_from(["tls", "http", ""]), st.text(max_size=12), st.integers(), JSON)


@given(st.dictionaries(st.sampled_from(list(GOOD)), JSON | URLS, max_size=4), st.sets(st.sampled_from(list(GOOD))))
def test_whatever_is_sent_is_a_heartbeat_or_refused(site, wide, changed, without):
    message = {key: value for key, value in {**GOOD, **changed}.items() if key not in without}
    for one in (site, wide):
        try:
            beat = checked(message, CLUSTER, one)
        except PublicException:
            continue
        assert isinstance(beat, Heartbeat)
        assert set(beat.running) <= set(CLUSTER.workers)
        assert 0 <= beat.message["count"] <= 100_000
        json.dumps([beat.message, beat.ends, beat.versions], allow_nan=False)


@given(JSON)
def test_what_is_no_mapping_or_lacks_everything_is_refused(site, message):
    with pytest.raises(PublicException):
        checked(message, CLUSTER, site)

"""Charges of random leases within random spans against a count of hours."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.gateway.quota.ledger import Lease, Ledger
from sciplat.gateway.quota.limits import Policy

HOUR = 3600.0
SPANS = st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans())
LEASES = st.lists(
    st.tuples(
        st.sampled_from(["alice", "bob"]),
        st.sets(st.sampled_from(["atlas", "cms", "ska"])),
        st.integers(1, 4),
        SPANS,
    ),
    max_size=6,
)


@settings(max_examples=25)
@given(LEASES, st.integers(0, 20), st.integers(0, 20))
def test_usage_is_the_sum_that_a_child_would_make(tmp_path_factory, drawn, since, until):
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('usage')}/ledger.sqlite", Policy())
    by_user, by_group = dict.fromkeys(["alice", "bob"], 0), dict.fromkeys(["", "atlas", "cms", "ska"], 0)
    for number, (user, groups, cores, (start, length, over)) in enumerate(drawn):
        lease = Lease(f"c{number}", "w", user, tuple(groups), cores, memory=1 << 30, gpus=0)
        assert ledger.grant(lease, start * HOUR) is None
        ledger.seen(lease.cluster, ["w"], start * HOUR)
        ledger.seen(lease.cluster, ["w"], (start + length) * HOUR)
        if over:
            ledger.ended(lease.cluster, "w")
        charge = cores * sum(1 for hour in range(start, start + length) if since <= hour < until)
        by_user[user] += charge
        for group in groups or [""]:
            by_group[group] += charge
    for key, expected in (("user", by_user), ("group", by_group)):
        rows = {row[key]: row["core_hours"] for row in ledger.usage([key], since * HOUR, until * HOUR)}
        assert {name: rows.get(name, 0) for name in expected} == expected
    ledger.close()

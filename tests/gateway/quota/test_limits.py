"""Quotas against an obvious oracle: what is refused, how many fit, when a period ends, and what people are told."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.gateway.quota.limits import (
    LIMITS,
    Account,
    Amount,
    Limits,
    Policy,
    Refusal,
    Standing,
    decide,
    how_many,
    period_end,
    period_start,
)

NOW = datetime(2026, 11, 26, 1, 30, tzinfo=UTC).timestamp()
ALICE, ATLAS = Account("user", "alice"), Account("group", "atlas")
QUARTERS = st.integers(0, 40).map(lambda count: count / 4)  # hours that add up without rounding
AMOUNTS = st.builds(Amount, *[st.integers(0, 6)] * 5, QUARTERS)
CAPS = st.none() | st.integers(0, 12)
LIMIT_SETS = st.builds(Limits, *[CAPS] * 5, st.none() | QUARTERS)
STANDINGS = st.lists(st.builds(Standing, st.sampled_from([ALICE, ATLAS]), LIMIT_SETS, AMOUNTS), max_size=3)


def seconds(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def allowed(ask, standings):
    """Return whether an ask may be granted, in the plainest words."""
    for standing in standings:
        for limit in LIMITS:
            cap, used, asked = (getattr(of, limit) for of in (standing.limits, standing.used, ask))
            if cap is None:
                continue
            if asked > 0 and used + asked > cap:
                return False
            if limit == "core_hours" and used >= cap:
                return False
    return True


def after(ask, standings):
    return [replace(standing, used=standing.used + ask) for standing in standings]


@given(AMOUNTS, STANDINGS)
def test_a_decision_is_that_of_the_oracle(ask, standings):
    assert (decide(ask, standings, NOW) is None) == allowed(ask, standings)


@given(AMOUNTS, AMOUNTS, STANDINGS)
def test_who_uses_more_is_never_newly_allowed(ask, more, standings):
    if decide(ask, standings, NOW) is not None:
        assert decide(ask, after(more, standings), NOW) is not None
        assert decide(ask + more, standings, NOW) is not None


@given(AMOUNTS, STANDINGS, st.integers(0, 20))
def test_as_many_fit_as_are_granted_one_after_the_other(ask, standings, most):
    count, current = 0, standings
    while count < most and decide(ask, current, NOW) is None:
        count, current = count + 1, after(ask, current)
    assert how_many(ask, standings, most) == count


@given(AMOUNTS, STANDINGS)
def test_a_refusal_says_truly_what_is_used_and_what_would_still_fit(ask, standings):
    refusal = decide(ask, standings, NOW)
    if refusal is None:
        return
    limit = refusal.limit
    said = (refusal.account, refusal.cap, refusal.used, refusal.asked)
    assert said in [(each.account, each.limits.cap(limit), each.used.of(limit), ask.of(limit)) for each in standings]
    assert (refusal.resets is not None) == (limit == "core_hours")
    alone = Standing(refusal.account, Limits(**{limit: refusal.cap}), Amount(**{limit: refusal.used}))
    assert decide(Amount(**{limit: refusal.fits + 1}), [alone], NOW) is not None
    if refusal.fits:
        assert decide(Amount(**{limit: refusal.fits}), [alone], NOW) is None


def test_the_tightest_limit_is_named():
    wide = Standing(ALICE, Limits(cores=10), Amount(cores=7))
    tight = Standing(ATLAS, Limits(memory=100), Amount(memory=99))
    refusal = decide(Amount(cores=4, memory=50), [wide, tight], NOW)
    assert refusal == Refusal(ATLAS, "memory", cap=100, used=99, asked=50, fits=1)


def test_used_up_core_hours_refuse_even_an_empty_ask_until_the_period_ends():
    spent = Standing(ALICE, Limits(core_hours=100), Amount(core_hours=100.25))
    refusal = decide(Amount(), [spent], NOW)
    assert refusal == Refusal(ALICE, "core_hours", 100, 100.25, 0, 0, resets=period_end(NOW, "month"))
    assert decide(Amount(cores=1), [replace(spent, used=Amount(core_hours=99.75))], NOW) is None


def test_a_lowered_cap_refuses_what_is_new_and_nothing_that_is_not_asked():
    over = Standing(ALICE, Limits(gpus=1, cores=8), Amount(gpus=3, cores=2))
    assert decide(Amount(workers=1, cores=2), [over], NOW) is None
    assert decide(Amount(workers=1, gpus=1), [over], NOW).fits == 0


def test_amounts_add_up():
    worker = Amount(workers=1, cores=2, memory=3, core_hours=0.5)
    assert worker * 3 + Amount(clusters=1, cores=1) == Amount(1, 3, 7, 9, 0, 1.5)
    assert worker * 0 == Amount()


@pytest.mark.parametrize(
    ("now", "period", "start", "end"),
    [
        ("2026-11-26 01:30", "day", "2026-11-26", "2026-11-27"),
        ("2026-11-26 01:30", "week", "2026-11-23", "2026-11-30"),
        ("2026-11-23 00:00", "week", "2026-11-23", "2026-11-30"),
        ("2026-11-22 23:59", "week", "2026-11-16", "2026-11-23"),
        ("2026-11-26 01:30", "month", "2026-11-01", "2026-12-01"),
        ("2026-12-31 23:59", "month", "2026-12-01", "2027-01-01"),
        ("2028-02-29 12:00", "month", "2028-02-01", "2028-03-01"),
        ("2026-02-01 00:00", "month", "2026-02-01", "2026-03-01"),
    ],
)
def test_periods_are_those_of_the_calendar(now, period, start, end):
    assert period_start(seconds(now), period) == seconds(start)
    assert period_end(seconds(now), period) == seconds(end)


@given(st.floats(0, 4e9), st.sampled_from(["day", "week", "month"]))
def test_every_moment_is_in_one_period(now, period):
    start, end = period_start(now, period), period_end(now, period)
    assert start <= now < end
    assert (period_start(end - 1, period), period_start(end, period)) == (start, end)


def test_use_counts_against_the_user_and_every_group_that_has_limits():
    own, usual, group = Limits(cores=1), Limits(cores=2), Limits(cores=3)
    policy = Policy(usual, {"alice": own}, {"atlas": group, "cms": Limits()})
    assert policy.accounts("alice", ("atlas", "staff", "atlas")) == [(ALICE, own), (ATLAS, group)]
    assert policy.accounts("bob", ()) == [(Account("user", "bob"), usual)]
    assert Policy().accounts("bob", ("atlas",)) == [(Account("user", "bob"), Limits())]


def test_people_are_told_who_uses_what_and_what_would_still_fit():
    refusal = Refusal(ATLAS, "memory", cap=64 << 30, used=62 << 30, asked=4 << 30, fits=2 << 30)
    assert refusal.message([("3f2a91bc" + "0" * 24, 50 << 30), ("77aa01de" + "0" * 24, 12 << 30)]) == (
        "group atlas uses 62 GiB of 64 GiB (3f2a91bc: 50 GiB, 77aa01de: 12 GiB);"
        " 4 GiB more asked for, 2 GiB would still fit"
    )
    refusal = Refusal(ALICE, "gpus", cap=1, used=0, asked=2, fits=1)
    assert refusal.message() == "user alice uses 0 GPUs of 1 GPU; 2 GPUs more asked for, 1 GPU would still fit"


def test_people_are_told_when_a_period_ends():
    refusal = Refusal(ALICE, "core_hours", 100, 100.25, 0, 0, resets=period_end(NOW, "month"))
    assert refusal.message([(letter * 32, 10.0) for letter in "abcde"]) == (
        "user alice has used 100.2 core-hours of 100.0 core-hours"
        " (aaaaaaaa: 10.0 core-hours, bbbbbbbb: 10.0 core-hours, cccccccc: 10.0 core-hours and 2 more clusters);"
        " the next period begins 2026-12-01 00:00 UTC"
    )

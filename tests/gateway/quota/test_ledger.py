"""The ledger on SQLite and PostgreSQL: charges against sums by hand, and caps while many ask and some are killed."""

import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pytest
from sqlalchemy import create_engine, make_url, text

from sciplat.errors import ArgumentError
from sciplat.gateway.quota.ledger import Held, Lease, Ledger
from sciplat.gateway.quota.limits import Account, Amount, Limits, Policy, period_end, period_start
from tests.gateway.postgres import running_postgres

GIB, HOUR = 1 << 30, 3600.0
NOW = 1_795_600_000.0  # 2026-11-25
CAP = 40
POLICY = Policy(groups={"atlas": Limits(workers=CAP)})
THREADS, PROCESSES = 25, 4
SPAWN = multiprocessing.get_context("spawn")
_numbers = count()


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    server = make_url(request.getfixturevalue("postgres"))
    name = f"ledger{next(_numbers)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name).render_as_string()


@pytest.fixture
def open_ledger(url):
    opened = []

    def open_it(policy=Policy()):  # noqa: B008 (frozen)
        opened.append(Ledger(url, policy))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()


def worker(name, cluster="c1", *, user="alice", groups=(), cores=2, memory=4 * GIB, gpus=0):
    return Lease(cluster, name, user, groups, cores, memory, gpus)


def scheduler(cluster="c1", **keywords):
    return worker("", cluster, **keywords)


def run(ledger, lease, start, end):
    """Have a lease run from start to end."""
    assert ledger.grant(lease, start) is None
    ledger.seen(lease.cluster, [lease.name], start)
    ledger.ended(lease.cluster, lease.name, end)


def core_hours(ledger, since=0.0, until=4e9):
    return sum(row["core_hours"] for row in ledger.usage(["user"], since, until))


# charges


def test_of_many_equal_leases_the_first_are_granted_that_fit(open_ledger):
    ledger = open_ledger(POLICY)
    many = [worker(str(number), groups=("atlas",)) for number in range(CAP + 5)]
    assert ledger.grant_first(many[:30], NOW) == 30
    assert ledger.grant_first(many[30:], NOW) == CAP - 30
    assert [one.lease for one in ledger.open_leases()] == many[:CAP]
    assert ledger.grant_first(many[CAP:], NOW) == 0


def test_all_that_a_cluster_holds_ends_with_it(open_ledger):
    ledger = open_ledger()
    for lease in (scheduler(), worker("a"), worker("b"), scheduler("c2")):
        ledger.grant(lease, NOW)
    ledger.seen("c1", ["", "a"], NOW)
    ledger.ended("c1", "a", NOW + 30)
    ledger.seen("c1", ["", "a"], NOW + 60)
    ledger.ended("c1", None)
    assert [one.lease.cluster for one in ledger.open_leases()] == ["c2"]
    [row] = ledger.usage(("cluster",), NOW, NOW + HOUR)
    assert row["core_hours"] == pytest.approx(2 * (60 + 30) / 3600)


def test_a_lease_is_charged_from_its_start_to_its_end(open_ledger):
    ledger = open_ledger()
    assert ledger.grant(worker("w1", gpus=1), NOW - 500) is None
    ledger.seen("c1", ["w1"], NOW)
    ledger.ended("c1", "w1", NOW + 1.5 * HOUR)
    assert ledger.usage(["cluster"], 0, 4e9) == [
        {
            "cluster": "c1",
            "core_hours": 3.0,
            "gpu_hours": 1.5,
            "memory_gib_hours": 6.0,
            "clusters": 0,
            "workers": 1,
        }
    ]


def test_only_what_ran_in_a_period_is_charged_to_it(open_ledger):
    ledger = open_ledger()
    end = period_end(NOW, "month")
    run(ledger, worker("w1"), end - HOUR, end + 2 * HOUR)
    assert ledger.standings("alice", (), end - 1)[0].used.core_hours == 2.0
    assert ledger.standings("alice", (), end)[0].used.core_hours == 4.0
    assert core_hours(ledger, end - 0.5 * HOUR, end + 0.5 * HOUR) == 2.0
    assert core_hours(ledger, end + 2 * HOUR) == core_hours(ledger, until=end - HOUR) == 0


def test_what_was_granted_counts_at_once_and_is_charged_once_it_starts(open_ledger):
    ledger = open_ledger()
    assert ledger.grant(worker("w1"), NOW) is None
    assert ledger.standings("alice", (), NOW + HOUR)[0].used == Amount(workers=1, cores=2, memory=4 * GIB)
    ledger.ended("c1", "w1")
    assert ledger.standings("alice", (), NOW + HOUR)[0].used == Amount()
    assert ledger.usage(["user"], 0, 4e9) == []


def test_a_gap_between_heartbeats_is_charged_through_and_a_silence_is_not(open_ledger):
    ledger = open_ledger()
    for name in ("w1", "w2"):
        assert ledger.grant(worker(name, cores=1), NOW) is None
    ledger.seen("c1", ["w1", "w2"], NOW)
    ledger.seen("c1", ["w1", "w2"], NOW + HOUR)
    ledger.close()  # the gateway is killed
    ledger = open_ledger()
    ledger.seen("c1", ["w1"], NOW + 5 * HOUR)
    assert core_hours(ledger) == ledger.standings("alice", (), NOW)[0].used.core_hours == 5 + 1
    ledger.ended("c1", "w1")
    ledger.ended("c1", "w2")
    assert core_hours(ledger) == 5 + 1


def test_what_is_said_twice_or_late_changes_nothing(open_ledger):
    ledger = open_ledger()
    run(ledger, worker("w1", cores=1), NOW, NOW + HOUR)
    ledger.submitted("c1", "w1", "4711")
    ledger.ended("c1", "w1", NOW + 2 * HOUR)
    ledger.ended("c1", "w1")
    ledger.seen("c1", ["w1"], NOW + 3 * HOUR)
    assert [(held.seen, held.ended) for held in ledger.unsettled(NOW)] == [(NOW, NOW + HOUR)]
    assert ledger.grant(worker("w2", cores=1), NOW) is None
    for now in (NOW, NOW + HOUR, NOW + HOUR / 2):
        ledger.seen("c1", ["w2"], now)
    assert core_hours(ledger) == 1 + 1


def test_the_batch_system_has_the_last_word(open_ledger):
    ledger = open_ledger()
    run(ledger, worker("w1"), NOW, NOW + HOUR)
    ledger.settle("c1", "w1", NOW - HOUR, NOW + HOUR)
    assert core_hours(ledger) == 4.0
    ledger.settle("c1", "w1", NOW, NOW + 0.5 * HOUR)
    ledger.ended("c1", "w1", NOW + 9 * HOUR)
    assert core_hours(ledger) == 1.0
    ledger.settle("c1", "w1", NOW, NOW)
    assert ledger.usage(["user"], 0, 4e9) == []


# grants and accounts


def test_the_same_lease_is_granted_again_without_counting_twice(open_ledger):
    ledger = open_ledger(Policy(Limits(workers=1)))
    assert ledger.grant(worker("w1"), NOW) is None
    ledger.seen("c1", ["w1"], NOW)
    assert ledger.grant(worker("w1"), NOW + HOUR) is None
    assert ledger.grant(worker("w2"), NOW).limit == "workers"
    assert [(held.lease.name, held.granted, held.started) for held in ledger.open_leases()] == [("w1", NOW, NOW)]


def test_a_lease_that_did_not_end_after_all_goes_on_if_there_is_room(open_ledger):
    ledger = open_ledger(Policy(Limits(workers=1)))
    run(ledger, worker("w1", cores=1), NOW, NOW + HOUR)
    ledger.settle("c1", "w1", NOW, NOW + HOUR)
    assert ledger.grant(worker("w2", cores=1), NOW + HOUR) is None
    assert ledger.grant(worker("w1", cores=1), NOW + HOUR).limit == "workers"
    ledger.ended("c1", "w2")
    assert ledger.grant(worker("w1", cores=1), NOW + 2 * HOUR) is None
    ledger.seen("c1", ["w1"], NOW + 4 * HOUR)
    assert core_hours(ledger) == 4
    assert [(held.lease.name, held.ended, held.settled) for held in ledger.open_leases()] == [("w1", None, False)]


def test_a_scheduler_counts_as_a_cluster_and_not_as_a_worker(open_ledger):
    ledger = open_ledger(Policy(Limits(clusters=1, workers=1)))
    assert ledger.grant(scheduler(cores=1, memory=GIB), NOW) is None
    assert ledger.grant(worker("w1", gpus=1), NOW) is None
    assert ledger.grant(scheduler("c2"), NOW).limit == "clusters"
    assert ledger.standings("alice", (), NOW)[0].used == Amount(1, 1, 3, 5 * GIB, 1)


def test_core_hours_that_are_used_up_refuse_until_the_next_period(open_ledger):
    ledger = open_ledger(Policy(Limits(core_hours=2, period="day")))
    start = period_start(NOW, "day")
    run(ledger, worker("w1"), start - HOUR, start + HOUR)
    refusal = ledger.grant(worker("w2"), start + HOUR)
    assert (refusal.limit, refusal.used, refusal.resets) == ("core_hours", 2.0, period_end(NOW, "day"))
    assert ledger.refusal("alice", (), Amount(), period_end(NOW, "day") - 1) is not None
    assert ledger.grant(worker("w2"), period_end(NOW, "day")) is None


def test_use_counts_against_both_groups_of_a_user(open_ledger):
    policy = Policy(groups={"atlas": Limits(cores=8), "cms": Limits(cores=6)})
    ledger = open_ledger(policy)
    both = {"groups": ("cms", "atlas", "staff")}
    assert ledger.grant(worker("w1", cores=4, **both), NOW) is None
    refusal = ledger.grant(worker("w2", cores=3, **both), NOW)
    assert (refusal.account, refusal.used, refusal.fits) == (Account("group", "cms"), 4, 2)
    assert ledger.grant(worker("w1", "c2", user="bob", groups=("atlas",), cores=4), NOW) is None
    used = {str(standing.account): standing.used.cores for standing in ledger.standings("alice", both["groups"], NOW)}
    assert used == {"user alice": 4, "group cms": 4, "group atlas": 8}
    assert ledger.grant(worker("w3", "c3", user="bob", groups=("cms",), cores=2), NOW) is None
    assert ledger.grant(worker("w4", cores=1, user="bob"), NOW) is None


def test_to_ask_takes_nothing(open_ledger):
    ledger = open_ledger(Policy(Limits(cores=7)))
    assert ledger.room("alice", (), Amount(workers=1, cores=2), 10, NOW) == 3
    assert ledger.room("alice", (), Amount(workers=1, cores=2), 2, NOW) == 2
    assert ledger.refusal("alice", (), Amount(cores=8), NOW).fits == 7
    assert ledger.open_leases() == []
    assert ledger.grant(worker("w1", cores=7), NOW) is None
    assert ledger.room("alice", (), Amount(workers=1, cores=2), 10, NOW) == 0
    assert ledger.room("bob", (), Amount(workers=1, cores=2), 10, NOW) == 3


def test_holders_are_the_clusters_that_use_a_limit(open_ledger):
    ledger = open_ledger(Policy(groups={"atlas": Limits(core_hours=100, period="day")}))
    for name, cluster, user, cores in (("", "c1", "alice", 1), ("w1", "c1", "alice", 2), ("", "c2", "bob", 4)):
        assert ledger.grant(worker(name, cluster, user=user, groups=("atlas",), cores=cores), NOW) is None
        ledger.seen(cluster, [name], NOW)
    ledger.seen("c1", ["w1"], NOW + HOUR)
    ledger.ended("c2", "", NOW + 0.25 * HOUR)
    atlas = Account("group", "atlas")
    assert ledger.holders(atlas, "cores", NOW) == [("c1", 3)]
    assert ledger.holders(atlas, "clusters", NOW) == [("c1", 1)]
    assert ledger.holders(atlas, "gpus", NOW) == []
    assert ledger.holders(atlas, "core_hours", NOW) == [("c1", 2), ("c2", 1)]
    assert ledger.holders(atlas, "core_hours", NOW + 86400) == []
    assert ledger.holders(Account("user", "bob"), "core_hours", NOW) == [("c2", 1)]


def test_a_users_total_is_not_doubled_by_their_groups(open_ledger):
    ledger = open_ledger()
    run(ledger, scheduler(groups=("atlas", "cms"), cores=1), NOW, NOW + HOUR)
    run(ledger, worker("w1", groups=("atlas", "cms"), cores=2), NOW, NOW + HOUR)
    run(ledger, worker("w1", "c2", user="bob", cores=4), NOW, NOW + HOUR)

    def hours(*by, **keywords):
        rows = ledger.usage(by, NOW, NOW + HOUR, **keywords)
        return [(*(row[key] for key in by), row["core_hours"], row["clusters"], row["workers"]) for row in rows]

    assert hours("user") == [("alice", 3, 1, 1), ("bob", 4, 0, 1)]
    assert hours("group") == [("", 4, 0, 1), ("atlas", 3, 1, 1), ("cms", 3, 1, 1)]
    assert hours("user", "group") == [("alice", "atlas", 3, 1, 1), ("alice", "cms", 3, 1, 1), ("bob", "", 4, 0, 1)]
    assert hours("cluster", user="bob") == [("c2", 4, 0, 1)]
    for by in ((), ("user", "name")):
        with pytest.raises(ArgumentError, match="user, group or cluster"):
            ledger.usage(by, 0, NOW)


def test_leases_come_back_as_they_were_given(open_ledger):
    ledger = open_ledger()
    first, second = worker("w1", groups=("cms", "atlas"), gpus=2), worker("w1", "c2", user="bob")
    assert ledger.grant(first, NOW) is None
    assert ledger.grant(second, NOW + 1) is None
    ledger.submitted("c1", "w1", "4711")
    ledger.seen("c1", ["", "w1"], NOW + 2)
    kept = Lease("c1", "w1", "alice", ("atlas", "cms"), 2, 4 * GIB, 2)
    waiting = Held(second, NOW + 1, None, None, None, None, settled=False)
    assert ledger.open_leases() == [Held(kept, NOW, NOW + 2, NOW + 2, None, "4711", settled=False), waiting]
    assert ledger.unsettled(0) == []
    for cluster in ("c1", "c2"):
        ledger.ended(cluster, "w1", NOW + 3)
    assert ledger.unsettled(NOW + 3) == [Held(kept, NOW, NOW + 2, NOW + 2, NOW + 3, "4711", settled=False)]
    assert ledger.unsettled(NOW + 4) == []
    ledger.settle("c1", "w1", NOW, NOW + 3)
    assert ledger.unsettled(NOW) == []


# many at once


def log_line(log, *words):
    os.write(log, (" ".join(words) + "\n").encode())


def request(ledger, log, process, rounds, thread):
    """Ask for leases one after the other; where there are several rounds each runs for an hour and ends."""
    generator = random.Random(f"{process} {thread}")
    for number in range(rounds):
        cluster = f"c{process}-{thread}-{number}"
        lease = worker("w1", cluster, user=generator.choice(["alice", "bob"]), groups=("atlas",), cores=1)
        if ledger.grant(lease, NOW) is None:
            log_line(log, "granted", cluster)
            assert ledger.standings(lease.user, lease.groups, NOW)[1].used.workers <= CAP
            if rounds > 1:
                ledger.seen(cluster, ["w1"], NOW)
                ledger.ended(cluster, "w1", NOW + HOUR)
                log_line(log, "ended", cluster)


def requesters(url, path, process, rounds):
    ledger = Ledger(url, POLICY)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(partial(request, ledger, log, process, rounds), range(THREADS)))
    ledger.close()


def start_requesters(url, path, rounds):
    path.touch()
    started = [SPAWN.Process(target=requesters, args=(url, path, number, rounds)) for number in range(PROCESSES)]
    for process in started:
        process.start()
    return started


def read_log(path, word):
    lines = [line.split() for line in path.read_text().splitlines()]
    return [cluster for found, cluster in lines if found == word]


def test_a_hundred_requesters_get_as_much_as_there_is(url, open_ledger, tmp_path):
    path = tmp_path / "log"
    for process in start_requesters(url, path, rounds=1):  # on a database that is not there yet
        process.join()
        assert process.exitcode == 0
    ledger = open_ledger(POLICY)
    granted = read_log(path, "granted")
    assert len(granted) == CAP
    assert sorted(held.lease.cluster for held in ledger.open_leases()) == sorted(granted)
    assert ledger.room("alice", ("atlas",), Amount(workers=1), 5, NOW) == 0


def test_killed_requesters_leave_no_lease_without_its_row_and_no_charge_doubled(url, open_ledger, tmp_path):
    path, generator = tmp_path / "log", random.Random(6)
    started = start_requesters(url, path, rounds=10_000)
    try:
        while len(read_log(path, "ended")) < 100:
            assert all(process.is_alive() for process in started)
            time.sleep(0.01)
    finally:
        for process in started:
            time.sleep(generator.uniform(0, 0.1))
            process.kill()
            process.join()
    ledger = open_ledger(POLICY)
    granted, ended = read_log(path, "granted"), read_log(path, "ended")
    held = {each.lease.cluster for each in ledger.open_leases()}
    charged = {row["cluster"]: row["core_hours"] for row in ledger.usage(["cluster"], 0, 4e9)}
    assert len(held) <= CAP
    assert {charged[cluster] for cluster in ended} == {1.0}
    assert set(granted) <= held | set(charged)

    for cluster in held:  # another gateway goes on
        assert ledger.grant(worker("w1", cluster, groups=("atlas",), cores=1), NOW) is None
    fresh = (worker("w1", f"fresh{number}", groups=("atlas",)) for number in count())
    while ledger.grant(next(fresh), NOW) is None:
        pass
    assert len(ledger.open_leases()) == CAP
    assert {row["cluster"]: row["core_hours"] for row in ledger.usage(["cluster"], 0, 4e9)} == charged


# the database


def test_connections_that_the_server_ended_are_made_anew(postgres):
    ledger = Ledger(postgres, Policy())
    assert ledger.grant(worker("w1"), NOW) is None
    engine = create_engine(postgres)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.begin() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
    engine.dispose()
    assert [held.lease.name for held in ledger.open_leases()] == ["w1"]
    ledger.close()

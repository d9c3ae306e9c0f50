"""Tokens: what is kept of them, who is refused and why, and that every process sees a revocation."""

import json
import os
import threading
from pathlib import Path

import pytest

from sciplat.errors import ArgumentError, SiteError, TokenRefused
from sciplat.gateway.users.tokens import Tokens, described

NOW = 1_800_000_000.0
DAY = 86400.0


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "state" / "tokens.json")


def refusal(tokens: Tokens, text: str, now: float = NOW) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        tokens.check(text, now)
    return caught.value


def test_a_token_is_good_until_it_expires(tokens):
    made, text = tokens.create("alice", "laptop", lifetime=DAY, now=NOW)
    assert tokens.check(text, NOW + DAY - 1) == made
    assert (made.user, made.scopes, made.expires) == ("alice", ("read", "clusters"), NOW + DAY)
    error = refusal(tokens, text, NOW + DAY)
    assert error.code == "expired"
    assert "'laptop' expired on 2027-01-16" in str(error)


def test_a_token_without_a_lifetime_never_expires(tokens):
    made, text = tokens.create("alice", "robot", lifetime=None, now=NOW)
    assert made.expires is None
    assert tokens.check(text, NOW + 10_000 * DAY) == made


def test_a_revocation_holds_at_once_for_who_has_read_the_file_before(tokens):
    made, text = tokens.create("alice", "laptop", now=NOW)
    gateway = Tokens(tokens.path)
    gateway.check(text, NOW)
    assert tokens.revoke(made.id, now=NOW + 1).revoked == NOW + 1
    error = refusal(gateway, text, NOW + 1)
    assert error.code == "revoked"
    assert "'laptop' was revoked" in str(error)
    assert tokens.revoke(made.id, now=NOW + 9).revoked == NOW + 1  # for good, since the first time


def test_only_who_knows_the_secret_learns_that_a_token_has_ended(tokens):
    made, text = tokens.create("alice", "laptop", now=NOW)
    tokens.revoke(made.id, now=NOW)
    guessed = text[:-1] + ("A" if text[-1] != "A" else "B")
    reasons = {
        str(refusal(tokens, wrong)) for wrong in (guessed, f"sciplat_{'a' * 10}_{'A' * 43}", "", "sciplat__", "é")
    }
    assert len(reasons) == 1
    assert refusal(tokens, guessed).code == "unknown"


def test_the_file_has_no_secret_and_is_its_owners_alone(tokens):
    texts = [tokens.create("alice", name, now=NOW)[1] for name in ("a", "b")]
    files = list(tokens.path.parent.iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.name for path in files} == {"tokens.json", "tokens.json.lock"}
    assert tokens.path.parent.stat().st_mode & 0o777 == 0o700
    content = tokens.path.read_text()
    for text in texts:
        _, key, secret = text.split("_", 2)
        assert key in content
        assert secret not in content
    assert texts[0] not in repr(tokens.list())


def test_users_list_and_revoke_their_own(tokens):
    mine, text = tokens.create("alice", "a", now=NOW)
    other, _ = tokens.create("bob", "b", now=NOW + 1)
    assert tokens.list("alice") == [mine]
    assert tokens.list() == [mine, other]
    for missing in (mine.id, "nonsense"):
        with pytest.raises(TokenRefused, match="There is no token") as caught:
            tokens.revoke(missing, user="bob", now=NOW)
        assert caught.value.code == "unknown"
    assert tokens.check(text, NOW) == mine


@pytest.mark.parametrize("user", ["", "Alice", "a:b", "../etc", "-rf", "1a", "alice\n", "a" * 33, "a b", "é"])
def test_names_that_could_be_paths_or_flags_are_refused(tokens, user):
    with pytest.raises(ArgumentError, match="user's name"):
        tokens.create(user, "laptop", now=NOW)
    assert not tokens.path.exists()


def test_what_cannot_be_a_token_is_refused(tokens):
    with pytest.raises(ArgumentError, match="'everything'"):
        tokens.create("alice", "laptop", scopes=("read", "everything"), now=NOW)
    with pytest.raises(ArgumentError, match="scopes"):
        tokens.create("alice", "laptop", scopes=(), now=NOW)
    for name in ("", "x" * 65, "two\nlines", "\x9b31mred", "\ud800", "\u202eback"):
        with pytest.raises(ArgumentError, match="printable"):
            tokens.create("alice", name, now=NOW)
    for lifetime in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="positive"):
            tokens.create("alice", "laptop", lifetime=lifetime, now=NOW)


def test_who_makes_and_revokes_tokens_again_and_again_does_not_fill_the_file(tokens):
    kept, _ = tokens.create("bob", "kept", now=NOW)
    tokens.revoke(kept.id, now=NOW)
    made, _ = tokens.create("alice", "one", now=NOW)
    tokens.revoke(made.id, now=NOW)
    record = next(one for one in json.loads(tokens.path.read_text())["tokens"] if one["id"] == made.id)
    many = [{**record, "id": f"{number:010d}", "created": NOW + number} for number in range(300)]
    others = [one for one in json.loads(tokens.path.read_text())["tokens"] if one["id"] == kept.id]
    tokens.path.write_text(json.dumps({"version": 1, "tokens": many + others}))
    tokens.create("alice", "next", now=NOW + 300)
    left = [token.id for token in tokens.list("alice")]
    assert left == [f"{number:010d}" for number in range(200, 300)] + left[-1:]
    assert tokens.list("bob")


def test_ended_tokens_are_forgotten_in_the_end_and_living_ones_are_bounded(tokens):
    old, text = tokens.create("alice", "old", lifetime=DAY, now=NOW)
    tokens.create("alice", "new", now=NOW + 90 * DAY)
    assert refusal(tokens, text, NOW + 90 * DAY).code == "expired"
    tokens.create("alice", "newer", now=NOW + 92 * DAY)
    assert old not in tokens.list()
    record = json.loads(tokens.path.read_text())["tokens"][-1]
    many = [{**record, "id": f"{number:010d}"} for number in range(100)]
    tokens.path.write_text(json.dumps({"version": 1, "tokens": many}))
    with pytest.raises(ArgumentError, match="100 tokens already"):
        tokens.create("alice", "one more", now=NOW + 92 * DAY)
    tokens.create("bob", "first", now=NOW + 92 * DAY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1, "tokens": [{}]}', "\udcff"])
def test_a_file_that_is_none_of_ours_is_an_error_not_an_empty_list(tokens, content):
    tokens.path.parent.mkdir()
    tokens.path.write_text(content, errors="surrogateescape")
    with pytest.raises(SiteError, match="cannot be read"):
        tokens.check("sciplat_x", NOW)
    with pytest.raises(SiteError):
        tokens.create("alice", "laptop", now=NOW)
    assert tokens.path.read_text(errors="surrogateescape") == content


def test_who_creates_at_the_same_time_loses_no_token(tokens):
    def create(name: str) -> None:
        own = Tokens(tokens.path)  # its lock is the file's, as between processes
        for number in range(5):
            own.create("alice", f"{name}{number}", now=NOW)

    threads = [threading.Thread(target=create, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token.name for token in tokens.list()) == [
        f"{name}{number}" for name in "abcd" for number in range(5)
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write files of others")
def test_what_root_creates_belongs_to_the_gateways_user(tokens):
    tokens.path.parent.mkdir()
    os.chown(tokens.path.parent, 12345, 12346)
    tokens.create("alice", "laptop", now=NOW)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tokens.path.parent.iterdir()} == {(12345, 12346)}


def test_a_token_is_described_in_words_without_its_secret(tokens):
    made, text = tokens.create("alice", "laptop", lifetime=DAY, now=NOW)
    found = described(made, NOW)
    assert found == {
        "id": made.id,
        "user": "alice",
        "name": "laptop",
        "scopes": ["read", "clusters"],
        "created": "2027-01-15T08:00:00+00:00",
        "expires": "2027-01-16T08:00:00+00:00",
        "state": "until 2027-01-16",
    }
    assert text.rpartition("_")[2] not in str(found)
    assert described(made, NOW + DAY)["state"] == "expired 2027-01-16"
    assert described(tokens.revoke(made.id, now=NOW + 3 * DAY), NOW)["state"] == "revoked 2027-01-18"
    endless, _ = tokens.create("alice", "robot", lifetime=None, now=NOW)
    assert (described(endless)["state"], described(endless)["expires"]) == ("never expires", None)

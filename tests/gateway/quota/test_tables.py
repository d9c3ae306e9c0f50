"""What can be a ledger's database, who can read it, and how it is told that one is none."""

import sqlite3
import stat

import pytest

from sciplat.errors import SiteError, StorageError
from sciplat.gateway.quota.ledger import Lease, Ledger
from sciplat.gateway.quota.limits import Policy
from sciplat.gateway.quota.tables import VERSION


def test_only_files_and_postgresql_are_ledgers(tmp_path):
    for bad in ("sqlite://", "sqlite:///:memory:", "mysql://alice:secret@host/base", "ledger.sqlite", ""):
        with pytest.raises(SiteError, match="no database that can be used") as caught:
            Ledger(bad, Policy())
        assert "secret" not in str(caught.value)
    (tmp_path / "table.csv").write_text("ra,dec\n" * 1000)
    with pytest.raises(SiteError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path}/table.csv", Policy())
    with pytest.raises(StorageError, match="cannot be opened"):
        Ledger(f"sqlite:///{tmp_path}/absent/ledger.sqlite", Policy())


def test_nobody_else_reads_who_works_when(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", Policy())
    assert ledger.grant(Lease("c1", "w1", "alice", (), 1, 1 << 30, 0), 0.0) is None
    files = list(tmp_path.iterdir())
    assert len(files) == 3  # with those of the transactions
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    ledger.close()


def test_a_server_that_is_not_there_is_told_as_such(tmp_path):
    with pytest.raises(StorageError, match="the ledger does not answer"):
        Ledger(f"postgresql+psycopg://alice:secret@/ledger?host={tmp_path}", Policy())


def test_a_ledger_of_a_newer_sciplat_is_refused_as_it_is(tmp_path):
    Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", Policy()).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute(f"UPDATE ledger_version SET number = {VERSION + 1}")
    with pytest.raises(SiteError, match="newer sciplat") as caught:
        Ledger(f"sqlite:///{tmp_path}/ledger.sqlite", Policy())
    assert caught.value.found == f"version {VERSION + 1} of its tables; this sciplat knows version {VERSION}"

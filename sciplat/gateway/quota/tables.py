"""Where the ledger lies: its tables and their version, in SQLite or PostgreSQL, and transactions on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    make_url,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError as UnreadableUrl
from sqlalchemy.exc import DatabaseError, OperationalError

from sciplat.errors import SiteError, StorageError

VERSION = 1
_PATIENCE = 30.0  # seconds that a transaction waits for others
_CONNECT = 5  # seconds for a database server to answer: the gateway waits with it
_LOCK = 0x5C1B1A7  # names our lock among those of a PostgreSQL database

_metadata = MetaData()

version = Table("ledger_version", _metadata, Column("number", Integer, primary_key=True, autoincrement=False))

leases = Table(
    "leases",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("cluster", String, nullable=False),
    Column("name", String, nullable=False),
    Column("user", String, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory", BigInteger, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("granted", Double, nullable=False),
    Column("started", Double),
    Column("seen", Double),
    Column("ended", Double),
    Column("job", String),
    Column("settled", Boolean, nullable=False, default=False),
    UniqueConstraint("cluster", "name"),
)
# Ended leases pile up for years, open ones are few. The last two answer sums of core-hours without the table's rows.
Index("leases_open", leases.c.user, sqlite_where=leases.c.ended.is_(None), postgresql_where=leases.c.ended.is_(None))
Index("leases_of_user", leases.c.user, leases.c.ended, leases.c.started, leases.c.cores)
Index("leases_by_end", leases.c.ended, leases.c.started, leases.c.cores, leases.c.cluster)

cluster_groups = Table(
    "cluster_groups",
    _metadata,
    Column("name", String, primary_key=True),
    Column("cluster", String, primary_key=True),
    sqlite_with_rowid=False,
)
Index("groups_of_cluster", cluster_groups.c.cluster)


def open_engine(url: str) -> Engine:
    """Return the database of a ledger, made if it is not there.

    Parameters
    ----------
    url : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://...``.

    Raises
    ------
    SiteError
        If it is no such URL, or a ledger of a newer sciplat, or no database.
    StorageError
        If the database does not answer.
    """
    engine = _make_engine(url)
    try:
        with transaction(engine, alone=True) as connection:
            _prepare(connection)
    except BaseException as error:
        engine.dispose()
        if isinstance(error, DatabaseError):
            raise SiteError("the ledger cannot be used", found=str(error.orig)) from error
        raise
    return engine


@contextmanager
def transaction(engine: Engine, *, alone: bool = False) -> Iterator[Connection]:
    """Open a transaction, which is kept whole if nothing is raised in it.

    Parameters
    ----------
    engine : Engine
    alone : bool
        Whether it waits for all others that want to be alone, in whatever process, so that what it reads still
        holds when it writes.

    Raises
    ------
    StorageError
        If the database does not answer in time.
    """
    try:
        with engine.connect().execution_options(alone=alone) as connection, connection.begin():
            if alone and engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield connection
    except OperationalError as error:
        raise StorageError("the ledger does not answer", found=str(error.orig), hint="is its database up?") from error


def _make_engine(url: str) -> Engine:
    try:
        place = make_url(url)
    except UnreadableUrl:
        place = URL.create("nothing")
    if place.drivername == "sqlite" and place.database not in {None, "", ":memory:"}:
        return _sqlite_engine(place)
    if place.drivername == "postgresql+psycopg":
        patience = {"connect_timeout": _CONNECT, "options": f"-c lock_timeout={_PATIENCE:.0f}s"}
        # A stricter level would read, once it has the lock, what was there before it.
        return create_engine(place, isolation_level="READ COMMITTED", pool_pre_ping=True, connect_args=patience)
    raise SiteError(
        "the ledger's URL names no database that can be used",
        found=place.drivername,
        hint="sqlite:////path/to/ledger.sqlite or postgresql+psycopg://user@host/database",
    )


def _sqlite_engine(place: URL) -> Engine:
    try:
        # Who works when is nobody else's business; SQLite gives its other files the same mode.
        os.close(os.open(str(place.database), os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(f"the ledger {place.database} cannot be opened", found=str(error)) from error
    engine = create_engine(place, connect_args={"timeout": _PATIENCE})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for each other


def _begin_sqlite(connection: Connection) -> None:
    alone = connection.get_execution_options().get("alone", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if alone else "BEGIN")


def _prepare(connection: Connection) -> None:
    version.create(connection, checkfirst=True)
    found = connection.scalar(select(version.c.number))
    if found is not None and found > VERSION:
        raise SiteError(
            "the ledger belongs to a newer sciplat",
            found=f"version {found} of its tables; this sciplat knows version {VERSION}",
            hint="start the newer sciplat again, or name another ledger",
        )
    _metadata.create_all(connection)
    if found is None:
        connection.execute(insert(version).values(number=VERSION))

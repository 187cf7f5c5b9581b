"""The tables of a ledger, in SQLite and in PostgreSQL alike; `lepton watch` uses those from `INCIDENTS` on.

A column that is added here must be nullable or have a `server_default`: the ledger of an earlier release gets it.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    delete,
    false,
    func,
    insert,
    inspect,
    text,
)  # fmt: skip
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

METADATA = MetaData()


def _text(name: str, **about: Any) -> Column[str]:
    return Column(name, Text, **{"nullable": False, **about})


def _owner(nullable: bool = False) -> list[Column[Any]]:
    """Return the columns that say which process works on a row, and until when others must believe that."""
    types = {"host": Text, "boot": Text, "pid": Integer, "born": Text, "lease": Double}
    return [Column(name, type_, nullable=nullable) for name, type_ in types.items()]


def _index(name: str, column: Column[Any], where: ColumnElement[bool] | None = None) -> Index:
    return Index(name, column, sqlite_where=where, postgresql_where=where)


CLAIMS = Table(
    "claims",
    METADATA,
    _text("key", primary_key=True),
    Column("run_id", Text),
    Column("done", Boolean, nullable=False),
    *_owner(),
)
RUNS = Table(
    "runs",
    METADATA,
    _text("run_id", primary_key=True),
    _text("status"),
    *_owner(),
    Column("rowid", BigInteger, Identity()),  # SQLite has it in every table
)
_index("running", RUNS.c.status, RUNS.c.status == "running")

INCIDENTS = Table(
    "incidents",
    METADATA,
    _text("id", primary_key=True),
    *map(_text, ("subject", "fingerprint", "starts_at", "name", "service", "severity", "status")),
    Column("ends_at", Text),
    _text("origin"),
    Column("alert", JSON, nullable=False),
    Column("received", Double, nullable=False),
    Column("seen", Integer, nullable=False),
    _text("note"),
    Column("recording", Text),
    Column("main", Text),  # the incident whose diagnosis stands for this one
    Column("flaps_after", Text),  # the one after whose diagnosis the alert flaps
    Column("held_from", Double),  # from when until when (Unix seconds) its own diagnosis waits for that
    Column("held_until", Double),
    Column("acknowledged", Double),  # since when (Unix seconds) a person sees to it, and who
    _text("acknowledged_by", server_default=""),
    _text("silenced", server_default=""),  # who silenced its alert, until when, and why; empty: nobody
    Column("silenced_until", Double),
    UniqueConstraint("fingerprint", "starts_at"),
)
_index("incidents_firing", INCIDENTS.c.origin, INCIDENTS.c.status == "firing")
_index("incidents_received", INCIDENTS.c.received)
_index("incidents_subject", INCIDENTS.c.subject, INCIDENTS.c.status == "firing")
_index("incidents_flaps", INCIDENTS.c.flaps_after)

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", Integer, primary_key=True),
    _text("key", unique=True),
    *map(_text, ("kind", "name")),
    Column("incident", Text),
    _text("notebook"),
    Column("parameters", JSON, nullable=False),
    Column("queued", Double, nullable=False),
    _text("state"),
    *(Column(name, Text) for name in ("run_id", "status", "error")),
    *(Column(name, Double) for name in ("started", "ended")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    *_owner(nullable=True),
    Column("look", Integer, nullable=False, server_default=text("1")),  # the attempt number of an incident's runbook
    Column("leaves_open", Boolean, nullable=False, server_default=false()),  # the run left its incident as it was
    # Of a repair: the job that it follows, whether it starts without a person, why not, and the run that rehearsed it.
    Column("follows", Integer),
    Column("is_automatic", Boolean, nullable=False, server_default=false()),
    _text("why", server_default=""),
    Column("rehearsal", Text),
    sqlite_autoincrement=True,
)
_index("jobs_open", JOBS.c.state, JOBS.c.state.in_(["queued", "running"]))
_index("jobs_waiting", JOBS.c.state, JOBS.c.state == "waiting")
_index("jobs_of_incident", JOBS.c.incident)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("job", Integer, nullable=False),
    Column("is_approved", Boolean, nullable=False),
    Column("at", Double, nullable=False),
    *map(_text, ("by", "via", "note")),
    sqlite_autoincrement=True,
)
NOTICES = Table(
    "notices",
    METADATA,
    _text("key", primary_key=True),
    _text("target", primary_key=True),  # the reference to the address that it goes to
    *map(_text, ("event", "title", "body", "state")),
    Column("at", Double, nullable=False),  # when what it tells of happened
    Column("due", Double, nullable=False),  # when it is sent next; of one that was sent, when that was
    Column("tries", Integer, nullable=False),
    _text("error", server_default=""),
    _text("incident", server_default=""),
    Column("job", Integer),  # the repair that it asks a decision on
)
SILENCES = Table(  # of services whose alerts are evaluated here: who silences them, why, and until when (Unix seconds)
    "silences", METADATA, _text("service", primary_key=True), _text("words"), Column("until", Double, nullable=False)
)
SCHEDULES = Table("schedules", METADATA, _text("name", primary_key=True), Column("handled", Double, nullable=False))
NOTES = Table("watch_notes", METADATA, _text("name", primary_key=True), _text("text"), Column("at", Double))


class now(FunctionElement[float]):  # noqa: N801 - it stands in statements as SQL's functions do
    """The time (Unix seconds) by the one clock that all who share a ledger go by: that of its database.

    SQLite's is that of this machine.
    """

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_here(*_: Any, **__: Any) -> str:
    return "lepton_now()"  # every connection has it; SQLite's own functions know milliseconds only


@compiles(now, "postgresql")
def _now_there(*_: Any, **__: Any) -> str:
    return "extract(epoch FROM clock_timestamp())::float8"


@compiles(CreateColumn, "sqlite")
def _column_of_sqlite(element: CreateColumn, compiler: Any, **about: Any) -> str | None:
    shown: str = compiler.visit_create_column(element, **about)
    return None if element.element is RUNS.c.rowid else shown


_NAMES = [
    [table.name, *table.columns.keys(), *sorted(str(one.name) for one in table.indexes)]
    for table in METADATA.sorted_tables
]
VERSION = crc32(repr(_NAMES).encode()) & 0x7FFFFFFF
"""What SQLite's file remembers, so that not each process looks through its tables."""


def make_tables(ledger: Connection) -> None:
    """Make what a ledger lacks: tables, and in those of an earlier release columns and indexes."""
    is_file = ledger.dialect.name == "sqlite"
    if is_file and ledger.exec_driver_sql("PRAGMA user_version").scalar() == VERSION:
        return
    inspector = inspect(ledger)
    known = {name: {one["name"] for one in found} for (_, name), found in inspector.get_multi_columns().items()}
    indexes = {one["name"] for found in inspector.get_multi_indexes().values() for one in found}
    for table in METADATA.sorted_tables:
        if table.name not in known:
            ledger.execute(CreateTable(table))
        for column in table.columns if table.name in known else ():
            definition = CreateColumn(column).compile(dialect=ledger.dialect).string
            if definition and column.name not in known[table.name]:
                ledger.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {definition}"))
        for index in table.indexes:
            if index.name not in indexes:
                ledger.execute(CreateIndex(index))
    if is_file:
        ledger.exec_driver_sql(f"PRAGMA user_version = {VERSION}")


def replace(ledger: Connection, table: Table, **values: Any) -> None:
    """Write a row in the place of the one with its primary key."""
    [key] = table.primary_key.columns
    ledger.execute(delete(table).where(key == values[key.name]))
    ledger.execute(insert(table).values(values))


def count(condition: ColumnElement[bool]) -> Any:
    """Return how many rows of a group meet a condition."""
    return func.count().filter(condition)

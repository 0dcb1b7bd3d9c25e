"""One statement for many rows, without SQLAlchemy's work on every parameter of each.

The driver is given what it would be given anyway: the statement as SQLAlchemy compiles it, which is done once, and the rows
with those values turned whose type the database lacks (measured on 32 rows of `attempts`, SQLite: 9 us of CPU a row for 30).
An INSERT on PostgreSQL becomes one statement with a list of rows, which its server takes in for a fraction of what it takes
for as many statements.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, TextClause
from sqlalchemy.dialects import sqlite

LIST_ROWS = 500
"""Rows of one list at most: PostgreSQL takes 65,535 parameters, and no statement here has more than 20 a row."""


class _Rows(NamedTuple):
    """An INSERT around its list of rows."""

    before: str
    one: str
    """A row of placeholders."""
    names: tuple[str, ...]
    after: str

    def of(self, rows: Sequence[dict[str, Any]]) -> tuple[str, tuple[Any, ...]]:
        """The statement for so many rows, and its parameters."""
        sql = self.before + ", ".join([self.one] * len(rows)) + self.after
        return sql, tuple(row[name] for row in rows for name in self.names)


class _Ready(NamedTuple):
    sql: str
    turned: tuple[tuple[str, Callable[[Any], Any]], ...]
    """The parameters whose values the driver does not take as they are."""
    listed: _Rows | None
    """How it is given a list of rows, if it can be."""


_READY: dict[tuple[TextClause, str], _Ready] = {}
"""By statement and kind of database. Statements are constants of modules, so there are few."""
_INSERT = re.compile(
    r"(?P<before>\s*INSERT\b.*?\bVALUES\s*)(?P<row>\(.*?\))(?P<after>\s*(?:ON CONFLICT\b.*)?)", re.DOTALL
)
_PLACE = re.compile(r"%\((\w+)\)s")


def execute_rows(connection: Connection, statement: TextClause, rows: Sequence[dict[str, Any]]) -> None:
    """Execute a statement of `text()`, a constant, once for each row. Values of the rows are turned in place."""
    if not rows:
        return
    dialect = connection.dialect
    ready = _READY.get((statement, dialect.name))
    if ready is None:
        ready = _READY[statement, dialect.name] = _compiled(statement, dialect)
    for name, turn in ready.turned:
        for row in rows:
            row[name] = turn(row[name])
    if ready.listed is None:
        connection.exec_driver_sql(ready.sql, list(rows))
        return
    for first in range(0, len(rows), LIST_ROWS):
        connection.exec_driver_sql(*ready.listed.of(rows[first : first + LIST_ROWS]))


def _compiled(statement: TextClause, dialect: Dialect) -> _Ready:
    if dialect.name == "sqlite":
        dialect = sqlite.dialect(paramstyle="named")  # its driver takes names, too, where SQLAlchemy numbers them
    compiled = statement.compile(dialect=dialect)
    turns = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()}
    sql = str(compiled)
    listed = _listed(sql) if dialect.name == "postgresql" else None
    return _Ready(sql, tuple((name, turn) for name, turn in turns.items() if turn is not None), listed)


def _listed(sql: str) -> _Rows | None:
    found = _INSERT.fullmatch(sql)
    if found is None:
        return None
    names = tuple(_PLACE.findall(found["row"]))
    return _Rows(found["before"], _PLACE.sub("%s", found["row"]), names, found["after"])

"""One statement for many rows, without SQLAlchemy's work on every parameter of each, nor the server's on every row.

A statement takes its values from `r` and is written once for both databases:

    INSERT INTO t (a, b) SELECT r.a, r.b FROM {rows} WHERE true ON CONFLICT …
    UPDATE t SET b = r.b FROM {rows} WHERE t.a = r.a
    SELECT … FROM t WHERE t.a IN (SELECT r.a FROM {rows}) ORDER BY t.a {FOR UPDATE}

`{FOR …}` locks rows (`locking.py`).

`query_rows` is for statements that return rows. It sends its rows as one JSON text, to either database: the statement is
the same for any number of rows, and so is compiled and planned once.

`execute_rows` is for all others. SQLite's driver runs the statement once for each row, without its `FROM`, each `r.a`
being a parameter (measured on 32 rows of `attempts`: 9 us of CPU a row, where SQLAlchemy takes 30; parameters by name
cost 3 us more for the 19 of `jobs`). PostgreSQL gets all rows as one JSON text (`json_to_recordset`). For 200 rows of
`jobs` and `job_requests` that costs the client 12 us a row and the server 46; the alternatives cost client and server

- 58 and 112 as one statement each, sent in a pipeline
- 37 to 56 and 45 to 71 as arrays (`unnest`)
- 14 to 21 and 37 to 63 by COPY, which knows no ON CONFLICT
- 126 and 63 as lists of rows in VALUES
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    Connection,
    CursorResult,
    Dialect,
    LargeBinary,
    String,
    Table,
    TextClause,
    TextualSelect,
    TypeDecorator,
    bindparam,
    text,
)
from sqlalchemy.types import TypeEngine

from trivet_store.database.locking import with_locks

_VALUE = re.compile(r"\br\.(\w+)")
_FROM = re.compile(r"\bFROM \{rows\}")


class _Ready(NamedTuple):
    """The statement in the form that a database takes."""

    sql: str
    turned: Mapping[str, Callable[[Any], Any]]
    """Conversions of the values that its driver does not take as they are."""
    values: Callable[[Mapping[str, Any]], Any]
    """Function that returns the values of a row in the order of the statement, where the driver takes them so."""


@dataclass(frozen=True, eq=False)
class RowsStatement:
    """A statement over many rows (see the head of this module), a constant of a module."""

    table: Table
    """The names of values are those of its columns."""
    sql: str
    found: Mapping[str, TypeEngine[Any]] = field(default_factory=dict)
    """Columns of its answer that the driver gives as something else."""
    _ready: dict[str, _Ready] = field(default_factory=dict, repr=False)
    _query: dict[str, TextualSelect] = field(default_factory=dict, repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The values that it takes of each row."""
        return tuple(dict.fromkeys(_VALUE.findall(self.sql)))


def execute_rows(connection: Connection, statement: RowsStatement, rows: Sequence[Mapping[str, Any]]) -> int:
    """Execute a statement for each of these rows, which may hold more than it takes. Returns the number of changed rows."""
    if not rows:
        return 0
    dialect = connection.dialect
    ready = statement._ready.get(dialect.name)
    if ready is None:
        ready = statement._ready[dialect.name] = _made_ready(statement, dialect)
    if dialect.name == "sqlite":
        turned = ready.turned.items()
        if turned:
            rows = [{**row, **{name: turn(row[name]) for name, turn in turned}} for row in rows]
        return connection.exec_driver_sql(ready.sql, list(map(ready.values, rows))).rowcount
    return connection.exec_driver_sql(ready.sql, {"rows": _as_json(statement, rows)}).rowcount


def query_rows(
    connection: Connection, statement: RowsStatement, rows: Sequence[Mapping[str, Any]], **parameters: object
) -> CursorResult[*tuple[Any, ...]]:
    """Execute a statement once for all of these rows together; `parameters` are others that it has.

    PostgreSQL locks what it updates in the order of the rows.
    """
    dialect = connection.dialect.name
    query = statement._query.get(dialect)
    if query is None:
        source = _of_json(statement, connection.dialect, ":rows")
        locking = with_locks(statement.sql, dialect)
        query = statement._query[dialect] = text(locking.replace("{rows}", source)).columns(**statement.found)
    return connection.execute(query, {"rows": _as_json(statement, rows), **parameters})


def of_ids(statement: str, of: type[TypeEngine[Any]] = String) -> TextClause:
    """Return a statement with `IN :ids` in it."""
    return text(statement).bindparams(bindparam("ids", expanding=True, type_=of()))


def _as_json(statement: RowsStatement, rows: Sequence[Mapping[str, Any]]) -> str:
    names = statement.names  # what is null is left out, and comes out as null
    return orjson.dumps(
        [{name: value for name in names if (value := row[name]) is not None} for row in rows], default=_as_text
    ).decode()


def _as_text(value: object) -> str:
    """Return a value that JSON has no type for as text: a decimal, or the bytes of a JSON document."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _made_ready(statement: RowsStatement, dialect: Dialect) -> _Ready:
    if dialect.name == "sqlite":
        types = {name: statement.table.c[name].type for name in statement.names}
        ours = {name: of for name, of in types.items() if isinstance(of, TypeDecorator)}
        turned = {name: of.dialect_impl(dialect).bind_processor(dialect) for name, of in ours.items()}
        sql = _FROM.sub("", statement.sql)
        return _Ready(
            _VALUE.sub("?", sql),
            {name: turn for name, turn in turned.items() if turn is not None},
            _in_order(_VALUE.findall(sql)),
        )
    return _Ready(statement.sql.replace("{rows}", _of_json(statement, dialect, "%(rows)s")), {}, dict)


def _in_order(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    values = itemgetter(*names)
    return values if len(names) > 1 else lambda row: (values(row),)


def _of_json(statement: RowsStatement, dialect: Dialect, parameter: str) -> str:
    """The rows, `r`, out of one JSON text, the parameter."""
    types = {name: statement.table.c[name].type for name in statement.names}
    if dialect.name == "sqlite":
        values = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in types)
        return f"(SELECT {values} FROM json_each({parameter})) AS r"
    columns = ", ".join(
        f"{name} {'text' if isinstance(of, LargeBinary) else of.compile(dialect)}" for name, of in types.items()
    )
    values = ", ".join(
        f"convert_to({name}, 'UTF8') AS {name}" if isinstance(of, LargeBinary) else name for name, of in types.items()
    )
    return f"(SELECT {values} FROM json_to_recordset(CAST({parameter} AS json)) AS r ({columns})) AS r"

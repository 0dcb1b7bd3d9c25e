"""Row locks: the order in which rows are locked, and the one way to lock them.

Shares, by key; flows, by signature; jobs, by id; notes of coalesced jobs; attempts; batches, by id; savings;
deliveries; spend; budgets. A transaction that needs several kinds locks them in this order, or skips rows that others
hold, so that no two transactions wait for each other.

A statement that locks says so by `{FOR UPDATE}`, `{FOR UPDATE SKIP LOCKED}` or the like, here and in `many_rows`. PostgreSQL
locks these rows until the transaction ends; on SQLite a transaction that writes has locked the whole database.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Integer, Row, String, TextClause, bindparam, text

_LOCK = re.compile(r"\s*\{(FOR [\w ]+)\}")
_OF_BATCH = "SELECT id FROM flows WHERE batch_id = :id ORDER BY signature {FOR UPDATE}"
_FLOWS = "SELECT id FROM flows WHERE id IN :ids ORDER BY signature {FOR UPDATE}"


def with_locks(sql: str, dialect: str) -> str:
    """Return a statement with its `{FOR …}` in the form that the database takes."""
    return _LOCK.sub(r" \1" if dialect == "postgresql" else "", sql)


def select_locked(connection: Connection, sql: str, **parameters: object) -> Sequence[Row[Any]]:
    """Run a SELECT that locks the rows it returns.

    Args:
        parameters: its values; a list is for `IN :name`. An empty one is of texts: PostgreSQL wants to know.
    """
    lists = tuple(
        (name, bool(value) and isinstance(value[0], int))
        for name, value in parameters.items()
        if isinstance(value, list)
    )
    return connection.execute(_statement(sql, connection.dialect.name, lists), parameters).all()


def lock_flows(connection: Connection, batch_id: int) -> None:
    """Lock all flows of a batch."""
    select_locked(connection, _OF_BATCH, id=batch_id)


def lock_flows_by_id(connection: Connection, ids: Collection[int]) -> None:
    """Lock these flows."""
    select_locked(connection, _FLOWS, ids=list(ids))


@lru_cache(maxsize=128)
def _statement(sql: str, dialect: str, lists: tuple[tuple[str, bool], ...]) -> TextClause:
    of = [bindparam(name, expanding=True, type_=Integer() if numbers else String()) for name, numbers in lists]
    return text(with_locks(sql, dialect)).bindparams(*of)

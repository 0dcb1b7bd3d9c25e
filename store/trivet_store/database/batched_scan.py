"""Batched scans of tables along their primary keys beside running workers: reads in pages, writes in short turns."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, TextClause

from trivet_store.database.engine import BULK_BYTES, BULK_ROWS, Store

READ_ROWS = 5 * BULK_ROWS
"""Rows that one read looks at."""
LEAST_PAUSE_S = 0.01
"""Minimum seconds without a lock after each turn: longer than others take to find SQLite's lock free."""


class Step(NamedTuple):
    """A part of the work that is done and stays done."""

    looked_at: int
    """Rows scanned so far."""
    pruned: Mapping[str, int]
    """Rows deleted, by kind; of a dry run those that would be."""


class Candidate(NamedTuple):
    """An id whose rows may be deleted, with the approximate number of rows and of bytes of bodies or answers."""

    id: Any
    rows: int
    bytes: int = 0


def job_id_at(moment: float) -> str:
    """Return the prefix of the ids of jobs submitted at this moment (seconds since the epoch): earlier ids are less."""
    return f"{max(0, int(moment * 1000)):012x}"


def delete(connection: Connection, statement: TextClause, ids: Sequence[Any]) -> int:
    """Run a DELETE with `IN :ids` in it. Returns the number of rows."""
    return connection.execute(statement, {"ids": ids}).rowcount if ids else 0


def pages(store: Store, statement: TextClause, first: Any, **parameters: object) -> Iterator[Sequence[Row[Any]]]:
    """Scan a table by a statement with `:after` and `:limit` that returns an `id`, in its order.

    Args:
        first: what `:after` is at the start: less than any id.
    """
    after = first
    while True:
        with store.read() as connection:
            rows = connection.execute(statement, {**parameters, "after": after, "limit": READ_ROWS}).all()
        if rows:
            yield rows
            after = rows[-1].id
        if len(rows) < READ_ROWS:
            return


def groups(candidates: Iterable[Candidate]) -> Iterator[list[Any]]:
    """Yield the ids of one turn at a time, at least one id each."""
    group: list[Any] = []
    rows = size = 0
    for candidate in candidates:
        if group and (rows + candidate.rows > BULK_ROWS or size + candidate.bytes > BULK_BYTES):
            yield group
            group, rows, size = [], 0, 0
        group.append(candidate.id)
        rows += candidate.rows
        size += candidate.bytes
    if group:
        yield group


@contextmanager
def turn(store: Store) -> Iterator[Connection]:
    """Run a short writing transaction, then pause for as long: the lock is free at least half of the time."""
    with store.write() as connection:
        began = time.monotonic()
        yield connection
    time.sleep(max(LEAST_PAUSE_S, time.monotonic() - began))

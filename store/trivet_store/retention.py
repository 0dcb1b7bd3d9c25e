"""Retention: rows of jobs that ended long ago are deleted, a little at a time beside running workers.

Bodies and results go first; the rows of the jobs and of their calls stay unless they are to be deleted, too.

Nothing marks what has been pruned, and no index serves it. Ids of jobs are in the order of submit, and whatever ended
before a moment was submitted before it; so each table is scanned along its primary key, by reads, up to the id that the
moment would have had. Deleted bodies and results are not scanned again. Candidates are checked once more under the
jobs' locks and deleted, in short transactions with a pause after each. A run may be interrupted and repeated at
any time, and two may run at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, String, text
from sqlalchemy.types import TypeEngine

from trivet_store.database.batched_scan import Candidate, Step, delete, groups, job_id_at, pages, turn
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import select_locked
from trivet_store.database.many_rows import of_ids

KINDS = (
    "bodies",
    "results",
    "attempts",
    "retries",
    "deliveries",
    "jobs",
    "flows",
    "batches",
    "events",
    "shares",
    "schedule_runs",
)
"""Kinds of counts: rows of these tables; a body is that of a request."""

# under the jobs' locks: one may have begun again since it was read
_ENDED = "SELECT id FROM jobs WHERE id IN :ids AND ended_at < :before {FOR UPDATE SKIP LOCKED}"
# a call without an outcome will be settled yet: its row is not taken away from under it
_SETTLED = "NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = jobs.id AND a.outcome IS NULL)"
_ENDED_AND_SETTLED = (
    f"SELECT id FROM jobs WHERE id IN :ids AND ended_at < :before AND {_SETTLED} {{FOR UPDATE SKIP LOCKED}}"
)
_JOBS = text(
    f"""
    SELECT id, ended_at < :before AND {_SETTLED} AS over,
           (SELECT count(*) FROM attempts a WHERE a.job_id = jobs.id) AS calls
      FROM jobs WHERE id > :after AND id < :bound ORDER BY id LIMIT :limit
    """
)
_COUNT_RESULTS = of_ids("SELECT count(*) FROM job_results WHERE job_id IN :ids")
_OF_JOBS = {
    kind: of_ids(f"DELETE FROM {table} WHERE {key} IN :ids")
    for kind, table, key in (
        ("bodies", "job_requests", "job_id"),
        ("results", "job_results", "job_id"),
        ("attempts", "attempts", "job_id"),
        ("retries", "retries", "job_id"),
        ("deliveries", "deliveries", "job_id"),
        ("jobs", "jobs", "id"),
    )
}
# every job of a batch that has ended is numbered, those that have not ended keep their flow active: so both conditions
# are answered by the partial indexes that are there
_OVER = """
    b.state IN ('open', 'cancelled') AND b.ended >= b.total AND b.created_at < :before
    AND NOT EXISTS (SELECT 1 FROM flows f WHERE f.batch_id = b.id AND f.active)
    AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.batch_id = b.id AND j.batch_seq IS NOT NULL {but_for})
"""
_BATCHES = text(
    f"""
    SELECT b.id, {_OVER.format(but_for="AND j.ended_at >= :before")} AS over,
           (SELECT count(*) FROM flows f WHERE f.batch_id = b.id) AS flows
      FROM batches b WHERE b.id > :after ORDER BY b.id LIMIT :limit
    """
)
_FLOWS = "SELECT id, batch_id FROM flows WHERE batch_id IN :ids"
_HOLD = "SELECT id FROM batches WHERE id IN :ids {FOR UPDATE SKIP LOCKED}"
_EMPTY = of_ids(f"SELECT b.id FROM batches b WHERE b.id IN :ids AND {_OVER.format(but_for='')}", Integer)
_OF_BATCHES = {
    "deliveries": of_ids("DELETE FROM deliveries WHERE batch_id IN :ids", Integer),
    "controls": of_ids("DELETE FROM controls WHERE batch_id IN :ids", Integer),
    "flows": of_ids("DELETE FROM flows WHERE batch_id IN :ids", Integer),
    "batches": of_ids("DELETE FROM batches WHERE id IN :ids", Integer),
}
# the reason of a drain stays readable as long as the route is drained
_OLD_EVENTS = """
    events WHERE at < :before
       AND NOT (kind = 'route drained' AND NOT EXISTS (
                SELECT 1 FROM events e WHERE e.kind = 'route drained' AND e.route = events.route AND e.id > events.id))
"""
_OLD_RUNS = "schedule_runs WHERE done_at < :before"
# a share behind the clock starts at the clock, like one without a row
_STALE_SHARES = "shares WHERE finish <= (SELECT rank FROM virtual_clock WHERE id = 1)"


@dataclass(frozen=True, slots=True)
class Terms:
    """The rows that may be deleted. Times are seconds since the epoch."""

    ended_before: float
    """Bodies and results of jobs that ended before this."""
    forget_before: float | None = None
    """Remaining rows of jobs that ended before this, and other rows as old; not later than `ended_before`."""
    keep_results: bool = False
    """Results stay as long as their jobs do."""


class _Content(NamedTuple):
    """Content of a job that has a table of its own."""

    kind: str
    table: str
    column: str


_BODIES = _Content("bodies", "job_requests", "body")
_RESULTS = _Content("results", "job_results", "message")


def extent(store: Store, terms: Terms) -> int:
    """Return the number of rows that a run will look at."""
    tables = [(content.table, "job_id", terms.ended_before) for content in _contents(terms)]
    if terms.forget_before is not None:
        tables.append(("jobs", "id", terms.forget_before))
    with store.read() as connection:
        return sum(
            connection.execute(
                text(f"SELECT count(*) FROM {table} WHERE {key} < :bound"), {"bound": job_id_at(before)}
            ).scalar_one()
            for table, key, before in tables
        )


def prune(store: Store, terms: Terms, *, dry_run: bool = False) -> Iterator[Step]:
    """Delete what the terms name; a dry run only counts it.

    Raises:
        StoreUnavailable: the database does not answer. What was done until then stays done.
    """
    for content in _contents(terms):
        yield from _delete(store, content, terms.ended_before, dry_run=dry_run)
    if terms.forget_before is not None:
        yield from _forget(store, terms.forget_before, count_results=terms.keep_results, dry_run=dry_run)


def _contents(terms: Terms) -> tuple[_Content, ...]:
    return (_BODIES,) if terms.keep_results else (_BODIES, _RESULTS)


def _delete(store: Store, content: _Content, before: float, *, dry_run: bool) -> Iterator[Step]:
    page = text(
        f"""
        SELECT c.job_id AS id, j.ended_at < :before AS over, coalesce(length(c.{content.column}), 0) AS bytes
          FROM {content.table} c JOIN jobs j ON j.id = c.job_id
         WHERE c.job_id > :after AND c.job_id < :bound AND j.id > :after AND j.id < :bound
         ORDER BY c.job_id LIMIT :limit
        """  # the bounds twice: PostgreSQL may merge the two, and would begin with the first job ever
    )
    theirs = of_ids(f"DELETE FROM {content.table} WHERE job_id IN :ids")
    for rows in pages(store, page, "", bound=job_id_at(before), before=before):
        found = [Candidate(row.id, 1, row.bytes) for row in rows if row.over]
        if dry_run:
            yield Step(len(rows), {content.kind: len(found)})
            continue
        for ids in groups(found):
            with turn(store) as connection:
                held = [row.id for row in select_locked(connection, _ENDED, ids=ids, before=before)]
                gone = delete(connection, theirs, held)
            yield Step(0, {content.kind: gone})
        yield Step(len(rows), {})


def _forget(store: Store, before: float, *, count_results: bool, dry_run: bool) -> Iterator[Step]:
    """Delete the remaining rows of jobs that ended before this (seconds since the epoch), and other rows as old.

    Args:
        count_results: a dry run counts their results; they have not been counted before.
    """
    yield from _jobs(store, before, count_results=count_results, dry_run=dry_run)
    yield from _batches(store, before, dry_run=dry_run)
    yield from _rows(store, "events", ("id", Integer), _OLD_EVENTS, {"before": before}, dry_run=dry_run)
    yield from _rows(store, "schedule_runs", ("id", Integer), _OLD_RUNS, {"before": before}, dry_run=dry_run)
    yield from _rows(store, "shares", ("key", String), _STALE_SHARES, {}, dry_run=dry_run)


def _jobs(store: Store, before: float, *, count_results: bool, dry_run: bool) -> Iterator[Step]:
    for rows in pages(store, _JOBS, "", bound=job_id_at(before), before=before):
        found = [Candidate(row.id, len(_OF_JOBS) - 1 + row.calls) for row in rows if row.over]
        if dry_run:
            pruned = {"jobs": len(found), "attempts": sum(row.calls for row in rows if row.over)}
            if count_results and found:
                with store.read() as connection:
                    pruned["results"] = connection.execute(
                        _COUNT_RESULTS, {"ids": [job.id for job in found]}
                    ).scalar_one()
            yield Step(len(rows), pruned)
            continue
        for ids in groups(found):
            with turn(store) as connection:
                held = [row.id for row in select_locked(connection, _ENDED_AND_SETTLED, ids=ids, before=before)]
                pruned = delete_jobs(connection, held)
            yield Step(0, pruned)
        yield Step(len(rows), {})


def delete_jobs(connection: Connection, ids: list[str]) -> dict[str, int]:
    """Delete jobs, which the caller has locked, with all their rows. Returns the number of rows by kind."""
    return {kind: delete(connection, rows_of, ids) for kind, rows_of in _OF_JOBS.items()}


def _batches(store: Store, before: float, *, dry_run: bool) -> Iterator[Step]:
    """Delete batches without remaining jobs, with their flows. The few flows that belong to no batch are used again."""
    for rows in pages(store, _BATCHES, 0, before=before):
        found = [Candidate(row.id, 1 + row.flows) for row in rows if row.over]
        if dry_run:
            yield Step(0, {"batches": len(found), "flows": sum(row.flows for row in rows if row.over)})
            continue
        for ids in groups(found):
            with turn(store) as connection:
                empty = _hold_empty(connection, ids, before)
                pruned = delete_batches(connection, empty)
            yield Step(0, pruned)


def delete_batches(connection: Connection, ids: list[int]) -> dict[str, int]:
    """Delete batches without jobs, which the caller has locked, with their flows. Returns the number of rows by kind."""
    return {kind: delete(connection, rows_of, ids) for kind, rows_of in _OF_BATCHES.items()}


def _hold_empty(connection: Connection, ids: list[int], before: float) -> list[int]:
    """Lock the empty ones among the batches, with their flows. A locked one is being filled and is skipped."""
    flows = {row.id for row in select_locked(connection, f"{_FLOWS} {{FOR UPDATE SKIP LOCKED}}", ids=ids)}
    held = [row.id for row in select_locked(connection, _HOLD, ids=ids)]
    if not held:
        return []
    # only a statement begun after the locks sees what was inserted before them
    busy = {row.batch_id for row in connection.execute(of_ids(_FLOWS, Integer), {"ids": held}) if row.id not in flows}
    return [row.id for row in connection.execute(_EMPTY, {"ids": held, "before": before}) if row.id not in busy]


def _rows(
    store: Store,
    kind: str,
    of: tuple[str, type[TypeEngine[Any]]],
    old: str,
    parameters: dict[str, object],
    *,
    dry_run: bool,
) -> Iterator[Step]:
    """Rows by a condition of their own.

    Args:
        of: the primary key and its type.
    """
    if dry_run:
        with store.read() as connection:
            yield Step(0, {kind: connection.execute(text(f"SELECT count(*) FROM {old}"), parameters).scalar_one()})
        return
    key, key_type = of
    page = f"SELECT {key} AS id FROM {old} ORDER BY {key} LIMIT :limit {{FOR UPDATE SKIP LOCKED}}"
    by_id = of_ids(f"DELETE FROM {kind} WHERE {key} IN :ids", key_type)
    ids: list[object] = [None]
    while ids:
        with turn(store) as connection:
            ids = [row.id for row in select_locked(connection, page, **parameters, limit=BULK_ROWS)]
            gone = delete(connection, by_id, ids)
        yield Step(0, {kind: gone})

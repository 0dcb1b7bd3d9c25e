"""Deletion of the rows of jobs that ended long ago, with their calls, then of rows that nothing refers to any more."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from trivet_store.database.batched_scan import Candidate, Step, delete, groups, job_id_at, of_ids, pages, turn
from trivet_store.database.engine import BULK_ROWS, Store

# a call without an outcome will be settled yet: its row is not taken away from under it
_SETTLED = "NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = jobs.id AND a.outcome IS NULL)"
_JOBS = text(
    f"""
    SELECT id, ended_at < :before AND {_SETTLED} AS over,
           (SELECT count(*) FROM attempts a WHERE a.job_id = jobs.id) AS calls
      FROM jobs WHERE id > :after AND id < :bound ORDER BY id LIMIT :limit
    """
)
_RESULTS = of_ids("SELECT count(*) FROM job_results WHERE job_id IN :ids")
_OF_JOBS = {
    kind: of_ids(f"DELETE FROM {table} WHERE {key} IN :ids")
    for kind, table, key in (
        ("bodies", "job_requests", "job_id"),
        ("results", "job_results", "job_id"),
        ("attempts", "attempts", "job_id"),
        ("retries", "retries", "job_id"),
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
_HOLD = "SELECT id FROM batches WHERE id IN :ids"
_EMPTY = of_ids(f"SELECT b.id FROM batches b WHERE b.id IN :ids AND {_OVER.format(but_for='')}")
_OF_BATCHES = {
    "flows": of_ids("DELETE FROM flows WHERE batch_id IN :ids"),
    "batches": of_ids("DELETE FROM batches WHERE id IN :ids"),
}
# the reason of a drain stays readable as long as the route is drained
_OLD_EVENTS = """
    events WHERE at < :before
       AND NOT (kind = 'route drained' AND NOT EXISTS (
                SELECT 1 FROM events e WHERE e.kind = 'route drained' AND e.route = events.route AND e.id > events.id))
"""
# a share behind the clock starts at the clock, like one without a row
_STALE_SHARES = "shares WHERE finish <= (SELECT rank FROM virtual_clock WHERE id = 1)"


def forget(store: Store, before: float, *, count_results: bool, dry_run: bool) -> Iterator[Step]:
    """Delete the remaining rows of jobs that ended before this (seconds since the epoch), and other rows as old.

    Args:
        count_results: a dry run counts their results; they have not been counted before.
    """
    yield from _jobs(store, before, count_results=count_results, dry_run=dry_run)
    yield from _batches(store, before, dry_run=dry_run)
    yield from _rows(store, "events", "id", _OLD_EVENTS, {"before": before}, dry_run=dry_run)
    yield from _rows(store, "shares", "key", _STALE_SHARES, {}, dry_run=dry_run)


def _jobs(store: Store, before: float, *, count_results: bool, dry_run: bool) -> Iterator[Step]:
    over = of_ids(f"SELECT id FROM jobs WHERE id IN :ids AND ended_at < :before AND {_SETTLED}{store.skip_locked}")
    for rows in pages(store, _JOBS, "", bound=job_id_at(before), before=before):
        found = [Candidate(row.id, len(_OF_JOBS) - 1 + row.calls) for row in rows if row.over]
        if dry_run:
            pruned = {"jobs": len(found), "attempts": sum(row.calls for row in rows if row.over)}
            if count_results and found:
                with store.read() as connection:
                    pruned["results"] = connection.execute(_RESULTS, {"ids": [job.id for job in found]}).scalar_one()
            yield Step(len(rows), pruned)
            continue
        for ids in groups(found):
            with turn(store) as connection:
                held = [row.id for row in connection.execute(over, {"ids": ids, "before": before})]
                pruned = {kind: delete(connection, rows_of, held) for kind, rows_of in _OF_JOBS.items()}
            yield Step(0, pruned)
        yield Step(len(rows), {})


def _batches(store: Store, before: float, *, dry_run: bool) -> Iterator[Step]:
    """Delete batches without remaining jobs, with their flows. The few flows that belong to no batch are used again."""
    for rows in pages(store, _BATCHES, 0, before=before):
        found = [Candidate(row.id, 1 + row.flows) for row in rows if row.over]
        if dry_run:
            yield Step(0, {"batches": len(found), "flows": sum(row.flows for row in rows if row.over)})
            continue
        for ids in groups(found):
            with turn(store) as connection:
                empty = _hold_empty(store, connection, ids, before)
                pruned = {kind: delete(connection, rows_of, empty) for kind, rows_of in _OF_BATCHES.items()}
            yield Step(0, pruned)


def _hold_empty(store: Store, connection: Connection, ids: list[int], before: float) -> list[int]:
    """Lock the empty ones among the batches, with their flows. A locked one is being filled and is skipped."""
    flows = {row.id for row in connection.execute(of_ids(_FLOWS + store.skip_locked), {"ids": ids})}
    held = [row.id for row in connection.execute(of_ids(_HOLD + store.skip_locked), {"ids": ids})]
    if not held:
        return []
    # only a statement begun after the locks sees what was inserted before them
    busy = {row.batch_id for row in connection.execute(of_ids(_FLOWS), {"ids": held}) if row.id not in flows}
    return [row.id for row in connection.execute(_EMPTY, {"ids": held, "before": before}) if row.id not in busy]


def _rows(
    store: Store, kind: str, key: str, old: str, parameters: dict[str, object], *, dry_run: bool
) -> Iterator[Step]:
    """Rows by a condition of their own."""
    if dry_run:
        with store.read() as connection:
            yield Step(0, {kind: connection.execute(text(f"SELECT count(*) FROM {old}"), parameters).scalar_one()})
        return
    page = text(f"SELECT {key} AS id FROM {old} ORDER BY {key} LIMIT :limit{store.skip_locked}")
    by_id = of_ids(f"DELETE FROM {kind} WHERE {key} IN :ids")
    ids: list[object] = [None]
    while ids:
        with turn(store) as connection:
            ids = [row.id for row in connection.execute(page, {**parameters, "limit": BULK_ROWS})]
            gone = delete(connection, by_id, ids)
        yield Step(0, {kind: gone})

"""Pruning: rows of jobs that ended long ago are deleted, a little at a time beside running workers.

Bodies and results go first; the rows of the jobs and of their calls stay unless they are to be deleted, too.

Nothing marks what has been pruned, and no index serves it. Ids of jobs are in the order of submit, and whatever ended
before a moment was submitted before it; so each table is scanned along its primary key, by reads, up to the id that the
moment would have had. Deleted bodies and results are not scanned again. Candidates are checked once more under the
jobs' locks and deleted, in short transactions with a pause after each. A run may be interrupted and repeated at
any time, and two may run at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import text

from trivet_store.database.batched_scan import Candidate, Step, delete, groups, job_id_at, of_ids, pages, turn
from trivet_store.database.engine import Store
from trivet_store.retention.deletion import forget

KINDS = ("bodies", "results", "attempts", "retries", "jobs", "flows", "batches", "events", "shares")
"""Kinds of counts: rows of these tables; a body is that of a request."""


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
        yield from forget(store, terms.forget_before, count_results=terms.keep_results, dry_run=dry_run)


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
    over = of_ids(f"SELECT id FROM jobs WHERE id IN :ids AND ended_at < :before{store.skip_locked}")
    theirs = of_ids(f"DELETE FROM {content.table} WHERE job_id IN :ids")
    for rows in pages(store, page, "", bound=job_id_at(before), before=before):
        found = [Candidate(row.id, 1, row.bytes) for row in rows if row.over]
        if dry_run:
            yield Step(len(rows), {content.kind: len(found)})
            continue
        for ids in groups(found):
            with turn(store) as connection:
                # a job may have begun again since it was read
                held = [row.id for row in connection.execute(over, {"ids": ids, "before": before})]
                gone = delete(connection, theirs, held)
            yield Step(0, {content.kind: gone})
        yield Step(len(rows), {})

"""Reading what an audit judges by from the database: jobs with their ends, batches, and who held which lease."""

import re
from collections.abc import Iterable
from dataclasses import fields

from sqlalchemy import func, select, text
from tests.chaos.audit import BatchRow, JobRow
from tests.faults.ledger import Row, read_rows

from trivet_store import schema
from trivet_store.database.engine import Store

_JOBS = text(
    """
    SELECT j.id, j.batch_id, j.batch_seq, j.state, f.latency, f.probe, j.crashes, j.isolated_crashes, r.error_message AS error,
           CASE WHEN r.job_id IS NULL THEN 0 ELSE 1 END AS results,
           CASE WHEN r.message IS NULL THEN 0 ELSE 1 END AS answered, coalesce(r.cached, false) AS cached, r.cost_usd
      FROM jobs j JOIN flows f ON f.id = j.flow_id LEFT JOIN job_results r ON r.job_id = j.id
    """
).columns(cost_usd=schema.Usd())
_PID = re.compile(r"\.(\d+)@")


def read_jobs(store: Store) -> list[JobRow]:
    """All jobs, probes too."""
    with store.read() as connection:
        found = connection.execute(_JOBS).mappings().all()
    return [
        JobRow(
            **{
                **row,
                "results": int(row["results"]),
                **{name: bool(row[name]) for name in ("probe", "answered", "cached")},
            }
        )
        for row in found
    ]


def ended_jobs(store: Store) -> set[str]:
    """The ids of the jobs that have ended."""
    with store.read() as connection:
        return set(connection.execute(select(schema.jobs.c.id).where(schema.jobs.c.ended_at.is_not(None))).scalars())


def unended_jobs(store: Store) -> int:
    """Return the number of jobs that have not ended."""
    with store.read() as connection:
        return int(connection.execute(select(func.count()).where(schema.jobs.c.ended_at.is_(None))).scalar_one())


def read_batches(store: Store) -> list[BatchRow]:
    """All batches."""
    names = [field.name for field in fields(BatchRow)]
    with store.read() as connection:
        found = connection.execute(select(*(schema.batches.c[name] for name in names))).mappings().all()
    return [BatchRow(**row) for row in found]


def read_attempts(store: Store, routes: Iterable[str]) -> list[Row]:
    """All attempts on these routes."""
    return read_rows(store, routes)


def lease_pids(store: Store) -> dict[str, int]:
    """By lease that is there now, the process that holds it: its worker's name says so."""
    with store.read() as connection:
        found = connection.execute(select(schema.leases.c.id, schema.leases.c.worker)).all()
    return {lease: int(match[1]) for lease, worker in found if (match := _PID.search(worker))}


def refused_results(log: str) -> int:
    """Return the number of late results that were refused, by a worker's log."""
    return sum(int(count) for count in re.findall(r"(\d+) late results were refused", log))

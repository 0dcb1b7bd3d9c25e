"""Rows that refer to nothing. No foreign key keeps the rows of a job together; the transactions that write them do."""

from sqlalchemy import text

from trivet_store.database.engine import Store

_REFERENCES = (
    ("jobs", "flow_id", "flows"),
    ("jobs", "batch_id", "batches"),
    ("job_requests", "job_id", "jobs"),
    ("job_results", "job_id", "jobs"),
    ("attempts", "job_id", "jobs"),
    ("retries", "job_id", "jobs"),
)


def orphans(store: Store) -> list[str]:
    """Each as `attempts: job_id 01a2… is not in jobs`."""
    found = []
    with store.read() as connection:
        for table, column, other in _REFERENCES:
            missing = connection.execute(
                text(
                    f"""
                    SELECT DISTINCT r.{column} FROM {table} r
                     WHERE r.{column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {other} o WHERE o.id = r.{column})
                    """
                )
            ).scalars()
            found += [f"{table}: {column} {value} is not in {other}" for value in missing]
    return found

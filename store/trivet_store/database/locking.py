"""The order in which rows are locked, so that no two transactions wait for each other.

Shares, by key; flows, by signature; jobs, by id; notes of coalesced jobs; attempts; batches, by id; savings; spend;
budgets. A transaction that needs several kinds locks them in this order, or skips rows that others hold.
"""

from sqlalchemy import Connection, text

_OF_BATCH = "SELECT id FROM flows WHERE batch_id = :id ORDER BY signature"


def lock_flows(connection: Connection, batch_id: int) -> None:
    """Lock all flows of a batch until the transaction ends; SQLite's write lock does so already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"{_OF_BATCH} FOR UPDATE"), {"id": batch_id})

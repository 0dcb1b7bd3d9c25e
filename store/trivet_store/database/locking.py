"""The order in which rows are locked, so that no two transactions wait for each other.

Shares, by key; flows, by signature; jobs, by id; who follows whom; attempts; batches, by id; savings; spend; budgets. Whoever needs several kinds takes them in
this order, or passes over what others hold.
"""

from sqlalchemy import Connection, text

_OF_BATCH = "SELECT id FROM flows WHERE batch_id = :id ORDER BY signature"


def lock_flows(connection: Connection, batch_id: int) -> None:
    """Hold all flows of a batch until the transaction ends; under SQLite's write lock that is so already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"{_OF_BATCH} FOR UPDATE"), {"id": batch_id})
